"""Files on any filesystem that Beam knows: find them, read them, publish them whole."""

import contextlib
import errno
import os
import re
import stat
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.errors import InputError, JobError

_CANNOT_SYNC = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF}
"""What a filesystem answers that has no `fsync` for files, or for directories."""

CLOZELINE = "clozeline-"
"""What the names of our temporary files begin with, where the system's temporary folder has them:
those of a process that was killed can be told from others."""

_BAD_PATH = {
    errno.EACCES, errno.EEXIST, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR,
    errno.ENOTEMPTY, errno.EPERM, errno.EROFS,
}  # fmt: skip
"""Errors of a path that cannot be written, on a disk that is sound."""


def write_atomically(path: Path, data: bytes) -> None:
    """Write a local file under a temporary name, then publish it: readers see all of it or none."""
    make_folder(path.parent)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        share(Path(temporary))  # mkstemp is private to the user
        publish(Path(temporary), path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and not error.filename:
            error.filename = str(path)  # a full disk is reported without
        raise


def publish(temporary: Path, final: Path) -> Path:
    """Rename a local file or directory such that a power cut leaves all of it or nothing.

    What is in it reaches the disk before the name does: files, then their directories, then the
    rename, then the directory of the new name.

    Args:
        temporary: a name in a directory of the same filesystem.
        final: a file, which is replaced, or a directory that does not exist or is empty.

    Returns:
        The new name.

    Raises:
        OSError: something cannot be written, or `final` is a directory that is not empty.
    """
    for folder, _, files in os.walk(temporary, topdown=False):
        for name in files:
            sync(Path(folder, name))
        sync(Path(folder))
    if temporary.is_file():
        sync(temporary)
    temporary.replace(final)
    sync(final.parent)
    return final


@contextlib.contextmanager
def writing(given: str, *kinds: type[Exception]) -> Iterator[None]:
    """Turn errors of writing, inside the context, into one line.

    Args:
        given: the flag with its value, for the message.
        kinds: exceptions of a library that mean that a file could not be written.

    Raises:
        InputError: the path cannot be written, whatever is written there.
        JobError: the disk is full or failed.
    """
    failures: tuple[type[Exception], ...] = (OSError, *kinds)
    try:
        yield
    except failures as error:
        message = f"{given}: cannot be written: {reason(error)}"
        number = error.errno if isinstance(error, OSError) else None
        kind = InputError if number in _BAD_PATH else JobError
        raise kind(message) from error


def reason(error: Exception) -> str:
    """Return an error's message on one line, without the graph node that TensorFlow names first."""
    message = re.sub(r"^\{\{.*?\}\}\s*", "", " ".join(str(error).split()))
    return message[:500] or type(error).__name__


def sync(path: Path) -> None:
    """Wait until a local file's bytes, or a directory's list of names, are on the disk.

    Raises:
        OSError: they cannot be written, or there is no such path.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Create a local directory with its parents; their names are on the disk on return."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in reversed(missing):
        sync(folder.parent)


def crc32c(path: Path) -> str:
    """Return the CRC-32C of a local file's bytes as eight hexadecimal digits."""
    import google_crc32c

    checksum = google_crc32c.Checksum()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            checksum.update(chunk)
    return checksum.hexdigest().decode()


def read_bounded(path: Path, most_bytes: int) -> bytes:
    """Return the bytes of a local file that may come from a stranger.

    Devices, FIFOs and sockets are refused: reading them may never end.

    Args:
        path: the file, or a link to it.
        most_bytes: the largest size that a file of its kind has.

    Raises:
        InputError: it is not a regular file, or is larger.
        OSError: it cannot be opened or read.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # before it is opened: that alone waits at a FIFO
        raise InputError(f"{path}: not a regular file; give a file on a disk")
    data = b""
    if status.st_size <= most_bytes:
        with path.open("rb") as file:
            data = file.read(most_bytes + 1)  # files in /proc have more than the size they state
    if max(status.st_size, len(data)) > most_bytes:
        raise InputError(
            f"{path}: larger than {most_bytes:,} bytes, the limit for this kind of file; "
            "is it the right one?"
        )
    return data


def share(file: Path) -> None:
    """Let a file that was made private be read by everyone its directory is for."""
    umask = os.umask(0)
    os.umask(umask)
    file.chmod(0o666 & ~umask)


def absolute(path: str) -> str:
    """Return a path that workers, which may stand in another folder, understand as well."""
    return path if "://" in path else str(Path(path).absolute())


def match_files(globs: Sequence[str]) -> dict[str, int]:
    """Return the size in bytes of every file that matches, by path, sorted.

    Raises:
        InputError: a glob that matches nothing or a folder, or cannot be looked up.
    """
    from apache_beam.io.filesystem import BeamIOError
    from apache_beam.io.filesystems import FileSystems

    sizes: dict[str, int] = {}
    for glob in globs:
        try:
            found = FileSystems.match([absolute(glob)])[0].metadata_list
        except (BeamIOError, ValueError) as error:
            raise InputError(f"--input {glob}: cannot be looked up: {error}") from error
        if not found:
            raise InputError(f"--input {glob}: no file matches; check the path and the quotes")
        for file in found:
            if Path(file.path).is_dir():
                raise InputError(f"--input {file.path}: is a folder; give its files: {file.path}/*")
            sizes[file.path] = file.size_in_bytes
    return dict(sorted(sizes.items()))
