"""The order of records: which record is in which row of which global batch.

The records of a split, in the order of its files, are cut into V ranges, one for each stream. A
stream's order in an epoch is a pure function of (seed, epoch, stream, manifest): its files in
random order, the blocks of each file in random order, the records of each block in random order. So
a stream holds one block in memory, and can start anywhere after reading one block.

A global batch of B rows has g = gcd(B, V) lanes of B/g rows each, and each lane takes its rows in
turn from V/g streams of its own. Where P processes divide both B and V, the rows of each process
are whole lanes: it reads 1/P of the streams. The batches are the same for every P.

The sequence of rows is endless, and batches cross the ends of epochs: epoch e consists of the
positions from eN to (e+1)N, for N records. How many of these positions a stream has differs by a
few from epoch to epoch. Its range has that many records, so the bounds of the ranges move by fewer
records than a batch has. Every record comes once an epoch, for any N, B and V.

Letters: V streams, B rows of a global batch, N records of the split.
"""

import hashlib
import heapq
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from pipeline.manifest import Manifest
from pipeline.storage.tfrecords import INDEX_RECORDS

LEAST_RECORDS = 32
"""A split with fewer records in each stream is read in fewer streams. Records are shuffled within
their stream alone, so in streams of one record all epochs would have the same order."""


@dataclass(frozen=True)
class Block:
    """A run of records in a file, which are read together.

    Attributes:
        shard: index of the file in its split.
        first: number in the file of the first record.
        count: number of records, 1 to `INDEX_RECORDS`.
        number: number in the split of the first record.
    """

    shard: int
    first: int
    count: int
    number: int


@dataclass(frozen=True)
class StreamOrder:
    """The order of the records of a split.

    Attributes:
        sizes: number of records of each file.
        streams: V, number of streams: that of the manifest, or a divisor of it for a small split.
        batch_size: B, global batch size.
        seed: name of the random order; None = records stay in the order of the files.
        can_seek: whether reading can begin in the middle of a file; if not, the blocks of a file
            stay in their order.
    """

    sizes: tuple[int, ...]
    streams: int
    batch_size: int
    seed: str | None
    can_seek: bool

    @classmethod
    def of(
        cls, manifest: Manifest, split: str, *, batch_size: int, seed: str | None
    ) -> "StreamOrder":
        """Return the order of a split of a dataset that has streams."""
        assert manifest.streams is not None
        sizes = tuple(shard.examples for shard in manifest.splits[split])
        streams = _filled_streams(manifest.streams, sum(sizes))
        can_seek = not manifest.compression_type
        return cls(sizes, streams, batch_size, seed, can_seek)

    @cached_property
    def examples(self) -> int:
        """N, the number of records."""
        return sum(self.sizes)

    @cached_property
    def lanes(self) -> int:
        """Number of lanes of a batch."""
        return math.gcd(self.batch_size, self.streams)

    @property
    def lane_rows(self) -> int:
        """Number of rows of a lane."""
        return self.batch_size // self.lanes

    @property
    def lane_streams(self) -> int:
        """Number of streams of a lane."""
        return self.streams // self.lanes

    @cached_property
    def _starts(self) -> np.ndarray:
        """int64 [files + 1]. Number in the split of each file's first record, then N."""
        return np.cumsum([0, *self.sizes])

    def taken(self, position: int) -> np.ndarray:
        """Return how many records each stream has given before a position: int64 [V]."""
        steps, rows = divmod(position, self.batch_size)
        lanes = np.arange(self.lanes)[:, None]
        # Lanes before the row are full, lanes after it are empty.
        begun = np.clip(rows - lanes * self.lane_rows, 0, self.lane_rows)
        turns = steps * self.lane_rows + begun
        places = np.arange(self.lane_streams)
        # Streams take turns in the order of their places, so the first ones may be one record
        # ahead.
        return ((turns - places + self.lane_streams - 1) // self.lane_streams).ravel()

    def ranges(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the ranges of the streams in an epoch.

        Returns:
            starts: int64 [V + 1]. Number in the split of each range's first record, then N.
            taken: int64 [V]. Number of records that each stream has given before the epoch.
        """
        return _ranges(self, epoch)

    def blocks(self, stream: int, epoch: int) -> list[Block]:
        """Return the blocks of a stream in an epoch, in the order in which they are read."""
        first, end = self.ranges(epoch)[0][stream : stream + 2].tolist()
        pieces = self._pieces(first, end)
        if self.seed is None:
            return list(itertools.chain.from_iterable(pieces))
        draw = _Draw(f"{self.seed}/{epoch}/{stream}")
        ordered = [pieces[index] for index in draw.permutation(len(pieces))]
        # Else reading a block in the middle would decompress all before it, each time.
        if self.can_seek:
            ordered = [[piece[i] for i in draw.permutation(len(piece))] for piece in ordered]
        return list(itertools.chain.from_iterable(ordered))

    def _pieces(self, first: int, end: int) -> list[list[Block]]:
        """Return the blocks of a range of records by file, in order."""
        pieces = []
        # The last file that starts here: files without records start where the next one does.
        shard = int(np.searchsorted(self._starts, first, side="right")) - 1
        while first < end:
            start, stop = self._starts[shard : shard + 2].tolist()
            if stop > first:
                pieces.append(_cut(shard, start, first, min(stop, end)))
                first = min(stop, end)
            shard += 1
        return pieces

    def block_order(self, block: Block, epoch: int) -> np.ndarray:
        """Return the order of a block's records: int64 [count], a permutation."""
        if self.seed is None:
            return np.arange(block.count)
        return _Draw(f"{self.seed}/{epoch}/records/{block.number}").permutation(block.count)

    def epochs(self, stream: int, position: int) -> Iterator[tuple[int, int]]:
        """Yield the epochs of a stream from a position on, and how many records of each to skip."""
        given = int(self.taken(position)[stream])
        for epoch in itertools.count(position // self.examples):
            yield epoch, max(0, given - int(self.ranges(epoch)[1][stream]))

    def files_in_order_of_use(
        self, lanes: Sequence[int], position: int
    ) -> Iterator[tuple[int, int]]:
        """Yield (step, index of the file) whenever a stream of some lanes begins to read a file.

        The step is the index of the first global batch that the file is needed for; the pairs are
        in ascending order, without end. A file may come several times, since streams share files.
        """
        streams = [
            lane * self.lane_streams + place for lane in lanes for place in range(self.lane_streams)
        ]
        return heapq.merge(*(self._files_of(stream, position) for stream in streams))

    def _files_of(self, stream: int, position: int) -> Iterator[tuple[int, int]]:
        place = stream % self.lane_streams
        for epoch, skipped in self.epochs(stream, position):
            given = int(self.ranges(epoch)[1][stream])
            first, shard = given + skipped, None
            for block in self.blocks(stream, epoch):
                given += block.count
                if given > first and block.shard != shard:
                    shard = block.shard
                    # A stream has every `lane_streams`-th turn of its lane.
                    turn = max(first, given - block.count) * self.lane_streams + place
                    yield turn // self.lane_rows, shard


def _filled_streams(most: int, examples: int) -> int:
    """Return the largest divisor of `most` that gives each stream `LEAST_RECORDS`; at least 1."""
    return max(
        divisor
        for divisor in range(1, most + 1)
        if most % divisor == 0 and (divisor == 1 or examples >= divisor * LEAST_RECORDS)
    )


@lru_cache(maxsize=4)
def _ranges(order: StreamOrder, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    taken = order.taken(epoch * order.examples)
    counts = order.taken((epoch + 1) * order.examples) - taken
    return np.cumsum([0, *counts]), taken


def _cut(shard: int, start: int, first: int, end: int) -> list[Block]:
    """Cut a range of a file's records at the records that the file's index lists.

    Args:
        shard: index of the file.
        start: number in the split of the file's first record.
        first: number in the split of the range's first record.
        end: number in the split of the record after the range.
    """
    next_listed = ((first - start) // INDEX_RECORDS + 1) * INDEX_RECORDS
    bounds = [first - start, *range(next_listed, end - start, INDEX_RECORDS), end - start]
    return [Block(shard, a, b - a, start + a) for a, b in itertools.pairwise(bounds)]


class _Draw:
    """Random permutations that depend on a name alone.

    They are made of the raw output of Philox, since NumPy may change what its `Generator` does
    with it (NEP 19), and a run must resume with another version of NumPy.
    """

    def __init__(self, name: str) -> None:
        key = hashlib.blake2b(name.encode(), digest_size=16).digest()
        self._philox = np.random.Philox(key=np.frombuffer(key, "<u8"))

    def permutation(self, count: int) -> np.ndarray:
        """Return a random permutation of 0 to count - 1, int64 [count]."""
        # The order of random keys; stable, so that equal keys have one order on every platform.
        return self._philox.random_raw(count).argsort(kind="stable")
