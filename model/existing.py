"""Check that the models and files that a command starts from exist; needs no TensorFlow."""

import errno
import os
from pathlib import Path

from pipeline.errors import InputError, reason, unreadable
from pipeline.storage.files import absence, is_special
from pipeline.storage.remote import is_remote


def check_source_exists(path: Path, field: str) -> None:
    """Check that the path of a run or checkpoint exists.

    Raises:
        InputError: it does not exist.
    """
    why = absence(path)
    if why or not path.exists():
        raise InputError(f"`{field}` {path}: {why or 'no such run or checkpoint'}")


def check_files_exist(**paths: Path | None) -> None:
    """Check that local files can be read; remote ones take requests.

    They are not opened: one may be a pipe, whose writer would notice.

    Args:
        paths: files by their fields, for messages; None = not given.

    Raises:
        InputError: a file is missing, a folder, or may not be read.
        JobError: the machine fails to look it up.
    """
    for field, path in paths.items():
        if path is None or is_remote(path):
            continue
        try:
            path.stat()
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if not os.access(path, os.R_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            raise unreadable(f"`{field}` {path}", error) from error
        except ValueError as error:  # a NUL in the name
            raise InputError(f"`{field}` {path}: cannot be read: {reason(error)}") from error


def check_rereadable(**paths: Path | None) -> None:
    """Check that local files, if they exist, can be read again, unlike a pipe.

    The second reading of a FIFO would wait for another writer.

    Args:
        paths: files by their fields, for messages; None = not given.

    Raises:
        InputError: a file is a pipe, a socket or a device.
    """
    for field, path in paths.items():
        if path and not is_remote(path) and path.exists() and is_special(path):
            raise InputError(
                f"`{field}` {path}: a pipe or a device, which cannot be read twice; give a file"
            )


def check_checkpoint_directory(path: Path) -> None:
    """Check that a checkpoint to import is a directory.

    Raises:
        InputError: it does not exist, or is not a directory.
    """
    why = absence(path)
    if why or not path.is_dir():
        kind = why or ("not a directory; give its directory" if path.exists() else "does not exist")
        raise InputError(f"{path}: {kind}")
