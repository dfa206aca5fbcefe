"""Names, files and folders on any filesystem of Beam's, without Beam's globs.

Beam takes a path that is to be listed or removed for a glob: removing `ds[12]/x` would remove
`ds1/x`. So what is local is done by Python.
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
    """Return the names in a folder, sorted; none where there is no such folder."""
    if is_local_path(folder):
        return sorted(path.name for path in Path(folder).iterdir()) if Path(folder).is_dir() else []
    found = FileSystems.match([FileSystems.join(folder, "*")])[0].metadata_list
    return sorted(file.path.rstrip("/").rpartition("/")[2] for file in found)


def make_folders(folder: str) -> list[str]:
    """Make a folder and those above it; return the ones that were missing, outermost first.

    Object stores have no folders, and for remote ones it is not known which were missing.
    """
    if not is_local_path(folder):
        if not FileSystems.exists(folder):
            FileSystems.mkdirs(folder)
        return []
    made = []
    for path in reversed([Path(folder).absolute(), *Path(folder).absolute().parents]):
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            sync(path.parent)
            made.append(str(path))
    return made


def move(source: str, target: str) -> None:
    """Rename a file; a local one is on the disk before its new name is."""
    if is_local_path(target):
        publish(Path(source), Path(target))
    else:
        FileSystems.rename([source], [target])


def remove_files(paths: Iterable[str]) -> None:
    """Remove files; those that are not there are as they should be."""
    for path in paths:
        if is_local_path(path):
            Path(path).unlink(missing_ok=True)
        elif FileSystems.exists(path):
            FileSystems.delete([path])


def remove_folders(folders: Iterable[str]) -> None:
    """Remove those of some local folders that are empty, innermost first."""
    for folder in reversed([*folders]):
        with contextlib.suppress(OSError):
            Path(folder).rmdir()
