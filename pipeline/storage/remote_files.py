"""List, move and remove files and folders on any Beam filesystem, without globbing.

Beam interprets a path to list or remove as a glob: removing `ds[12]/x` would remove `ds1/x`. So
local paths are handled by Python.
"""

import contextlib
from collections.abc import Iterable
from pathlib import Path

from apache_beam.io.filesystems import FileSystems

from pipeline.storage.files import publish, sync


def is_local_path(path: str) -> bool:
    """Return whether a path is on this machine's filesystem."""
    return "://" not in path


def names_in(folder: str) -> list[str]:
    """Return the sorted names in a folder; empty if the folder does not exist."""
    if is_local_path(folder):
        return sorted(path.name for path in Path(folder).iterdir()) if Path(folder).is_dir() else []
    files = FileSystems.match([FileSystems.join(folder, "*")])[0].metadata_list
    return sorted(file.path.rstrip("/").rpartition("/")[2] for file in files)


def make_folders(folder: str) -> list[str]:
    """Create a folder and its parents; return those that were missing, outermost first.

    For a remote folder the result is empty: object stores have no folders.
    """
    if not is_local_path(folder):
        if not FileSystems.exists(folder):
            FileSystems.mkdirs(folder)
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
        FileSystems.rename([source], [target])


def remove_files(paths: Iterable[str]) -> None:
    """Remove files; missing ones are ignored."""
    for path in paths:
        if is_local_path(path):
            Path(path).unlink(missing_ok=True)
        elif FileSystems.exists(path):
            FileSystems.delete([path])


def remove_folders(folders: Iterable[str]) -> None:
    """Remove the empty ones among some local folders, in reverse order (innermost first)."""
    for folder in reversed([*folders]):
        with contextlib.suppress(OSError):
            Path(folder).rmdir()
