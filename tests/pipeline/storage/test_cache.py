"""The cache of remote files: bounded, shared, and never torn."""

import fcntl
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.errors import InputError, JobError
from pipeline.storage import cache as cache_module
from pipeline.storage.cache import Cache, CacheConfig
from pipeline.storage.files import write_atomically
from pipeline.storage.remote import ObjectVersion, path_from, version_of


def crc32c(data: bytes) -> str:
    """Bit by bit, RFC 3720 appendix B.4."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return f"{crc ^ 0xFFFFFFFF:08x}"


def put(name: str, data: bytes) -> tuple[Path, int, str]:
    path = path_from(f"gs://bucket/{name}")
    write_atomically(path, data)
    return path, len(data), crc32c(data)


def downloads(store) -> list[str]:
    return [key for method, key in store.requests if method == "get"]


def made(folder: Path, **options) -> Cache:
    return Cache(CacheConfig(cache=folder, **options))


def test_checksum_of_the_test_is_the_published_one():
    assert crc32c(bytes(32)) == "8a9136aa"  # RFC 3720, appendix B.4


def test_file_is_downloaded_once(store, tmp_path):
    file = put("shard", b"records")
    for cache in (made(tmp_path), made(tmp_path)):
        for _ in range(2):
            with cache.opened(*file) as copy:
                assert copy.read_bytes() == b"records"
    assert downloads(store) == ["bucket/shard"]


def test_least_recently_used_copies_are_evicted(store, tmp_path):
    cache = made(tmp_path, cache_gb=0.001)
    files = [put(f"shard-{i}", bytes([i]) * 300_000) for i in range(4)]
    for file in files[:3]:
        with cache.opened(*file):
            pass
    with cache.opened(*files[0]):  # now shard-1 is the one that was not used for longest
        pass
    (tmp_path / "notes.txt").write_bytes(bytes(900_000))  # the user's: neither counted nor removed
    with cache.opened(*files[3]):
        pass
    assert {path.name[26:] for path in tmp_path.glob("*-shard-*")} == {
        "shard-0", "shard-2", "shard-3",
    }  # fmt: skip
    assert (tmp_path / "notes.txt").exists()


def test_copies_in_use_are_not_evicted(store, tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "WAIT_SECS", 0.0)
    cache, other = made(tmp_path, cache_gb=0.001), made(tmp_path, cache_gb=0.001)
    first, second = put("a", bytes(600_000)), put("b", bytes(600_001))
    with cache.opened(*first) as copy:
        with (
            pytest.raises(JobError, match="full of files that running processes read"),
            other.opened(*second),
        ):
            pass
        assert copy.stat().st_size == 600_000
    with other.opened(*second):
        assert not copy.exists()


def test_open_copy_is_read_to_its_end_though_it_was_evicted(store, tmp_path):
    cache = made(tmp_path, cache_gb=0.001)
    with cache.opened(*put("a", b"a" * 600_000)) as copy:
        file = copy.open("rb")
    with cache.opened(*put("b", b"b" * 600_000)):
        assert not copy.exists()
    with file:
        assert file.read() == b"a" * 600_000


def test_file_larger_than_the_cache_is_refused(store, tmp_path):
    cache = made(tmp_path, cache_gb=0.001)
    with (
        pytest.raises(InputError, match=r"`cache_gb` 0.001: too small for a file of 0.002 GB"),
        cache.opened(*put("a", bytes(2_000_000))),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir() if path.stat().st_size] == []


@pytest.mark.parametrize("data", [b"recordz", b"record", b""])
def test_changed_file_is_refused_by_its_checksum_and_not_kept(store, tmp_path, data):
    path, size, checksum = put("shard", b"records")
    store.objects["bucket/shard"] = data
    wrong = "corrupt or changed: its CRC-32C" if len(data) == size else "bytes instead of 7"
    with (
        pytest.raises((InputError, JobError), match=f"gs://bucket/shard: .*{wrong}"),
        made(tmp_path).opened(path, size, checksum),
    ):
        pass
    assert [path for path in tmp_path.iterdir() if "shard" in path.name] == []
    store.objects["bucket/shard"] = b"records"
    with made(tmp_path).opened(path, size, checksum) as copy:
        assert copy.read_bytes() == b"records"


def test_a_partial_download_of_a_killed_process_is_ignored(store, tmp_path):
    file = put("shard", b"records")
    with made(tmp_path).opened(*file) as copy:
        name = copy.name
    copy.unlink()
    (tmp_path / f".partial-{name}").write_bytes(b"reco")
    with made(tmp_path).opened(*file) as copy:
        assert copy.read_bytes() == b"records"
    assert not (tmp_path / f".partial-{name}").exists()


def test_two_readers_at_once_share_one_download(store, tmp_path, monkeypatch):
    """The one that waited for the other has the copy while the other has it, too.

    Else two readers of two files, of which each downloaded one, wait for each other forever.
    """
    file = put("shard", b"records")
    begun, waiting, held = threading.Event(), threading.Event(), threading.Event()
    both = threading.Barrier(2)

    def fail(method: str, key: str) -> None:
        if method == "get":
            begun.set()
            assert waiting.wait(60)

    def flock(descriptor: int, operation: int) -> None:
        if threading.current_thread() is readers[1] and not waiting.is_set():
            waiting.set()  # it has opened the download, which becomes the copy
            assert held.wait(60)
        fcntl.flock(descriptor, operation)

    store.fail = fail
    monkeypatch.setattr(cache_module, "fcntl", SimpleNamespace(**vars(fcntl) | {"flock": flock}))
    read = []

    def read_it() -> None:
        with made(tmp_path).opened(*file) as copy:
            held.set()
            both.wait(60)
            read.append(copy.read_bytes())

    readers = [threading.Thread(target=read_it, daemon=True) for _ in range(2)]
    readers[0].start()
    assert begun.wait(60)
    readers[1].start()
    for reader in readers:
        reader.join(120)
    assert read == [b"records"] * 2
    assert downloads(store) == ["bucket/shard"]
    assert not [*tmp_path.glob(".partial-*")]


def test_copy_held_by_another_process_stays(store, tmp_path):
    cache = made(tmp_path, cache_gb=0.001)
    with cache.opened(*put("a", bytes(600_000))) as copy:
        pass
    program = "import fcntl, sys; f = open(sys.argv[1], 'rb'); fcntl.flock(f, fcntl.LOCK_SH); "
    program += "print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(copy)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout
        holder.stdout.readline()
        with cache.opened(*put("b", bytes(300_000))):
            assert copy.exists()
        holder.kill()
    with cache.opened(*put("c", bytes(600_000))):
        assert not copy.exists()


def put_version(name: str, data: bytes) -> tuple[Path, ObjectVersion]:
    path, *_ = put(name, data)
    return path, version_of(path)


def test_version_is_downloaded_once_and_a_new_one_again(store, tmp_path):
    file = put_version("model", b"first")
    for cache in (made(tmp_path), made(tmp_path)):
        with cache.opened_version(*file) as copy:
            assert copy.read_bytes() == b"first"
    assert copy.name[16:] == f"-{crc32c(b'first')}-model"
    assert downloads(store) == ["bucket/model"]
    newer = put_version("model", b"other")  # of the same size
    with made(tmp_path).opened_version(*newer) as copy:
        assert copy.read_bytes() == b"other"


def test_copy_of_a_version_that_the_disk_has_changed_is_downloaded_again(store, tmp_path):
    file = put_version("model", b"weights")
    with made(tmp_path).opened_version(*file) as copy:
        pass
    copy.write_bytes(b"weighty")
    with made(tmp_path).opened_version(*file) as copy:
        assert copy.read_bytes() == b"weights"
    assert downloads(store) == ["bucket/model"] * 2


def test_version_that_is_written_again_during_its_download_is_refused(store, tmp_path):
    file = put_version("model", b"first")

    def write(method: str, key: str) -> None:
        if method == "get":
            store.objects[key] = b"other"

    store.fail = write
    with (
        pytest.raises(JobError, match="gs://bucket/model: changed while it was read; try again"),
        made(tmp_path).opened_version(*file),
    ):
        pass
    assert [path for path in tmp_path.iterdir() if "model" in path.name] == []


def test_missing_remote_file_is_no_error_of_the_cache(store, tmp_path):
    path, size, checksum = put("shard", b"records")
    file = put_version("model", b"weights")
    store.objects.clear()
    with (
        pytest.raises(FileNotFoundError, match="shard"),
        made(tmp_path).opened(path, size, checksum),
    ):
        pass
    with pytest.raises(FileNotFoundError, match="model"), made(tmp_path).opened_version(*file):
        pass


def test_cache_without_a_home_directory_is_asked_for(monkeypatch):
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(InputError, match="`cache`: there is no home directory; give a folder"):
        Cache(CacheConfig())
