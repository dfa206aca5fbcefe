"""Match globs, write and publish atomically, read with a size limit: local paths and URLs."""

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import InputError, JobError, failure, reason
from pipeline.storage.leases import check_not_lost
from pipeline.storage.local_globs import local_matches
from pipeline.storage.remote import (
    download,
    folders_of,
    is_remote,
    is_url,
    matching,
    move_object,
    remove_below,
    remove_empty,
    sizes_below,
    upload,
    write,
)

_CANNOT_SYNC = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF}
"""Error numbers of filesystems that do not support `fsync` on files or directories."""

CLOZELINE = "clozeline-"
"""Prefix of our names in the system's temporary directory, so that files which a killed process
left there can be recognized."""


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file: readers see all of it or none.

    A local file is renamed when it is complete. A link stays and what it names is written. Devices
    and pipes are written to. A remote file is a single object.
    """
    if is_remote(path):
        check_not_lost(path)
        write(path, data)
        return
    make_folder(path.parent)
    try:
        if is_special(path):
            path.write_bytes(data)
        else:
            _replace(Path(os.path.realpath(path)), data)
    except OSError as error:
        # Not the temporary name; ENOSPC comes without any.
        error.filename, error.filename2 = str(path), None
        raise


_LONGEST_IN_PREFIX = 150
"""Bytes of a name that leave room for an id after it: a name has at most 255."""


def hidden_prefix(path: Path) -> str:
    """Return how names of temporary entries next to a path begin, `.NAME-`; another one for each.

    A long name is replaced by its hash.
    """
    name = path.name
    encoded = os.fsencode(name)
    if len(encoded) > _LONGEST_IN_PREFIX:
        name = hashlib.sha256(encoded).hexdigest()
    return f".{name}-"


def is_special(path: Path) -> bool:
    """Return whether a path is a device, pipe or socket, or a link to one."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _replace(path: Path, data: bytes) -> None:
    # In the same directory: a rename is atomic only within a filesystem. Not with the file's name
    # in its own, which may already be as long as it can be.
    temporary = path.parent / f".{CLOZELINE}{secrets.token_hex(8)}"
    try:
        _write_durably(temporary, data)
        temporary.replace(path)
        sync(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def without_glob(folder: Path) -> Iterator[Path]:
    """Yield another path of a local directory, in which no character is special to a glob.

    TensorFlow looks for a checkpoint's files with its path as a pattern, so it finds none in
    `runs/[b]`.
    """
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _write_durably(path: Path, data: bytes) -> None:
    """Write a new file and sync it. It has no name before, so a killed process leaves nothing.

    Where the filesystem has no unnamed files (NFS, FUSE), it has its name from the start.
    """
    with contextlib.suppress(OSError):  # a fault of the disk comes again below, and is raised
        descriptor = os.open(path.parent, os.O_TMPFILE | os.O_WRONLY, 0o666)
        with os.fdopen(descriptor, "wb") as file:
            _write_and_sync(file, data)
            # Python follows this link only if there is a `src_dir_fd`.
            os.link(f"/proc/self/fd/{descriptor}", path, src_dir_fd=descriptor)
        return
    with path.open("xb") as file:
        _write_and_sync(file, data)


def _write_and_sync(file: BinaryIO, data: bytes) -> None:
    file.write(data)
    file.flush()
    _sync_open(file.fileno())


def publish(temporary: Path, final: Path, marker: str = "") -> Path:
    """Rename a local file or directory durably: after a power cut all of it exists, or nothing.

    The contents reach the disk before the name does: files, then their directories, then the
    rename, then the directory of the new name.

    Object stores cannot rename directories. There the files are uploaded, `marker` last: readers
    ignore a directory without its marker.

    Args:
        temporary: a name in a directory of the same filesystem; for a remote directory, a local
            directory.
        final: a file, which is replaced, or a directory that does not exist or is empty.
        marker: name of the file of a directory that is uploaded last.

    Returns:
        The new name.

    Raises:
        OSError: something cannot be written, or `final` is a directory that is not empty.
        InputError, JobError: as `pipeline.storage.remote`.
    """
    if is_remote(final):
        return _upload_folder(temporary, final, marker)
    # From below: what a directory contains before the directory that names it.
    for folder, _, files in os.walk(temporary, topdown=False):
        for name in files:
            sync(Path(folder, name))
        sync(Path(folder))
    if temporary.is_file():
        sync(temporary)
    temporary.replace(final)
    sync(final.parent)
    return final


def _upload_folder(folder: Path, final: Path, marker: str) -> Path:
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    files = {name: path for name, path in sorted(files.items()) if path.is_file()}
    present = sizes_below(final)
    if marker in present:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(final))
    # False sorts before True: the marker comes last.
    for name in sorted(files, key=lambda name: name == marker):
        check_not_lost(final)
        upload(files[name], final / name)
    return final


def download_exactly(source: Path, target: Path, size_bytes: int) -> None:
    """Download a remote object of a known size.

    Raises:
        JobError: it has another size, or as `pipeline.storage.remote`.
    """
    download(source, target)
    found = target.stat().st_size
    if found != size_bytes:
        raise JobError(f"{source}: {found:,} bytes instead of {size_bytes:,}; try again")


def move_folder(source: Path, target: Path) -> None:
    """Rename a directory; a remote one's files are moved one by one."""
    if not is_remote(source):
        publish(source, target)
        return
    names = sizes_below(source)
    for name in names:
        move_object(source / name, target / name)
    remove_empty(folders_of(source, names))


def file_sizes(folder: Path) -> dict[str, int]:
    """Return the size in bytes of each file in a directory, by name; empty if it does not exist.

    A remote directory takes one request, however many files it has.
    """
    if is_remote(folder):
        return sizes_below(folder)
    if not folder.is_dir():
        return {}
    return {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}


def remove_folder(path: Path, marker: str = "") -> None:
    """Remove a directory and all in it, a remote one's marker first; missing ones are ignored.

    Args:
        path: the directory.
        marker: name of the file without which readers ignore a remote directory.
    """
    if not is_remote(path):
        shutil.rmtree(path, ignore_errors=True)
        return
    remove_below(path, marker)


@contextlib.contextmanager
def writing(given: str, *kinds: type[Exception]) -> Iterator[None]:
    """Convert write errors inside the context into a one-line error.

    Args:
        given: the field with its value, for the message.
        kinds: further exception types, of a library, that indicate a failed write.

    Raises:
        InputError: the path itself cannot be written.
        JobError: the disk is full or failed.
    """
    failures: tuple[type[Exception], ...] = (OSError, *kinds)
    try:
        yield
    except failures as error:
        raise failure(f"{given}: cannot be written", error) from error


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Error numbers that only writing has."""


@contextlib.contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Let an error inside the context name the file that is written.

    That a disk is full shows when bytes are written, and Python names a file only when it opens it.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in _FULL:
            error.filename = str(path)
        raise


def sync(path: Path) -> None:
    """Flush a local file, or a directory's entries, to the disk (fsync); nothing for a remote one.

    Raises:
        OSError: the disk failed, or the path does not exist.
    """
    if is_remote(path):
        return  # a request that was answered is durable
    descriptor = os.open(path, os.O_RDONLY)
    try:
        _sync_open(descriptor)
    finally:
        os.close(descriptor)


def _sync_open(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise


def make_folder(path: Path) -> None:
    """Create a directory with its parents, durably: new entries are synced to the disk.

    Remote directories need not be created.
    """
    if is_remote(path):
        return
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    # A new directory survives a power cut once its parent's entries are synced.
    for folder in reversed(missing):
        sync(folder.parent)


def crc32c(path: Path) -> str:
    """Return the CRC-32C of a local file's bytes as eight hexadecimal digits."""
    import google_crc32c

    checksum = google_crc32c.Checksum()
    with path.open("rb") as file:
        # In blocks: a shard or a checkpoint may have gigabytes.
        while chunk := file.read(1 << 22):
            checksum.update(chunk)
    return checksum.hexdigest().decode()


def read_bounded(path: Path, most_bytes: int) -> bytes:
    """Return the bytes of an untrusted local file.

    Devices, FIFOs and sockets are refused: reading them may never end.

    Args:
        path: the file, or a link to it.
        most_bytes: size limit for this kind of file.

    Raises:
        InputError: the file is not a regular file, or is larger than `most_bytes`.
        OSError: the file cannot be opened or read.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # checked before opening: open() blocks on a FIFO
        raise InputError(f"{path}: not a regular file; give a file on a disk")
    data = b""
    if status.st_size <= most_bytes:
        with path.open("rb") as file:
            data = file.read(most_bytes + 1)  # files in /proc are larger than their stated size
    if max(status.st_size, len(data)) > most_bytes:
        raise InputError(
            f"{path}: larger than {most_bytes:,} bytes, the limit for this kind of file; "
            "is it the right one?"
        )
    return data


def absence(path: Path) -> str:
    """Return why a local path names nothing, for a message that the caller would end otherwise.

    Returns:
        The reason, such as a loop of links; empty if nothing more is known than that it is missing,
        if it exists, or if it is remote.
    """
    if is_remote(path):
        return ""
    try:
        path.stat()
    except FileNotFoundError:
        return "is a link to nothing" if path.is_symlink() else ""
    except (OSError, ValueError) as error:  # a loop, no permission, a file above it, a NUL
        return f"cannot be read: {reason(error)}"
    return ""


def share(file: Path) -> None:
    """Give a private file (as from `mkstemp`) the permissions of a normally created one."""
    umask = os.umask(0)  # the umask can only be read by setting it
    os.umask(umask)
    file.chmod(0o666 & ~umask)


def absolute(path: str) -> str:
    """Return an absolute path or a URL: workers may run in another working directory."""
    return path if is_url(path) else str(Path(path).absolute())


def match_files(globs: Sequence[str], field: str = "input") -> dict[str, int]:
    """Return the size in bytes of every matching file, by path, in sorted order.

    Args:
        globs: paths or globs.
        field: field of the configuration that has the globs, for messages.

    Raises:
        InputError: a glob matches no file or matches a folder, a pipe, a name that is not in UTF-8
            or a file that may not be read.
        JobError: the filesystem fails.
    """
    sizes: dict[str, int] = {}
    for glob in globs:
        found = matching(glob) if is_url(glob) else _matching_locally(glob, field)
        if not found:
            raise InputError(f"`{field}` {glob}: no file matches; check the path and the quotes")
        for path, size in found.items():
            if size is None:
                raise InputError(f"`{field}` {path}: is a folder; give its files: {path}/*")
            sizes[path] = size
    return dict(sorted(sizes.items()))


def _matching_locally(glob: str, field: str) -> dict[str, int | None]:
    """Return the size in bytes of what matches a local glob, by path; None for folders."""
    literal = absolute(glob)
    # A file's own name may have the signs of a glob: the shell expands *.txt to [a].txt.
    file = Path(literal)
    try:
        found = {literal: file.stat()} if file.exists() else local_matches(literal)
    except FileNotFoundError as error:
        raise InputError(f"`{field}` {error.filename}: is a link to nothing; remove it") from error
    except OSError as error:  # a name that is too long
        place = error.filename or glob
        raise failure(f"`{field}` {place}: cannot be looked up", error) from error
    except (ValueError, re.error) as error:  # a name that has a NUL
        raise InputError(f"`{field}` {glob}: cannot be looked up: {reason(error)}") from error
    for path, status in found.items():
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            raise InputError(
                f"`{field}` {path}: a pipe or a device, which cannot be read in parts; give a file"
            )
        # Before the work: a job may read this file after hours.
        if stat.S_ISREG(status.st_mode) and not os.access(path, os.R_OK):
            raise InputError(
                f"`{field}` {path}: gives you no permission to read; change that, or leave it out"
            )
    return {
        name_in_utf8(path, field): None if stat.S_ISDIR(status.st_mode) else status.st_size
        for path, status in found.items()
    }


def in_utf8(path: str) -> str:
    """Return a path, or a message with one, whose bytes that are not UTF-8 are escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def name_in_utf8(path: str, field: str) -> str:
    """Return a path that workers and TensorFlow can be given.

    Raises:
        InputError: it is not in UTF-8.
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        raise InputError(
            f"`{field}` {in_utf8(path)}: the name is not in UTF-8; rename it"
        ) from None
    return path
