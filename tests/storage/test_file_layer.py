"""The file layer on an S3, a GCS and an Azure server and on HDFS: no command, no TensorFlow."""

import os
import re
import secrets
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import fsspec
import hdfs_native
import pytest

from model.tasks.retrieval import read_topics
from pipeline.errors import InputError, JobError
from pipeline.jobs.shared_folder import job_folder
from pipeline.manifest import read_manifest
from pipeline.storage import hdfs as store_of_hdfs
from pipeline.storage import remote
from pipeline.storage.cache import Cache, CacheConfig
from pipeline.storage.files import (
    crc32c,
    download_exactly,
    match_files,
    move_folder,
    publish,
    remove_folder,
    write_atomically,
)
from pipeline.storage.local_copies import local_copy
from pipeline.storage.locks import only_writer
from pipeline.storage.remote import (
    create_exclusively,
    download,
    located,
    move_object,
    path_from,
    sizes_below,
    upload,
    version_of,
)

pytestmark = pytest.mark.storage

BIG_BYTES = 110_000_000
"""More than two parts of an upload of s3fs, whose size is 50 MiB."""


@pytest.fixture(params=["s3", "gs", "az", "hdfs"])
def base(
    request, monkeypatch, s3, gcs, azure, s3_environment, gcs_environment, azure_environment
) -> Path:
    """A folder of its own for each test: what one leaves there is not in the way of others."""
    folder = f"bucket/{secrets.token_hex(4)}"
    if request.param == "hdfs":
        return path_from(f"{request.getfixturevalue('hdfs')}/{folder}")
    variables = s3_environment(s3[0]) | gcs_environment(gcs) | azure_environment(azure)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return path_from(f"{request.param}://{folder}")


def test_objects_are_written_listed_moved_and_removed(base, tmp_path):
    config = CacheConfig(cache=tmp_path)
    write_atomically(base / "a/x.txt", b"1" * 10)
    write_atomically(base / "a/sub/y.txt", b"22")
    write_atomically(base / "empty", b"")
    assert (base / "empty").read_bytes() == b""
    assert sizes_below(base / "a") == {"sub/y.txt": 2, "x.txt": 10}
    assert sizes_below(base / "none") == sizes_below(base / "empty") == {}
    assert sizes_below(base.parent)[f"{base.name}/a/x.txt"] == 10  # of the bucket itself
    move_object(base / "a/x.txt", base / "a/z.txt")
    assert sorted(path.name for path in (base / "a").iterdir()) == ["sub", "z.txt"]
    assert match_files([f"{base}/a/*.txt"]) == {f"{base}/a/z.txt": 10}
    with pytest.raises(InputError, match="/a/sub: is a folder"):
        match_files([f"{base}/a/*"])
    with local_copy(base / "a", config) as copy:
        assert (copy / "sub/y.txt").read_bytes() == b"22"
    with local_copy(base / "a/sub/y.txt", config) as copy:
        assert copy.read_bytes() == b"22"
    with pytest.raises(FileNotFoundError), local_copy(base / "nothing", config):
        pass
    remove_folder(base)
    assert sizes_below(base) == {}


@pytest.mark.parametrize("base", ["s3", "gs"], indirect=True)
def test_marks_of_folders_are_no_files(base, tmp_path):
    """Consoles write an empty object `a/` for the folder a; HDFS has real folders."""
    folder, config = base / "marked", CacheConfig(cache=tmp_path)
    remote, name = located(folder)
    for mark in ("", "sub/"):
        remote._store.pipe_file(f"{name}/{mark}", b"")  # ours has no names that end with `/`
    assert [*folder.iterdir()] in ([], [folder / "sub"])
    assert sizes_below(folder) == {}
    write_atomically(folder / "x.txt", b"1")
    write_atomically(folder / "sub/y.txt", b"22")
    assert sorted(folder.iterdir()) == [folder / "sub", folder / "x.txt"]
    assert [*(folder / "sub").iterdir()] == [folder / "sub/y.txt"]
    assert sizes_below(folder) == {"sub/y.txt": 2, "x.txt": 1}
    assert match_files([f"{folder}/*.txt", f"{folder}/*/*"]) == {
        f"{folder}/sub/y.txt": 2, f"{folder}/x.txt": 1
    }  # fmt: skip
    with local_copy(folder, config) as copy:
        assert (copy / "x.txt").read_bytes() == b"1"
        assert (copy / "sub/y.txt").read_bytes() == b"22"


@pytest.mark.parametrize("base", ["gs"], indirect=True)  # the other servers refuse such names
@pytest.mark.parametrize("name", ["../../escaped", "a//b", "x.txt/y"])
def test_object_that_no_local_file_can_be_is_named(base, tmp_path, name):
    folder = base / "odd"
    write_atomically(folder / "x.txt", b"1")
    remote, path = located(folder)
    remote._store.pipe_file(f"{path}/{name}", b"2")
    try:
        with (
            pytest.raises(InputError, match=f"/odd: object .*{name}: .*; rename or remove it"),
            local_copy(folder, CacheConfig(cache=tmp_path)),
        ):
            pass
    finally:
        remote._store.rm_file(f"{path}/{name}")


def test_wildcards_in_a_name_remove_no_other_object(base):
    names = ["x[ab].txt", "xa.txt", "y?.txt", "y1.txt"] + ["*.txt"] * ("hdfs:" not in str(base))
    for name in names:
        write_atomically(base / name, b"1")
    for name in filter(set("[?*").intersection, names):
        (base / name).unlink()
    with pytest.raises(ValueError, match="only single objects are removed"):
        base.fs.rm(base.path, recursive=True)
    assert {*sizes_below(base)} == {"xa.txt", "y1.txt"}
    remove_folder(base)


def test_wildcards_in_the_name_of_a_folder_are_no_pattern(base):
    odd = base / "a[b]*"
    write_atomically(odd / "24" / "manifest.json", b"{}")
    write_atomically(base / "ab" / "48" / "manifest.json", b"{}")
    message = re.escape(f"{odd}: no finished dataset (no manifest.json); name one of {odd}/24")
    with pytest.raises(InputError, match=f"^{message}$"):
        read_manifest(odd)
    for name, text in {
        "qrels/dev.tsv": "q\td\t1\n",
        "queries.jsonl": '{"_id": "q", "text": "who"}',
    }.items():
        write_atomically(odd / name, text.encode())
    write_atomically(base / "ab" / "qrels" / "test.tsv", b"")
    assert read_topics(odd, None).grades == {"q": {"d": 1}}


def test_folder_is_published_with_its_marker(base, tmp_path):
    (tmp_path / "marker").write_text("m")
    (tmp_path / "data").write_bytes(os.urandom(1000))
    publish(tmp_path, base / "made", "marker")
    assert sizes_below(base / "made") == {"data": 1000, "marker": 1}
    with pytest.raises(FileExistsError):
        publish(tmp_path, base / "made", "marker")
    remove_folder(base / "made", "marker")


def test_second_writer_is_refused(base):
    with only_writer(base / "run", "`run_dir`"):
        with (
            pytest.raises(InputError, match=f"is being written by process {os.getpid()},"),
            only_writer(base / "run", "`run_dir`"),
        ):
            pass
        assert [*sizes_below(base / "run")] == [".lease"]
    assert sizes_below(base / "run") == {}


def test_copy_of_a_directory_is_fetched_again_when_it_was_written_again(base, tmp_path):
    config = CacheConfig(cache=tmp_path)
    for content in (b"11", b"22"):
        write_atomically(base / "model/x", content)
        write_atomically(base / "model/variables/y", content * 2)
        for _ in range(2):
            with local_copy(base / "model", config) as copy:
                assert (copy / "x").read_bytes() == content
                assert (copy / "variables/y").read_bytes() == content * 2
    assert len([*tmp_path.glob("*-x")]) == len([*tmp_path.glob("*-y")]) == 2
    version = version_of(base / "model/x")
    write_atomically(base / "model/x", b"33")
    with (
        pytest.raises(JobError, match="/model/x: changed while it was read"),
        Cache(CacheConfig(cache=tmp_path / "other")).opened_version(base / "model/x", version),
    ):
        pass
    remove_folder(base)


def test_large_file_goes_up_and_down_whole(base, tmp_path, monkeypatch):
    # fake-gcs-server answers a part that is sent again with 404, which a busy machine makes likely.
    monkeypatch.setattr(remote, "REQUEST_SECS", 120)
    file = tmp_path / "big"
    file.write_bytes(os.urandom(BIG_BYTES))
    upload(file, base / "big")
    download_exactly(base / "big", tmp_path / "copy", BIG_BYTES)
    assert (tmp_path / "copy").read_bytes() == file.read_bytes()
    cache = Cache(CacheConfig(cache=tmp_path / "cache"))
    with cache.opened(base / "big", BIG_BYTES, crc32c(file)) as copy:
        assert copy.stat().st_size == BIG_BYTES
    (base / "big").unlink()


def test_no_file_is_partially_read_through_a_failing_network(
    network, failing, s3_environment, monkeypatch, tmp_path
):
    for name, value in s3_environment(network.port).items():
        monkeypatch.setenv(name, value)
    base = path_from("s3://bucket/failing")
    data = {f"{index:03d}": os.urandom(1000 * index) for index in range(100)}
    network.fault = failing(0.1, 0.0, 0.2, seed=3)
    network.faults.clear()
    try:
        for name, content in data.items():
            write_atomically(base / name, content)
        for name, content in data.items():
            assert (base / name).read_bytes() == content
        with local_copy(base, CacheConfig(cache=tmp_path)) as copy:
            assert {path.name: path.read_bytes() for path in copy.iterdir()} == data
    finally:
        network.fault = lambda key: ""
    assert network.faults["cut"] > 20
    assert network.faults["503"] > 20
    remove_folder(base)


@pytest.mark.parametrize(
    ("scheme", "fault", "most"),
    # Five attempts. Azure's and Google's libraries send each request twice in each of them, and
    # Google's asks for an object and for a folder; that of S3 sends it twice if an answer is cut.
    [("s3", "503", 5), ("gs", "503", 20), ("az", "503", 10), ("s3", "cut", 20)],
)
def test_a_store_that_always_fails_gets_a_bounded_number_of_requests(
    network_of, monkeypatch, scheme, fault, most
):
    network = network_of(scheme)
    path = path_from(f"{scheme}://bucket/always")
    write_atomically(path, b"content")
    network.fault = lambda key: fault
    network.requests = 0
    monkeypatch.setattr(remote, "FIRST_WAIT_SECS", 0.001)
    with pytest.raises(JobError, match=r"://bucket/always: .*given up") as caught:
        path.read_bytes()
    assert "\n" not in str(caught.value)
    assert 5 <= network.requests <= most


def _silent_path(scheme: str) -> Path:
    """Return a path of the server that never answers."""
    server = os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")
    return path_from(f"{scheme}://{server if scheme == 'hdfs' else 'bucket'}/silent")


@pytest.mark.parametrize("scheme", ["s3", "gs", "az", "hdfs"])
def test_a_store_that_accepts_connections_and_never_answers_is_given_up(
    silent, monkeypatch, tmp_path, scheme
):
    monkeypatch.setattr(remote, "REQUEST_SECS", 0.5)
    path = _silent_path(scheme)
    (tmp_path / "small").write_text("x")
    for act in (
        path.read_bytes,
        lambda: write_atomically(path, b"x"),
        lambda: create_exclusively(path, b"x"),
        lambda: upload(tmp_path / "small", path),
        lambda: [*path.iterdir()],
    ):
        before = len(silent)
        with pytest.raises(JobError, match=r"/silent: no answer within .* seconds; given up"):
            act()
        # Two for each request; gcsfs looks for an object and a folder at the same time.
        assert len(silent) - before <= 4


@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
def test_an_upload_that_nobody_reads_is_given_up(silent, monkeypatch, tmp_path, scheme):
    # More than the buffers of a connection take.
    (tmp_path / "big").write_bytes(bytes(30_000_000))
    for name, value in (("REQUEST_SECS", 0.5), ("PAUSE_SECS", 1), ("SLOWEST_BYTES_PER_SEC", 1e8)):
        monkeypatch.setattr(remote, name, value)
    with pytest.raises(JobError, match=r"/silent: no answer within .* seconds; given up"):
        upload(tmp_path / "big", path_from(f"{scheme}://bucket/silent"))


@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
def test_a_download_may_take_longer_than_an_answer(network_of, monkeypatch, tmp_path, scheme):
    monkeypatch.setattr(remote, "REQUEST_SECS", 3)
    network = network_of(scheme)
    path = path_from(f"{scheme}://bucket/slow")
    data = os.urandom(100_000)
    write_atomically(path, data)
    network.fault = lambda key: "slow" if key.startswith("GET ") else ""
    download(path, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data


@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
def test_a_listing_that_fails_once_is_repeated_and_misses_nothing(
    network_of, failing, monkeypatch, scheme
):
    """fsspec takes a folder that cannot be listed for an empty one."""
    network = network_of(scheme)
    base = path_from(f"{scheme}://bucket/listed")
    for name in ("a/1.txt", "a/b/2.txt", "c/b/3.txt", "c/b/4.md"):
        write_atomically(base / name, b"x")
    monkeypatch.setattr(remote, "FIRST_WAIT_SECS", 0.0)
    network.fault = failing(1.0, 0.0, 0.0, seed=1)
    matched = match_files([f"{base}/*/b/*.txt"])
    assert matched == {f"{base}/a/b/2.txt": 1, f"{base}/c/b/3.txt": 1}
    assert {*sizes_below(base)} == {"a/1.txt", "a/b/2.txt", "c/b/3.txt", "c/b/4.md"}
    if scheme == "s3":  # the other libraries wait for seconds
        assert [path.parent.name for path in base.glob("*/*.txt")] == ["a"]
        assert [path.name for path in base.rglob("*.md")] == ["4.md"]
    assert network.faults["503"] > 3
    network.fault = lambda key: ""
    remove_folder(base)


@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
def test_a_folder_that_cannot_be_listed_is_not_taken_for_an_empty_one(
    network_of, monkeypatch, scheme
):
    network = network_of(scheme)
    base = path_from(f"{scheme}://bucket/hidden")
    write_atomically(base / "a/1.txt", b"x")
    monkeypatch.setattr(remote, "FIRST_WAIT_SECS", 0.0)
    listings = {"s3": "GET /bucket", "gs": "/o", "az": "/bucket"}[scheme]
    network.fault = lambda key: "503" if key.endswith(listings) else ""
    with pytest.raises(JobError, match=r"/hidden.*given up"):
        match_files([f"{base}/*/*.txt"])
    network.fault = lambda key: ""
    remove_folder(base)


def test_a_folder_of_hdfs_that_may_not_be_read_is_not_taken_for_an_empty_one(hdfs, monkeypatch):
    base = path_from(f"{hdfs}/closed")
    write_atomically(base / "open/1.txt", b"x")
    write_atomically(base / "private/2.txt", b"x")
    hdfs_native.Client(hdfs).set_permission("/closed/private", 0o700)
    monkeypatch.setenv("HADOOP_USER_NAME", "nobody")
    fsspec.get_filesystem_class("hdfs").clear_instance_cache()
    others = path_from(str(base))  # connects as the other user
    for act in (lambda: match_files([f"{base}/*/*.txt"]), lambda: sizes_below(others)):
        with pytest.raises(InputError, match=r"/closed/private: access denied: .*user=nobody"):
            act()
    monkeypatch.delenv("HADOOP_USER_NAME")
    fsspec.get_filesystem_class("hdfs").clear_instance_cache()
    remove_folder(path_from(str(base)))


def lost_once(method: str) -> Callable[[str], str]:
    """Return a `Network.fault` that loses the answer to the first request of a method."""
    left = ["lost"]
    return lambda key: left.pop() if left and key.startswith(method) else ""


@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
def test_a_request_whose_answer_is_lost_was_done_once(network_of, monkeypatch, tmp_path, scheme):
    """The request is repeated, and finds what the first one did."""
    network = network_of(scheme)
    monkeypatch.setattr(remote, "FIRST_WAIT_SECS", 0.0)
    base = path_from(f"{scheme}://bucket/lost")

    def lose(method: str) -> None:
        network.faults.clear()
        network.fault = lost_once(method)

    creation = "POST" if scheme == "gs" else "PUT"
    lose(creation)
    with only_writer(base, "`run_dir`"):
        assert network.faults["lost"] == 1
    for name in ("a", "b", "c"):
        lose(creation)
        write_atomically(base / name, name.encode())
        assert network.faults["lost"] == 1
    lose("DELETE")
    (base / "a").unlink()
    assert network.faults["lost"] == 1
    lose("DELETE")
    move_object(base / "b", base / "d")
    assert network.faults["lost"] == 1
    assert {name: (base / name).read_bytes() for name in sizes_below(base)} == {
        "c": b"c",
        "d": b"b",
    }
    lose("DELETE")
    remove_folder(base)
    assert network.faults["lost"] == 1
    assert sizes_below(base) == {}


def test_a_rename_of_hdfs_whose_answer_is_lost_was_done_once(hdfs, monkeypatch):
    monkeypatch.setattr(remote, "FIRST_WAIT_SECS", 0.0)
    base, rename = path_from(f"{hdfs}/lost"), store_of_hdfs.HdfsStore.mv_file
    failures = [ConnectionResetError()]

    def renamed(*arguments: Any) -> None:
        rename(*arguments)
        if failures:
            raise failures.pop()

    write_atomically(base / "a", b"1")
    monkeypatch.setattr(store_of_hdfs.HdfsStore, "mv_file", renamed)
    move_object(base / "a", base / "b")
    assert (failures, sizes_below(base)) == ([], {"b": 1})
    for target in ("b", "c"):
        with pytest.raises(FileNotFoundError):
            move_object(base / "a", base / target)
    remove_folder(base)


@pytest.mark.parametrize(
    ("url", "other"),
    [
        ("s3://bucket/versions/x?versionId=1", "x"),
        ("az://bucket/versions/x?versionid=1", "x"),
        ("az://bucket/versions/x?", "x"),
        ("az://bucket/versions/x#", "x"),
    ],
)
def test_a_name_that_the_library_takes_for_another_one_is_refused(network_of, tmp_path, url, other):
    """s3fs and adlfs would write, read and remove `x`."""
    network_of(url.partition(":")[0])
    path = path_from(url)
    write_atomically(path.with_name(other), b"good")
    (tmp_path / "file").write_bytes(b"bad")
    for act in (
        lambda: write_atomically(path, b"bad"),
        lambda: upload(tmp_path / "file", path),
        lambda: move_object(path.with_name(other), path),
        path.read_bytes,
        path.unlink,
    ):
        with pytest.raises(InputError, match=r"/x[?#].*: a part of the name has another meaning"):
            act()
    assert path.with_name(other).read_bytes() == b"good"
    path.with_name(other).unlink()


@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
def test_an_interrupted_write_does_not_appear_after_the_interruption(network_of, scheme):
    """What removes a job's files runs then, and would miss a file that appears later."""
    network = network_of(scheme)
    base = path_from(f"{scheme}://bucket/interrupted")
    assert sizes_below(base) == {}

    def interrupt(number: int, key: str) -> None:
        network.seen = lambda number, key: None
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    network.fault, network.seen = lambda key: "stall", interrupt
    with pytest.raises(KeyboardInterrupt):
        write_atomically(base / "x", b"1")
    network.fault = lambda key: ""
    assert sizes_below(base) == {"x": 1}
    remove_folder(base)


@pytest.mark.parametrize("request_number", [1, 2, 3, 4])
def test_no_lease_stays_whenever_its_writer_is_interrupted(network_of, request_number):
    network = network_of("s3")
    base = path_from("s3://bucket/leased")
    network.requests = 0

    def interrupt(number: int, key: str) -> None:
        if number == request_number:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    network.seen = interrupt
    with pytest.raises(KeyboardInterrupt), only_writer(base, "`run_dir`"):
        pass
    network.seen = lambda number, key: None
    assert sizes_below(base) == {}


def test_what_a_job_left_is_removed_also_if_its_removal_was_interrupted(base, tmp_path):
    """The lease is gone then, if Ctrl-C came while the next job removed the files."""
    left = base / ("_temporary-" + 32 * "a")
    others = base / "_temporary-backup", base / ("other-" + 32 * "b")
    for folder in (left, *others):
        write_atomically(folder / "mark-1", b"")
    write_atomically(left / "notes.txt", b"mine")
    with job_folder(str(base), "_temporary-"):
        pass
    assert {*sizes_below(left)} == {"notes.txt"}
    assert [{*sizes_below(folder)} for folder in others] == [{"mark-1"}, {"mark-1"}]
    remove_folder(base)


def test_an_interrupted_request_to_hdfs_has_ended_after_the_interruption():
    store = store_of_hdfs.HdfsStore("127.0.0.1", 1, answer_secs=60, slowest_bytes_per_sec=1)
    ended = threading.Event()

    def request() -> None:
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        threading.Event().wait(1)
        ended.set()

    with pytest.raises(KeyboardInterrupt):
        store._answer(request)
    assert ended.is_set()


ACTS = {
    "read": lambda path, file: path.read_bytes(),
    "exists": lambda path, file: path.exists(),
    "write": lambda path, file: write_atomically(path, b"x"),
    "upload": lambda path, file: upload(file, path),
    "list": lambda path, file: [*path.iterdir()],
    "sizes": lambda path, file: sizes_below(path),
    "match": lambda path, file: match_files([f"{path}/*"]),
}


# Each through a network of its own: requests that an act gave up may arrive after its end.
@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
def test_denied_access_is_named_without_another_attempt(network_of, tmp_path, scheme, act):
    network = network_of(scheme)
    network.fault = lambda key: "403"
    (tmp_path / "x").write_text("x")
    with pytest.raises(InputError, match="/denied: access denied: ") as caught:
        ACTS[act](path_from(f"{scheme}://bucket/denied"), tmp_path / "x")
    assert "\n" not in str(caught.value)
    assert 1 <= network.requests <= 3  # `exists` and `upload` have several parts


def test_folders_of_hdfs_go_with_what_made_them(hdfs, tmp_path):
    """Object stores have no folders; those that a command made must not stay empty in HDFS."""
    kept, made = path_from(f"{hdfs}/kept"), path_from(f"{hdfs}/made")
    hdfs_native.Client(hdfs).mkdirs("/kept")
    for folder, stays in ((kept, True), (made / "run", False)):
        with only_writer(folder, "`run_dir`"):
            write_atomically(folder / "step/variables/x", b"1")
            write_atomically(folder / "step/y", b"2")
            move_folder(folder / "step", folder / "best")
            assert sizes_below(folder) == {".lease": ANY, "best/variables/x": 1, "best/y": 1}
            assert not (folder / "step").exists()
            remove_folder(folder / "best", "y")
            assert not (folder / "best").exists()
        assert folder.exists() == stays
    assert not made.exists()


def test_file_of_hdfs_is_whole_or_invisible(hdfs, monkeypatch, tmp_path):
    """A file that is being written is under another name, also when it replaces an older one."""
    path = path_from(f"{hdfs}/whole/x.txt")
    write_atomically(path, b"old")
    monkeypatch.setattr(store_of_hdfs, "CHUNK_BYTES", 1000)
    seen, source = [], tmp_path / "new"
    source.write_bytes(b"n" * 5000)
    plain = store_of_hdfs._chunks

    def watched(name: str) -> Iterator[bytes]:
        for chunk in plain(name):
            yield chunk
            seen.append(raw.read("/whole/x.txt").read())

    raw = hdfs_native.Client(hdfs)
    monkeypatch.setattr(store_of_hdfs, "_chunks", watched)
    upload(source, path)
    assert seen == [b"old"] * 5
    assert path.read_bytes() == b"n" * 5000

    def broken(name: str) -> Iterator[bytes]:
        yield b"half"
        raise ValueError("the disk failed")

    monkeypatch.setattr(store_of_hdfs, "_chunks", broken)
    with pytest.raises(InputError, match="the disk failed"):
        upload(source, path)
    assert [entry.name for entry in path.parent.iterdir()] == ["x.txt"]
    assert path.read_bytes() == b"n" * 5000


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("hdfs://no-such-service/x", "expected hdfs://HOST:PORT/PATH, or a name service in"),
        ("hdfs:///x", "No fs.defaultFS setting found"),
    ],
)
def test_missing_namenode_is_named(monkeypatch, url, message):
    monkeypatch.delenv("HADOOP_CONF_DIR", raising=False)
    monkeypatch.delenv("HADOOP_HOME", raising=False)
    with pytest.raises(InputError, match=f"hdfs://.*{message}") as caught:
        path_from(url).read_bytes()
    assert "\n" not in str(caught.value)


def test_host_that_does_not_exist_is_no_temporary_failure():
    # Without a network the resolver's answer is another one, so that no name is looked up here.
    lookup = "failed to lookup address information: "
    unknown = store_of_hdfs._converted(OSError(f"{lookup}Name or service not known"))
    assert isinstance(unknown, ValueError)
    silent = OSError(f"{lookup}Temporary failure in name resolution")
    assert store_of_hdfs._converted(silent) is silent


def test_namenode_that_refuses_connections_is_given_up(free_ports, monkeypatch):
    monkeypatch.setattr(remote, "FIRST_WAIT_SECS", 0.0)
    with pytest.raises(JobError, match=r"Connection refused.*given up"):
        path_from(f"hdfs://127.0.0.1:{free_ports(1)[0]}/a").read_bytes()


def test_user_without_permission_is_named(hdfs, monkeypatch):
    monkeypatch.setenv("HADOOP_USER_NAME", "nobody")
    with pytest.raises(InputError, match=r"/x: access denied: Permission denied: user=nobody, ac"):
        write_atomically(path_from(f"{hdfs}/x"), b"1")


@pytest.mark.parametrize("base", ["s3", "hdfs"], indirect=True)
def test_an_object_is_no_folder_for_a_run(base):
    """Where objects are files: Google's and Azure's stores take a name below an object's."""
    write_atomically(base / "object", b"mine")
    for folder in (base / "object", base / "object" / "run"):
        with (
            pytest.raises(InputError, match=r"/\.lease: .*(is an object; name|is not a directory)"),
            only_writer(folder, "`run_dir`"),
        ):
            pass
    assert (base / "object").read_bytes() == b"mine"
    assert sizes_below(base) == {"object": 4}
