"""Read an untrusted checkpoint's files: with size limits, typed, and only inside its folder."""

import json
import os
import reprlib
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from model.bert.config import MAX_SETTINGS_BYTES
from pipeline.errors import InputError, reason, unreadable
from pipeline.storage.files import read_bounded
from pipeline.storage.local_copies import is_copy
from pipeline.text.tokenizer import MAX_VOCABULARY_BYTES

MAX_TOKENIZER_BYTES = MAX_VOCABULARY_BYTES
"""Size limit of a `tokenizer.json`, which contains a vocabulary."""

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
    """Return a value from a file for a message: printable, on one line, shortened."""
    # A file's text goes to a terminal: an escape sequence in it must not.
    is_plain = isinstance(value, str) and value.isprintable() and 0 < len(value) <= 60
    return str(value) if is_plain else _SHORT.repr(value)


@dataclass(frozen=True)
class CheckpointSettings:
    """A JSON object: a whole file, or a part of it.

    Attributes:
        path: path of the file, for messages.
        values: values by key.
        within: path of keys to this part, each followed by a dot, for messages.
    """

    path: Path
    values: dict[str, Any]
    within: str = ""

    def get(self, key: str, kind: type[T]) -> T | None:
        """Return the value of a key; None if it is missing or null.

        Args:
            key: key of this object.
            kind: required type: bool, int, str, list or dict.

        Raises:
            InputError: the value has another type.
        """
        value = self.values.get(key)
        # In Python a bool is an int, in JSON it is not.
        is_kind = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
        if value is not None and not is_kind:
            raise self.error(key, f"must be {_KINDS[kind]}, not {shown(value)}")
        return value

    def part(self, key: str) -> "CheckpointSettings":
        """Return the object under a key; an empty one if it is missing or null.

        Raises:
            InputError: the value is not an object.
        """
        return CheckpointSettings(self.path, self.get(key, dict) or {}, f"{self.within}{key}.")

    def error(self, key: str, complaint: str) -> InputError:
        """Return an error that names the file and the key; `complaint` follows the key."""
        return InputError(f"{self.path}: {self.within}{key} {complaint}")


def regular_file(directory: Path, name: str, most_bytes: int | None = None) -> Path | None:
    """Return the path of a checkpoint's file; None if it is missing.

    Links may only point into the directory or, in Hugging Face's cache, where the files in
    `models--ORG--NAME/snapshots/REVISION` are links, into the folder of that model. The copy of a
    remote directory has only our own links.

    Args:
        directory: directory of the checkpoint.
        name: name of the file in it.
        most_bytes: size limit for this kind of file; None = no limit.

    Raises:
        InputError: the file is not a regular file, is too large, or is a link to another place.
        JobError: the machine fails to look it up.
    """
    path = directory / name
    try:
        target = path.resolve(strict=True)
        status = target.stat()
    except FileNotFoundError as error:
        if path.is_symlink():
            raise InputError(f"{path}: a link to a file that does not exist") from error
        return None
    # The name may come from another file of the checkpoint, and have any length.
    except OSError as error:
        raise unreadable(str(path)[:500], error) from error
    except (RuntimeError, ValueError) as error:  # a cycle of links, a NUL in the name
        raise InputError(f"{str(path)[:500]}: cannot be read: {reason(error)}") from error
    # A downloaded archive may hold a link to a private file, which the run would then contain.
    if is_copy(directory):  # of links into the cache; the name may still have `..` in it
        target, home = Path(os.path.normpath(path)), directory
    else:
        home = _home(directory)
    if not target.is_relative_to(home):
        raise InputError(f"{path}: a link that points outside {home}; copy the file there (cp -L)")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path}: not a regular file; give a whole checkpoint")
    if most_bytes is not None and status.st_size > most_bytes:
        raise InputError(
            f"{path}: {status.st_size:,} bytes, above the limit of {most_bytes:,} for this kind of "
            "file; is it the right one?"
        )
    return path


def _home(directory: Path) -> Path:
    """Return the folder that links in a directory must stay in."""
    resolved = directory.resolve()
    for parent in resolved.parents:
        # Its snapshots are links to `../../blobs`, where revisions share files.
        if parent.name.startswith("models--") and resolved.is_relative_to(parent / "snapshots"):
            return parent
    return resolved


def read_bytes(directory: Path, name: str, most_bytes: int) -> bytes | None:
    """Return the contents of a checkpoint's file; None if it is missing.

    Raises:
        InputError: the file cannot be read, or `regular_file` refuses it.
        JobError: the machine fails to read it.
    """
    path = regular_file(directory, name, most_bytes)
    if path is None:
        return None
    try:
        return read_bounded(path, most_bytes)
    except OSError as error:
        raise unreadable(path, error) from error


def read_json(
    directory: Path, name: str, most_bytes: int = MAX_SETTINGS_BYTES
) -> CheckpointSettings | None:
    """Return the object in a checkpoint's JSON file; None if the file is missing.

    Raises:
        InputError: the file cannot be read, or does not contain a JSON object.
    """
    values = read_json_value(directory, name, most_bytes)
    if values is None:
        return None
    path = directory / name
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a JSON object; is it the right file?")
    return CheckpointSettings(path, values)


def read_json_value(directory: Path, name: str, most_bytes: int = MAX_SETTINGS_BYTES) -> Any:
    """Return the value in a checkpoint's JSON file; None if the file is missing.

    Raises:
        InputError: the file cannot be read, or is not JSON.
    """
    path, data = directory / name, read_bytes(directory, name, most_bytes)
    if data is None:
        return None
    try:
        values = json.loads(data.decode())
        # Reject lone surrogates ("\ud800") here: they cannot be encoded when written later.
        json.dumps(values, ensure_ascii=False).encode()
    except RecursionError as error:
        raise InputError(f"{path}: cannot be read as JSON: nested too deeply") from error
    except ValueError as error:
        raise InputError(f"{path}: cannot be read as JSON: {error}") from error
    return values if values is not None else ()  # `null`, which is not a missing file
