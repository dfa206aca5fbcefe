"""The order of streams: every record once an epoch, the same for any processes, from any step."""

import gzip
import itertools
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.training import record_streams, stream_order
from model.training.record_streams import FILLER, StreamReader
from model.training.stream_order import StreamOrder
from pipeline.manifest import Manifest, Shard
from pipeline.storage import tfrecords
from pipeline.storage.cache import CacheConfig
from pipeline.storage.cached_shards import CachedShardFiles
from pipeline.storage.files import crc32c
from pipeline.storage.remote import path_from
from pipeline.storage.shard_files import ShardFiles
from pipeline.storage.tfrecords import record_bytes

INDEX_RECORDS = 4
"""So that the files have several blocks."""

FILES = (7, 1, 30, 12, 3, 19)


@dataclass
class Dataset:
    """Files whose record number n, counted over all files, is the text of n and n % 5 dots."""

    folder: Path
    compression: str
    shards: tuple[Shard, ...]
    read_records: int = 0

    def reader(
        self, streams: int, batch_size: int, seed: str | None = "s", files: int = len(FILES)
    ) -> StreamReader:
        sizes = FILES[:files]
        order = StreamOrder(sizes, streams, batch_size, seed, can_seek=not self.compression)
        shards = self.shards[:files]
        return StreamReader(order, shards, ShardFiles(self.folder, shards), self.compression)


def text_of(number: int) -> bytes:
    return b"%d%s" % (number, b"." * (number % 5))


def framed(record: bytes) -> bytes:
    """Return a record in the format of a TFRecord file."""

    def masked_crc(data: bytes) -> bytes:
        crc = google_crc32c.value(data)
        return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)

    length = struct.pack("<Q", len(record))
    return length + masked_crc(length) + record + masked_crc(record)


@pytest.fixture(scope="module", params=["", "GZIP"])
def dataset(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Dataset]:
    folder = tmp_path_factory.mktemp("streams")
    shards, numbers = [], itertools.count()
    for index, count in enumerate(FILES):
        records = [text_of(next(numbers)) for _ in range(count)]
        data = b"".join(map(framed, records))
        path = folder / str(index)
        path.write_bytes(gzip.compress(data) if request.param else data)
        ends = np.cumsum([0, *map(record_bytes, records)]).tolist()
        listed = () if request.param else tuple(ends[:-1:INDEX_RECORDS])
        shards.append(Shard(str(index), count, 0, path.stat().st_size, crc32c(path), listed))
    made = Dataset(folder, request.param, tuple(shards))

    class Counted(tfrecords.RecordFile):
        def read(self, first: int, count: int) -> list[bytes]:
            made.read_records += count
            return super().read(first, count)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tfrecords, "INDEX_RECORDS", INDEX_RECORDS)
        patch.setattr(stream_order, "INDEX_RECORDS", INDEX_RECORDS)
        patch.setattr(record_streams, "RecordFile", Counted)
        yield made


def numbers_of(reader: StreamReader, batches: int, rows: range, position: int = 0) -> np.ndarray:
    """Return the numbers of some rows: [batches, rows], after comparing the records with them."""
    found = list(itertools.islice(reader.rows(rows, position), batches))
    for number, record in itertools.chain.from_iterable(found):
        assert record == text_of(number % reader.order.examples)
    return np.array([[number for number, _ in batch] for batch in found])


CASES = {
    "streams": st.integers(1, 24),
    "batch_size": st.integers(1, 24),
    "files": st.integers(1, len(FILES)),
}


@given(**CASES)
@settings(max_examples=20, deadline=None)
def test_every_epoch_has_every_record_once(
    dataset: Dataset, streams: int, batch_size: int, files: int
) -> None:
    """Also with fewer records than streams, and where an epoch ends inside a batch."""
    reader = dataset.reader(streams, batch_size, files=files)
    examples = reader.order.examples
    batches = -(-3 * examples // batch_size)
    rows = numbers_of(reader, batches, range(batch_size)).ravel()[: 3 * examples]
    for epoch, numbers in enumerate(rows.reshape(3, examples)):
        assert sorted(numbers) == list(range(epoch * examples, (epoch + 1) * examples))


@given(**CASES, processes=st.integers(1, 12), steps=st.integers(0, 15))
@settings(max_examples=20, deadline=None)
def test_any_number_of_processes_reads_the_same_batches_from_any_step(
    dataset: Dataset, streams: int, batch_size: int, files: int, processes: int, steps: int
) -> None:
    """Also where the processes do not divide the streams."""
    reader = dataset.reader(streams, batch_size * processes, files=files)
    whole = numbers_of(reader, steps + 6, range(batch_size * processes))[steps:]
    position = steps * batch_size * processes
    parts = [
        numbers_of(reader, 6, range(first, first + batch_size), position)
        for first in range(0, batch_size * processes, batch_size)
    ]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


@given(**CASES)
@settings(max_examples=10, deadline=None)
def test_one_pass_in_the_order_of_the_files(
    dataset: Dataset, streams: int, batch_size: int, files: int
) -> None:
    reader = dataset.reader(streams, batch_size, None, files)
    batches = -(-reader.order.examples // batch_size)
    read = itertools.islice(reader.rows_once(range(batch_size)), batches)
    found = list(itertools.chain.from_iterable(read))
    real = [(number, record) for number, record in found if number != FILLER]
    assert sorted(real) == [(n, text_of(n)) for n in range(reader.order.examples)]
    assert {record for number, record in found if number == FILLER} <= {text_of(0)}
    if streams == 1:
        assert [number for number, _ in real] == list(range(reader.order.examples))


@pytest.mark.parametrize("processes", [1, 2, 3, 4, 6, 12])
def test_a_process_reads_its_share_of_the_records(dataset: Dataset, processes: int) -> None:
    """A batch of 24 rows from 12 streams, 72 records: 3 batches are an epoch."""
    count = 24 // processes
    for first in range(0, 24, count):
        reader, dataset.read_records = dataset.reader(12, 24), 0
        epoch = numbers_of(reader, 3, range(first, first + count))
        assert dataset.read_records == 72 // processes
        share = first * 72 // 24
        assert sorted(epoch.ravel()) == list(range(share, share + 72 // processes))


def test_three_processes_do_not_read_all_of_four_streams(dataset: Dataset) -> None:
    reader, dataset.read_records = dataset.reader(4, 12), 0
    numbers_of(reader, 6, range(4))  # two of the four lanes
    assert dataset.read_records == 72 // 2


@pytest.mark.parametrize("steps", [0, 1, 35, 71, 1000])
def test_starting_anywhere_reads_one_block_of_each_stream(dataset: Dataset, steps: int) -> None:
    reader, dataset.read_records = dataset.reader(4, 4), 0
    numbers_of(reader, 1, range(4), steps * 4)
    assert 4 <= dataset.read_records <= 4 * INDEX_RECORDS


def test_the_order_depends_on_seed_epoch_and_stream(dataset: Dataset) -> None:
    reader = dataset.reader(2, 2)
    epochs = numbers_of(reader, 72, range(2)).T.reshape(2, 2, 36)  # by stream and epoch
    inside = epochs - epochs.min(axis=2, keepdims=True)
    orders = {tuple(order) for order in inside.reshape(4, 36)}
    assert len(orders) == 4
    other = replace(reader, order=replace(reader.order, seed="other"))
    assert not np.array_equal(numbers_of(other, 36, range(2)).T, epochs[:, 0])


def test_blocks_and_files_are_shuffled(dataset: Dataset) -> None:
    """One stream: each file in one piece, its blocks in random order if the file has an index."""
    blocks = dataset.reader(1, 1).order.blocks(0, 0)
    by_file = [shard for shard, _ in itertools.groupby(block.shard for block in blocks)]
    assert sorted(by_file) == list(range(len(FILES)))
    assert by_file != sorted(by_file)
    longest = [block.first for block in blocks if block.shard == 2]
    assert sorted(longest) == list(range(0, 30, INDEX_RECORDS))
    assert (longest == sorted(longest)) == bool(dataset.compression)


def test_the_files_are_named_in_the_order_of_their_use(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, rows, position = dataset.reader(6, 8), range(4, 8), 16
    opened: list[tuple[int, str]] = []
    step = position // 8
    open_file: Callable = reader.files.opened

    def opened_at(shard: Shard) -> AbstractContextManager[Path]:
        opened.append((step, shard.name))
        return open_file(shard)

    monkeypatch.setattr(reader.files, "opened", opened_at)
    stream = reader.rows(rows, position)
    for _ in range(30):
        next(stream)
        step += 1
    upcoming = reader.shards_in_order_of_use(rows, position)
    named = itertools.takewhile(lambda use: use[0] < step, upcoming)
    assert {(at, shard.name) for at, shard in named} <= set(opened)
    firsts = {}
    for at, name in opened:
        firsts.setdefault(name, at)
    promised: dict[str, int] = {}
    for at, shard in itertools.islice(reader.shards_in_order_of_use(rows, position), 500):
        promised.setdefault(shard.name, at)
    assert {name: promised[name] for name in firsts} == firsts


def test_the_order_equals_the_recorded_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recorded when the order was introduced: with another order, runs would not resume."""
    monkeypatch.setattr(stream_order, "INDEX_RECORDS", 512)
    order = StreamOrder((1000, 2500), 2, 2, "7/train", can_seek=True)
    blocks = order.blocks(stream=0, epoch=5)
    found = [(block.shard, block.first, block.count) for block in blocks]
    assert found == [(0, 512, 488), (0, 0, 512), (1, 0, 512), (1, 512, 238)]
    assert order.block_order(blocks[0], 5)[:8].tolist() == [216, 302, 257, 448, 22, 425, 253, 6]


@pytest.mark.parametrize(
    ("streams", "examples", "expected"),
    [(64, 2048, 64), (64, 2047, 32), (64, 40, 1), (64, 0, 1), (6, 95, 2), (6, 96, 3), (7, 223, 1)],
)
def test_small_splits_have_fewer_streams(streams: int, examples: int, expected: int) -> None:
    shards = (Shard("a", examples, 0, 0, ""),)
    manifest = Manifest({"streams": streams, "compression": "none"}, "", 5, True, 8, 1,
                        {"train": shards}, {}, {}, {})  # fmt: skip
    assert StreamOrder.of(manifest, "train", batch_size=8, seed="s").streams == expected


def test_a_position_inside_a_batch_is_refused(dataset: Dataset) -> None:
    with pytest.raises(ValueError, match="position 3: expected a multiple of 2"):
        next(dataset.reader(2, 2).rows(range(2), 3))


def test_streams_read_the_same_records_through_the_cache_of_a_remote_dataset(
    dataset: Dataset, store: Any, tmp_path: Path
) -> None:
    for shard in dataset.shards:
        store.objects[f"bucket/dataset/{shard.name}"] = (dataset.folder / shard.name).read_bytes()
    files = CachedShardFiles(path_from("gs://bucket/dataset"), CacheConfig(cache=tmp_path))
    local = dataset.reader(4, 6)
    reader = replace(local, files=files)
    for position in (0, 66):
        files.expect(reader.shards_in_order_of_use(range(6), position))
        remote_numbers = numbers_of(reader, 40, range(6), position)
        np.testing.assert_array_equal(remote_numbers, numbers_of(local, 40, range(6), position))
    files.close()
    downloads = [key for method, key in store.requests if method == "get"]
    assert sorted(downloads) == [f"bucket/dataset/{index}" for index in range(len(FILES))]
