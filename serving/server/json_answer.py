"""Format arrays as TensorFlow Serving's JSON responses: pure functions, no transport."""

import base64
import itertools
import json
import operator
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from pipeline.schema import Arrays
from serving.server.json_request import Layout
from serving.server.limits import Limits
from serving.server.signature_spec import text_bytes
from serving.server.status import invalid

_INDENT = "    "
MAX_BYTES = Limits().max_answer_bytes
Writer = Callable[[np.ndarray], list[str]]
Writers = dict[str, Writer]
_BLOCK_NODES = 16_384  # lists and leaves that exist as Python objects at a time; bounds memory
_CHUNK_CHARS = 64 * 1024
_PLAIN_BYTES = bytes(set(range(0x20, 0x100)) - set(b'"\\'))  # bytes that JSON does not escape
_BYTES_SUFFIX = "_bytes"  # string outputs whose name has this suffix are encoded in base64


def predict_chunks(outputs: Arrays, layout: Layout, max_bytes: int = MAX_BYTES) -> Iterator[bytes]:
    """Return the response body for a predict request, in lazily generated chunks.

    Args:
        outputs: arrays by name; strings are object arrays of bytes.
        layout: layout of the request.
        max_bytes: size limit of the body.

    Raises:
        ServingError: INVALID_ARGUMENT: an output cannot be written as JSON, the body could exceed
            the limit, or the row format was requested and the outputs have no common batch
            dimension.
    """
    if layout is Layout.ROW:
        _check_batch(outputs)
    writers = {name: _writer(name, array) for name, array in outputs.items()}
    size_bytes = sum(_most_bytes(name, array, layout) for name, array in outputs.items())
    if size_bytes > max_bytes:
        raise invalid(
            f"The answer could take {size_bytes} bytes as JSON, and {max_bytes} are allowed; "
            "send fewer rows or shorter inputs"
        )
    written = _rows if layout is Layout.ROW else _columns
    return _encoded(written(outputs, writers))


def error_answer(message: str) -> bytes:
    """Return the body of an error response."""
    quoted = json.dumps(message, ensure_ascii=False)
    return f'{{\n{_INDENT}"error": {quoted}\n}}'.encode("utf-8", "surrogateescape")


def number_text(value: float) -> str:
    """Format a float32 as in responses."""
    return _floats(np.array([value], dtype=np.float32))[0]


def string_text(value: bytes) -> str:
    """Format a string as in responses."""
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


def _most_bytes(name: str, array: np.ndarray, layout: Layout) -> int:
    """Return an upper bound for the size of an output's JSON text."""
    lists = _nodes(array.shape) - array.size
    lines = array.size + 2 * lists  # a list ends on a line of its own
    rows = array.shape[0] if array.ndim else 1
    # An escaped character has 6 bytes (\u0001); in the row format the name stands in every row.
    around = (rows + 1) * (len(name) * 6 + 64)
    indent = len(_INDENT) * (array.ndim + 2) if layout is Layout.COLUMN else 0
    return around + lines * (indent + 4) + _most_leaf_bytes(name, array)


def _most_leaf_bytes(name: str, array: np.ndarray) -> int:
    if array.dtype == np.object_:
        if name.endswith(_BYTES_SUFFIX):
            # base64 takes 4 bytes for 3, and {"b64": ""} around them 11.
            return sum(2 * len(value) + 16 for value in array.flat)
        escaped = (len(value.translate(None, _PLAIN_BYTES)) for value in array.flat)
        # Quotes, and at most 6 bytes instead of 1 for a character that is escaped.
        return text_bytes(array) + 2 * array.size + 5 * sum(escaped)
    if array.dtype.kind in "iu" and array.size:
        return array.size * max(len(str(array.min())), len(str(array.max())))
    # The longest are -2.2250738585072014e-308 and -1.17549435e-38.
    return array.size * (25 if array.dtype == np.float64 else 15)


def _nodes(shape: tuple[int, ...]) -> int:
    """Return the number of lists and leaves in an array's JSON."""
    return 1 + sum(itertools.accumulate(shape, operator.mul))


def _encoded(texts: Iterator[str]) -> Iterator[bytes]:
    """Join short texts to encoded chunks; strings that are not UTF-8 keep their bytes."""
    waiting: list[str] = []
    chars = 0
    for text in texts:
        waiting.append(text)
        chars += len(text)
        if chars >= _CHUNK_CHARS:
            yield "".join(waiting).encode("utf-8", "surrogateescape")
            waiting, chars = [], 0
    yield "".join(waiting).encode("utf-8", "surrogateescape")


def _rows(outputs: Arrays, writers: Writers) -> Iterator[str]:
    """Yield one line per row and output: bare rows of one output, else an object per row."""
    yield f'{{\n{_INDENT}"predictions": '
    closing = f"\n{_INDENT}]"
    if len(outputs) == 1:
        ((name, array),) = outputs.items()
        yield from _list(array, writers[name], None, closing)
    else:
        yield "["
        for start, stop in _blocks(list(outputs.values())):
            yield "," if start else ""
            yield from _row_objects(outputs, writers, start, stop)
        yield closing
    yield "\n}"


def _row_objects(outputs: Arrays, writers: Writers, start: int, stop: int) -> Iterator[str]:
    """Yield the JSON objects of some rows; a single row, which may be large, in parts."""
    opening, inner = "\n" + _INDENT * 2, "\n" + _INDENT * 3
    if stop - start == 1:
        for number, (name, array) in enumerate(outputs.items()):
            yield f"{',' if number else opening + '{'}{inner}{json.dumps(name)}: "
            yield from _tokens(_row(array, start), writers[name], None)
        yield f"{opening}}}"
        return
    columns = {
        f"{inner}{json.dumps(name)}: ": _leaves(array[start:stop], writers[name])
        for name, array in outputs.items()
    }
    yield ",".join(
        f"{opening}{{{','.join(key + _on_one_line(column[row]) for key, column in columns.items())}"
        f"{opening}}}"
        for row in range(stop - start)
    )


def _columns(outputs: Arrays, writers: Writers) -> Iterator[str]:
    yield f'{{\n{_INDENT}"outputs": '
    if len(outputs) == 1:
        ((name, array),) = outputs.items()
        yield from _tokens(array, writers[name], 1)
    else:
        for number, (name, array) in enumerate(outputs.items()):
            yield f"{',' if number else '{'}\n{_INDENT * 2}{json.dumps(name)}: "
            yield from _tokens(array, writers[name], 2)
        yield f"\n{_INDENT}}}"
    yield "\n}"


def _tokens(array: np.ndarray, write: Writer, level: int | None) -> Iterator[str]:
    """Yield an array's JSON text: on one line (`level` None), or indented from a level on."""
    if _nodes(array.shape) <= _BLOCK_NODES:
        leaves = _leaves(array, write)
        yield _on_one_line(leaves) if level is None else _on_lines(leaves, level)
    elif level is None:
        yield from _list(array, write, None, "]")
    else:
        yield from _list(array, write, level, f"\n{_INDENT * level}]")


def _list(array: np.ndarray, write: Writer, level: int | None, closing: str) -> Iterator[str]:
    """Yield the JSON text of a large array in blocks of rows."""
    inner = None if level is None else level + 1
    line = "" if inner is None else "\n" + _INDENT * inner
    separator = ", " if inner is None else "," + line
    yield "[" + line
    for start, stop in _blocks([array]):
        yield separator if start else ""
        if stop - start == 1:
            yield from _tokens(_row(array, start), write, inner)
        else:
            rows = _leaves(array[start:stop], write)
            yield separator.join(
                _on_one_line(row) if inner is None else _on_lines(row, inner) for row in rows
            )
    yield closing


def _blocks(arrays: list[np.ndarray]) -> Iterator[tuple[int, int]]:
    """Yield the first and last row (exclusive) of each block of at most `_BLOCK_NODES` nodes."""
    rows = len(arrays[0])
    step = max(1, _BLOCK_NODES // sum(_nodes(array.shape[1:]) for array in arrays))
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


def _row(array: np.ndarray, number: int) -> np.ndarray:
    """Return one row as an array, also if it is a scalar."""
    return array[number : number + 1].reshape(array.shape[1:])


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


def _leaves(array: np.ndarray, write: Writer) -> Any:
    """Return the array as nested lists whose leaves are JSON text."""
    leaves = np.empty(array.size, dtype=np.object_)
    leaves[:] = write(array.ravel())
    return leaves.reshape(array.shape).tolist()


def _writer(name: str, array: np.ndarray) -> Writer:
    if array.dtype == np.object_:
        return _base64_strings if name.endswith(_BYTES_SUFFIX) else _strings
    if array.dtype.kind not in _WRITERS:
        raise invalid(f"Failed to write JSON value for tensor type: {array.dtype.name}")
    return _WRITERS[array.dtype.kind]


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
