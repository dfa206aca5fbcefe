"""Convert single JSON values to a tensor's dtype, and quote them in messages."""

import base64
import binascii
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from grpc import StatusCode

from serving.server.signature_spec import type_name
from serving.server.status import ServingError, invalid

ParsedJson = Any
"""A value of a request, of which the type is not checked yet."""

_QUOTED_CHARS = 256  # an offending value is quoted up to about this length
_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint32", "uint64")


def converter(dtype: tf.DType) -> Callable[[ParsedJson], Any]:
    """Return a function that converts one JSON value to the dtype.

    The function raises ServingError: INVALID_ARGUMENT for a value of another type, UNIMPLEMENTED if
    JSON requests do not support the dtype.
    """
    if dtype == tf.string:
        return _to_bytes
    if dtype == tf.bool:
        return lambda value: value if isinstance(value, bool) else _wrong_type(value, dtype)
    if dtype in (tf.float32, tf.float64):
        largest = float(dtype.max)
        return lambda value: _to_float(value, dtype, largest)
    if dtype.name in _INTEGERS:
        allowed = range(dtype.min, dtype.max + 1)  # computed once: dtype.min takes microseconds
        return lambda value: _to_integer(value, dtype, allowed)
    return lambda value: _unsupported(value, dtype)


def convert_all(values: list[ParsedJson], dtype: tf.DType) -> np.ndarray | None:
    """Convert JSON values to an array in one step.

    Args:
        values: JSON values of any type.
        dtype: dtype of the array; strings become objects of bytes.

    Returns:
        The array; None unless the function of `converter` certainly accepts all values.
    """
    types = set(map(type, values))  # exact types: to `isinstance`, True is an int
    try:
        if dtype == tf.string and types <= {str}:
            array = np.empty(len(values), dtype=np.object_)
            array[:] = [value.encode("utf-8", "surrogateescape") for value in values]
            return array
        if dtype == tf.bool and types <= {bool}:
            return np.array(values, np.bool_)
        if dtype in (tf.float32, tf.float64) and types <= {int, float}:
            return _all_floats(np.array(values, np.float64), dtype)
        if dtype.name in _INTEGERS and types <= {int}:
            wide = np.uint64 if dtype == tf.uint64 else np.int64
            return _all_integers(np.array(values, wide), dtype)
    except (OverflowError, UnicodeEncodeError):
        pass  # an integer of more than 64 bits, or a lone surrogate
    return None


def _all_floats(array: np.ndarray, dtype: tf.DType) -> np.ndarray | None:
    sizes = np.abs(array)
    # A value at the limit may have been rounded to it; `converter` compares the original.
    if np.any((sizes >= float(dtype.max)) & (sizes != math.inf)):
        return None
    return array.astype(dtype.as_numpy_dtype)


def _all_integers(array: np.ndarray, dtype: tf.DType) -> np.ndarray | None:
    if array.size and not dtype.min <= array.min() <= array.max() <= dtype.max:
        return None
    return array.astype(dtype.as_numpy_dtype)


def _to_bytes(value: ParsedJson) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    if not isinstance(value, dict):
        return _wrong_type(value, tf.string)
    if not is_base64(value):
        raise invalid(f"JSON Value: {quoted(value)} not formatted correctly for base64 data")
    try:
        text = value["b64"].rstrip("=")  # TensorFlow Serving accepts base64 without padding
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid("Unable to base64 decode") from error


def _to_float(value: ParsedJson, dtype: tf.DType, largest: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _wrong_type(value, dtype)
    if abs(value) > largest and value not in (math.inf, -math.inf):
        raise invalid(
            f"Cannot convert JSON value: {quoted(value)} to {type_name(dtype)} "
            "without loss of precision."
        )
    return float(value)


def _to_integer(value: ParsedJson, dtype: tf.DType, allowed: range) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        return _wrong_type(value, dtype)
    return value if value in allowed else _wrong_type(value, dtype)


def _wrong_type(value: ParsedJson, dtype: tf.DType) -> Any:
    raise invalid(
        f"JSON Value: {quoted(value)} Type: {json_type(value)} is not of expected type: "
        f"{type_name(dtype)}"
    )


def _unsupported(value: ParsedJson, dtype: tf.DType) -> Any:
    raise ServingError(
        StatusCode.UNIMPLEMENTED,
        f"Conversion of JSON Value: {quoted(value)} to type: {type_name(dtype)}",
    )


def json_type(value: ParsedJson) -> str:
    """Return the name of a value's JSON type, as in TensorFlow Serving's error messages."""
    if value is None or isinstance(value, bool):
        return {None: "Null", False: "False", True: "True"}[value]
    names: dict[type, str] = {dict: "Object", list: "Array", str: "String"}
    return names.get(type(value), "Number")


def is_utf8(text: str) -> bool:
    """Return whether a string of a request had only bytes that are UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_base64(value: ParsedJson) -> bool:
    """Return whether a value is a binary string, {"b64": "..."}."""
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def quoted(value: ParsedJson) -> str:
    """Format a JSON value for error messages: objects on several lines, lists on one, truncated."""
    text = ""
    for token in _tokens(value, 0):
        text += token[: 2 * _QUOTED_CHARS]
        if len(text) >= _QUOTED_CHARS:
            break
    return text


def _tokens(value: ParsedJson, level: int) -> Iterator[str]:
    if isinstance(value, dict) and value:
        indent = "\n" + "    " * (level + 1)
        for number, (key, item) in enumerate(value.items()):
            yield ("," if number else "{") + indent
            yield json.dumps(key[: 2 * _QUOTED_CHARS], ensure_ascii=False) + ": "
            yield from _tokens(item, level + 1)
        yield "\n" + "    " * level + "}"
    elif isinstance(value, list) and value:
        for number, item in enumerate(value):
            yield ", " if number else "["
            yield from _tokens(item, level + 1)
        yield "]"
    else:
        shown = value[: 2 * _QUOTED_CHARS] if isinstance(value, str) else value
        yield json.dumps(shown, ensure_ascii=False)
