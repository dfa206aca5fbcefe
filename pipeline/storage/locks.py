"""Locks: one writer per directory or file; leftovers of killed processes are removed.

Remote ones have leases instead (`pipeline.storage.leases`).
"""

import contextlib
import errno
import logging
import os
import re
import shutil
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.errors import InputError, JobError, reason
from pipeline.storage import leases
from pipeline.storage.files import CLOZELINE, hidden_prefix, is_special, make_folder, writing
from pipeline.storage.outputs import Output, check_outputs
from pipeline.storage.remote import is_remote
from pipeline.storage.remote_files import names_in, remove_folders
from pipeline.storage.strict_json import from_json, to_json

_log = logging.getLogger(__name__)

LOCK = ".lock"
"""Name of the lock file in a directory that is being written; removed when the writer exits."""

_STAGED = "new"
"""Name of the directory that `staging` yields, in one with a lock file."""

_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}
"""Error numbers of filesystems that do not support locks."""


@dataclass(frozen=True)
class Holder:
    """The contents of a lock file.

    Attributes:
        pid: id of the process that holds the lock.
        host: host name of its machine.
        since: when it took the lock, in UTC, human-readable.
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
    """Hold the locks of several directories, or of none if one is taken.

    Args:
        directories: field with its value (`given` of `only_writer`), by directory.

    Raises:
        InputError: another process is writing to one of them; `JobError` as `only_writer`.
    """
    with contextlib.ExitStack() as held:
        for directory, given in directories.items():
            held.enter_context(only_writer(directory, given))
        yield


@contextlib.contextmanager
def only_writer(directory: Path, given: str, *, waits: bool = False) -> Iterator[None]:
    """Hold a directory's lock inside the context.

    The kernel (`flock`) releases the lock when the process exits, so a lock file left by a killed
    process blocks nobody. The directory is created, and removed again if nothing was written to it.

    Args:
        directory: directory on a local or mounted filesystem, or a remote one.
        given: the field with its value, for messages.
        waits: whether to wait until the current writer exits, rather than to lose finished work; a
            line says so after some seconds.

    Raises:
        InputError: another process is writing to the directory and `waits` is not set, or the path
            is a file or cannot be written.
        JobError: the disk is full or failed.
    """
    if is_remote(directory):
        with leases.leased(directory, given, waits=waits):
            yield
        return
    for part in (directory, *directory.parents):
        if _is_file(part):
            raise InputError(f"{given}: {part} is a file; name a folder")
    with _removed_if_empty(directory), _locked(directory / LOCK, given, waits=waits):
        yield


def _is_file(path: Path) -> bool:
    """Return whether a path exists and is no directory; the writer before may be removing it."""
    try:
        return not stat.S_ISDIR(path.stat().st_mode)
    except OSError:  # missing, or found when the lock is acquired
        return False


@contextlib.contextmanager
def only_writer_of_output(path: Path, given: str) -> Iterator[None]:
    """Hold the lock of a file, or of a directory that is renamed to its place, inside the context.

    The lock is next to it, because such a directory must be missing or empty until then.

    Args:
        path: a file, of which the folder above is created if it is missing, or a directory. Devices
            and pipes have no lock, nor does a whole bucket, next to which nothing can be.
        given: the field with its value, for messages.

    Raises:
        InputError, JobError: as `only_writer`.
    """
    if is_remote(path):
        lease = path.with_name(f"{hidden_prefix(path)}lease") if path.name else None
        with leases.leased(path, given, lease=lease) if lease else contextlib.nullcontext():
            yield
        return
    if is_special(path):
        yield
        return
    path = Path(os.path.realpath(path))  # a file with two names has one lock
    lock = path.with_name(f"{hidden_prefix(path)}lock")
    with _removed_if_empty(lock.parent), _locked(lock, given):
        yield


@contextlib.contextmanager
def only_writer_of_outputs(outputs: Sequence[Output]) -> Iterator[None]:
    """Check outputs and hold their locks inside the context.

    Of two commands with one output, the first to end would lose its file.

    Raises:
        InputError, JobError: as `check_outputs` and `only_writer`.
    """
    check_outputs(outputs)
    with contextlib.ExitStack() as held:
        for output in outputs:
            held.enter_context(only_writer_of_output(output.path, str(output)))
        check_outputs(outputs)  # another writer may have ended since
        yield


@contextlib.contextmanager
def _locked(file: Path, given: str, *, waits: bool = False) -> Iterator[None]:
    """Hold a lock, whose file is created and removed, inside the context."""
    with writing(given):
        lock = _acquired(file, given, waits=waits)
    try:
        yield
    finally:
        if lock:
            _release(lock)


@contextlib.contextmanager
def _removed_if_empty(directory: Path) -> Iterator[None]:
    """On exit, remove the directory and those of its parents that are new, if they are empty."""
    new = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    try:
        yield
    finally:
        for folder in new:
            with contextlib.suppress(OSError):  # not empty
                folder.rmdir()


@contextlib.contextmanager
def staging(parent: Path, prefix: str) -> Iterator[Path]:
    """Yield a new, empty directory that the caller fills and renames; leftovers are removed.

    Directories with the same prefix that killed processes of this machine left are removed first.

    Args:
        parent: the directory to create it in; created if missing, and removed again if it stays
            empty. For a remote one, the new directory is in the system's temporary directory.
        prefix: prefix of the name of the outer, temporary directory.

    Raises:
        OSError: the directory cannot be created.
    """
    if is_remote(parent):
        with temporary_folder() as temporary:
            yield temporary
        return
    with _removed_if_empty(parent):
        make_folder(parent)
        remove_left(parent, prefix, shutil.rmtree, only=_is_staged)
        outer = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        lock = FileLock(outer / LOCK, timeout=0, fallback_to_soft=False)
        try:
            # Without lock support go on unlocked: `remove_left` cannot lock it either.
            # A disk that is full fails the caller, which names its own file.
            with contextlib.suppress(OSError):
                lock.acquire()
                _write_holder(outer / LOCK)
            # `outer` has mkdtemp's private permissions and the lock file: neither is published.
            inner = outer / _STAGED
            inner.mkdir()
            yield inner
        finally:
            shutil.rmtree(outer, ignore_errors=True)
            lock.release()


def temporary_folder() -> contextlib.AbstractContextManager[Path]:
    """Return a context with a new directory in the system's temporary directory; see `staging`.

    Those that killed processes left are removed first, whatever they were for.
    """
    return staging(Path(tempfile.gettempdir()), CLOZELINE)


def _is_staged(directory: Path) -> bool:
    """Return whether a directory is one of `staging`, and not a run that is named like one."""
    return {*names_in(str(directory))} <= {LOCK, _STAGED}


def remove_left(
    parent: Path,
    prefix: str,
    remove: Callable[[Path], object],
    only: Callable[[Path], bool] = lambda _: True,
) -> None:
    """Remove directories that killed processes left, if these are certainly dead.

    A process is dead if the directory's lock file names a process of this machine, and nobody holds
    the lock; for a remote directory, if its lease has ended or been removed: it is the first of
    its objects and the last one that is removed. Directories of other users stay.

    Args:
        parent: directory that contains them; it may be missing.
        prefix: prefix of their names; after it, the name of a remote one is a `uuid4().hex`.
        remove: removes the contents of a directory, or all of it; called while its lock is held.
        only: whether a directory may be removed.
    """
    for name in names_in(str(parent)):
        directory = parent / name
        if name.startswith(prefix):
            try:
                if is_remote(directory):
                    _remove_remote_if_left(directory, prefix, remove)
                # /tmp is shared by all users, and nobody may look into the folders of others.
                elif directory.lstat().st_uid == os.getuid() and only(directory):
                    _remove_if_left(directory, remove)
            except (Timeout, InputError, FileNotFoundError):  # in use, or removed by another one
                continue
            except (JobError, OSError) as error:  # also of a filesystem without locks
                _log.info("%s: cannot be removed: %s", directory, reason(error))


def _remove_remote_if_left(directory: Path, prefix: str, remove: Callable[[Path], object]) -> None:
    # One in HDFS that is empty is perhaps being created.
    if leases.read_holder(directory / leases.LEASE) or (
        re.fullmatch("[0-9a-f]{32}", directory.name.removeprefix(prefix))
        and names_in(str(directory))
    ):
        with leases.leased(directory, str(directory)):
            remove(directory)


def _remove_if_left(directory: Path, remove: Callable[[Path], object]) -> None:
    holder = read_holder(directory / LOCK)
    if holder is None:
        return
    if holder.host != socket.gethostname():  # its locks may not be visible here
        _log.info("%s: left by %s; remove it if that process has exited", directory, holder)
        return
    # Not `only_writer`: on a filesystem without locks, it goes on without one.
    with FileLock(directory / LOCK, timeout=0, fallback_to_soft=False):
        _log.info("%s: %s, exited without removing it; removing what it left", directory, holder)
        remove(directory)
        (directory / LOCK).unlink(missing_ok=True)
        remove_folders([str(directory)])


def _acquired(file: Path, given: str, *, waits: bool) -> FileLock | None:
    """Acquire and return the lock of a file; None if the filesystem does not support locks."""
    # filelock's fallback, a soft lock, is a file: a killed process would leave it locked forever.
    lock = FileLock(file, timeout=leases.NOTICE_SECS if waits else 0, fallback_to_soft=False)
    try:
        try:
            _acquire(lock, file.parent)
        except Timeout:
            holder = read_holder(file) or "another process"
            if not waits:
                raise InputError(
                    f"{given}: is being written by {holder}; wait until it exits, or choose "
                    "another path"
                ) from None
            leases.tell_of_waiting(given, holder)
            lock.timeout = -1  # as long as the holder lives: the kernel releases its lock
            _acquire(lock, file.parent)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        _log.info(
            "%s: the filesystem does not support locks; make sure that no other process writes "
            "there",
            given,
        )
        return None
    # A writer removes its file when it exits, so one that names a holder was left by a killed
    # process.
    before = read_holder(file)
    if before:
        _log.info("%s: %s, exited without releasing its lock; taking it over", given, before)
    try:
        _write_holder(file)
    except BaseException:
        _release(lock)
        raise
    return lock


def _release(lock: FileLock) -> None:
    # Remove the file while it is still locked. A process that opened it meanwhile then acquires a
    # lock on an unlinked file; filelock notices that and opens the new one.
    Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


def _write_holder(file: Path) -> None:
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    file.write_text(to_json(asdict(Holder(os.getpid(), socket.gethostname(), now))) + "\n")


def _acquire(lock: FileLock, directory: Path) -> None:
    """Create the directory and acquire its lock."""
    # The previous writer may be removing both at this moment, hence the retries.
    for attempt in range(10):
        try:
            make_folder(directory)
            lock.acquire()
        # `mkdir` raises `FileExistsError` if the folder disappears before its check `is_dir`.
        except (FileNotFoundError, FileExistsError):
            if attempt == 9:
                raise
        else:
            return


def read_holder(file: Path) -> Holder | None:
    """Return the holder that a lock file names; None if the file is missing or invalid."""
    try:
        return Holder(**from_json(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
