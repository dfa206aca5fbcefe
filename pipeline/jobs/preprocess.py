"""The Beam job behind `clozeline preprocess`.

    documents → tokenize → group by shard → draw pairs, mask, encode, write → report

One GroupByKey performs shuffling, splitting, sharding, negative sampling and deduplication: a hash
of a document's identity and the seed selects its shard, and documents inside a shard are sorted by
that hash. So a shard is a random sample of the corpus, identical on every runner with any number
of workers, and random next sentences are drawn from the shard's other documents. Datasets of
several sequence lengths are made from one grouping.
"""

import shutil
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline.corpus.cleaning import CleanDocument, DocumentCleaner, RejectedDocument
from pipeline.corpus.readers import (
    DROPPED,
    EMPTY,
    REMARKS,
    ReadDocuments,
    batch_documents,
    collected,
)
from pipeline.corpus.remarks import remarks_from
from pipeline.corpus.rules.rule import Rejection
from pipeline.corpus.units import packed_units, split_units
from pipeline.errors import JobError, reason
from pipeline.jobs.beam_options import is_local, running_pipeline
from pipeline.jobs.job_report import JobReport, RejectionFile, ShardReport, WrittenShard
from pipeline.jobs.near_duplicates import BANDS, NearDuplicates, banded, marks
from pipeline.jobs.repeated_units import RemoveRepeats
from pipeline.jobs.shared_folder import OnSharedStorage
from pipeline.jobs.shuffle import Group, GroupByShard, Place, count_parts, gathered
from pipeline.jobs.tally import Tally
from pipeline.jobs.write_rejections import REJECTED, WriteRejections, recorded
from pipeline.manifest import Shard, compression_type, shard_file
from pipeline.records.document import LENGTH, Document
from pipeline.records.shard import (
    TOO_SHORT,
    Settings,
    ShardMaker,
    by_shard,
    document_key,
    piece_type,
    too_few_sentences,
    unknown,
)
from pipeline.schema import Compression, finds_near
from pipeline.storage.files import crc32c
from pipeline.storage.locks import temporary_folder
from pipeline.storage.remote_files import is_local_path, joined, open_to_read, open_to_write
from pipeline.storage.tfrecords import INDEX_RECORDS, record_bytes
from pipeline.text.tokenizer import Vocabulary, build_tokenizer

CHANGED = "changed"
"""Tag of the side output of (kind of change, number of changes)."""

COPY_BYTES = 1 << 22


class TokenizeDocuments(beam.DoFn):
    """Batches of documents (bytes) → (shard name, list of the batch's `Document`s in that shard).

    Elements are few and large, since Beam has a fixed cost per element. For each document that
    cannot be used, the rule that rejected it goes to the side output `DROPPED`, and its rejection
    to `REJECTED`. What rules changed in the others goes to `CHANGED`. To find near-duplicates, the
    bands of the documents' signatures go to `BANDS`.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        settings: Settings,
        tally: str | None,
        *,
        labelled: bool,
        parts: int,
    ) -> None:
        self._vocabulary = vocabulary
        self._labelled = labelled
        self._settings = settings
        self._tally_folder = tally
        self._parts = parts

    def setup(self) -> None:
        """Make this worker's rules and its tokenizer."""
        self._clean = DocumentCleaner(self._settings, labelled=self._labelled)
        self._tokenizer = build_tokenizer(
            self._vocabulary.pieces, lower_case=self._settings.lower_case
        )
        # The smallest integer type that holds every id: documents are shuffled as these bytes.
        self._piece = piece_type(self._vocabulary)
        self._tally = Tally(self._tally_folder)

    def process(self, documents: list[bytes]) -> Iterator[Any]:
        """Tokenize the sentences of all documents in one call."""
        clean: list[tuple[CleanDocument, list[tuple[str, list[str]]]]] = []
        for document in documents:
            outcome = self._clean(document)
            if isinstance(outcome, RejectedDocument):
                yield from self._rejected(outcome.rejection, outcome.label)
            else:
                # Here, where `split_sentences` remembers a text that a rule has split.
                unit = self._settings.unit
                units = split_units(outcome.text, self._settings, outcome.language, unit)
                clean.append((outcome, units))
        if clean:
            yield from self._tokenize(clean)
            # Summed in the batch first: an element for each document would cost more than the work.
            for change in sum((document.changes for document, _ in clean), Counter()).items():
                yield beam.pvalue.TaggedOutput(CHANGED, change)
        self._tally.add(read=sum(map(len, documents)), documents=len(documents))

    def _rejected(self, rejection: Rejection, label: bytes) -> Iterator[Any]:
        yield beam.pvalue.TaggedOutput(DROPPED, rejection.rule)
        yield from recorded(rejection, label, self._settings.shards)

    def _too_short(self, size: int, sentences: bytes) -> Rejection | None:
        """Return why a document of `size` pieces has too little text; None = it has enough.

        It is left out before it is compared with others: it must not be the one kept of several.
        """
        fewest = self._settings.min_document_pieces
        if not size:
            return Rejection(EMPTY)
        if size < fewest:
            return Rejection(TOO_SHORT, size, fewest)
        return too_few_sentences(sentences, self._settings)

    def _tokenize(
        self, documents: list[tuple[CleanDocument, list[tuple[str, list[str]]]]]
    ) -> Iterator[Any]:
        """Yield the outputs for documents, each with its units and their sentences."""
        split = [units for _, units in documents]
        sentences = [s for each in split for unit in each for s in unit[1]]
        flat, sizes = self._tokenizer.tokenize_list(sentences)
        pieces = flat.astype(self._piece)
        self._tally.add(tokens=len(pieces))
        row_splits = np.append(0, np.cumsum(sizes))
        units = [b""] * len(documents)
        if self._settings.unit:
            units = packed_units(split, sizes > 0)
        first = 0
        used: list[Document] = []
        texts: list[str] = []
        for (document, parts), packed in zip(documents, units, strict=True):
            count = sum(len(each) for _, each in parts)
            bounds = row_splits[first : first + count + 1]
            lengths = np.diff(bounds)
            first += count
            # Drop sentences without a piece, for example those of control characters only.
            used_lengths = lengths[lengths > 0].astype(LENGTH).tobytes()
            rejection = self._too_short(int(bounds[-1] - bounds[0]), used_lengths)
            if rejection:
                yield from self._rejected(rejection, document.label)
                continue
            key = document_key(document.identity, self._settings.seed)
            ids = pieces[bounds[0] : bounds[-1]].tobytes()
            used.append((key, ids, used_lengths, document.label, packed))
            texts.append(document.text)
        yield from by_shard(used, self._settings).items()
        if finds_near(self._settings.deduplicate):
            how = self._settings
            for part in banded(used, texts, how.bands, self._parts, shared_ids=how.shared_ids):
                yield beam.pvalue.TaggedOutput(BANDS, part)


class WriteShard(beam.DoFn):
    """(Shard name, its documents) → a report per dataset on the shard file that was written.

    All datasets have the same documents; their rejections go to the side output `REJECTED`. Each
    file gets a unique name in `temporary`, since Beam may retry a bundle.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        datasets: Sequence[Settings],
        temporary: str,
        tally: str | None,
    ) -> None:
        self._vocabulary = vocabulary
        self._datasets = datasets
        self._temporary = temporary
        self._tally_folder = tally

    def setup(self) -> None:
        """Build this worker's shard makers and open its tally."""
        self._makers = [ShardMaker(self._vocabulary, settings) for settings in self._datasets]
        self._selector = ShardMaker(self._vocabulary, strictest(self._datasets))
        self._tally = Tally(self._tally_folder)

    def process(self, element: tuple[str, Iterable[Group | Place]]) -> Iterator[Any]:
        """Write one shard of each dataset; yield the reports, and the rejections."""
        name, groups = element
        selected = self._selector.select(gathered(groups))
        for document, rejection in selected.rejected:
            yield from recorded(rejection, document[3], self._selector.settings.shards)
        for dataset, maker in enumerate(self._makers):
            written = self._write(maker, name, selected.kept) if selected.kept else None
            dropped = Counter(rejection.rule for _, rejection in selected.rejected)
            yield ShardReport(dataset, name, dict(dropped), dict(selected.changes), written)

    def _write(self, maker: ShardMaker, name: str, kept: list[Document]) -> WrittenShard:
        """Write the records of a shard's documents to a file."""
        piece = piece_type(self._vocabulary)
        statistics = Counter(
            documents=len(kept),
            sentences=sum(len(lengths) for _, _, lengths, *_ in kept) // LENGTH.itemsize,
            pieces=sum(len(ids) for _, ids, *_ in kept) // piece.itemsize,
            **unknown(kept, piece, self._vocabulary.unk_id),
        )
        # Documents with the same id draw the same random numbers.
        if maker.settings.shared_ids and (shared := len(kept) - len({key for key, *_ in kept})):
            statistics["shared_ids"] = shared
        temporary = joined(self._temporary, f"{name}.{uuid.uuid4().hex}")
        compression = maker.settings.compression
        blocks = maker.records(maker.text(kept), name, statistics)
        written = write_records(temporary, blocks, compression, self._tally)
        file = shard_file(name, compression)
        examples, tokens = statistics["examples"], statistics["real_positions"]
        shard = Shard(file, examples, tokens, *written)
        return WrittenShard(temporary, shard, dict(statistics))


def write_records(
    path: str, blocks: Iterable[Sequence[bytes]], compression: Compression, tally: Tally
) -> tuple[int, str, tuple[int, ...]]:
    """Write a TFRecord file local or remote.

    Returns:
        The file's size in bytes, its CRC-32C and its index: the last three fields of `Shard`.
    """
    if is_local_path(path):
        return _write_records(Path(path), blocks, compression, tally)
    # The checksum is of the whole file, so write a local one first and upload it.
    with temporary_folder() as folder:
        local = folder / "shard"
        facts = _write_records(local, blocks, compression, tally)
        with local.open("rb") as source, open_to_write(path) as target:
            shutil.copyfileobj(source, target, COPY_BYTES)
        return facts


def _write_records(
    path: Path, blocks: Iterable[Sequence[bytes]], compression: Compression, tally: Tally
) -> tuple[int, str, tuple[int, ...]]:
    """Write a local TFRecord file; return as `write_records`.

    Raises:
        JobError: it cannot be written.
    """
    import tensorflow as tf

    ends = [0]
    try:
        with tf.io.TFRecordWriter(str(path), compression_type(compression)) as writer:
            for block in blocks:
                for record in block:
                    writer.write(record)
                    ends.append(ends[-1] + record_bytes(record))
                tally.add(written=len(block))
    except tf.errors.OpError as error:
        raise JobError(f"{path}: cannot be written: {reason(error)}") from error
    # Nobody can start in the middle of a compressed file.
    index = ends[:-1:INDEX_RECORDS] if compression == "none" else []
    return path.stat().st_size, crc32c(path), tuple(index)


def write_report(
    _: None,
    shards: Iterable[ShardReport],
    dropped: dict[str, int],
    remarks: Iterable[Any],
    rejected: Iterable[RejectionFile],
    changes: dict[str, int],
    path: str,
) -> None:
    """Write the job's report to a file for the submitting process."""
    report = JobReport.of(shards, dropped, remarks_from(remarks), rejected, changes)
    with open_to_write(path) as file:
        file.write(report.to_json().encode())


def strictest(datasets: Sequence[Settings]) -> Settings:
    """Return the settings that choose the documents of all datasets.

    Those of the longest records, where the fewest sentences are split: a document that has enough
    of them there has enough for the others. It may be the one kept of several, so all use it.
    """
    return max(datasets, key=lambda dataset: dataset.max_seq_length)


def run_job(
    files: Mapping[str, int],
    vocabulary: Vocabulary,
    datasets: Sequence[Settings],
    options: PipelineOptions,
    temporary: str,
    tally: str | None,
    *,
    skip_damaged: bool,
    labelled: bool = False,
) -> JobReport:
    """Run the job and return its report; the shards are in `temporary`, not yet published.

    Args:
        files: size in bytes of each corpus file, by path.
        vocabulary: vocabulary of the tokenizer.
        datasets: settings of each dataset; they differ only in their sequence lengths.
        options: Beam's options.
        temporary: a folder that every worker can write to.
        tally: a local folder for progress counts, or None.
        skip_damaged: True = use damaged files up to the damage; False = fail the job.
        labelled: whether rejected documents are written to files.
    """
    settings = strictest(datasets)
    # Only local runners spill, so their files need not travel to a remote folder and back.
    spilled = temporary if is_local_path(temporary) or tally is None else tally
    report = joined(temporary, "report.json")
    parts = count_parts(files)
    with running_pipeline(options) as pipeline:
        read = pipeline | ReadDocuments(files, settings, skip_damaged=skip_damaged)
        tokenized = (
            read["documents"]
            | batch_documents()
            | beam.ParDo(OnSharedStorage(temporary))
            | beam.ParDo(
                TokenizeDocuments(vocabulary, settings, tally, labelled=labelled, parts=parts)
            ).with_outputs(DROPPED, REJECTED, CHANGED, BANDS, main="documents")
        )
        group = GroupByShard(spilled, through_files=is_local(options))
        compared = _compared(tokenized, vocabulary, settings, group, parts)
        write = WriteShard(vocabulary, datasets, temporary, tally)
        shards = (
            compared["documents"] | group | beam.ParDo(write).with_outputs(REJECTED, main="reports")
        )
        rejected = (
            (compared[REJECTED], shards[REJECTED])
            | "Rejected" >> beam.Flatten()
            | "Rejected by file" >> group
            | beam.ParDo(WriteRejections(temporary))
        )
        _write_report(
            pipeline,
            beam.pvalue.AsList(shards.reports),
            beam.pvalue.AsDict(compared[DROPPED] | beam.combiners.Count.PerElement()),
            beam.pvalue.AsList(collected(read[REMARKS])),
            beam.pvalue.AsList(rejected),
            beam.pvalue.AsDict(tokenized[CHANGED] | beam.CombinePerKey(sum)),
            report,
        )
    with open_to_read(report) as file:
        return JobReport.from_json(file.read())


def _compared(
    tokenized: Any, vocabulary: Vocabulary, settings: Settings, group: GroupByShard, parts: int
) -> dict[str, beam.PCollection]:
    """Add the steps that compare documents of different shards, if the settings ask for them.

    Args:
        tokenized: outputs of `TokenizeDocuments`.
        vocabulary: vocabulary of the tokenizer.
        settings: settings of the dataset.
        group: how elements of the same name are grouped.
        parts: number of partitions of what is compared.

    Returns:
        `documents`: documents and marks by shard. `DROPPED`, `REJECTED`: those of `tokenized`, and
        of documents that are left out here.
    """
    compared = {name: tokenized[name] for name in (DROPPED, REJECTED)}
    documents = tokenized.documents
    if finds_near(settings.deduplicate):
        find = NearDuplicates(group, settings.bands, parts, shared_ids=settings.shared_ids)
        near = tokenized[BANDS] | find | beam.FlatMap(marks, settings)
        documents = (documents, near) | "Documents and marks" >> beam.Flatten()
    if settings.unit:
        distinct = documents | "Distinct" >> RemoveRepeats(vocabulary, settings, group, parts)
        documents = distinct["documents"]
        for name, before in compared.items():
            compared[name] = (before, distinct[name]) | f"All {name}" >> beam.Flatten()
    return compared | {"documents": documents}


def _write_report(pipeline: Any, *arguments: Any) -> None:
    """Add the step that calls `write_report` with some arguments to a pipeline."""
    # One element, so that a report is written even if no shard exists.
    _ = pipeline | "Report" >> beam.Create([None]) | beam.Map(write_report, *arguments)
