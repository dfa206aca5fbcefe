"""The records of a process's rows, read from the streams of a dataset.

Plain Python without TensorFlow: `model.training.stream_order` says which records, and
`pipeline.storage` reads them.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from model.training.stream_order import Block, StreamOrder
from pipeline.errors import InputError, JobError
from pipeline.manifest import Shard
from pipeline.storage.shard_files import ShardFiles
from pipeline.storage.tfrecords import RecordFile

FILLER = -1
"""Number of a record that only fills the last batch of a pass."""

Record = tuple[int, bytes]
"""A record's number and its serialized bytes. The number is that in the split, plus the size of the
split for every epoch before: it identifies record and epoch."""


@dataclass(frozen=True)
class StreamReader:
    """Reads a split in the order of its streams.

    Attributes:
        order: order of the records.
        shards: files of the split.
        files: access to the files, on the disk or in the cache.
        compression: TensorFlow's name of their compression.
    """

    order: StreamOrder
    shards: tuple[Shard, ...]
    files: ShardFiles
    compression: str

    def rows(self, rows: range, position: int) -> Iterator[list[Record]]:
        """Yield some rows of every global batch, without end.

        Args:
            rows: rows of the global batch, those of a process.
            position: number of records before the first batch; a multiple of the batch size.
        """
        return self._rows(rows, position, lambda stream: self._records(stream, position))

    def rows_once(self, rows: range) -> Iterator[list[Record]]:
        """Yield some rows of every global batch of one pass over the split.

        After the records of the split come copies of its first one that are numbered `FILLER`,
        without end.
        """
        return self._rows(rows, 0, self._filled)

    def shards_in_order_of_use(self, rows: range, position: int) -> Iterator[tuple[int, Shard]]:
        """Yield which files a process will begin to read, and when, without end.

        For a cache that fetches files ahead of their use. A file may come several times.

        Args:
            rows: rows of the global batch, those of the process.
            position: number of records before the first batch; a multiple of the batch size.

        Yields:
            Index of the global batch, counted from position 0, and the file; in ascending order.
        """
        for step, shard in self.order.files_in_order_of_use(self._lanes(rows), position):
            yield step, self.shards[shard]

    def _lanes(self, rows: range) -> range:
        """Return the lanes that some rows are in."""
        height = self.order.lane_rows
        return range(rows.start // height, -(-rows.stop // height))

    def _rows(
        self, rows: range, position: int, opened: Callable[[int], Iterator[Record]]
    ) -> Iterator[list[Record]]:
        order = self.order
        step, inside = divmod(position, order.batch_size)
        if inside:
            raise ValueError(f"position {position}: expected a multiple of {order.batch_size}")
        lanes = self._lanes(rows)
        height, width = order.lane_rows, order.lane_streams
        turn = step * height
        taking_turns = []
        for lane in lanes:
            # The stream whose turn it is at this position comes first.
            places = ((turn + place) % width for place in range(width))
            streams = [opened(lane * width + place) for place in places]
            taking_turns.append(map(next, itertools.cycle(streams)))
        # The rows of this process may begin within a lane.
        before, count = rows.start - lanes.start * height, len(rows)
        while True:
            # Rows of lanes that another process shares are read in vain.
            read = [record for lane in taking_turns for record in itertools.islice(lane, height)]
            yield read[before : before + count]

    def _records(self, stream: int, position: int) -> Iterator[Record]:
        """Yield the records of a stream from a position on, without end."""
        reader = _BlockReader(self)
        for epoch, skipped in self.order.epochs(stream, position):
            yield from self._epoch(reader, stream, epoch, skipped)

    def _filled(self, stream: int) -> Iterator[Record]:
        """Yield the records of a stream's first epoch, then filler without end."""
        reader = _BlockReader(self)
        yield from self._epoch(reader, stream, 0, 0)
        # A real record, because batches are parsed by the schema; its weight is 0.
        shard = next(index for index, size in enumerate(self.order.sizes) if size)
        (filler,) = reader.read(Block(shard, 0, 1, 0))
        yield from itertools.repeat((FILLER, filler))

    def _epoch(
        self, reader: "_BlockReader", stream: int, epoch: int, skipped: int
    ) -> Iterator[Record]:
        start = epoch * self.order.examples
        for block in self.order.blocks(stream, epoch):
            # Whole blocks are skipped without being read.
            if skipped >= block.count:
                skipped -= block.count
                continue
            records = reader.read(block)
            indices = self.order.block_order(block, epoch)[skipped:]
            numbers = (start + block.number + indices).tolist()
            yield from zip(numbers, map(records.__getitem__, indices.tolist()), strict=True)
            skipped = 0


class _BlockReader:
    """Reads the blocks of a stream; the last file stays open."""

    def __init__(self, reader: StreamReader) -> None:
        self._reader = reader
        self._file: RecordFile | None = None

    def read(self, block: Block) -> list[bytes]:
        """Return the records of a block.

        Raises:
            InputError: the file is missing, damaged or changed.
            JobError: the file cannot be read now.
        """
        reader = self._reader
        shard = reader.shards[block.shard]
        try:
            with reader.files.opened(shard) as path:
                return self._open(path, shard).read(block.first, block.count)
        except (InputError, JobError, OSError) as error:
            raise reader.files.failed(shard, error) from error

    def _open(self, path: Path, shard: Shard) -> RecordFile:
        if self._file is None or self._file.path != path:
            if self._file:
                self._file.close()
            self._file = RecordFile(path, self._reader.compression, shard.offsets)
        return self._file
