"""Reads a checkpoint's files, which may come from a stranger: bounded, typed, inside its folder."""

import json
import reprlib
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from model.bert.config import MAX_SETTINGS_BYTES
from pipeline.errors import InputError
from pipeline.storage.files import read_bounded
from pipeline.text.tokenizer import MAX_VOCABULARY_BYTES

MAX_TOKENIZER_BYTES = MAX_VOCABULARY_BYTES
"""The largest `tokenizer.json`, which has a vocabulary in it."""

_KINDS: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    str: "a string",
    list: "a list",
    dict: 'an object ({"key": value})',
}

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60

T = TypeVar("T")


def shown(value: Any) -> str:
    """Return a value from a file as messages show it: on one line, and not longer than one."""
    is_plain = isinstance(value, str) and value.isprintable() and 0 < len(value) <= 60
    return str(value) if is_plain else _SHORT.repr(value)


@dataclass(frozen=True)
class Settings:
    """The object in a JSON file, or in a part of one.

    Attributes:
        path: the file, for messages.
        values: by key.
        within: the keys that lead to this part, for messages; each ends in a dot.
    """

    path: Path
    values: dict[str, Any]
    within: str = ""

    def get(self, key: str, kind: type[T]) -> T | None:
        """Return the value of a key; None where it is missing or null.

        Args:
            key: of this object.
            kind: bool, int, str, list or dict.

        Raises:
            InputError: the value is of another kind.
        """
        value = self.values.get(key)
        is_kind = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
        if value is not None and not is_kind:
            raise self.error(key, f"must be {_KINDS[kind]}, not {shown(value)}")
        return value

    def part(self, key: str) -> "Settings":
        """Return the object under a key; an empty one where it is missing or null.

        Raises:
            InputError: the value is not an object.
        """
        return Settings(self.path, self.get(key, dict) or {}, f"{self.within}{key}.")

    def error(self, key: str, complaint: str) -> InputError:
        """Return the error that names the file, a key, and what is wrong with its value."""
        return InputError(f"{self.path}: {self.within}{key} {complaint}")


def regular_file(directory: Path, name: str, most_bytes: int | None = None) -> Path | None:
    """Return the path of a checkpoint's file; None where it is missing.

    A link may lead to another file of the directory, and in Hugging Face's cache, where
    `models--ORG--NAME/snapshots/REVISION` is full of links, to another one of that model.

    Args:
        directory: of the checkpoint.
        name: of the file, in it.
        most_bytes: the largest size that a file of this kind has; None = any.

    Raises:
        InputError: it is a device, a FIFO or the like, it is larger, or a link leads elsewhere.
    """
    path = directory / name
    try:
        target = path.resolve(strict=True)
        status = target.stat()
    except FileNotFoundError as error:
        if path.is_symlink():
            raise InputError(f"{path}: a link to a file that does not exist") from error
        return None
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise InputError(f"{path}: cannot be read: {_reason(error)}") from error
    if not target.is_relative_to(home := _home(directory)):
        raise InputError(f"{path}: a link that leads out of {home}; copy the file there (cp -L)")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path}: not a regular file; give a whole checkpoint")
    if most_bytes is not None and status.st_size > most_bytes:
        raise InputError(
            f"{path}: {status.st_size:,} bytes, where at most {most_bytes:,} are read; "
            "is it the file that belongs here?"
        )
    return path


def _home(directory: Path) -> Path:
    """Return the folder that a directory's links may not leave."""
    resolved = directory.resolve()
    for parent in resolved.parents:
        if parent.name.startswith("models--") and resolved.is_relative_to(parent / "snapshots"):
            return parent
    return resolved


def read_bytes(directory: Path, name: str, most_bytes: int) -> bytes | None:
    """Return the contents of a checkpoint's file; None where it is missing.

    Raises:
        InputError: it cannot be read, or `regular_file` refuses it.
    """
    path = regular_file(directory, name, most_bytes)
    if path is None:
        return None
    try:
        return read_bounded(path, most_bytes)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {_reason(error)}") from error


def read_json(directory: Path, name: str, most_bytes: int = MAX_SETTINGS_BYTES) -> Settings | None:
    """Return the object in a checkpoint's JSON file; None where it is missing.

    Raises:
        InputError: it cannot be read, or holds something else.
    """
    path, data = directory / name, read_bytes(directory, name, most_bytes)
    if data is None:
        return None
    try:
        values = json.loads(data.decode())
        # Half of a surrogate pair ("\ud800") is no text, and cannot be written anywhere.
        json.dumps(values, ensure_ascii=False).encode()
    except RecursionError as error:
        raise InputError(f"{path}: cannot be read as JSON: nested too deeply") from error
    except ValueError as error:
        raise InputError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a JSON object; is it the file that belongs here?")
    return Settings(path, values)


def _reason(error: BaseException) -> str:
    """Return what went wrong, without the path."""
    return getattr(error, "strerror", None) or str(error)
