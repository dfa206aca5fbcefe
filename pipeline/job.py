"""The Beam job behind `clozeline preprocess`.

    documents → tokenize → group by shard → draw pairs, mask, encode, write → report

One grouping does shuffle, split, sharding and negatives: a document goes to the shard that a hash
of its text and the seed names, and inside a shard documents stand in the order of that hash. A
shard is thereby a random sample of the corpus, the same one on any runner with any number of
workers, and the random next sentences come from its other documents.
"""

import hashlib
import json
import tempfile
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline.beam_options import running_pipeline
from pipeline.manifest import Shard
from pipeline.masking import Masking, Replacements, mask_pieces
from pipeline.pairs import SPECIAL_PIECES, Pairs, ShardText, draw_pairs, lay_out, split_long
from pipeline.readers import (
    EMPTY,
    CorpusFormat,
    ReadDocuments,
    batch_documents,
    document_text,
    text_sentences,
)
from pipeline.records import encode_examples
from pipeline.schema import IS_RANDOM, JOINER, SPECIAL_TOKENS, record_features
from pipeline.tally import Tally
from pipeline.tokenizer import Vocabulary, build_tokenizer

NO_OTHER_DOCUMENT = "no_other_document"
"""Why documents were dropped: their shard holds none that a random sentence could come from."""

DROPPED = "dropped"  # tag of the side output
TRAIN, EVAL = "train", "eval"
WRITE_BLOCK = 4096  # records laid out, masked and encoded at once; part of the seeded sequence


@dataclass(frozen=True, kw_only=True)
class Settings(CorpusFormat):
    """What decides the bytes of a dataset, besides the corpus and the vocabulary."""

    lower_case: bool
    max_seq_length: int
    max_predictions: int
    masking: Masking
    mask_rate: float
    short_seq_rate: float
    duplicates: int
    shards: int
    eval_rate: float
    seed: int

    @property
    def shards_by_split(self) -> dict[str, int]:
        """Number of shards by split name."""
        eval_shards = max(1, round(self.shards * self.eval_rate)) if self.eval_rate else 0
        return {TRAIN: self.shards, EVAL: eval_shards}

    def shard_name(self, document_key: bytes) -> str:
        """Return the file name of the shard that a document belongs to."""
        where, which = (int.from_bytes(document_key[i : i + 8], "big") for i in (0, 8))
        split = EVAL if where / 2**64 < self.eval_rate else TRAIN
        count = self.shards_by_split[split]
        return f"{split}-{which % count:05d}-of-{count:05d}.tfrecord"


def document_key(text: str, seed: int) -> bytes:
    """Return what names a document: a hash of its text and the seed, 16 bytes."""
    return hashlib.blake2b(text.encode(), digest_size=16, key=str(seed).encode()).digest()


class TokenizeDocuments(beam.DoFn):
    """Batches of documents (bytes) → (shard name, (key, piece ids, sentence lengths)).

    Ids and lengths travel as little-endian int32 bytes. Documents that cannot be used leave by the
    side output `dropped`, as the reason.
    """

    def __init__(self, vocabulary: Vocabulary, settings: Settings, tally: str | None) -> None:
        self._vocabulary = vocabulary
        self._settings = settings
        self._tally_folder = tally

    def setup(self) -> None:
        """Build this worker's tokenizer."""
        self._tokenizer = build_tokenizer(
            self._vocabulary.pieces, lower_case=self._settings.lower_case
        )
        self._tally = Tally(self._tally_folder)

    def process(self, documents: list[bytes]) -> Iterator[Any]:
        """Tokenize the sentences of all documents in one call."""
        texts: list[str] = []
        for document in documents:
            text, reason = document_text(document, self._settings)
            if text is None:
                yield beam.pvalue.TaggedOutput(DROPPED, reason)
            else:
                texts.append(text)
        if texts:
            yield from self._tokenize(texts)
        self._tally.add(read=sum(map(len, documents)))

    def _tokenize(self, texts: list[str]) -> Iterator[Any]:
        sentences = [text_sentences(text, self._settings) for text in texts]
        ragged = self._tokenizer.tokenize([sentence for each in sentences for sentence in each])
        pieces = ragged.flat_values.numpy()
        row_splits = ragged.row_splits.numpy()
        first = 0
        for text, count in zip(texts, map(len, sentences), strict=True):
            bounds = row_splits[first : first + count + 1]
            lengths = np.diff(bounds)
            first += count
            if bounds[0] == bounds[-1]:
                yield beam.pvalue.TaggedOutput(DROPPED, EMPTY)
                continue
            key = document_key(text, self._settings.seed)
            ids = pieces[bounds[0] : bounds[-1]].astype("<i4").tobytes()
            # A sentence without a piece (only control characters, say) is none.
            packed = (key, ids, lengths[lengths > 0].astype("<i4").tobytes())
            yield self._settings.shard_name(key), packed


def shard_text(documents: Iterable[tuple[bytes, bytes, bytes]], longest_sentence: int) -> ShardText:
    """Put a shard's documents together, in the order of their keys; split longer sentences."""
    ordered = sorted(documents)
    lengths = [
        split_long(np.frombuffer(lengths, "<i4"), longest_sentence) for _, _, lengths in ordered
    ]
    document_ends = np.cumsum([len(document) for document in lengths])
    sentence_ends = np.cumsum(np.concatenate([*lengths, np.empty(0, "<i4")]), dtype=np.int64)
    return ShardText(
        piece_ids=np.frombuffer(b"".join(ids for _, ids, _ in ordered), "<i4"),
        sentence_starts=np.concatenate([[0], sentence_ends]),
        document_starts=(0, *document_ends.tolist()),
        document_keys=tuple(key for key, _, _ in ordered),
    )


class WriteShard(beam.DoFn):
    """(Shard name, its documents) → a report on the file written for it.

    The file stands in `temporary` under a name of its own, since Beam may try a bundle again.
    """

    def __init__(
        self, vocabulary: Vocabulary, settings: Settings, temporary: str, tally: str | None
    ) -> None:
        self._vocabulary = vocabulary
        self._settings = settings
        self._temporary = temporary
        self._tally_folder = tally

    def setup(self) -> None:
        """Prepare what every shard needs."""
        vocabulary = self._vocabulary
        special = {vocabulary.ids[token] for token in SPECIAL_TOKENS}
        self._replacements = Replacements(
            mask_id=vocabulary.mask_id,
            random_ids=np.array([i for i in range(len(vocabulary)) if i not in special], np.int64),
        )
        self._continues_word = np.array(
            [piece.startswith(JOINER) for piece in vocabulary.pieces], bool
        )
        self._tally = Tally(self._tally_folder)

    def process(
        self, element: tuple[str, Iterable[tuple[bytes, bytes, bytes]]]
    ) -> Iterator[dict[str, Any]]:
        """Write one shard and yield its report: file, statistics, dropped documents."""
        name, grouped = element
        documents = list(grouped)
        # Two of them make a pair that nothing is cut off from.
        longest_sentence = (self._settings.max_seq_length - SPECIAL_PIECES) // 2
        text = shard_text(documents, longest_sentence)
        statistics: Counter[str] = Counter()
        if len(set(text.document_keys)) < 2:
            dropped = len(text.document_keys)
            yield {"name": name, "dropped": dropped, "statistics": dict(statistics)}
            return
        statistics.update(
            documents=len(text.document_keys),
            sentences=sum(len(lengths) // 4 for _, _, lengths in documents),
            pieces=len(text.piece_ids),
        )
        temporary = FileSystems.join(self._temporary, f"{name}.{uuid.uuid4().hex}")
        size_bytes, crc32c = write_records(
            temporary, self._records(text, name, statistics), self._tally
        )
        shard = Shard(
            name, statistics["examples"], statistics["real_positions"], size_bytes, crc32c
        )
        yield {
            "name": name,
            "temporary": temporary,
            "shard": asdict(shard),
            "dropped": 0,
            "statistics": dict(statistics),
        }

    def _records(
        self, text: ShardText, name: str, statistics: Counter[str]
    ) -> Iterator[list[bytes]]:
        """Yield blocks of serialized records; adds to the statistics."""
        settings, vocabulary = self._settings, self._vocabulary
        pairs = self._shuffled_pairs(text, name, statistics)
        rng = np.random.default_rng(Random(f"{settings.seed}/{name}/masks").getrandbits(128))
        features = record_features(settings.max_seq_length, settings.max_predictions)
        for start in range(0, len(pairs), WRITE_BLOCK):
            block = slice(start, start + WRITE_BLOCK)
            arrays = lay_out(
                text,
                Pairs(pairs.spans[block], pairs.next_sentence_labels[block]),
                max_seq_length=settings.max_seq_length,
                cls_id=vocabulary.cls_id,
                sep_id=vocabulary.sep_id,
                pad_id=vocabulary.pad_id,
            )
            arrays |= mask_pieces(
                arrays["input_ids"],
                arrays.pop("is_text"),
                rng,
                masking=settings.masking,
                continues_word=self._continues_word,
                mask_rate=settings.mask_rate,
                max_predictions=settings.max_predictions,
                replacements=self._replacements,
            )
            statistics.update(
                examples=len(arrays["input_ids"]),
                positions=arrays["input_ids"].size,
                real_positions=int(arrays["input_mask"].sum()),
                predictions=int(arrays["masked_lm_weights"].sum()),
                random_next=int((arrays["next_sentence_labels"] == IS_RANDOM).sum()),
            )
            yield encode_examples(arrays, features)

    def _shuffled_pairs(self, text: ShardText, name: str, statistics: Counter[str]) -> Pairs:
        """Draw the pairs of every duplicate and put them in random order."""
        settings = self._settings
        drawn = []
        for duplicate in range(settings.duplicates):
            pairs, cut_pieces = draw_pairs(
                text,
                Random(f"{settings.seed}/{name}/{duplicate}"),
                max_seq_length=settings.max_seq_length,
                short_seq_rate=settings.short_seq_rate,
            )
            statistics["truncated_pieces"] += cut_pieces
            drawn.append(pairs)
        rng = np.random.default_rng(Random(f"{settings.seed}/{name}/order").getrandbits(128))
        order = rng.permutation(sum(map(len, drawn)))
        return Pairs(
            np.concatenate([pairs.spans for pairs in drawn])[order],
            np.concatenate([pairs.next_sentence_labels for pairs in drawn])[order],
        )


def write_records(path: str, blocks: Iterable[Sequence[bytes]], tally: Tally) -> tuple[int, str]:
    """Write a TFRecord file on any filesystem of Beam's; return its size in bytes and CRC-32C."""
    import google_crc32c
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / "shard"
        with tf.io.TFRecordWriter(str(local)) as writer:
            for block in blocks:
                for record in block:
                    writer.write(record)
                tally.add(written=len(block))
        checksum = google_crc32c.Checksum()
        with local.open("rb") as source, FileSystems.create(path) as target:
            while chunk := source.read(1 << 22):
                checksum.update(chunk)
                target.write(chunk)
        return local.stat().st_size, checksum.hexdigest().decode()


def write_report(
    _: None, shards: Iterable[dict[str, Any]], dropped: dict[str, int], path: str
) -> None:
    """Leave what the workers found where the submitting process reads it."""
    report = {"shards": sorted(shards, key=lambda shard: shard["name"]), "dropped": dropped}
    with FileSystems.create(path) as file:
        file.write(json.dumps(report).encode())


def run_job(
    files: Sequence[str],
    vocabulary: Vocabulary,
    settings: Settings,
    options: PipelineOptions,
    temporary: str,
    tally: str | None,
) -> dict[str, Any]:
    """Run the job and return its report; the shards stand in `temporary`, not yet published.

    Args:
        files: corpus files.
        vocabulary: of the tokenizer.
        settings: what decides the bytes.
        options: Beam's.
        temporary: a folder that every worker can write to.
        tally: a local folder for progress, or None.

    Returns:
        `shards`: for each shard `name`, `temporary` (path), `shard` (fields of a manifest's
        `Shard`), `dropped` (documents) and `statistics`; `dropped`: documents by reason.
    """
    report = FileSystems.join(temporary, "report.json")
    with running_pipeline(options) as pipeline:
        tokenized = (
            pipeline
            | ReadDocuments(files, settings)
            | batch_documents()
            | beam.ParDo(TokenizeDocuments(vocabulary, settings, tally)).with_outputs(
                DROPPED, main="documents"
            )
        )
        shards = (
            tokenized.documents
            | beam.GroupByKey()
            | beam.ParDo(WriteShard(vocabulary, settings, temporary, tally))
        )
        dropped = tokenized[DROPPED] | beam.combiners.Count.PerElement()
        _ = (
            pipeline
            | "Report" >> beam.Create([None])
            | beam.Map(
                write_report, beam.pvalue.AsList(shards), beam.pvalue.AsDict(dropped), report
            )
        )
    with FileSystems.open(report) as file:
        return json.loads(file.read())
