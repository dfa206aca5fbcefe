"""Shards: the dataset settings, the selection of documents, and their records."""

import hashlib
from collections import Counter
from collections.abc import Collection, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

import numpy as np

from pipeline import schema
from pipeline.configs import Masking
from pipeline.corpus.minhash import Bands
from pipeline.corpus.readers import CorpusFormat
from pipeline.corpus.rules.rule import Rejection
from pipeline.manifest import shard_file
from pipeline.records.deduplication import KEY_BYTES, Fewest, node_of, separated, without_units
from pipeline.records.document import LENGTH, Document
from pipeline.records.masking import Masker, prediction_limits, record_seeds
from pipeline.records.packing import pack, pairs_of_records
from pipeline.records.pairs import (
    DRAW_PAIRS,
    SPECIAL_PIECES,
    Pairs,
    ShardText,
    lay_out,
    parts_of,
    split_long,
)
from pipeline.records.serialization import encode_examples
from pipeline.schema import (
    NO_OTHER_DOCUMENT,
    Arrays,
    Compression,
    Deduplicate,
    Masks,
    Overflow,
    Pairing,
    Unit,
    compared_unit,
    finds_near,
    record_features,
)
from pipeline.text.inputs import Marks
from pipeline.text.tokenizer import Vocabulary

Split = Literal["train", "eval"]
TRAIN: Split = "train"
EVAL: Split = "eval"

DUPLICATE, NEAR_DUPLICATE = "duplicate", "near_duplicate"
TOO_SHORT = "too_short"
"""Reasons for dropping a document: an equal or a similar document was kept; it has too few pieces,
or too few sentences for a pair."""

BLOCK = 1024
"""Records that are masked and serialized at a time; their arrays fit into a CPU's cache."""

PACKED_PAIRS = 4096
"""Pairs among which those of a record are chosen."""


@dataclass(frozen=True, kw_only=True)
class Settings(CorpusFormat):
    """Dataset settings; with the corpus and vocabulary, they determine every byte of a dataset."""

    lower_case: bool
    max_seq_length: int
    max_predictions: int
    pairing: Pairing
    overflow: Overflow
    max_pairs: int
    masks: Masks
    masking: Masking
    mask_rate: float
    short_seq_rate: float
    duplicates: int
    deduplicate: Deduplicate
    minhash_bands: int
    minhash_rows: int
    min_document_pieces: int
    shards: int
    streams: int
    eval_rate: float
    compression: Compression
    seed: int

    @property
    def unit(self) -> Unit | None:
        """The parts of documents that are compared with those of others; None = no parts are."""
        return compared_unit(self.deduplicate)

    @property
    def shared_ids(self) -> bool:
        """Whether documents of different texts may have the same key."""
        return self.id_column is not None

    @property
    def bands(self) -> Bands:
        """How MinHash signatures are cut."""
        return Bands(self.minhash_bands, self.minhash_rows)

    @property
    def longest_sentence(self) -> int:
        """Maximum number of pieces in a sentence: with a pair, two must fit into a record."""
        most = self.max_seq_length - SPECIAL_PIECES[self.pairing]
        return most if self.pairing == "none" else most // 2

    @property
    def fewest(self) -> Fewest:
        """Minimum sizes of a document and a shard."""
        sentences = 2 if self.pairing == "sop" else 1
        return Fewest(self.min_document_pieces, sentences, 2 if self.pairing == "nsp" else 1)

    @property
    def shards_by_split(self) -> dict[Split, int]:
        """Number of shards by split."""
        eval_shards = max(1, round(self.shards * self.eval_rate)) if self.eval_rate else 0
        return {TRAIN: self.shards, EVAL: eval_shards}

    def shard_name(self, key: bytes) -> str:
        """Return the shard name (file name without extension) of a document."""
        # Different bytes of the hash: the split must not depend on the shard number.
        where, which = (int.from_bytes(key[i : i + 8], "big") for i in (0, 8))
        split = EVAL if where / 2**64 < self.eval_rate else TRAIN
        count = self.shards_by_split[split]
        return shard_name(split, which % count, count)


def by_shard(documents: Iterable[Document], settings: Settings) -> dict[str, list[Document]]:
    """Return documents, or marks on them, by the name of their shard."""
    shards: dict[str, list[Document]] = {}
    for document in documents:
        shards.setdefault(settings.shard_name(document[0]), []).append(document)
    return shards


def shard_name(split: Split, number: int, count: int) -> str:
    """Return the name (file name without extension) of one of `count` shards."""
    return f"{split}-{number:05d}-of-{count:05d}"


def shard_files(settings: Settings) -> list[str]:
    """Return the file names of all shards that a dataset with these settings can have."""
    return [
        shard_file(shard_name(split, number, count), settings.compression)
        for split, count in settings.shards_by_split.items()
        for number in range(count)
    ]


def document_key(identity: str, seed: int) -> bytes:
    """Return a document's key: a hash of its id or text and of the seed, `KEY_BYTES` long."""
    return hashlib.blake2b(
        identity.encode(), digest_size=KEY_BYTES, key=str(seed).encode()
    ).digest()


def piece_type(vocabulary: Vocabulary) -> np.dtype:
    """Return the smallest dtype that can represent every piece id."""
    return np.dtype("<u2") if len(vocabulary) <= 1 << 16 else np.dtype("<u4")


def too_few_sentences(lengths: bytes, settings: Settings) -> Rejection | None:
    """Return why a document's sentences, after long ones are split, make no pair; None = they do.

    Args:
        lengths: number of pieces of each sentence, in dtype `LENGTH`.
        settings: settings of the dataset.
    """
    fewest = settings.fewest.sentences
    if len(lengths) >= fewest * LENGTH.itemsize:  # nearly always, even if none is split
        return None
    count = int(parts_of(np.frombuffer(lengths, LENGTH), settings.longest_sentence).sum())
    return Rejection(TOO_SHORT, count, fewest) if count < fewest else None


def unknown(documents: Sequence[Document], piece: np.dtype, unk_id: int) -> dict[str, int]:
    """Return the number of [UNK] pieces, and the number of sentences with no other piece.

    Args:
        documents: documents with at least one sentence in all.
        piece: dtype of the piece ids.
        unk_id: id of [UNK].
    """
    ids = np.frombuffer(b"".join(ids for _, ids, *_ in documents), piece)
    lengths = np.frombuffer(b"".join(lengths for _, _, lengths, *_ in documents), LENGTH)
    is_unknown = (ids == unk_id).astype(np.int64)
    by_sentence = np.add.reduceat(is_unknown, np.cumsum(lengths, dtype=np.int64) - lengths)
    return {
        "unknown_pieces": int(is_unknown.sum()),
        "unknown_sentences": int((by_sentence == lengths).sum()),
    }


def shard_text(
    documents: Iterable[Document], piece: np.dtype, longest_sentence: int, separator: bytes = b""
) -> ShardText:
    """Concatenate documents, splitting sentences longer than `longest_sentence`.

    Args:
        documents: documents in order.
        piece: dtype of the piece ids.
        longest_sentence: maximum number of pieces in a sentence.
        separator: bytes of a piece id, added after every document as a sentence; empty: none.
    """
    kept = list(documents)
    last = np.ones(1 if separator else 0, LENGTH).tobytes()
    of_documents = [lengths + last for _, _, lengths, *_ in kept]
    # All documents at once: NumPy's calls for each would take longer than the work.
    lengths = np.frombuffer(b"".join(of_documents), LENGTH)
    counts = [len(document) // LENGTH.itemsize for document in of_documents]
    parts_before = np.append(0, np.cumsum(parts_of(lengths, longest_sentence)))
    document_ends = parts_before[np.cumsum(counts, dtype=np.int64)]
    sentence_ends = np.cumsum(split_long(lengths, longest_sentence), dtype=np.int64)
    return ShardText(
        piece_ids=np.frombuffer(b"".join(ids + separator for _, ids, *_ in kept), piece),
        sentence_starts=np.concatenate([[0], sentence_ends]),
        document_starts=(0, *document_ends.tolist()),
        document_keys=tuple(key for key, *_ in kept),
    )


@dataclass(frozen=True)
class Selection:
    """Documents of a shard that are used, and those rejected.

    Attributes:
        kept: the documents that are used, sorted.
        rejected: each other document, as it was, with its rejection.
        changes: number of changes by kind in the documents that are kept.
    """

    kept: list[Document]
    rejected: list[tuple[Document, Rejection]]
    changes: Counter[str]


class ShardMaker:
    """Writes the records of a dataset's shards."""

    def __init__(self, vocabulary: Vocabulary, settings: Settings) -> None:
        self.settings = settings
        self._vocabulary = vocabulary
        self._piece = piece_type(vocabulary)
        self._masker = Masker(
            vocabulary,
            masking=settings.masking,
            mask_rate=settings.mask_rate,
            max_predictions=settings.max_predictions,
        )

    def select(self, documents: Iterable[Document]) -> Selection:
        """Return the documents to make records of, sorted, and each other one with its rejection.

        Args:
            documents: all documents of the shard and the marks on them, in any order.
        """
        distinct, repeated = self.distinct(documents)
        kept: list[Document] = []
        rejected = distinct.rejected
        changes: Counter[str] = Counter()
        for document in distinct.kept:
            shorter, removed = document, 0
            if numbers := repeated.get(document[0]):
                shorter, removed = without_units(document, numbers, self._piece)
            rejection = self._too_short(shorter, removed)
            if rejection:
                rejected.append((document, rejection))
            else:
                kept.append(shorter)
                changes += Counter({self._repeated: removed})
        if len({key for key, *_ in kept}) < self.settings.fewest.documents:
            rejected += [(document, Rejection(NO_OTHER_DOCUMENT)) for document in kept]
            kept, changes = [], Counter()
        return Selection(kept, rejected, changes)

    def distinct(self, documents: Iterable[Document]) -> tuple[Selection, dict[bytes, list[bytes]]]:
        """Return the documents that are no duplicates, sorted, and the marked units by key.

        Args:
            documents: as those of `select`.
        """
        # Beam delivers documents in any order; sorting makes the bytes of a shard reproducible.
        ordered, near, repeated = separated(sorted(documents))
        if self.settings.shared_ids and finds_near(self.settings.deduplicate):
            # Among equal ids, the document compared with others is used (`near_duplicates.py`).
            ordered.sort(key=node_of)
        kept: list[Document] = []
        rejected: list[tuple[Document, Rejection]] = []
        keys: set[bytes] = set()
        for document in ordered:
            rejection = self._duplicate(document, keys, near)
            if rejection:
                rejected.append((document, rejection))
            else:
                kept.append(document)
            keys.add(document[0])
        return Selection(kept, rejected, Counter()), repeated

    def _duplicate(
        self, document: Document, keys: Container[bytes], near_duplicates: Collection[bytes]
    ) -> Rejection | None:
        """Return why a document is not used next to documents with these keys; None = it is."""
        if self.settings.deduplicate != "none" and document[0] in keys:
            return Rejection(DUPLICATE)
        if near_duplicates and node_of(document) in near_duplicates:
            return Rejection(NEAR_DUPLICATE, threshold=round(self.settings.bands.threshold, 3))
        return None

    def _too_short(self, document: Document, removed: int) -> Rejection | None:
        """Return why a document has too little text, after units were removed; None = enough."""
        _, ids, *_ = document
        fewest = self.settings.min_document_pieces
        if removed and not ids:
            return Rejection(self._repeated, removed)
        if removed and (size := len(ids) // self._piece.itemsize) < fewest:
            return Rejection(TOO_SHORT, size, fewest)
        return too_few_sentences(document[2], self.settings)

    @property
    def _repeated(self) -> str:
        """Name of the rule that rejects documents whose units all are repeats of others."""
        return f"repeated_{self.settings.unit}"

    def text(self, documents: Iterable[Document]) -> ShardText:
        """Return the concatenated documents."""
        separator = b""
        if self.settings.pairing == "none":
            separator = self._piece.type(self._vocabulary.sep_id).tobytes()
        return shard_text(documents, self._piece, self.settings.longest_sentence, separator)

    def records(
        self, text: ShardText, name: str, statistics: Counter[str]
    ) -> Iterator[list[bytes]]:
        """Yield blocks of serialized records, and update the statistics.

        Args:
            text: text of the shard, with at least one document.
            name: name of the shard; with the seed, it determines the random numbers.
            statistics: counters by name, updated in place.
        """
        settings = self.settings
        pairs = self._shuffled_pairs(text, name, statistics)
        features = record_features(
            settings.max_seq_length,
            settings.max_predictions,
            settings.pairing,
            settings.masks,
            settings.max_pairs,
        )
        count = PACKED_PAIRS if settings.max_pairs > 1 else BLOCK
        for start in range(0, len(pairs), count):
            block = slice(start, start + count)
            arrays = self._arrays(text, pairs[block], name, start)
            if settings.max_pairs > 1:
                statistics["pairs"] += len(arrays[schema.INPUT_IDS])
                arrays = self._packed(arrays)
            if settings.masks == "static":
                statistics["predictions"] += int(arrays[schema.MASKED_LM_WEIGHTS].sum())
            if settings.pairing != "none":
                label = "random_next" if settings.pairing == "nsp" else "swapped"
                statistics[label] += int(arrays[schema.NEXT_SENTENCE_LABELS].sum())
            statistics.update(
                examples=len(arrays[schema.INPUT_IDS]),
                positions=arrays[schema.INPUT_IDS].size,
                real_positions=int(arrays[schema.INPUT_MASK].sum()),
            )
            yield encode_examples(arrays, features)

    def _arrays(self, text: ShardText, pairs: Pairs, name: str, start: int) -> Arrays:
        """Return the features of pairs, the first of which has the number `start` in its shard."""
        settings = self.settings
        length = settings.max_seq_length
        arrays = lay_out(text, pairs, max_seq_length=length, marks=Marks.of(self._vocabulary))
        if settings.masks == "static":
            numbers = np.arange(start, start + len(pairs))
            seeds = record_seeds(f"{settings.seed}/{name}/masks", numbers)
            arrays |= self._masker(arrays[schema.INPUT_IDS], arrays[schema.INPUT_MASK], seeds)
        return arrays

    def _packed(self, arrays: Arrays) -> Arrays:
        """Pack a block of pairs into records."""
        settings = self.settings
        lengths = arrays[schema.INPUT_MASK].sum(axis=1)
        limits = prediction_limits(
            lengths - SPECIAL_PIECES[settings.pairing], settings.mask_rate, settings.max_predictions
        )
        records = pairs_of_records(
            lengths.tolist(),
            # Covers dynamic masks too: whatever is drawn later fits into the record.
            limits.tolist(),
            max_seq_length=settings.max_seq_length,
            max_predictions=settings.max_predictions,
            max_pairs=settings.max_pairs,
        )
        order = np.concatenate(records)
        return pack(
            {name: values[order] for name, values in arrays.items()},
            np.repeat(np.arange(len(records)), [len(record) for record in records]),
            max_predictions=settings.max_predictions,
            max_pairs=settings.max_pairs,
            pad_id=self._vocabulary.pad_id,
        )

    def _shuffled_pairs(self, text: ShardText, name: str, statistics: Counter[str]) -> Pairs:
        """Return the pairs of all duplicates in random order."""
        settings = self.settings
        drawn = []
        for duplicate in range(settings.duplicates):
            pairs, cut_pieces = DRAW_PAIRS[settings.pairing](
                text,
                # `Random` takes the SHA-512 of a text, which is the same in every process; `hash`
                # is not.
                Random(f"{settings.seed}/{name}/{duplicate}"),
                max_seq_length=settings.max_seq_length,
                short_seq_rate=settings.short_seq_rate,
                overflow=settings.overflow,
            )
            statistics["truncated_pieces"] += cut_pieces
            drawn.append(pairs)
        # NumPy's generators take integers only.
        rng = np.random.default_rng(Random(f"{settings.seed}/{name}/order").getrandbits(128))
        order = rng.permutation(sum(map(len, drawn)))
        return Pairs(
            np.concatenate([pairs.spans for pairs in drawn])[order],
            np.concatenate([pairs.next_sentence_labels for pairs in drawn])[order],
        )
