"""Remove repeated paragraphs or lines: of equal ones in a corpus, all but one.

    documents by shard → distinct documents, their units → group by text → set documents aside that
    become too short → group by text → repeated units → marks

A unit is compared first inside its shard, and then the first of each shard with those of others, so
a notice that stands on every page has no more rows in its partition than there are shards.
Documents go through the shuffle once more, to meet the marks on them; of the units, only the hashes
do in between. `pipeline.records.deduplication` says why units are compared twice. Duplicates are
gone before: a unit is never kept in a document that is not used because it is a duplicate.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np

from pipeline.corpus.readers import DROPPED
from pipeline.jobs.shuffle import Group, GroupByShard, Place, gathered, partitioned, rows_of
from pipeline.jobs.write_rejections import REJECTED, recorded
from pipeline.records.deduplication import (
    ROW,
    by_document,
    first_rows,
    lost_rows,
    repeat_marks,
    repeated_in_order,
    set_aside,
    settled,
    unit_rows,
)
from pipeline.records.document import Document
from pipeline.records.shard import Settings, ShardMaker, by_shard
from pipeline.text.tokenizer import Vocabulary

UNITS, ROWS, OPEN = "units", "rows", "open"
"""Tags of side outputs: (partition, first rows of a shard's units), (shard name, all of its rows),
(rows of documents that are decided one after another, those of a shard that may not be used)."""

CHUNK = 256
"""Documents in an element."""


class CompareInShard(beam.DoFn):
    """(Shard name, its documents and marks) → (shard name, distinct documents).

    Their units go to the side outputs `ROWS` and `UNITS`; the duplicates that are left out go to
    `DROPPED` and `REJECTED`.
    """

    def __init__(self, vocabulary: Vocabulary, settings: Settings, parts: int) -> None:
        self._vocabulary = vocabulary
        self._settings = settings
        self._parts = parts

    def setup(self) -> None:
        """Make the selector of documents."""
        self._maker = ShardMaker(self._vocabulary, self._settings)

    def process(self, element: tuple[str, Iterable[Group | Place]]) -> Iterator[Any]:
        """Compare the units of one shard."""
        name, groups = element
        distinct, _ = self._maker.distinct(gathered(groups))
        for document, rejection in distinct.rejected:
            yield beam.pvalue.TaggedOutput(DROPPED, rejection.rule)
            yield from recorded(rejection, document[3], self._settings.shards)
        for start in range(0, len(distinct.kept), CHUNK):
            yield name, distinct.kept[start : start + CHUNK]
        rows = unit_rows(distinct.kept, self._settings.longest_sentence)
        yield from _compared(name, rows, self._parts)


class RemoveRepeats(beam.PTransform):
    """(Shard name, some of its documents and marks) → distinct documents, and marks on repeats."""

    def __init__(
        self, vocabulary: Vocabulary, settings: Settings, group: GroupByShard, parts: int
    ) -> None:
        """Remove repeats.

        Args:
            vocabulary: vocabulary of the tokenizer.
            settings: settings of the dataset.
            group: how elements of the same name are grouped.
            parts: number of partitions of the units.
        """
        super().__init__()
        self._compare = CompareInShard(vocabulary, settings, parts)
        self._settings = settings
        self._group = group
        self._parts = parts

    def expand(self, documents: beam.PCollection) -> Any:
        """Return PCollections by name.

        `documents`: (shard name, some of its documents and marks). `DROPPED` and `REJECTED`: of the
        duplicates that are left out.
        """
        compared = (
            documents
            | "Group documents" >> self._group
            | beam.ParDo(self._compare).with_outputs(DROPPED, REJECTED, UNITS, ROWS, main="kept")
        )
        first = self._with_lost("First", compared) | "Set aside" >> beam.FlatMap(
            _set_aside, self._settings, self._parts
        ).with_outputs(UNITS, ROWS)
        marks = self._with_lost("Second", first) | "Mark" >> beam.FlatMap(
            _marked, self._settings
        ).with_outputs(OPEN, main="marks")
        last = (
            marks[OPEN]
            | "Group the rest" >> self._group
            | "Mark the rest" >> beam.FlatMap(_marked_in_order, self._settings)
        )
        marked = (compared.kept, marks.marks, last) | beam.Flatten()
        return {"documents": marked, DROPPED: compared[DROPPED], REJECTED: compared[REJECTED]}

    def _with_lost(self, label: str, compared: Any) -> beam.PCollection:
        """Return the rows of each shard with those of them that another shard keeps."""
        lost = (
            compared[UNITS]
            | f"{label} units" >> self._group
            | f"{label} lost" >> beam.FlatMap(_lost, self._settings)
        )
        both = (compared[ROWS], lost) | f"{label} rows and lost" >> beam.Flatten()
        return both | f"{label} rows" >> self._group


def _compared(name: str, rows: np.ndarray, parts: int) -> Iterator[Any]:
    """Yield the rows of a shard to `ROWS`, and the first of each unit to `UNITS`."""
    # The second part is for lost rows: `_lost` fills that one, and both meet in one group.
    yield beam.pvalue.TaggedOutput(ROWS, (name, [(rows.tobytes(), b"")]))
    first = first_rows(rows)
    for part in partitioned(first, first["hash"] >> np.uint64(32), parts):
        yield beam.pvalue.TaggedOutput(UNITS, part)


def _lost(
    element: tuple[str, Iterable[Group | Place]], settings: Settings
) -> Iterator[tuple[str, Group]]:
    """Yield the rows whose unit another shard keeps, by shard; they have no rows of the shard."""
    shards: dict[str, list[bytes]] = {}
    for key, rows in by_document(lost_rows(rows_of(element[1], ROW))):
        shards.setdefault(settings.shard_name(key), []).append(rows.tobytes())
    for name, lost in shards.items():
        yield name, [(b"", b"".join(lost))]


def _rows_and_lost(groups: Iterable[Group | Place]) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of a shard, and those that another shard keeps: `ROW` each."""
    rows, lost = zip(*gathered(groups), strict=True)
    return np.frombuffer(b"".join(rows), ROW), np.frombuffer(b"".join(lost), ROW)


def _set_aside(
    element: tuple[str, Iterable[Group | Place]], settings: Settings, parts: int
) -> Iterator[Any]:
    name, groups = element
    yield from _compared(name, set_aside(*_rows_and_lost(groups), settings.fewest), parts)


def _marked(element: tuple[str, Iterable[Group | Place]], settings: Settings) -> Iterator[Any]:
    repeated, rest, shard = settled(*_rows_and_lost(element[1]), settings.fewest)
    yield from by_shard(repeat_marks(repeated), settings).items()
    if len(rest) or len(shard):
        # One name: a worker that decides documents in order needs all of them.
        yield beam.pvalue.TaggedOutput(OPEN, ("rest", [(rest.tobytes(), shard.tobytes())]))


def _marked_in_order(
    element: tuple[str, Iterable[Group | Place]], settings: Settings
) -> Iterator[tuple[str, list[Document]]]:
    rows, shards = zip(*gathered(element[1]), strict=True)
    repeated = repeated_in_order(
        np.frombuffer(b"".join(rows), ROW),
        [np.frombuffer(shard, ROW) for shard in shards if shard],
        settings.fewest,
    )
    yield from by_shard(repeat_marks(repeated), settings).items()
