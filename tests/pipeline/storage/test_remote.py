"""URLs with pathlib's interface, and the messages for failures of a store."""

import errno
from pathlib import Path

import google.auth
import google.auth.exceptions
import pytest

from pipeline.errors import InputError, JobError
from pipeline.storage import remote
from pipeline.storage.files import match_files, publish, remove_folder, write_atomically
from pipeline.storage.remote import (
    create_exclusively,
    is_remote,
    matching,
    path_from,
    remove_below,
    sizes_below,
    version_of,
)


def test_url_has_the_interface_of_a_path(store):
    path = path_from("gs://bucket/a/b.txt")
    write_atomically(path, b"text")
    assert is_remote(path)
    assert not is_remote(path_from("a/b.txt"))
    assert str(path) == "gs://bucket/a/b.txt"
    assert (path.name, path.suffix, str(path.parent)) == ("b.txt", ".txt", "gs://bucket/a")
    assert path.read_text() == "text"
    assert path.stat().st_size == 4
    assert [str(each) for each in path.parent.iterdir()] == ["gs://bucket/a/b.txt"]
    assert path.parent.is_dir()
    assert not path.with_name("c.txt").exists()
    assert store.objects == {"bucket/a/b.txt": b"text"}


def test_a_trailing_slash_is_not_part_of_the_name(store):
    write_atomically(path_from("gs://bucket/run/") / "config.json", b"{}")
    assert store.objects == {"bucket/run/config.json": b"{}"}


@pytest.mark.parametrize("url", ["gs://bucket", "gs://bucket/"])
def test_a_bucket_is_a_folder_like_others(store, url):
    bucket = path_from(url)
    write_atomically(bucket / "1/x", b"1")
    write_atomically(bucket / "y", b"22")
    assert store.objects == {"bucket/1/x": b"1", "bucket/y": b"22"}
    assert sizes_below(bucket) == {"1/x": 1, "y": 2}
    assert version_of(bucket / "y").size_bytes == 2
    assert matching("gs://bucket/*") == {"gs://bucket/1": None, "gs://bucket/y": 2}
    remove_below(bucket)
    assert store.objects == {}


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://host/x", "ftp://host/x: unknown scheme ftp://; expected gs://, s3://, az://, hdfs"),
        ("gs:///x", "gs:///x: names no bucket; expected gs://BUCKET/PATH"),
        ("s3://", "names no bucket"),
    ],
)
def test_unusable_urls_are_named(url, message):
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        path_from(url)


def test_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(remote.SCHEMES, "gs", remote.Scheme("no_such_library", "X", 3, "gcs"))
    path = path_from("gs://bucket/x")
    type(path.fs).clear_instance_cache()
    with pytest.raises(InputError, match=r"gs:// needs .* no_such_library; .*'clozeline\[gcs\]'"):
        path_from("gs://bucket/x").read_bytes()
    type(path.fs).clear_instance_cache()


def test_a_missing_bucket_is_distinguished_from_a_missing_object(store):
    with pytest.raises(FileNotFoundError):
        path_from("gs://bucket/x").read_bytes()
    for act in (Path.read_bytes, Path.exists):
        with pytest.raises(InputError, match="gs://other: no such bucket"):
            getattr(path_from("gs://other/x"), act.__name__)()


def test_bucket_is_looked_for_with_retries(store):
    failures = [TimeoutError(), TimeoutError()]

    def fail(method: str, key: str) -> None:
        if method == "ls" and failures:
            raise failures.pop()

    store.fail = fail
    with pytest.raises(FileNotFoundError):
        path_from("gs://bucket/x").read_bytes()
    assert failures == []


class NoCredentialsError(Exception):
    """Has the name of botocore's."""


class HttpError(Exception):
    """Has the form of gcsfs's."""

    def __init__(self, code: int) -> None:
        super().__init__(f"status {code}")
        self.code = code


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (NoCredentialsError("none"), "no valid credentials: none"),
        (PermissionError("Forbidden"), "access denied: Forbidden"),
        (HttpError(401), "access denied: status 401"),
        (HttpError(403), "access denied: status 403"),
        (
            OSError("Forbidden: b/bucket/o\nno access"),
            "access denied: Forbidden: b/bucket/o no acc",
        ),
        (
            OSError(errno.EIO, "An error occurred (ObjectParentIsFile) when calling PutObject"),
            "a part of this path is an object; name another folder",
        ),
    ],
)
def test_refusals_are_not_retried(store, error, message):
    def fail(*_: str) -> None:
        raise error

    store.fail = fail
    with pytest.raises(InputError, match=f"gs://bucket/x: {message}"):
        path_from("gs://bucket/x").read_bytes()
    assert len(store.requests) == 1


@pytest.mark.parametrize("error", [TimeoutError(), ConnectionResetError("cut"), HttpError(503)])
def test_temporary_failures_are_retried_a_bounded_number_of_times(store, error):
    path = path_from("gs://bucket/x")
    write_atomically(path, b"whole")
    failures = [error, error]

    def fail(*_: str) -> None:
        if failures:
            raise failures.pop()

    store.fail = fail
    assert path.read_bytes() == b"whole"

    def always(*_: str) -> None:
        raise error

    store.fail = always
    store.requests.clear()
    with pytest.raises(JobError, match=r"gs://bucket/x: .*given up") as caught:
        path.read_bytes()
    assert len(store.requests) == 3
    assert "\n" not in str(caught.value)


def test_credentials_of_google_are_looked_for_once(monkeypatch):
    asked = []

    def default() -> None:
        asked.append("default")
        if len(asked) == 1:
            raise google.auth.exceptions.DefaultCredentialsError("none")

    monkeypatch.setattr(google.auth, "default", default)
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    tokens = [remote.SCHEMES["gs"].options()["token"] for _ in range(2)]
    assert tokens == ["anon", "google_default"]
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:1")
    assert remote.SCHEMES["gs"].options()["token"] == "anon"
    assert len(asked) == 2


def test_file_that_was_not_closed_is_not_uploaded(store):
    def interrupted() -> None:
        with path_from("gs://bucket/x").open("wb") as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert store.objects == {}


def test_exclusive_creation_succeeds_once(store):
    path = path_from("gs://bucket/lease")
    create_exclusively(path, b"1")
    with pytest.raises(FileExistsError):
        create_exclusively(path, b"2")
    assert store.objects == {"bucket/lease": b"1"}


def test_marker_of_a_folder_comes_last_and_goes_first(store, tmp_path):
    for name in ("a", "m", "sub/z"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    folder = path_from("gs://bucket/made")
    publish(tmp_path, folder, "m")
    written = [key for method, key in store.requests if method == "put"]
    assert written == ["bucket/made/a", "bucket/made/sub/z", "bucket/made/m"]
    with pytest.raises(FileExistsError):
        publish(tmp_path, folder, "m")
    assert store.objects["bucket/made/sub/z"] == b"sub/z"
    remove_folder(folder, "m")
    removed = [key for method, key in store.requests if method == "rm"]
    assert removed[0] == "bucket/made/m"
    assert store.objects == {}


def test_globs_match_objects_and_refuse_folders(store):
    for name in ("a.txt", "b.txt", "c.md", "sub/d.txt"):
        write_atomically(path_from(f"gs://bucket/in/{name}"), name.encode())
    assert match_files(["gs://bucket/in/*.txt"]) == {
        "gs://bucket/in/a.txt": 5,
        "gs://bucket/in/b.txt": 5,
    }
    assert match_files(["gs://bucket/in/c.md"]) == {"gs://bucket/in/c.md": 4}
    with pytest.raises(InputError, match=r"`input` gs://bucket/in/\*\.pdf: no file matches"):
        match_files(["gs://bucket/in/*.pdf"])
    with pytest.raises(InputError, match="`input` gs://bucket/in/sub: is a folder"):
        match_files(["gs://bucket/in/*"])


def test_an_object_is_found_by_its_own_name(store):
    for name in ("x[ab].txt", "xa.txt", "*.txt"):
        write_atomically(path_from(f"gs://bucket/in/{name}"), name.encode())
    for name in ("x[ab].txt", "*.txt"):
        assert match_files([f"gs://bucket/in/{name}"]) == {f"gs://bucket/in/{name}": len(name)}
    assert len(match_files(["gs://bucket/in/*"])) == 3


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("hdfs://namenode:8020/a/x.txt", {"host": "namenode", "port": 8020}),
        ("hdfs://service/a/x.txt", {"host": "service"}),
    ],
)
def test_hdfs_keeps_the_host_in_its_paths(url, options):
    path = path_from(url)
    assert str(path) == url
    assert dict(path.storage_options) == options
    assert str(path.parent / "y.txt") == url.replace("x.txt", "y.txt")


def test_text_is_decoded_as_that_of_a_local_file(store, tmp_path):
    data = "\ufeffä\tb\r\nc\td\n".encode()
    (tmp_path / "x").write_bytes(data)
    remote_path = path_from("gs://bucket/x")
    write_atomically(remote_path, data)
    for path in (tmp_path / "x", remote_path):
        with path.open(encoding="utf-8-sig", newline="") as file:
            assert file.readlines() == ["ä\tb\r\n", "c\td\n"]
            file.seek(0)
            assert file.read(1) == "ä"
