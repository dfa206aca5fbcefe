"""Remote storage behind `pathlib`'s interface: the one module that knows URLs and their libraries.

`path_from` makes a `pathlib.Path` of a local path and a `UPath` of a URL. A `UPath` has the
methods of a `Path` (`/`, `exists`, `iterdir`, `read_bytes`, …), so other modules do not ask which
of the two they hold, except where they need a local file (`pipeline.storage.local_copies`).

Each URL scheme is one fsspec filesystem, wrapped in `RemoteFileSystem`: temporary failures are
retried a bounded number of times, and what remains is a one-line `InputError` or `JobError`. A
library is imported at the first access to a URL that needs it. The filesystem of HDFS is our own
(`pipeline.storage.hdfs`).
"""

import asyncio
import contextlib
import errno
import functools
import glob
import importlib
import io
import itertools
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import MethodType
from typing import Any, ClassVar, cast

import fsspec
import fsspec.exceptions
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from pipeline.errors import InputError, JobError
from pipeline.storage.strict_json import JsonObject

FIRST_WAIT_SECS = 0.5
"""Wait before the second attempt of an operation; it doubles each time."""

CONNECT_SECS = 5
"""How long a connection may take."""

REQUEST_SECS = 15
"""How long a store may send nothing, once a request is sent."""

SENDS = 2
"""How often a library sends a request that fails, before the operation fails."""

PAUSE_SECS = 10
"""Maximum time that the libraries' pauses and first connections take in an operation."""

SLOWEST_BYTES_PER_SEC = 100_000
"""Uploads that are slower are given up."""

FINISH_SECS = 10
"""How long a request that is interrupted may still take."""

BLOCK_BYTES = 8 << 20
"""Bytes per request when a file is read in parts."""

PARTIAL = ".partial"
"""End of the name that a file has in HDFS until it is whole."""


@dataclass(frozen=True)
class Scheme:
    """A URL scheme.

    Attributes:
        module: module of the fsspec filesystem.
        name: its class.
        attempts: attempts of an operation, unless the store does not answer at all.
        extra: extra of this package that installs the library.
        options: returns the arguments of the class.
        loggers: names of the libraries' loggers, which would print their lines before our error.
        adapt: changes in a new filesystem what its arguments cannot set; None = nothing.
    """

    module: str
    name: str
    attempts: int
    extra: str
    options: Callable[[], dict[str, object]] = field(default=dict)
    loggers: tuple[str, ...] = ()
    adapt: Callable[[Any], None] | None = None


def _s3_options() -> dict[str, object]:
    # Failed requests are repeated by s3fs, so botocore need not.
    config = {
        "connect_timeout": CONNECT_SECS,
        "read_timeout": REQUEST_SECS,
        "retries": {"mode": "standard", "total_max_attempts": 1},
    }
    return {"config_kwargs": config, "use_listings_cache": False, "session": _s3_session()}


def _s3_session() -> Any:
    """Return a session whose uploads do not wait for `100 Continue`: aiohttp has no limit there."""
    from aiobotocore.session import AioSession
    from botocore.handlers import add_expect_header

    session = AioSession()
    session.unregister("before-call.s3", add_expect_header)
    return session


def _adapt_s3(store: Any) -> None:
    """Let a filesystem of `s3fs` send each request as often as those of the other schemes."""
    store.retries = SENDS


# `gcsfs.GCSFileSystem` would ask another API, over gRPC, for the kind of each bucket. Emulators do
# not have it, and it is retried for minutes. The class in `gcsfs.core` needs the JSON API alone.
def _gcs_options() -> dict[str, object]:
    from aiohttp import ClientTimeout

    # As a number, it would limit the time of a whole download.
    limit = ClientTimeout(sock_connect=CONNECT_SECS, sock_read=REQUEST_SECS)
    return {"requests_timeout": limit, "use_listings_cache": False, "token": _google_token()}


def _google_token() -> str:
    """Return where `gcsfs` finds credentials.

    It would look for them itself, and then ask the metadata server of Google's cloud by name,
    which takes 20 seconds on other machines. `google.auth` asks for it by its address.
    """
    import google.auth
    from google.auth.exceptions import DefaultCredentialsError

    if os.environ.get("STORAGE_EMULATOR_HOST"):  # has no credentials
        return "anon"
    try:
        google.auth.default()
    except DefaultCredentialsError:
        return "anon"
    return "google_default"


def _adapt_gcs(store: Any) -> None:
    """Let a filesystem of `gcsfs` send each request less often; it has no argument for that."""
    from gcsfs.retry import retry_request

    # The last one sends its requests by the first two.
    for name, sends in (
        ("_request", SENDS),
        ("_get_file_request", SENDS),
        ("_get_file_concurrent", 1),
    ):
        plain = getattr(type(store), name).__wrapped__
        setattr(store, name, MethodType(retry_request(retries=sends)(plain), store))


def _azure_options() -> dict[str, object]:
    return {
        "connection_timeout": CONNECT_SECS,
        "read_timeout": REQUEST_SECS,
        "use_listings_cache": False,
    }


def _adapt_azure(store: Any) -> None:
    """Give a filesystem of `adlfs` a client with our time limits and fewer repeated requests.

    Azure's library repeats requests for 80 seconds, even if it has no credentials to send. `adlfs`
    has no argument for that, and passes its time limits to uploads and downloads only.
    """
    client = store.service_client
    store.service_client = type(client)(
        client.url,
        credential=client.credential,
        retry_total=SENDS - 1,
        initial_backoff=0,
        increment_base=1,  # one second, plus or minus another
        random_jitter_range=1,
        connection_timeout=CONNECT_SECS,
        read_timeout=REQUEST_SECS,
    )


SCHEMES: dict[str, Scheme] = {
    "gs": Scheme(
        "gcsfs.core",
        "GCSFileSystem",
        5,
        "gcs",
        _gcs_options,
        ("gcsfs", "google.auth"),
        _adapt_gcs,
    ),
    "s3": Scheme("s3fs", "S3FileSystem", 5, "s3", _s3_options, ("s3fs",), _adapt_s3),
    "az": Scheme(
        "adlfs",
        "AzureBlobFileSystem",
        5,
        "azure",
        _azure_options,
        ("adlfs", "azure"),
        _adapt_azure,
    ),
    "hdfs": Scheme(
        "pipeline.storage.hdfs",
        "HdfsStore",
        5,
        "hdfs",
        lambda: {"answer_secs": REQUEST_SECS, "slowest_bytes_per_sec": SLOWEST_BYTES_PER_SEC},
        ("hdfs_native",),
    ),
}
"""The supported URL schemes."""


def is_url(text: str) -> bool:
    """Return whether a path is a URL, supported or not."""
    return "://" in text


def is_remote(path: Path) -> bool:
    """Return whether a path is a URL's."""
    return not isinstance(path, os.PathLike)


def check_local(path: Path, field: str) -> None:
    """Check that a path is local.

    Raises:
        InputError: it is a URL.
    """
    if is_remote(path):
        raise InputError(f"`{field}` {path}: must be on this machine; give a local folder")


def path_from(text: str) -> Path:
    """Return a local path or a URL as an object with `pathlib`'s interface.

    Args:
        text: a path, or a URL with a scheme of `SCHEMES`.

    Raises:
        InputError: the text is empty, the scheme is unknown, or the URL names no bucket.
    """
    if not text or "\0" in text:
        raise InputError(f"{text!r}: expected a path")
    if not is_url(text):
        return Path(text)
    scheme, _, rest = text.partition("://")
    if scheme not in SCHEMES:
        known = ", ".join(f"{each}://" for each in SCHEMES)
        raise InputError(f"{text}: unknown scheme {scheme}://; expected {known} or a local path")
    if scheme != "hdfs" and not rest.split("/")[0]:
        raise InputError(f"{text}: names no bucket; expected {scheme}://BUCKET/PATH")
    from upath import UPath

    # A trailing slash would be a part of the key.
    return cast(Path, UPath(f"{scheme}://{rest.rstrip('/')}"))


def create_exclusively(path: Path, data: bytes) -> None:
    """Write a remote object unless it exists: a conditional PUT where the store has one.

    Raises:
        FileExistsError: it exists.
    """
    remote, name = located(path)
    remote.pipe_file(name, data, mode="create")


def move_object(source: Path, target: Path) -> None:
    """Rename a remote object, which is no atomic operation in object stores."""
    remote, name = located(source)
    remote.mv_file(name, located(target)[1])


def missing_folders(folder: Path) -> list[Path]:
    """Return a remote folder and those above it that do not exist, innermost first.

    Writing a file below creates them in HDFS. Other stores have no folders: the result is empty.
    """
    remote, _ = located(folder)
    if not remote.has_folders:
        return []
    above = [folder, *folder.parents]
    return [*itertools.takewhile(lambda each: not each.exists(), above)]


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove the empty ones among some remote folders, in this order, where the store has any."""
    for folder in folders:
        remote, name = located(folder)
        # Missing, or written to meanwhile. `rmdir` would remove a file, too.
        with contextlib.suppress(OSError):
            if remote.has_folders and not remote.ls(name):
                remote.rmdir(name)


def remove_below(folder: Path, first: str = "") -> None:
    """Remove all in a remote folder, and the folder.

    Args:
        folder: the folder; it may be missing.
        first: name of the object that is removed first.
    """
    # False sorts before True.
    names = sorted(sizes_below(folder), key=lambda name: name != first)
    for name in names:
        (folder / name).unlink(missing_ok=True)
    remove_empty(folders_of(folder, names))


def folders_of(folder: Path, names: Iterable[str]) -> list[Path]:
    """Return a folder and those below that contain files of these names, innermost first."""
    parents = {parent for name in ["x", *names] for parent in PurePosixPath(name).parents}
    innermost_first = sorted(parents, key=lambda parent: -len(parent.parts))
    return [folder.joinpath(*parent.parts) for parent in innermost_first]


def matching(pattern: str) -> dict[str, int | None]:
    """Return the size in bytes of what matches a URL with wildcards, by URL; None for folders.

    Raises:
        InputError, JobError: as `RemoteFileSystem`.
    """
    remote, name = located(path_from(pattern))
    entries = remote.glob(name, detail=True)
    # An object's own name may have the signs of a glob, and then means no other.
    if glob.has_magic(name):
        named = remote.glob(glob.escape(name), detail=True)
        entries = named if named.get(name, {}).get("type") == "file" else entries
    return {
        f"{remote.scheme}://{path}": None if entry["type"] == "directory" else entry["size"]
        for path, entry in entries.items()
    }


def sizes_below(folder: Path) -> dict[str, int]:
    """Return the size in bytes of each object below a remote folder, by relative name.

    It is empty if there is no such folder.
    """
    return {name: version.size_bytes for name, version in versions_below(folder).items()}


@dataclass(frozen=True)
class ObjectVersion:
    """The version of a remote object.

    Attributes:
        size_bytes: its size.
        tag: version tag from the store, new with every write: the ETag, or a time.
    """

    size_bytes: int
    tag: str


# The first of these that an entry of a listing has. An answer about a single object may be less
# precise (S3 gives its time in seconds), so versions are taken from listings only.
_TAGS = ("ETag", "etag", "generation", "mtime", "LastModified", "last_modified")


def versions_below(folder: Path) -> dict[str, ObjectVersion]:
    """Return the version of each object below a remote folder, by relative name.

    It is empty if there is no such folder.
    """
    remote, name = located(folder)
    try:
        entries = remote.find(name, detail=True)
    except FileNotFoundError:
        return {}
    return {
        path[len(name) + 1 :]: _version(entry) for path, entry in entries.items() if path != name
    }


def version_of(path: Path) -> ObjectVersion:
    """Return the version of a remote object.

    Raises:
        FileNotFoundError: there is no such object.
    """
    remote, name = located(path)
    for entry in remote.ls(located(path.parent)[1]):
        if entry["name"] == name and entry["type"] == "file":
            return _version(entry)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))


def _is_folder_mark(entry: Mapping[str, Any], folder: str = "") -> bool:
    """Return whether an entry is an object like `a/b/`, by which consoles and tools mark folders.

    Args:
        entry: an entry of a listing.
        folder: name of the listed folder; gcsfs gives its mark as a directory of the same name.
    """
    name = entry["name"]
    return name.endswith("/") or (entry["type"] == "directory" and name == folder)


def _version(entry: Mapping[str, Any]) -> ObjectVersion:
    tag = next((str(entry[name]) for name in _TAGS if entry.get(name)), "")
    return ObjectVersion(entry["size"], tag)


def download(source: Path, target: Path) -> None:
    """Download a remote object to a local file."""
    remote, name = located(source)
    remote.get_file(name, str(target))


def upload(source: Path, target: Path) -> None:
    """Upload a local file as a remote object; readers see all of it or nothing."""
    remote, name = located(target)
    remote.put_file(str(source), name)


def write(path: Path, data: bytes) -> None:
    """Write a remote object; readers see all of it or nothing."""
    remote, name = located(path)
    remote.pipe_file(name, data)


def modified_secs(path: Path) -> float:
    """Return when a remote object was written, in seconds by the clock of the store."""
    remote, name = located(path)
    return float(remote.modified(name).timestamp())


def located(path: Path) -> tuple["RemoteFileSystem", str]:
    """Return the filesystem of a remote path, and the path's name in it."""
    remote = cast(Any, path)
    return remote.fs, remote.path.rstrip("/")  # a bucket is `BUCKET/` for universal-pathlib


class RemoteFileSystem(AbstractFileSystem):
    """An fsspec filesystem whose failures are retried and converted; it caches no listings.

    Raises, in all methods:
        FileNotFoundError: there is no such object, though its bucket exists.
        InputError: the library or the bucket is missing, or access is denied.
        JobError: the store failed or did not answer, after all retries.
    """

    scheme: ClassVar[str]

    @property
    def has_folders(self) -> bool:
        """Whether folders exist by themselves, and can be renamed and removed."""
        return self.scheme == "hdfs"

    @functools.cached_property
    def _store(self) -> Any:
        scheme = SCHEMES[self.scheme]
        for name in scheme.loggers:  # gcsfs logs tracebacks
            logging.getLogger(name).setLevel(logging.CRITICAL)
        try:
            kind = getattr(importlib.import_module(scheme.module), scheme.name)
        except ImportError as error:
            raise InputError(
                f"{self.scheme}:// needs the Python package {error.name or scheme.module}; install "
                f"it with pip install 'clozeline[{scheme.extra}]'"
            ) from error
        try:
            store = kind(**scheme.options() | self.storage_options, skip_instance_cache=True)
            if scheme.adapt:
                scheme.adapt(store)
            return store
        except (ValueError, OSError) as error:  # no account, no credentials, no NameNode
            reason = " ".join(str(error).split())[:300]
            raise InputError(f"{self.scheme}:// cannot be used: {reason}") from error

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, str | int]:
        if not path.startswith("hdfs://"):
            return {}
        options = fsspec.utils.infer_storage_options(path)
        return {name: options[name] for name in ("host", "port") if name in options}

    # The first part of a path is the bucket; HDFS has a host there, which its library wants only
    # in its constructor.

    def _name_in_store(self, path: str) -> str:
        path = self._strip_protocol(path)
        bucket, _, key = path.partition("/")
        if self.scheme == "hdfs":
            return "/" + key
        # For s3fs, `x?versionId=1` is a version of `x`: it would write, read and remove `x`.
        try:
            is_meant = self._store.split_path(path)[:2] == (bucket, key)
        except ValueError:
            is_meant = False
        if not is_meant:
            raise InputError(
                f"{self.scheme}://{path}: a part of the name has another meaning for "
                f"{SCHEMES[self.scheme].module.partition('.')[0]}; rename it"
            )
        return path

    def _path_of(self, name: str) -> str:
        if self.scheme != "hdfs":
            return name
        port = self.storage_options.get("port")
        host = self.storage_options["host"] + (f":{port}" if port else "")
        return f"{host}/{self._strip_protocol(name).lstrip('/')}"

    def _entry(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Return an entry of a listing with our path."""
        return {**entry, "name": self._path_of(entry["name"])}

    def _call(self, path: str, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the store; see the class for what it raises."""
        path = self._strip_protocol(path)
        try:
            return self._retried(path, method, *args, **kwargs)
        except FileNotFoundError:
            self._check_bucket(path)
            raise

    def _retried(self, path: str, method: str, *args: Any, **kwargs: Any) -> Any:
        attempts = SCHEMES[self.scheme].attempts
        for attempt in range(1, attempts + 1):
            store, began = self._store, time.monotonic()
            try:
                store.invalidate_cache()  # of listings
                return getattr(store, method)(*args, **kwargs)
            except (InputError, JobError):
                raise
            except KeyboardInterrupt:
                _finish_requests(store)
                raise
            except Exception as error:  # each library has its own types
                failure = _converted(error, f"{self.scheme}://{path}")
                if not isinstance(failure, JobError):
                    raise failure from error
                if attempt == attempts or _is_silence(error, time.monotonic() - began):
                    raise JobError(f"{failure}; given up, repeat the command later") from error
                time.sleep(FIRST_WAIT_SECS * 2 ** (attempt - 1))
        raise AssertionError("unreachable")

    def _check_bucket(self, path: str) -> None:
        """Raise `InputError` if the bucket of a missing object does not exist."""
        bucket = path.split("/")[0]
        if self.scheme == "hdfs" or bucket in self._buckets:
            return
        try:
            self._retried(bucket, "ls", bucket)
        except FileNotFoundError:
            raise InputError(
                f"{self.scheme}://{bucket}: no such bucket; create it, or check the name"
            ) from None
        except InputError:
            return  # the credentials may not list it: then the object is missing
        self._buckets.add(bucket)

    @functools.cached_property
    def _buckets(self) -> set[str]:
        """Buckets that are known to exist."""
        return set()

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Return the entry of an object or a folder: `name`, `size`, `type`."""
        entry: dict[str, Any] = self._entry(self._call(path, "info", self._name_in_store(path)))
        return entry

    def exists(self, path: str, **_: Any) -> bool:
        """Return whether an object or a folder exists; fsspec's own hides other errors."""
        return self._kind(path) is not None

    def isfile(self, path: str) -> bool:
        """Return whether an object exists."""
        return self._kind(path) == "file"

    def isdir(self, path: str) -> bool:
        """Return whether a folder exists, that is, an object with this prefix."""
        return self._kind(path) == "directory"

    def _kind(self, path: str) -> str | None:
        try:
            return str(self.info(path)["type"])
        except FileNotFoundError:
            return None

    def ls(self, path: str, detail: bool = True, **_: Any) -> Any:
        """Return the entries of a folder."""
        name = self._name_in_store(path)
        entries = self._call(path, "ls", name, detail=True)
        found = [self._entry(entry) for entry in entries if not _is_folder_mark(entry, name)]
        return found if detail else [entry["name"] for entry in found]

    def find(
        self,
        path: str,
        maxdepth: int | None = None,
        withdirs: bool = False,
        detail: bool = False,
        **_: Any,
    ) -> Any:
        """Return all objects below a folder; of the path of an object, none.

        Folders that are removed meanwhile are left out.
        """
        path = self._strip_protocol(path)
        # The stores' own walk takes a folder that they cannot list for an empty one; our `ls`
        # raises. A single listing of all is the faster one.
        if maxdepth or self.has_folders:
            found = super().find(path, maxdepth, withdirs, detail=True)
        else:
            name = self._name_in_store(path)
            listed = self._call(path, "find", name, withdirs=withdirs, detail=True)
            # For the path of an object, fsspec has an empty entry, and adlfs a list of it.
            found = {
                self._path_of(name): self._entry(entry)
                for name, entry in (listed.items() if isinstance(listed, dict) else ())
                if entry and not _is_folder_mark(entry)
            }
        entries = {
            name: entry
            for name, entry in found.items()
            if entry and (name != path or entry["type"] == "directory")
        }
        return entries if detail else list(entries)

    def modified(self, path: str) -> Any:
        """Return the time of an object's last write, by the clock of the store."""
        return self._call(path, "modified", self._name_in_store(path))

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **_: Any
    ) -> Any:
        """Return the bytes of an object, or of a range of it."""
        return self._call(path, "cat_file", self._name_in_store(path), start=start, end=end)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> Any:
        """Write an object whole; with mode `create` fail if it exists."""
        limit = self._upload_limit(len(value))
        return self._call(path, "pipe_file", self._name_in_store(path), value, mode=mode, **limit)

    def put_file(self, lpath: str, rpath: str, *_: Any, **__: Any) -> Any:
        """Upload a local file; readers see all of it or nothing."""
        limit = self._upload_limit(Path(lpath).stat().st_size)
        return self._call(rpath, "put_file", lpath, self._name_in_store(rpath), **limit)

    def _upload_limit(self, size_bytes: int) -> JsonObject:
        """Return the time limit of an upload: the libraries have none while a request is sent."""
        if not getattr(self._store, "async_impl", False):
            return {}
        return {"timeout": _silence_secs() + size_bytes / SLOWEST_BYTES_PER_SEC}

    def get_file(self, rpath: str, lpath: str, *_: Any, **__: Any) -> Any:
        """Download an object to a local file."""
        return self._call(rpath, "get_file", self._name_in_store(rpath), lpath)

    def cp_file(self, path1: str, path2: str, **_: Any) -> Any:
        """Copy an object; the store does it by itself."""
        names = self._name_in_store(path1), self._name_in_store(path2)
        return self._call(path2, "cp_file", *names)

    def mv_file(self, path1: str, path2: str) -> None:
        """Rename an object; object stores cannot, so it is copied, then removed."""
        if not self.has_folders:
            self.cp_file(path1, path2)
            self.rm_file(path1)
            return
        self.info(path1)  # it is there, so it is missing later only if it was moved
        try:
            names = self._name_in_store(path1), self._name_in_store(path2)
            self._call(path1, "mv_file", *names)
        except FileNotFoundError:
            # The answer to the first request may have been lost.
            if not self.isfile(path2):
                raise

    def rmdir(self, path: str) -> None:
        """Remove an empty folder; object stores have none."""
        if self.has_folders:
            self._call(path, "rmdir", self._name_in_store(path))

    def rm_file(self, path: str) -> None:
        """Remove an object, if there is one.

        A missing one is no error, as in S3: the answer to a first request may have been lost.
        """
        with contextlib.suppress(FileNotFoundError):
            self._call(path, "rm_file", self._name_in_store(path))

    def rm(self, path: str, recursive: bool = False, maxdepth: int | None = None) -> None:
        """Remove an object; fsspec's own takes its name for a pattern.

        Raises:
            ValueError: a whole folder is to be removed; `remove_below` removes what it lists.
        """
        if recursive or maxdepth:
            raise ValueError(f"{self.scheme}://{path}: only single objects are removed")
        self.rm_file(path)

    def mkdir(self, path: str, create_parents: bool = True, **_: Any) -> None:
        """Do nothing: writing an object makes its folder."""

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Do nothing: writing an object makes its folder."""

    def _open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        if mode == "rb":
            return _Reader(self, path, block_size=BLOCK_BYTES, cache_type="readahead")
        if mode in ("wb", "xb"):
            return _Upload(self, path)
        raise InputError(f"{self.scheme}://{path}: object stores have no mode {mode}")


def _finish_requests(store: Any) -> None:
    """Wait until the requests of an interrupted thread have ended, for at most `FINISH_SECS`.

    fsspec's asynchronous stores send them from another thread, which an interruption does not
    reach: a file could appear after those of the job have been removed.
    """
    if getattr(store, "async_impl", False):
        with contextlib.suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(_other_tasks(), store.loop).result(FINISH_SECS)


async def _other_tasks() -> None:
    """Wait for the tasks of this event loop."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others)


class _Reader(AbstractBufferedFile):
    """A remote file that is read in blocks, each with the retries of its filesystem."""

    def __init__(self, fs: RemoteFileSystem, path: str, **kwargs: Any) -> None:
        super().__init__(fs, path, "rb", **kwargs)
        if self.details["type"] == "directory":
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)

    def _fetch_range(self, start: int, end: int) -> bytes:
        data: bytes = self.fs.cat_file(self.path, start, end)
        if len(data) != end - start:
            raise JobError(f"{self.path}: changed while it was read; try again")
        return data


class _Upload(io.FileIO):
    """A local file that is uploaded when it is closed without an exception."""

    def __init__(self, fs: RemoteFileSystem, path: str) -> None:
        handle, self._local = tempfile.mkstemp(prefix="clozeline-")
        super().__init__(handle, "wb")
        self._fs, self._path, self._is_whole = fs, path, True

    def __exit__(self, kind: Any, *_: Any) -> None:
        self._is_whole = kind is None
        self.close()

    def __del__(self) -> None:
        self._is_whole = self._is_whole and self.closed  # never upload what was not closed
        self.close()

    def close(self) -> None:
        """Upload the file, unless an exception ended its context."""
        if self.closed:
            return
        super().close()
        try:
            if self._is_whole:
                self._fs.put_file(self._local, self._path)
        finally:
            Path(self._local).unlink()


for _name in SCHEMES:
    fsspec.register_implementation(
        _name,
        type(
            f"{_name.title()}FileSystem", (RemoteFileSystem,), {"protocol": _name, "scheme": _name}
        ),
        clobber=True,
    )

_NO_CREDENTIALS = {
    "ClientAuthenticationError",
    "CredentialRetrievalError",
    "DefaultCredentialsError",
    "NoCredentialsError",
    "PartialCredentialsError",
    "ProfileNotFound",
    "RefreshError",
    "TokenRetrievalError",
}
"""Exceptions of botocore, google-auth and azure-identity about missing or invalid credentials."""

_WRONG_NAMES = {"InvalidRegionError", "ParamValidationError", "UnknownRegionError"}
"""Exceptions of botocore about invalid names of buckets and regions."""

_REFUSED = {errno.EINVAL, errno.EPERM, errno.ENAMETOOLONG, errno.ENOSYS}
"""Error numbers of requests that a store will never accept."""

_BELOW_AN_OBJECT = ("ObjectParentIsFile", "XMinioParentIsObject")
"""Error codes of stores of S3's kind that keep objects as files, of Versity's gateway and MinIO: a
part of an object's path is an object. Others take such names."""

_DENIED = {401, 403}
_CONFLICT = {409, 412}
"""HTTP status codes: access denied; the condition of a conditional write is not met."""


def _silence_secs() -> float:
    """Return how long an operation takes at most if the store does not answer its requests."""
    return SENDS * REQUEST_SECS + PAUSE_SECS


def _is_timeout(error: Exception) -> bool:
    return any(kind.__name__.endswith("TimeoutError") for kind in type(error).__mro__)


def _is_silence(error: Exception, secs: float) -> bool:
    """Return whether an operation that failed after this time had no answer to any request.

    What took longer had some, or was an upload at its limit.
    """
    if isinstance(error, fsspec.exceptions.FSTimeoutError):
        return True
    # adlfs lists a folder, too, if it does not get to know whether it is a file.
    return _is_timeout(error) and REQUEST_SECS <= secs <= 2 * _silence_secs()


def _converted(error: Exception, url: str) -> Exception:
    """Return the exception to raise for one of a store's library; `JobError` = worth a retry."""
    names = {kind.__name__ for kind in type(error).__mro__}
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    status = _status(error)
    if isinstance(error, FileNotFoundError) or status == 404:
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), url)
    if isinstance(error, FileExistsError) or status in _CONFLICT:
        return FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), url)
    is_not_empty = isinstance(error, OSError) and error.errno == errno.ENOTEMPTY
    if isinstance(error, IsADirectoryError) or is_not_empty:
        return error
    if names & _NO_CREDENTIALS:
        return InputError(f"{url}: no valid credentials: {reason}")
    # gcsfs raises a bare `OSError` for 403.
    is_forbidden = isinstance(error, OSError) and reason.startswith("Forbidden: ")
    if isinstance(error, PermissionError) or is_forbidden or status in _DENIED:
        return InputError(
            f"{url}: access denied: {reason}; check the credentials and their permissions"
        )
    is_refused = isinstance(error, OSError) and error.errno in _REFUSED
    if is_refused or names & _WRONG_NAMES or isinstance(error, ValueError):
        return InputError(f"{url}: {reason}")
    if any(code in reason for code in _BELOW_AN_OBJECT):
        return InputError(f"{url}: a part of this path is an object; name another folder")
    if _is_timeout(error):
        reason = f"no answer within {REQUEST_SECS} seconds"
    return JobError(f"{url}: {reason}")


def _status(error: Exception) -> int | None:
    """Return the HTTP status code of an exception of a store's library; None if it has none."""
    response = getattr(error, "response", None)  # botocore
    if isinstance(response, Mapping):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return int(status) if status else None
    for name in ("code", "status", "status_code"):  # gcsfs, aiohttp, azure-core
        with contextlib.suppress(TypeError, ValueError):
            return int(getattr(error, name, None))  # type: ignore[arg-type]
    return None
