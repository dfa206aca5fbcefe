"""List, open, move and remove files by their paths, local ones or URLs, as Beam's workers do.

Beam has filesystems of its own, and this project does not use them: a URL means the same to a Beam
job and to a training. Beam would also interpret a path to list or remove as a glob: removing
`ds[12]/x` would remove `ds1/x`.
"""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from pipeline.storage.files import naming, publish, sync
from pipeline.storage.remote import is_url, move_object, path_from, remove_empty


def is_local_path(path: str) -> bool:
    """Return whether a path is on this machine's filesystem."""
    return not is_url(path)


def joined(folder: str, name: str) -> str:
    """Return the path of a file in a folder."""
    return f"{folder.rstrip('/')}/{name}"


def open_to_read(path: str) -> BinaryIO:
    """Open a file; a remote one is read in blocks.

    Raises:
        OSError: as `open`; `InputError` and `JobError` as `pipeline.storage.remote`.
    """
    return cast(BinaryIO, path_from(path).open("rb"))


@contextlib.contextmanager
def open_to_write(path: str) -> Iterator[BinaryIO]:
    """Create or replace a file; a remote one is uploaded when the context ends.

    Raises:
        OSError: as `open`, and a full disk, with the file's name; `InputError` and `JobError` as
            `pipeline.storage.remote`.
    """
    with naming(path), path_from(path).open("wb") as file:
        yield cast(BinaryIO, file)


def exists(path: str) -> bool:
    """Return whether a file or folder exists."""
    return path_from(path).exists()


def names_in(folder: str) -> list[str]:
    """Return the sorted names in a folder; empty if the folder does not exist."""
    try:
        return sorted(path.name for path in path_from(folder).iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def make_folders(folder: str) -> list[str]:
    """Create a folder and its parents; return those that were missing, outermost first.

    For a remote folder the result is empty: object stores have no folders.
    """
    if not is_local_path(folder):
        return []
    created = []
    for path in reversed([Path(folder).absolute(), *Path(folder).absolute().parents]):
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            sync(path.parent)
            created.append(str(path))
    return created


def move(source: str, target: str) -> None:
    """Rename a file; local files durably (`pipeline.storage.files.publish`)."""
    if is_local_path(target):
        publish(Path(source), Path(target))
    else:
        move_object(path_from(source), path_from(target))


def remove_files(paths: Iterable[str]) -> None:
    """Remove files; missing ones are ignored."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            path_from(path).unlink()


def remove_folders(folders: Iterable[str]) -> None:
    """Remove the empty ones among some folders, in reverse order (innermost first)."""
    for folder in reversed([*folders]):
        if is_local_path(folder):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()
        else:
            remove_empty([path_from(folder)])
