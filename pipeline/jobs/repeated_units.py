"""Remove repeated paragraphs or lines: of equal ones in a corpus, all but one.

    documents by shard → distinct documents, rows of their units → group by hash → marks

A unit is compared first inside its shard, and then the first of each shard with those of others, so
a notice that stands on every page has no more rows in its partition than there are shards.
Documents go through the shuffle once more, to meet the marks on them. Duplicates are gone before:
a unit is never kept in a document that is not used because it is a duplicate.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np

from pipeline.corpus.readers import DROPPED
from pipeline.jobs.shuffle import Group, GroupByShard, Place, gathered, partitioned, rows_of
from pipeline.jobs.write_rejections import REJECTED, recorded
from pipeline.records.deduplication import ROW, first_and_repeated, repeat_marks, unit_rows
from pipeline.records.document import Document
from pipeline.records.shard import Settings, ShardMaker, by_shard
from pipeline.text.tokenizer import Vocabulary

UNITS = "units"
"""Tag of the side output of (partition, rows of units)."""

CHUNK = 256
"""Documents in an element."""


class CompareInShard(beam.DoFn):
    """(Shard name, its documents and marks) → (shard name, distinct documents and marks on them).

    The first of each unit goes to the side output `UNITS`; the duplicates that are left out go to
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
        first, repeated = first_and_repeated(unit_rows(distinct.kept))
        documents = [*distinct.kept, *repeat_marks(repeated)]
        for start in range(0, len(documents), CHUNK):
            yield name, documents[start : start + CHUNK]
        for part in partitioned(first, first["hash"] >> np.uint64(32), self._parts):
            yield beam.pvalue.TaggedOutput(UNITS, part)


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

    def expand(self, documents: beam.PCollection) -> Any:
        """Return PCollections by name.

        `documents`: (shard name, some of its documents and marks). `DROPPED` and `REJECTED`: of the
        duplicates that are left out.
        """
        compared = (
            documents
            | "Group documents" >> self._group
            | beam.ParDo(self._compare).with_outputs(DROPPED, REJECTED, UNITS, main="documents")
        )
        marks = (
            compared[UNITS] | "Group units" >> self._group | beam.FlatMap(_marked, self._settings)
        )
        marked = (compared.documents, marks) | beam.Flatten()
        return {"documents": marked, DROPPED: compared[DROPPED], REJECTED: compared[REJECTED]}


def _marked(
    element: tuple[str, Iterable[Group | Place]], settings: Settings
) -> Iterator[tuple[str, list[Document]]]:
    _, repeated = first_and_repeated(rows_of(element[1], ROW))
    yield from by_shard(repeat_marks(repeated), settings).items()
