"""Check before any work that outputs can be written; the check creates and removes nothing."""

import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.errors import InputError, failure
from pipeline.storage.files import absolute, name_in_utf8
from pipeline.storage.recognition import HEAD_BYTES
from pipeline.storage.remote import is_remote

Kind = Literal["file", "new file", "folder", "new folder"]

_OF_THE_KERNEL = ("/proc", "/sys")
"""Filesystems in which nobody can make a file, although permissions say that root may."""


@dataclass(frozen=True)
class Output:
    """A file or folder that a command writes.

    Attributes:
        field: field of the configuration that names it, for messages.
        path: path of the file or folder.
        kind: `file`: it is created or replaced. `new file`: it must not exist, and the command can
            be told to overwrite. `folder`: files are written into it, and it may exist.
            `new folder`: it is renamed to its place, and may exist if it is empty.
        reads: files and folders that the command reads, of which this file must replace none.
        is_ours: whether the beginning of an existing `file` shows that the command made it; only
            those and empty ones are replaced. None = any is replaced.
    """

    field: str
    path: Path
    kind: Kind
    reads: tuple[Path, ...] = ()
    is_ours: Callable[[bytes], bool] | None = None

    def __str__(self) -> str:
        """Return the field with its value."""
        return f"`{self.field}` {self.path}"


def outputs_of(kind: Kind, **paths: Path | None) -> list[Output]:
    """Return outputs of one kind by their fields; paths that are not given are left out."""
    return [Output(field, path, kind) for field, path in paths.items() if path is not None]


def check_outputs(outputs: Iterable[Output]) -> None:
    """Check that outputs can be written.

    What only writing shows, such as a full disk, is found later. Object stores are only asked
    whether a new file or folder exists, which takes a request, and for the beginning of a file that
    must be ours.

    Raises:
        InputError: a folder is where a file is to be, or the other way round, a name cannot be
            one, the user may not write there, the file is one that is read or that the command did
            not make, or what must be new exists.
    """
    for output in outputs:
        try:
            if any(_replaces(output.path, read) for read in output.reads):
                raise InputError(f"{output}: is a file that is read; choose another")
            if not is_remote(output.path):
                _check(output)
            if output.is_ours and not _is_empty_or(output.is_ours, output.path):
                raise InputError(
                    f"{output}: exists, and this command did not make it; choose another or remove "
                    "it"
                )
            if output.kind == "new file" and output.path.exists():
                raise InputError(f"{output}: already exists; add `overwrite`")
            if output.kind == "new folder" and not _is_free(output.path):
                raise InputError(f"{output}: already exists; choose another directory or remove it")
        except OSError as error:
            raise failure(f"{output}: cannot be written", error) from error
        except ValueError as error:
            raise InputError(f"{output}: cannot be written: a name has a NUL") from error


def _replaces(path: Path, read: Path) -> bool:
    """Return whether a file would replace one that is read, or one of a folder that is read."""
    if is_remote(path) or is_remote(read):
        below = f"{str(read).rstrip('/')}/"  # that of a bucket itself ends with it
        return str(path) == str(read) or (str(path).startswith(below) and path.exists())
    if not path.is_file():
        return False
    if read.is_dir():
        return path.resolve().is_relative_to(read.resolve())
    return read.is_file() and path.samefile(read)


def _is_empty_or(is_ours: Callable[[bytes], bool], path: Path) -> bool:
    """Return whether a file is missing, empty or ours; pipes and devices are not read."""
    if not path.is_file():
        return True
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    return not head or is_ours(head)


def _is_free(path: Path) -> bool:
    return not path.exists() or (path.is_dir() and not any(path.iterdir()))


def _check(output: Output) -> None:
    """Check one output.

    Raises:
        InputError: as `check_outputs`.
        OSError: the path cannot be looked up: a loop of links, a name that is too long.
        ValueError: the path has a NUL.
    """
    path = output.path
    is_file = output.kind in ("file", "new file")
    if is_file:
        # A link stays, and the file that it names is written.
        path = Path(os.path.realpath(path))
    else:
        # Absolute: the working directory is a part of what TensorFlow and workers get.
        name_in_utf8(absolute(str(path)), output.field)
    mode = _mode(output.path)
    if mode is None:
        if path.is_symlink():
            raise InputError(f"{output}: is a link to nothing; name a folder, or remove the link")
        _check_folder(output, path.parent, names=(path.name,))
    elif not is_file:
        _check_folder(output, path)
        if output.kind == "new folder":
            _check_folder(output, path.parent)
    elif stat.S_ISDIR(mode):
        raise InputError(f"{output}: is a folder; name a file")
    elif stat.S_ISREG(mode):
        _check_folder(output, path.parent)
    # A pipe or a device is written to. The end of the link /dev/stdout to a pipe is no path.
    elif not os.access(output.path, os.W_OK):
        raise InputError(f"{output}: gives you no permission to write; choose another")


def _check_folder(output: Output, folder: Path, names: tuple[str, ...] = ()) -> None:
    """Check that entries can be made in a folder, or in the nearest one above it that exists.

    Args:
        output: the output that needs it.
        folder: the folder.
        names: names to be created below it, checked for their lengths.
    """
    mode = _mode(folder)
    if mode is None and folder != folder.parent:
        _check_folder(output, folder.parent, (folder.name, *names))
        return
    if mode is None or not stat.S_ISDIR(mode):
        raise InputError(f"{output}: {folder} is a file; name a folder")
    for root in _OF_THE_KERNEL:
        if os.path.ismount(root) and folder.stat().st_dev == Path(root).stat().st_dev:
            raise InputError(f"{output}: {root} takes no files; choose another place")
    longest = os.pathconf(folder, "PC_NAME_MAX")
    for name in names:
        if len(os.fsencode(name)) > longest:
            raise InputError(f"{output}: a name has more than {longest} bytes; shorten it")
    if not os.access(folder, os.W_OK | os.X_OK):
        why = "gives you no permission to write"
        if os.statvfs(folder).f_flag & os.ST_RDONLY:
            why = "is on a read-only file system"
        raise InputError(f"{output}: {folder} {why}; choose another place")


def _mode(path: Path) -> int | None:
    """Return the type and permissions of what a path names; None if it names nothing.

    Raises:
        OSError, ValueError: it cannot be looked up.
    """
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):  # the latter is found with the folder above
        return None
