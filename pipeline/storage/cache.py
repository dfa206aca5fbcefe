"""A bounded folder with copies of remote files, which several processes share.

A copy appears under its name, by a rename, after its checksum was compared: a torn download is
never read. The locks are the kernel's (`flock`), on the files themselves, so a killed process
leaves none. Readers hold a shared lock while they open a copy; the least recently used copies that
nobody holds are removed to make room.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.config_types import check_types
from pipeline.errors import InputError, JobError, check_range, failure, reason
from pipeline.storage.files import crc32c, download_exactly, make_folder, publish
from pipeline.storage.remote import ObjectVersion, check_local, is_url, version_of

_PARTIAL = ".partial-"
_OURS = re.compile(rf"({re.escape(_PARTIAL)})?[0-9a-f]{{16}}-[0-9a-f]{{8}}-.+")
"""Names of copies and of downloads in progress."""

DOWNLOADS_AT_ONCE = 4

WAIT_SECS = 60.0
"""How long to wait for room while other processes hold what is in the cache."""


@dataclass(frozen=True, kw_only=True)
class CacheConfig:
    """Where copies of remote files are kept.

    Attributes:
        cache: the folder; None = `~/.cache/clozeline`. Other files in it are neither counted nor
            removed.
        cache_gb: its largest size, in gigabytes (10^9 bytes).
    """

    cache: Path | None = None
    cache_gb: float = 50.0

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            InputError: a number out of range, or a folder that is remote.
        """
        check_types(self)
        if self.cache is not None:
            check_local(self.cache, "cache")
        check_range("cache_gb", self.cache_gb, 0.001)

    @property
    def folder(self) -> Path:
        """The folder.

        Raises:
            InputError: none is given, and the user has no home directory.
        """
        try:
            return self.cache or Path.home() / ".cache" / "clozeline"
        except RuntimeError as error:
            raise InputError("`cache`: there is no home directory; give a folder") from error


class Cache:
    """Copies of remote files in a local folder."""

    def __init__(self, config: CacheConfig) -> None:
        """Create the folder.

        Raises:
            InputError, JobError: it cannot be created.
        """
        self._folder = config.folder
        self._max_bytes = int(config.cache_gb * 1e9)
        try:
            make_folder(self._folder)
        except OSError as error:
            what = f"`cache` {self._folder}: cannot be used"
            raise failure(what, error, "; give another folder") from error

    @contextlib.contextmanager
    def opened(self, source: Path, size_bytes: int, checksum: str) -> Iterator[Path]:
        """Yield the copy of a remote file; in the context it is not removed.

        A process that has opened it may read it after the context, too.

        Args:
            source: the remote file.
            size_bytes: its size.
            checksum: its CRC-32C, as eight hexadecimal digits.

        Raises:
            FileNotFoundError: there is no such remote file.
            InputError: the file has another checksum, or the cache is too small for it.
            JobError: it cannot be downloaded, or there is no room; a full disk.
        """
        copy = self.path_of(source, checksum)

        def is_whole() -> bool:
            return copy.exists() and copy.stat().st_size == size_bytes

        def checked(partial: Path) -> Path:
            _check(source, partial, checksum)
            return copy

        while True:
            with _locked(copy, fcntl.LOCK_SH) as found:
                if found and is_whole():
                    os.utime(copy)  # the time of its last use
                    yield copy
                    return
            self._download(source, size_bytes, copy.name, is_whole, checked)

    @contextlib.contextmanager
    def opened_version(self, source: Path, version: ObjectVersion) -> Iterator[Path]:
        """Yield the copy of a version of a remote file; in the context it is not removed.

        Nobody wrote down the checksum of such a file, so its copy has that of the download, and is
        compared with it each time.

        Args:
            source: the remote file.
            version: its present version.

        Raises:
            FileNotFoundError, InputError: as `opened`.
            JobError: as `opened`; or the file was written again meanwhile.
        """
        digest = _digest(f"{source}\n{version.size_bytes}\n{version.tag}")

        def name_of(copy: Path) -> str:
            return f"{digest}-{crc32c(copy)}-{_label(source)}"

        def copies() -> list[Path]:
            return [*self._folder.glob(f"{digest}-{'?' * 8}-*")]

        def checked(partial: Path) -> Path:
            if version_of(source) != version:
                raise JobError(f"{source}: changed while it was read; try again")
            return self._folder / name_of(partial)

        while True:
            for copy in copies():
                with _locked(copy, fcntl.LOCK_SH) as found:
                    if found and copy.name == name_of(copy):
                        os.utime(copy)
                        yield copy
                        return
                with _locked(copy, fcntl.LOCK_EX | fcntl.LOCK_NB) as found:
                    if found and copy.name != name_of(copy):  # the disk has changed it
                        copy.unlink(missing_ok=True)
            name = f"{digest}-{'0' * 8}-{_label(source)}"
            self._download(source, version.size_bytes, name, lambda: bool(copies()), checked)

    def path_of(self, source: Path, checksum: str) -> Path:
        """Return where the copy of a remote file with this checksum is, or would be."""
        # The source is part of the name, because files with different paths may have the same name.
        return self._folder / f"{_digest(str(source))}-{checksum}-{_label(source)}"

    def _download(
        self,
        source: Path,
        size_bytes: int,
        name: str,
        is_there: Callable[[], bool],
        checked: Callable[[Path], Path],
    ) -> None:
        """Download a file under a temporary name, check it and rename it.

        Args:
            source: the remote file.
            size_bytes: its size.
            name: name of the download, without its prefix.
            is_there: whether the copy is there.
            checked: checks the download, and returns the path of the copy.
        """
        partial = self._folder / f"{_PARTIAL}{name}"
        try:
            partial.touch()
            with _locked(partial, fcntl.LOCK_EX | fcntl.LOCK_NB) as found:
                if found:
                    try:
                        if not is_there():  # another process was faster
                            self._make_room(partial, size_bytes)
                            download_exactly(source, partial, size_bytes)
                            publish(partial, checked(partial))
                    finally:
                        partial.unlink(missing_ok=True)
                    return
            # Wait for the process that downloads it. With a shared lock: the file becomes the copy,
            # whose readers hold shared locks, and one of them may wait here for its next file.
            with _locked(partial, fcntl.LOCK_SH):
                pass
        except OSError as error:
            if is_url(str(error.filename)):  # the remote file is missing
                raise
            raise JobError(f"`cache` {self._folder}: cannot be written: {reason(error)}") from error

    def _make_room(self, partial: Path, size_bytes: int) -> None:
        """Remove copies until a file of this size fits; reserve its size.

        Raises:
            InputError: it is larger than the whole cache.
            JobError: other processes need what is in the cache.
        """
        if size_bytes > self._max_bytes:
            raise InputError(
                f"`cache_gb` {self._max_bytes / 1e9:g}: too small for a file of "
                f"{size_bytes / 1e9:.3g} GB; give more"
            )
        deadline = time.monotonic() + WAIT_SECS
        # One process at a time counts the sizes, or two would take the same room.
        lock = self._folder / ".room"
        while True:
            lock.touch()
            with _locked(lock, fcntl.LOCK_EX) as is_locked:
                if is_locked and self._remove_least_recent(partial, size_bytes):
                    os.truncate(partial, size_bytes)  # counts at once; takes no blocks yet
                    return
            if time.monotonic() > deadline:
                raise JobError(
                    f"`cache_gb` {self._max_bytes / 1e9:g}: {self._folder} is full of files that "
                    "running processes read; give more, or another `cache`"
                )
            time.sleep(0.2)

    def _remove_least_recent(self, partial: Path, size_bytes: int) -> bool:
        """Remove copies until there is room for so many bytes; return whether there is."""
        files: list[tuple[int, int, Path]] = []
        for path in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()  # another process may remove it meanwhile
                if path != partial and _OURS.fullmatch(path.name):
                    files.append((status.st_mtime_ns, status.st_size, path))
        room = self._max_bytes - sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if room >= size_bytes:
                break
            # Readers hold a shared lock, so this fails at once for a copy in use.
            with _locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB) as found:
                if found and size:
                    path.unlink(missing_ok=True)
                    room += size
        return room >= size_bytes


def _label(source: Path) -> str:
    """Return the part of a copy's name that is for people; a name has at most 255 bytes on disk."""
    return source.name[-40:]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _check(source: Path, copy: Path, checksum: str) -> None:
    found = crc32c(copy)
    if found != checksum:
        raise InputError(
            f"{source}: corrupt or changed: its CRC-32C is {found}, and the manifest says "
            f"{checksum}; make the dataset again"
        )


@contextlib.contextmanager
def _locked(path: Path, operation: int) -> Iterator[bool]:
    """Hold a lock on a file; yield whether it is held, and the name still is that of the file."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, operation)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            yield False
            return
        try:
            # The file may have been removed, or replaced, between its opening and the lock.
            is_same = os.path.samestat(os.fstat(descriptor), path.stat())
        except FileNotFoundError:
            is_same = False
        yield is_same
    finally:
        os.close(descriptor)
