"""Strict JSON (RFC 8259) in UTF-8; every reading error is a `ValueError`."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from pipeline.errors import InputError, unreadable

Contents = TypeVar("Contents")

Json: TypeAlias = "Mapping[str, Json] | Sequence[Json] | str | float | bool | None"
"""A value that JSON can hold."""

JsonObject: TypeAlias = dict[str, Json]
"""An object to write. A parsed one is `dict[str, Any]`, because its fields are not checked yet."""

_LINE_ENDS = {ord(end): f"\\u{ord(end):04x}" for end in "\x85\u2028\u2029"}


def to_json(value: Json, *, indent: int | None = None, compact: bool = False) -> str:
    """Return a value as strict JSON text, without a trailing line break.

    JSON has no NaN and no infinity (RFC 8259, section 6): such numbers become null. Escaped are
    lone surrogates, which UTF-8 cannot encode, and other Unicode line ends, at which some
    readers split JSON Lines.

    Args:
        value: dicts, lists, tuples, strings, numbers, booleans and None, nested.
        indent: spaces per level; None = everything on one line.
        compact: whether to omit the space after commas and colons.

    Raises:
        TypeError: the value contains an object of another type.
    """
    text = json.dumps(
        _finite(value),
        ensure_ascii=False,
        allow_nan=False,
        indent=indent,
        separators=(",", ":") if compact else None,
    )
    return text.encode("utf-8", "backslashreplace").decode().translate(_LINE_ENDS)


def _finite(value: Any) -> Any:
    """Return the value with each non-finite number replaced by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def from_json(text: str | bytes) -> Any:
    """Parse JSON text.

    Raises:
        ValueError: the text is not JSON, not UTF-8, or nested too deeply for Python's parser.
    """
    try:
        return json.loads(text)
    except RecursionError as error:  # so that callers handle one exception type
        raise ValueError("nested too deeply") from error


def read_json_file(file: Path, parse: Callable[[str], Contents], remedy: str) -> Contents | None:
    """Return the contents of a JSON file of ours; None if it does not exist.

    Args:
        file: path of the file, in UTF-8.
        parse: function from the file's text to its contents; raises `ValueError`, `TypeError`,
            `LookupError` or `OverflowError` if they are not what they should be.
        remedy: advice about a damaged file, the end of the message.

    Raises:
        InputError: the file is damaged, or its path is a folder, too long or a loop of links, or
            gives no permission.
        JobError: the file cannot be read now, which says nothing about its bytes: a lost disk.
    """
    try:
        return parse(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise unreadable(file, error) from error
    except (ValueError, TypeError, LookupError, OverflowError) as error:
        why = f"no {error}" if isinstance(error, KeyError) else error
        raise InputError(f"{file}: damaged: {why}; {remedy}") from error
