"""Files on any filesystem that Beam knows: find them, read them, publish them whole."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import InputError


def write_atomically(path: Path, data: bytes) -> None:
    """Write a local file under a temporary name, then rename it: readers see all of it or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        share(Path(temporary))  # mkstemp is private to the user
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


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
