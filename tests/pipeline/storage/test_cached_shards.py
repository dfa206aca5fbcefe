"""The shards of a remote dataset: fetched ahead of their use, in its order, within bounds."""

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.manifest import Shard
from pipeline.storage.cache import CacheConfig
from pipeline.storage.cached_shards import CachedShardFiles
from pipeline.storage.files import crc32c, write_atomically
from pipeline.storage.remote import path_from

SIZE_BYTES = 200_000
MOST_AHEAD = 5  # files in half of two megabytes, which hold all of the dataset


@pytest.fixture
def shards(store, tmp_path) -> list[Shard]:
    made = []
    for index in range(8):
        data = bytes([index]) * SIZE_BYTES
        (tmp_path / "x").write_bytes(data)
        write_atomically(path_from("gs://bucket/dataset") / f"train-{index}", data)
        made.append(Shard(f"train-{index}", 1, 1, SIZE_BYTES, crc32c(tmp_path / "x")))
    return made


@pytest.fixture
def files(tmp_path) -> Iterator[CachedShardFiles]:
    opened = CachedShardFiles(
        path_from("gs://bucket/dataset"), CacheConfig(cache=tmp_path / "cache", cache_gb=0.002)
    )
    yield opened
    opened.close()
    for thread in threading.enumerate():
        if thread.name == "prefetch":
            thread.join(60)
            assert not thread.is_alive()


class Downloads:
    """Waits for downloads, and checks at each that not too many files are ahead."""

    def __init__(self, store, files: CachedShardFiles) -> None:
        self.names: list[str] = []
        self._files = files
        self._changed = threading.Condition()
        store.fail = self._seen

    def _seen(self, method: str, key: str) -> None:
        if method == "get":
            with self._changed:
                assert len(self._files._ahead) <= MOST_AHEAD
                self.names.append(key.rsplit("/", 1)[1])
                self._changed.notify_all()

    def wait_for(self, count: int) -> list[str]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.names) >= count, 60)
            return sorted(self.names)


def test_files_are_fetched_before_they_are_read(store, files, shards):
    downloads = Downloads(store, files)
    files.expect((0, shard) for shard in itertools.cycle(shards))
    assert downloads.wait_for(MOST_AHEAD) == [f"train-{index}" for index in range(5)]
    for index, shard in enumerate(shards[:3]):
        with files.opened(shard) as path:
            assert path.read_bytes() == bytes([index]) * SIZE_BYTES
        downloads.wait_for(MOST_AHEAD + index + 1)
    assert downloads.wait_for(8) == [f"train-{index}" for index in range(8)]


def test_new_order_replaces_the_one_before(store, files, shards):
    downloads = Downloads(store, files)
    files.expect((0, shard) for shard in itertools.cycle(shards[:3]))
    downloads.wait_for(3)
    files.expect((0, shard) for shard in itertools.cycle(shards[5:]))
    assert {"train-5", "train-6", "train-7"} <= {*downloads.wait_for(6)}


def test_a_failed_fetch_is_reported_when_the_file_is_read(store, files, shards):
    store.objects["bucket/dataset/train-0"] = b"x" * SIZE_BYTES
    files.expect((0, shard) for shard in itertools.cycle(shards))
    with (
        pytest.raises(InputError, match="gs://bucket/dataset/train-0: corrupt or changed"),
        files.opened(shards[0]),
    ):
        pass
    with files.opened(shards[1]) as path:
        assert path.read_bytes() == bytes([1]) * SIZE_BYTES


def test_error_of_a_copy_names_the_file_of_the_dataset(store, files, shards):
    with files.opened(shards[0]) as path:
        copy: Path = path
    error = files.failed(shards[0], InputError(f"{copy}: record 3 is corrupt"))
    assert str(error) == "gs://bucket/dataset/train-0: record 3 is corrupt"
    assert files.fault is error


def test_order_without_end_of_files_that_are_all_ahead_is_waited_for(store, files, shards):
    downloads = Downloads(store, files)
    entries = itertools.count()
    order = zip(entries, itertools.cycle(shards[:2]), strict=False)
    files.expect(order)
    downloads.wait_for(2)
    for _ in range(50):
        for shard in shards[:2]:
            with files.opened(shard):
                pass
    assert downloads.wait_for(2) == ["train-0", "train-1"]
    # Each of the 100 readings takes its own entry and skips one; none searches the order again.
    assert next(entries) <= 2 + 1024 + 2 * 100
