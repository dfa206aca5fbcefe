"""Locks on directories: one process writes one at a time, and what a killed one left is removed."""

import contextlib
import errno
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.console import notes
from pipeline.errors import InputError, JobError
from pipeline.storage.files import make_folder
from pipeline.storage.strict_json import from_json, to_json

LOCK = ".lock"
"""File inside a directory that is being written. It is gone when the writer has ended well."""

_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}
"""What a filesystem without locks answers."""


@dataclass(frozen=True)
class Holder:
    """The contents of a lock file.

    Attributes:
        pid: process id.
        host: name of its machine.
        since: when it took the lock, in UTC, for people.
    """

    pid: int
    host: str
    since: str

    def __str__(self) -> str:
        """Return for example `process 4242, since 2026-11-25 17:03:20 UTC`."""
        elsewhere = "" if self.host == socket.gethostname() else f" on {self.host}"
        return f"process {self.pid}{elsewhere}, since {self.since}"


@contextlib.contextmanager
def only_writer_of_all(directories: Mapping[Path, str]) -> Iterator[None]:
    """Hold the locks of several directories, or of none.

    Args:
        directories: each with its flag, as `only_writer` takes them.

    Raises:
        InputError: another process writes one of them; `JobError` as `only_writer`.
    """
    with contextlib.ExitStack() as held:
        for directory, given in directories.items():
            held.enter_context(only_writer(directory, given))
        yield


@contextlib.contextmanager
def only_writer(directory: Path, given: str, *, wait_secs: float = 0) -> Iterator[None]:
    """Hold a directory's lock while the context lasts.

    The lock is the kernel's (`flock`), which ends with the process: the file of a process that died
    is left over and holds nobody up. The directory is created; it is removed again if nothing was
    written into it.

    Args:
        directory: on a local or mounted filesystem.
        given: the flag with its value, for messages.
        wait_secs: how long to wait for the writer before.

    Raises:
        InputError: another process writes the directory, or there is a file in its place.
        JobError: the lock file cannot be written.
    """
    for part in (directory, *directory.parents):
        if part.exists() and not part.is_dir():
            raise InputError(f"{given}: {part} is a file; name a folder")
    with _removed_if_empty(directory):
        try:
            lock = _acquired(directory, given, wait_secs)
        except OSError as error:
            raise JobError(f"{given}: cannot be written: {error.strerror}") from error
        try:
            yield
        finally:
            if lock:
                _release(lock)


@contextlib.contextmanager
def _removed_if_empty(directory: Path) -> Iterator[None]:
    """Remove a directory and its parents afterwards if they are new and nothing is in them."""
    new = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    try:
        yield
    finally:
        for folder in new:
            with contextlib.suppress(OSError):  # not empty
                folder.rmdir()


@contextlib.contextmanager
def staging(parent: Path, prefix: str) -> Iterator[Path]:
    """Yield a new, empty directory, to be written and then renamed; what is left of it is removed.

    So are those of the same prefix that a process on this machine left when it was killed.

    Args:
        parent: the directory to create it in; created too, unless nothing stays in it.
        prefix: of the name of the hidden or temporary directory that holds it.

    Raises:
        OSError: it cannot be created.
    """
    with _removed_if_empty(parent):
        make_folder(parent)
        _sweep(parent, prefix)
        outer = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        lock = FileLock(outer / LOCK, timeout=0, fallback_to_soft=False)
        try:
            with contextlib.suppress(OSError):  # without locks nobody will sweep it
                lock.acquire()
            _write_holder(outer / LOCK)
            inner = outer / "new"  # the outer one is private to the user, and has the lock file
            inner.mkdir()
            yield inner
        finally:
            shutil.rmtree(outer, ignore_errors=True)
            lock.release()


def _sweep(parent: Path, prefix: str) -> None:
    """Remove staging directories whose process has died; those of other machines stay."""
    for path in parent.iterdir():
        if not path.name.startswith(prefix):
            continue
        with contextlib.suppress(OSError, Timeout):
            if path.lstat().st_uid != os.getuid():  # in a temporary directory that all users share
                continue
            holder = read_holder(path / LOCK)
            if holder and holder.host == socket.gethostname():
                with FileLock(path / LOCK, timeout=0, fallback_to_soft=False):
                    shutil.rmtree(path)


def _acquired(directory: Path, given: str, wait_secs: float) -> FileLock | None:
    """Return the lock, held; None where the filesystem has no locks."""
    file = directory / LOCK
    # A soft lock would outlive a process that is killed on another machine.
    lock = FileLock(file, timeout=wait_secs, fallback_to_soft=False)
    try:
        _acquire(lock, directory)
    except Timeout:
        holder = read_holder(file)
        raise InputError(
            f"{given}: is being written by {holder or 'another process'}; "
            "wait until it has ended, or name another directory"
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        notes.print(
            f"{given}: the filesystem has no locks; make sure that no other process writes there",
            soft_wrap=True,
        )
        return None
    before = read_holder(file)
    if before:
        notes.print(
            f"{given}: {before}, has ended without releasing its lock; taking it over",
            soft_wrap=True,
        )
    try:
        _write_holder(file)
    except BaseException:
        _release(lock)
        raise
    return lock


def _release(lock: FileLock) -> None:
    # Remove the file while it is locked: whoever opened it meanwhile sees that it has no name.
    Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


def _write_holder(file: Path) -> None:
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    file.write_text(to_json(asdict(Holder(os.getpid(), socket.gethostname(), now))) + "\n")


def _acquire(lock: FileLock, directory: Path) -> None:
    """Create the directory and acquire its lock; the writer before may be removing both."""
    for attempt in range(10):
        make_folder(directory)
        try:
            lock.acquire()
        except FileNotFoundError:
            if attempt == 9:
                raise
        else:
            return


def read_holder(file: Path) -> Holder | None:
    """Return who wrote a lock file; None where it does not say."""
    try:
        return Holder(**from_json(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
