"""Arrays to TensorFlow Serving's JSON answers: pure functions, no transport."""

import base64
import json
from collections.abc import Callable
from typing import Any

import numpy as np

from serving.server.json_request import Layout
from serving.server.status import invalid

_INDENT = "    "
_BYTES_SUFFIX = "_bytes"  # string outputs with such a name are written in base64


def predict_answer(outputs: dict[str, np.ndarray], layout: Layout) -> bytes:
    """Return the body that answers a predict request made in the same layout.

    Raises:
        ServingError: INVALID_ARGUMENT, an output cannot be written as JSON, or row format was asked
            for and the outputs have no batch dimension in common.
    """
    if layout is Layout.ROW:
        _check_batch(outputs)
    written = {name: _written(name, array) for name, array in outputs.items()}
    text = _rows(written) if layout is Layout.ROW else _columns(written)
    # Strings that are not UTF-8 leave as the bytes they are.
    return text.encode("utf-8", "surrogateescape")


def error_answer(message: str) -> bytes:
    """Return the body of an answer that is an error."""
    quoted = json.dumps(message, ensure_ascii=False)
    return f'{{\n{_INDENT}"error": {quoted}\n}}'.encode("utf-8", "surrogateescape")


def number_text(value: float) -> str:
    """Return a float32 as it stands in answers."""
    return _floats(np.array([value], dtype=np.float32))[0]


def string_text(value: bytes) -> str:
    """Return a string as it stands in answers."""
    return json.dumps(value.decode("utf-8", "surrogateescape"), ensure_ascii=False)


def _check_batch(outputs: dict[str, np.ndarray]) -> None:
    expected = None
    for name, array in outputs.items():
        if not array.shape:
            raise invalid(f"Tensor name: {name} has no shape information ")
        if expected not in (None, len(array)):
            raise invalid(
                f"Tensor name: {name} has inconsistent batch size: {len(array)} "
                f"expecting: {expected}"
            )
        expected = len(array)


def _rows(written: dict[str, Any]) -> str:
    """Return one line per row and output: bare rows of one output, else an object per row."""
    if len(written) == 1:
        (column,) = written.values()
        rows = ", ".join(map(_on_one_line, column))
    else:
        rows = ",".join(
            _row_object(written, row) for row in range(len(next(iter(written.values()))))
        )
    return f'{{\n{_INDENT}"predictions": [{rows}\n{_INDENT}]\n}}'


def _row_object(written: dict[str, Any], row: int) -> str:
    start, inner = "\n" + _INDENT * 2, "\n" + _INDENT * 3
    members = (
        f"{inner}{json.dumps(name)}: {_on_one_line(column[row])}"
        for name, column in written.items()
    )
    return f"{start}{{{','.join(members)}{start}}}"


def _columns(written: dict[str, Any]) -> str:
    if len(written) == 1:
        (column,) = written.values()
        return f'{{\n{_INDENT}"outputs": {_on_lines(column, 1)}\n}}'
    start, inner = "\n" + _INDENT, "\n" + _INDENT * 2
    members = ",".join(
        f"{inner}{json.dumps(name)}: {_on_lines(column, 2)}" for name, column in written.items()
    )
    return f'{{{start}"outputs": {{{members}{start}}}\n}}'


def _on_one_line(tokens: Any) -> str:
    if isinstance(tokens, str):
        return tokens
    return "[" + ", ".join(map(_on_one_line, tokens)) + "]"


def _on_lines(tokens: Any, level: int) -> str:
    if isinstance(tokens, str):
        return tokens
    if not tokens:
        return "[]"
    start = "\n" + _INDENT * (level + 1)
    items = ",".join(start + _on_lines(item, level + 1) for item in tokens)
    return f"[{items}\n{_INDENT * level}]"


def _written(name: str, array: np.ndarray) -> Any:
    """Return the array as nested lists whose leaves are JSON text."""
    if array.dtype == np.object_:
        write: Callable[[np.ndarray], list[str]] = (
            _base64_strings if name.endswith(_BYTES_SUFFIX) else _strings
        )
    elif array.dtype.kind not in _WRITERS:
        raise invalid(f"Failed to write JSON value for tensor type: {array.dtype.name}")
    else:
        write = _WRITERS[array.dtype.kind]
    leaves = np.empty(array.size, dtype=np.object_)
    leaves[:] = write(array.ravel())
    return leaves.reshape(array.shape).tolist()


def _strings(flat: np.ndarray) -> list[str]:
    return list(map(string_text, flat))


def _base64_strings(flat: np.ndarray) -> list[str]:
    return [json.dumps({"b64": base64.b64encode(value).decode("ascii")}) for value in flat]


def _integers(flat: np.ndarray) -> list[str]:
    return list(map(str, flat.tolist()))


def _booleans(flat: np.ndarray) -> list[str]:
    return ["true" if value else "false" for value in flat.tolist()]


def _floats(flat: np.ndarray) -> list[str]:
    """Return each number in 6 digits if that reads back as the same number, else in full.

    Full is 9 digits for float32 and 17 for float64.
    """
    wide = flat if flat.dtype == np.float64 else flat.astype(np.float32)
    full = ".17g" if wide.dtype == np.float64 else ".9g"
    numbers = wide.tolist()
    short = [f"{number:.6g}" for number in numbers]
    with np.errstate(over="ignore"):  # 3.40282e+38 is above the largest float32
        same = np.array(short, dtype=np.float64).astype(wide.dtype) == wide
    return [
        _as_json(brief if exact else format(number, full))
        for brief, exact, number in zip(short, same.tolist(), numbers, strict=True)
    ]


def _as_json(number: str) -> str:
    """Mark a whole number as a float, and name what JSON has no number for."""
    if number in _SPECIAL:
        return _SPECIAL[number]
    return number if "." in number or "e" in number else number + ".0"


_SPECIAL = {"nan": "NaN", "-nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
_WRITERS = {"f": _floats, "i": _integers, "u": _integers, "b": _booleans}
