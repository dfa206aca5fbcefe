"""Group documents by shard, in bounded memory on any runner.

Flink, Spark and Dataflow shuffle via disk, but Beam's local runner keeps all grouped elements in
the memory of one process. There, workers spill documents to files, sorted by shard, and only the
locations in the files (`Place`) go through Beam's GroupByKey.
"""

import itertools
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.coders import FastPrimitivesCoder
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from pipeline.storage.remote_files import joined, open_to_read, open_to_write

SPILL_BYTES = 1 << 25
"""Amount of tokenized text that a worker buffers before it writes a file."""

Group = list[tuple[bytes, ...]]
"""Some documents of one shard, or other rows that are grouped in the same way."""

Place = tuple[str, int, int]
"""Location of a `Group`: path of the file, offset in bytes, number of bytes."""

Part = tuple[str, Group]
"""Name of a partition, some of its rows as bytes."""

PART_BYTES = 1 << 26
"""Corpus bytes for each partition of rows; a worker holds those of one at a time."""


class GroupByShard(beam.PTransform):
    """(Shard name, some of its documents) → (shard name, all of its documents, in groups)."""

    def __init__(self, temporary: str, *, through_files: bool) -> None:
        """Group in the runner, or via files in `temporary`, a folder that all workers share."""
        super().__init__()
        self._temporary = temporary
        self._through_files = through_files

    def expand(self, documents: beam.PCollection) -> beam.PCollection:
        """Return a PCollection with one element per shard; read its groups with `gathered`."""
        if self._through_files:
            documents = documents | beam.ParDo(Spill(self._temporary))
        return documents | beam.GroupByKey()


def gathered(groups: Iterable[Group | Place]) -> list[Any]:
    """Return all documents of a shard."""
    # A `Place` is a tuple, a `Group` a list.
    lists = (read_group(g) if isinstance(g, tuple) else g for g in groups)
    return list(itertools.chain.from_iterable(lists))


def count_parts(files: Mapping[str, int]) -> int:
    """Return the number of partitions for a corpus, given the size in bytes of its files."""
    return -(-sum(files.values()) // PART_BYTES)


def partitioned(rows: np.ndarray, hashes: np.ndarray, parts: int) -> Iterator[Part]:
    """Yield rows by partition, packed into bytes.

    Args:
        rows: rows of any dtype; read them with `rows_of`.
        hashes: uint64, one for each row. Rows of the same hash are in the same partition.
        parts: number of partitions.
    """
    numbers = hashes % np.uint64(parts)
    order = np.argsort(numbers, kind="stable")
    names, starts = np.unique(numbers[order], return_index=True)
    ends = [*starts[1:], len(rows)]
    for name, start, end in zip(names, starts, ends[: len(starts)], strict=True):
        yield f"part-{name}", [(rows[order[start:end]].tobytes(),)]


def rows_of(groups: Iterable[Group | Place], kind: np.dtype) -> np.ndarray:
    """Return the rows of a partition: `kind` [N]."""
    return np.frombuffer(b"".join(row[0] for row in gathered(groups)), kind)


class Spill(beam.DoFn):
    """(Shard name, some of its documents) → (shard name, `Place`)."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def setup(self) -> None:
        """Create this worker's coder for lists of tuples of bytes."""
        self._coder = FastPrimitivesCoder()

    def start_bundle(self) -> None:
        """Start with an empty buffer."""
        self._gathered: defaultdict[str, Group] = defaultdict(list)
        self._bytes = 0

    def process(self, element: tuple[str, Group]) -> Iterator[tuple[str, Place]]:
        """Buffer documents; write the buffer to a file when it reaches `SPILL_BYTES`."""
        name, documents = element
        self._gathered[name] += documents
        self._bytes += sum(map(len, itertools.chain.from_iterable(documents)))
        if self._bytes >= SPILL_BYTES:
            yield from self._write()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Write the rest of the buffer to a file."""
        window = GlobalWindow()  # Beam wants windowed values here: the bundle has no element
        for place in self._write():
            yield WindowedValue(place, window.max_timestamp(), [window])

    def _write(self) -> Iterator[tuple[str, Place]]:
        if not self._gathered:
            return
        # A new name for each write: workers share the folder, and a retried bundle writes again.
        path = joined(self._folder, f"documents-{uuid.uuid4().hex}")
        places = []
        first = 0
        with open_to_write(path) as file:
            for name, documents in self._gathered.items():
                data = self._coder.encode(documents)
                file.write(data)
                places.append((name, (path, first, len(data))))
                first += len(data)
        self.start_bundle()
        yield from places


def read_group(place: Place) -> Group:
    """Read the documents that `Spill` wrote."""
    path, first, count = place
    with open_to_read(path) as file:
        file.seek(first)
        return FastPrimitivesCoder().decode(file.read(count))
