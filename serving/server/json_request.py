"""TensorFlow Serving's JSON requests to arrays: pure functions, no transport.

Row format lists examples, `{"instances": [{"text": "a"}, {"text": "b"}]}`; column format gives each
input's whole batch, `{"inputs": {"text": ["a", "b"]}}`. With one input the name may be left out.
"""

import enum
import itertools
import json
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from serving.server.json_values import ParsedJson, convert_all, converter, is_base64, quoted
from serving.server.signature_spec import MAX_RANK, ServableSignature, TensorInfo
from serving.server.status import ServingError, invalid, shortened

# A whole surrogate pair, else a lone surrogate (the group), else any other escape.
_ESCAPES = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    r"|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\."
)


class Layout(enum.Enum):
    """How a request and its answer arrange a batch."""

    ROW = "instances"
    COLUMN = "inputs"


def parse_document(body: bytes) -> dict[str, ParsedJson]:
    """Return the request's JSON object. Text after it is ignored; NaN and Infinity are numbers.

    Bytes that are not UTF-8 survive in strings as surrogate escapes.

    Raises:
        ServingError: INVALID_ARGUMENT, not JSON or not an object.
    """
    text = body.decode("utf-8", "surrogateescape")
    start = len(text) - len(text.lstrip(" \t\r\n"))
    if start == len(text):
        raise invalid("JSON Parse error: The document is empty")
    try:
        document, end = _DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        raise _parse_error(error.msg, error.pos) from error
    except (RecursionError, ValueError) as error:
        raise invalid("JSON Parse error: nested too deeply or a number too long") from error
    # Most requests have no such escape, and the search for one is fast.
    if "\\ud" in text or "\\uD" in text:
        _check_surrogates(text, start, end)
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {quoted(document)} Is not object")
    return document


def _check_surrogates(text: str, start: int, end: int) -> None:
    for escape in _ESCAPES.finditer(text, start, end):
        if escape[1]:
            raise _parse_error("The surrogate pair in string is invalid.", escape.start())


def _parse_error(reason: str, offset: int) -> ServingError:
    return invalid(f"JSON Parse error: {reason} at offset: {offset}")


def _first_wins(pairs: list[tuple[str, ParsedJson]]) -> dict[str, ParsedJson]:
    """Return the object; of a key given twice, TensorFlow Serving takes the first."""
    last_wins = dict(pairs)
    # `dict` keeps the first place of a key with its last value; of reversed pairs, the first value.
    return last_wins if len(last_wins) == len(pairs) else {**last_wins, **dict(reversed(pairs))}


_DECODER = json.JSONDecoder(object_pairs_hook=_first_wins)


def signature_name(document: dict[str, ParsedJson]) -> str:
    """Return the requested signature's name; "" = the default signature.

    Raises:
        ServingError: INVALID_ARGUMENT: the name is not a string.
    """
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid(
            f"JSON Value: {quoted(document)} not formatted correctly. "
            "'signature_name' key must be a string value."
        )
    return name


def row_count(document: dict[str, ParsedJson], signature: ServableSignature) -> int:
    """Return the number of rows of a request; 1 if it has no list."""
    lists = [document.get(key) for key in ("instances", "examples", "inputs")]
    if isinstance(columns := lists[-1], dict):
        lists += [columns.get(name) for name in signature.inputs]
    return max((len(each) for each in lists if isinstance(each, list)), default=1)


def read_inputs(
    document: dict[str, ParsedJson], signature: ServableSignature
) -> tuple[Layout, dict[str, np.ndarray]]:
    """Return the layout of the request and its inputs; strings are object arrays of bytes.

    Raises:
        ServingError: INVALID_ARGUMENT: the document does not match the signature. UNIMPLEMENTED: an
            input has a dtype that JSON requests do not support.
    """
    if not signature.inputs:
        raise invalid(f"Failed to get input map for signature: {signature.name}")
    rows, columns = Layout.ROW.value in document, Layout.COLUMN.value in document
    if rows and columns:
        raise invalid(
            f"JSON Value: {quoted(document)} Not formatted correctly expecting only one of "
            "'inputs' or 'instances' keys to exist "
        )
    if columns:
        return Layout.COLUMN, _from_columns(document["inputs"], signature)
    if not rows:
        raise invalid("Missing 'inputs' or 'instances' key")
    instances = document["instances"]
    if not isinstance(instances, list):
        raise invalid(f"JSON Value: {quoted(document)} Expecting 'instances' to be an list/array")
    if not instances:
        raise invalid(f"JSON Value: {quoted(document)} No values in 'instances' array")
    return Layout.ROW, _from_rows(instances, signature)


def _from_columns(inputs: ParsedJson, signature: ServableSignature) -> dict[str, np.ndarray]:
    if isinstance(inputs, dict) and not is_base64(inputs):
        for name in signature.inputs:
            if name not in inputs:
                raise invalid(f"Missing named input: {name} in 'inputs' object.")
        return {name: _array(inputs[name], info) for name, info in signature.inputs.items()}
    if len(signature.inputs) > 1:
        raise invalid(
            "inputs is a plain value/list, but expecting an object as multiple input tensors "
            "required as per tensorinfo_map"
        )
    ((name, info),) = signature.inputs.items()
    return {name: _array(inputs, info)}


def _array(value: ParsedJson, info: TensorInfo) -> np.ndarray:
    array = _array_at_once(value, info)
    if array is not None:
        return array
    shape = _shape(value)
    values: list[Any] = []
    _fill(value, shape, 0, converter(info.dtype), values)
    return _as_array(values, shape, info)


def _array_at_once(value: ParsedJson, info: TensorInfo) -> np.ndarray | None:
    """Fast path: convert nested lists to an array; None if anything might be wrong with them.

    The slow path, value by value, takes ten times as long but produces the error messages.
    """
    shape: list[int] = []
    level = [value]
    while level and isinstance(level[0], list):
        shape.append(len(level[0]))
        if len(shape) > MAX_RANK or set(map(type, level)) != {list}:
            return None
        if set(map(len, level)) != {shape[-1]}:
            return None
        level = list(itertools.chain.from_iterable(level))
    array = convert_all(level, info.dtype)
    return None if array is None else array.reshape(shape)


def _rows_at_once(
    instances: list[ParsedJson], signature: ServableSignature
) -> dict[str, np.ndarray] | None:
    """Fast path: convert all instances to arrays; None if anything might be wrong with them."""
    names = signature.inputs.keys()
    columns: dict[str, list[ParsedJson]] = {}
    if set(map(type, instances)) != {dict}:
        if len(names) > 1:
            return None
        columns = dict.fromkeys(names, instances)
    # With an input named b64, {"b64": "..."} may be a binary string: the slow path decides.
    elif all(instance.keys() == names for instance in instances) and "b64" not in names:
        columns = {name: [instance[name] for instance in instances] for name in names}
    arrays = {
        name: array
        for name, column in columns.items()
        if (array := _array_at_once(column, signature.inputs[name])) is not None
    }
    return arrays if len(arrays) == len(names) else None


def _from_rows(instances: list[ParsedJson], signature: ServableSignature) -> dict[str, np.ndarray]:
    arrays = _rows_at_once(instances, signature)
    if arrays is not None:
        return arrays
    named = _is_named(instances[0])
    if not named and len(signature.inputs) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors "
            "required as per tensorinfo_map"
        )
    columns = {name: _Column(info) for name, info in signature.inputs.items()}
    for number, instance in enumerate(instances):
        if named:
            _add_named(number, instance, columns)
        else:
            _add_plain(number, instance, columns)
    return {name: column.array(len(instances)) for name, column in columns.items()}


def _add_named(number: int, instance: ParsedJson, columns: dict[str, "_Column"]) -> None:
    if not _is_named(instance):
        raise invalid(f"Expecting object but got list at item {number} of input list")
    for name, value in instance.items():
        where = f"{number} key: {shortened(name)}"
        if name not in columns:
            reason = invalid(f"JSON object: does not have named input: {shortened(name)}")
            raise _failed_element(where, reason)
        try:
            columns[name].add(value)
        except ServingError as error:
            raise _failed_element(where, error) from error
    if len(instance) != len(columns):
        raise invalid(
            f"Failed to process element: {number} of 'instances' list. JSON object: "
            f"{quoted(instance)} keys must be equal to: {','.join(columns)}"
        )


def _add_plain(number: int, instance: ParsedJson, columns: dict[str, "_Column"]) -> None:
    if _is_named(instance):
        raise invalid(f"Expecting value/list but got object at item {number} of input list")
    (column,) = columns.values()
    try:
        column.add(instance)
    except ServingError as error:
        raise _failed_element(str(number), error) from error


def _failed_element(where: str, error: ServingError) -> ServingError:
    return invalid(f"Failed to process element: {where} of 'instances' list. Error: {error}")


class _Column:
    """One input's values over all instances, which must have equal shapes."""

    def __init__(self, info: TensorInfo) -> None:
        self._info = info
        self._convert = converter(info.dtype)
        self._values: list[Any] = []
        self._shape: tuple[int, ...] | None = None

    def add(self, value: ParsedJson) -> None:
        """Append one instance's value."""
        shape = _shape(value)
        _fill(value, shape, 0, self._convert, self._values)
        if self._shape is None:
            self._shape = shape
        expected, received = math.prod(self._shape), math.prod(shape)
        # TensorFlow Serving compares sizes before shapes, and has a message for each.
        if expected != received:
            raise invalid(f"Expecting tensor size: {expected} but got: {received}")
        if self._shape != shape:
            raise invalid(f"Expecting shape {_listed(self._shape)} but got: {_listed(shape)}")

    def array(self, batch: int) -> np.ndarray:
        """Return all instances as one array [batch, ...]."""
        return _as_array(self._values, (batch, *(self._shape or ())), self._info)


def _as_array(values: list[Any], shape: tuple[int, ...], info: TensorInfo) -> np.ndarray:
    if len(shape) > MAX_RANK:  # including the axis of rows
        raise _too_deep(len(shape))
    # Filled afterwards: `np.array` would choose a dtype of its own, of fixed length for strings.
    flat = np.empty(len(values), dtype=info.dtype.as_numpy_dtype)
    flat[:] = values
    return flat.reshape(shape)


def _listed(shape: tuple[int, ...]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"


def _shape(value: ParsedJson) -> tuple[int, ...]:
    """Return the shape according to the first element of every nested list."""
    shape: list[int] = []
    while isinstance(value, list):
        shape.append(len(value))
        value = value[0] if value else None
    if len(shape) > MAX_RANK:
        raise _too_deep(len(shape))
    return tuple(shape)


def _too_deep(rank: int) -> ServingError:
    return invalid(f"Expecting at most {MAX_RANK} nested lists but got: {rank}")


def _fill(
    value: ParsedJson,
    shape: tuple[int, ...],
    level: int,
    convert: Callable[[ParsedJson], Any],
    values: list[Any],
) -> None:
    """Append the converted leaves of `value`, whose nested lists must have the given shape."""
    if not isinstance(value, list):
        if level != len(shape):
            raise invalid(
                f"JSON Value: {quoted(value)} found at incorrect level: {level + 1} in the JSON "
                f"DOM. Expected at level: {len(shape)}"
            )
        values.append(convert(value))
        return
    if level >= len(shape):
        raise invalid(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise invalid(
            f"Encountered list at unexpected size: {len(value)} at level: {level} "
            f"expected size: {shape[level]}"
        )
    for item in value:
        _fill(item, shape, level + 1, convert, values)


def _is_named(instance: ParsedJson) -> bool:
    return isinstance(instance, dict) and not is_base64(instance)
