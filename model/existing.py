"""Check that the models that a command starts from are there; needs no TensorFlow."""

from pathlib import Path

from pipeline.errors import InputError


def check_source_exists(path: Path, field: str) -> None:
    """Check that there is something where a field names a run or checkpoint.

    Raises:
        InputError: there is nothing.
    """
    if not path.exists():
        raise InputError(f"`{field}` {path}: no such run or checkpoint")


def check_checkpoint_directory(path: Path) -> None:
    """Check that a checkpoint to import is a directory.

    Raises:
        InputError: it is none, or does not exist.
    """
    if not path.is_dir():
        kind = "not a directory; give its directory" if path.exists() else "does not exist"
        raise InputError(f"{path}: {kind}")
