"""Inputs and outputs of a model: Python values to JSON and protocol buffers, and back to arrays."""

import base64
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pipeline.errors import InputError
from serving.client.messages import one_line

_DTYPES = {
    "DT_FLOAT": np.float32,
    "DT_DOUBLE": np.float64,
    "DT_HALF": np.float16,
    "DT_INT8": np.int8,
    "DT_INT16": np.int16,
    "DT_INT32": np.int32,
    "DT_INT64": np.int64,
    "DT_UINT8": np.uint8,
    "DT_UINT32": np.uint32,
    "DT_UINT64": np.uint64,
    "DT_BOOL": np.bool_,
    "DT_STRING": np.object_,
}
_KINDS = {"f": "fiu", "i": "iu", "u": "iu", "b": "b"}
"""NumPy kinds of parsed JSON numbers that are accepted for each kind of output dtype."""

_BYTES_SUFFIX = "_bytes"  # string outputs whose name has this suffix are bytes, not text


def dtypes_from_json(side: Mapping[str, Any]) -> dict[str, str]:
    """Return the dtype names of the inputs, or of the outputs, in a signature's JSON.

    Raises:
        LookupError, TypeError: it has another form.
    """
    return {name: string_from_json(info["dtype"]) for name, info in side.items()}


def string_from_json(value: Any) -> str:
    """Return the value.

    Raises:
        TypeError: it is not a string.
    """
    if not isinstance(value, str):
        raise TypeError(f"expected a string, received {value!r:.40}")
    return value


def dtypes_from_proto(side: Mapping[str, Any]) -> dict[str, str]:
    """Return the dtype names of the inputs, or of the outputs, of a `SignatureDef`."""
    return {name: _dtype_name(info.dtype) for name, info in side.items()}


def _dtype_name(number: int) -> str:
    from tensorflow.core.framework import types_pb2

    return types_pb2.DataType.Name(number)


def jsonable(value: Any) -> Any:
    """Convert bytes and NumPy values for the JSON encoder.

    Raises:
        InputError: JSON has no such values.
    """
    if isinstance(value, bytes):
        return {"b64": base64.b64encode(value).decode("ascii")}
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise InputError(f"inputs: expected lists, numbers and text, received {type(value).__name__}")


def array_from_json(name: str, dtype: str, values: Any) -> np.ndarray:
    """Convert an output from JSON to an array of the signature's dtype.

    Raises:
        LookupError, TypeError, ValueError, ArithmeticError: the values do not have that dtype.
    """
    if dtype == "DT_STRING":
        array = np.array(values, dtype=np.object_)
        if name.endswith(_BYTES_SUFFIX):
            return _each(lambda value: base64.b64decode(value["b64"], validate=True), array)
        return _each(string_from_json, array)
    array = np.array(values)
    if dtype not in _DTYPES or not array.size:
        return array.astype(_DTYPES.get(dtype, array.dtype))
    target: Any = np.dtype(_DTYPES[dtype])
    if array.dtype.kind not in _KINDS[target.kind]:
        raise TypeError(f"output {name} is {array.dtype}, its signature says {dtype}")
    if target.kind in "iu" and not np.can_cast(array.dtype, target):
        limits = np.iinfo(target)  # astype would wrap around silently
        if array.min() < limits.min or array.max() > limits.max:
            raise OverflowError(f"output {name} has a number that is not {dtype}")
    return array.astype(target)


def array_from_proto(name: str, dtype: str, outputs: Mapping[str, Any]) -> np.ndarray:
    """Convert an output from a TensorProto to an array of the signature's dtype.

    Raises:
        LookupError, TypeError, ValueError: the output is missing, malformed or of another dtype.
    """
    import tensorflow as tf

    if name not in outputs:  # indexing a protobuf map would insert an empty value
        raise KeyError(name)
    received = _dtype_name(outputs[name].dtype)
    if received != dtype:
        raise TypeError(f"output {name} is {received}, its signature says {dtype}")
    return _text_or_bytes(name, tf.make_ndarray(outputs[name]))


def tensor_proto(name: str, values: Any, dtype: str | None) -> Any:
    """Convert values to a TensorProto; an input that the model lacks keeps NumPy's dtype.

    Raises:
        InputError: the values are not rectangular, or not of the dtype.
    """
    import tensorflow as tf
    from tensorflow.core.framework import types_pb2

    try:
        known = None if dtype is None else types_pb2.DataType.Value(dtype)
        if dtype == "DT_STRING":  # TensorFlow would flatten a ragged list of strings silently
            values = np.array(values, dtype=np.object_)
        return tf.make_tensor_proto(values, dtype=known)
    except (TypeError, ValueError) as error:
        raise InputError(f"input {name}: {one_line(str(error))}") from error


def _text_or_bytes(name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype != np.object_ or name.endswith(_BYTES_SUFFIX):
        return array
    return _each(lambda value: value.decode("utf-8", "surrogateescape"), array)


def _each(function: Callable[[Any], Any], array: np.ndarray) -> np.ndarray:
    result = np.empty(array.shape, dtype=np.object_)
    for index, value in np.ndenumerate(array):
        result[index] = function(value)
    return result
