"""HDFS as an fsspec filesystem: `hdfs_native`'s client, with time limits and atomic files.

`hdfs_native` is an HDFS client in Rust: it needs no Java and no `libhdfs`, and reads Hadoop's
configuration (`HADOOP_CONF_DIR`). Its own fsspec filesystem waits for ever for a NameNode that does
not answer, and shows a file while it is being written. Here a file is written under a hidden name
and renamed, which HDFS does atomically, with or without replacing the target.
"""

import errno
import re
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from fsspec.spec import AbstractFileSystem
from hdfs_native import Client, FileStatus, WriteOptions

from pipeline.storage.remote import FINISH_SECS, PARTIAL

T = TypeVar("T")

CHUNK_BYTES = 8 << 20
"""Bytes that are read or written at once."""

CLIENT = {
    "dfs.client.failover.max.attempts": "3",
    "dfs.client.failover.sleep.base.millis": "100",
    "dfs.client.failover.sleep.max.millis": "1000",
}
"""Settings of the client: enough attempts to find the active NameNode; more attempts are ours."""


class HdfsStore(AbstractFileSystem):
    """The files of a NameNode, or of a name service of Hadoop's configuration.

    Methods raise the exceptions of local files, with the first line of a NameNode's message.
    """

    protocol = "hdfs"
    root_marker = "/"

    def __init__(
        self,
        host: str = "",
        port: int | None = None,
        *,
        answer_secs: float,
        slowest_bytes_per_sec: float,
        **options: Any,
    ) -> None:
        """Make a client; it connects when it is used.

        Args:
            host: the NameNode or the name service; empty = `fs.defaultFS`.
            port: port of the NameNode's RPC; None = `host` is a name service.
            answer_secs: how long a request may take.
            slowest_bytes_per_sec: how many bytes a second a request must send or receive.
            options: those of `AbstractFileSystem`.

        Raises:
            ValueError: Hadoop's configuration lacks the name service.
        """
        super().__init__(**options)
        self._answer_secs, self._slowest = answer_secs, slowest_bytes_per_sec
        address = host + (f":{port}" if port else "")
        self._client = self._answer(Client, f"hdfs://{address}" if address else None, CLIENT)

    def _answer(self, request: Callable[..., T], *arguments: Any, size_bytes: int = 0) -> T:
        """Return what a request returns that sends or receives this number of bytes.

        The client has no time limits, so that the request has a thread, which is left behind if
        there is no answer. (The client's interface for asyncio panics if a host does not exist.)

        Raises:
            TimeoutError: there is no answer.
        """
        answer: Future[T] = Future()

        def work() -> None:
            try:
                answer.set_result(request(*arguments))
            except BaseException as error:  # a panic in Rust is no `Exception`
                answer.set_exception(error)

        try:
            threading.Thread(target=work, name="hdfs", daemon=True).start()
            return answer.result(self._answer_secs + size_bytes / self._slowest)
        except (RuntimeError, OSError) as error:
            raise _converted(error) from error
        except KeyboardInterrupt:
            # The removal of a job's files runs next, and would miss a file that appears later.
            wait([answer], FINISH_SECS)
            raise

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Return the entry of a file or folder."""
        return _entry(self._answer(self._client.get_file_info, path))

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """Return the entries of a folder, or that of a file."""
        statuses = self._answer(lambda: [*self._client.list_status(path)])
        return [_entry(status) if detail else status.path for status in statuses]

    def modified(self, path: str) -> datetime:
        """Return when a file was written, by the clock of the NameNode."""
        return datetime.fromtimestamp(self.info(path)["mtime"] / 1000, UTC)

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **_: Any
    ) -> bytes:
        """Return the bytes of a file, or of a range of it."""
        reader = self._answer(self._client.read, path)
        first, last, _step = slice(start, end).indices(len(reader))
        size = max(last - first, 0)
        return self._answer(reader.read_range, first, size, size_bytes=size)

    def get_file(self, rpath: str, lpath: str, **_: Any) -> None:
        """Download a file."""
        reader = self._answer(self._client.read, rpath)
        with Path(lpath).open("wb") as file:
            while chunk := self._answer(reader.read, CHUNK_BYTES, size_bytes=CHUNK_BYTES):
                file.write(chunk)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        """Write a file; with mode `create` fail if it exists."""
        starts = range(0, len(value), CHUNK_BYTES)
        chunks = (value[start : start + CHUNK_BYTES] for start in starts)
        self._write(path, chunks, overwrite=mode == "overwrite")

    def put_file(self, lpath: str, rpath: str, **_: Any) -> None:
        """Upload a local file."""
        self._write(rpath, _chunks(lpath), overwrite=True)

    def _write(self, path: str, chunks: Iterable[bytes], *, overwrite: bool) -> None:
        """Write a file; it gets its name when it is whole.

        Raises:
            FileExistsError: it exists, and may not be overwritten.
        """
        name = PurePosixPath(path)
        partial = str(name.with_name(f".{name.name}.{uuid.uuid4().hex[:8]}{PARTIAL}"))
        try:
            writer = self._answer(self._client.create, partial, WriteOptions(overwrite=True))
            for chunk in chunks:
                self._answer(writer.write, chunk, size_bytes=len(chunk))
            self._answer(writer.close, size_bytes=CHUNK_BYTES)
            self._answer(self._client.rename, partial, path, overwrite)
        except BaseException:
            with suppress(Exception):
                self._answer(self._client.delete, partial)
            raise

    def rm_file(self, path: str) -> None:
        """Remove a file, or an empty folder."""
        if not self._answer(self._client.delete, path):
            raise FileNotFoundError(path)

    rmdir = rm_file

    def mv_file(self, path1: str, path2: str) -> None:
        """Rename a file; another one of the new name is replaced."""
        self._answer(self._client.mkdirs, str(PurePosixPath(path2).parent), 0o755, True)
        self._answer(self._client.rename, path1, path2, True)


def _entry(status: FileStatus) -> dict[str, Any]:
    return {
        "name": status.path,
        "size": status.length,
        "type": "directory" if status.isdir else "file",
        "mtime": status.modification_time,
    }


def _chunks(path: str) -> Iterator[bytes]:
    with Path(path).open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


# The client's own errors are a `RuntimeError` with the text of Rust's: a NameNode's exception is
# RPCError("CLASS", "MESSAGE\n\tat LINE OF JAVA…"), others are a name with one message.
_REMOTE = re.compile(r'^RPCError\("[\w.]*?([\w$]+)", "(.*?)(?:\\n|"\)$)', re.DOTALL)
_OTHER = re.compile(r'^(\w+)\("?(.*?)"?\)$', re.DOTALL)

_KINDS: dict[str, type[Exception]] = {
    "AccessControlException": PermissionError,
    "InvalidPathException": ValueError,
    "ParentNotDirectoryException": ValueError,
    "InvalidArgument": ValueError,
    "GSSAPIError": PermissionError,
    "NoSASLMechanism": PermissionError,
    "SASLError": PermissionError,
}
"""Kind of a failure by its name; all others may be temporary."""


def _converted(error: Exception) -> Exception:
    """Return the exception for one of the client's."""
    text = str(error)
    if isinstance(error, OSError):
        # A name that nobody knows is no temporary failure; a resolver that does not answer is one.
        return ValueError(text) if "Name or service not known" in text else error
    named = _REMOTE.match(text) or _OTHER.match(text)
    if not named:
        return error
    name, message = named.groups()
    if name == "PathIsNotEmptyDirectoryException":
        return OSError(errno.ENOTEMPTY, message)
    if name == "InvalidArgument":
        message += "; expected hdfs://HOST:PORT/PATH, or a name service in $HADOOP_CONF_DIR"
    return _KINDS.get(name, OSError)(message or name)
