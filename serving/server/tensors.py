"""Convert tensors from and to the protocol buffers of gRPC and warm-up records.

TensorFlow's own parser is not used for requests: it trusts the client's dtype, and for DT_VARIANT
and DT_RESOURCE it decodes arbitrary client data, which can crash the process.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from grpc import StatusCode
from tensorflow.core.framework import tensor_pb2

from serving.server.limits import CHUNK_VALUES
from serving.server.signature_spec import (
    MAX_RANK,
    Arrays,
    ServableSignature,
    Shape,
    check_dtype,
    check_names,
    check_rank,
    check_rows,
    text_bytes,
    type_name,
)
from serving.server.status import ServingError, invalid

# Size of TensorFlow's string object; text longer than 22 bytes is stored outside of it.
_STRING_BYTES = 24


@dataclass(frozen=True)
class _Field:
    """The field of a TensorProto that stores values of a dtype.

    Attributes:
        name: name of the field.
        wire: NumPy dtype of the field's values.
        bits: unsigned dtype of the bit pattern, if values are stored as bit patterns; else None.
    """

    name: str
    wire: Any
    bits: Any = None


_FIELDS = {
    "float32": _Field("float_val", np.float32),
    "float64": _Field("double_val", np.float64),
    "float16": _Field("half_val", np.int32, np.uint16),
    "bfloat16": _Field("half_val", np.int32, np.uint16),
    "complex64": _Field("scomplex_val", np.float32),  # real and imaginary parts in turn
    "complex128": _Field("dcomplex_val", np.float64),
    "int8": _Field("int_val", np.int32),
    "int16": _Field("int_val", np.int32),
    "int32": _Field("int_val", np.int32),
    "uint8": _Field("int_val", np.int32),
    "uint16": _Field("int_val", np.int32),
    "int64": _Field("int64_val", np.int64),
    "uint32": _Field("uint32_val", np.uint32),
    "uint64": _Field("uint64_val", np.uint64),
    "bool": _Field("bool_val", np.bool_),
    "string": _Field("string_val", np.object_),
}


def arrays_from_protos(
    signature: ServableSignature,
    protos: Mapping[str, tensor_pb2.TensorProto],
    max_bytes: int,
    most_rows: int | None = None,
) -> Arrays:
    """Convert a request's tensors to arrays by name; strings are object arrays of bytes.

    Names, dtypes and ranks are checked against the signature, and sizes against the limit, before
    any value is read. As in TensorFlow's parser, a list of values shorter than the shape is
    extended with its last value, and a longer one is truncated.

    Args:
        signature: the signature to run.
        protos: tensors by name, as sent by a client.
        max_bytes: limit for the memory of all tensors together, after the extension.
        most_rows: limit for the first axis; None = no limit.

    Raises:
        ServingError: INVALID_ARGUMENT: the tensors do not match the signature, are malformed or too
            large. UNIMPLEMENTED: the signature has a dtype that messages do not support.
    """
    check_names(signature, protos)
    shapes: dict[str, Shape] = {}
    total_bytes = 0
    for name, info in signature.inputs.items():
        proto = protos[name]
        check_dtype(signature, name, _dtype_name(proto.dtype))
        shapes[name] = _shape(name, proto, max_bytes)
        check_rank(signature, name, shapes[name])
        check_rows(next(iter(shapes[name]), 1), most_rows)
        total_bytes += _size_bytes(proto, info.dtype, shapes[name])
        if total_bytes > max_bytes:
            raise invalid(f"Input {name}: all inputs together take more than {max_bytes} bytes")
    return {
        name: _array(name, protos[name], info.dtype, shapes[name])
        for name, info in signature.inputs.items()
    }


def _dtype_name(number: int) -> str:
    """Return the name of a DataType; a client may send an unknown number."""
    try:
        return type_name(tf.dtypes.as_dtype(number))
    except TypeError:
        return f"DataType {number}"


def _shape(name: str, proto: tensor_pb2.TensorProto, max_bytes: int) -> Shape:
    """Return the validated shape; the product of its nonzero sizes is at most `max_bytes`."""
    dims = proto.tensor_shape.dim  # unknown_rank is ignored, as in TensorFlow
    if len(dims) > MAX_RANK:
        raise invalid(f"Input {name}: expected at most {MAX_RANK} dimensions, got {len(dims)}")
    shape = tuple(dim.size for dim in dims)
    if any(size < 0 for size in shape):
        raise invalid(f"Input {name}: expected no negative size, got shape {list(shape)}")
    elements = math.prod(size for size in shape if size)
    if elements > max_bytes:
        raise invalid(f"Input {name}: shape {list(shape)} takes more than {max_bytes} bytes")
    return shape


def _field(dtype: tf.DType) -> _Field:
    if dtype.name not in _FIELDS:
        message = f"Tensors of type {dtype.name} cannot be sent in a message"
        raise ServingError(StatusCode.UNIMPLEMENTED, message)
    return _FIELDS[dtype.name]


def _size_bytes(proto: tensor_pb2.TensorProto, dtype: tf.DType, shape: Shape) -> int:
    """Return the tensor's size in TensorFlow's memory, including repeated values."""
    _field(dtype)
    count = math.prod(shape)
    if dtype != tf.string:
        return count * int(dtype.size)
    values = proto.string_val
    size_bytes = len(proto.tensor_content) + sum(
        sum(map(len, values[chunk])) for chunk in _chunks(min(count, len(values)))
    )
    repeated = count - len(values)
    if repeated > 0 and values:
        size_bytes += repeated * len(values[-1])
    return count * _STRING_BYTES + size_bytes


def _chunks(count: int) -> Iterator[slice]:
    """Yield slices that divide `count` values in chunks of `CHUNK_VALUES`."""
    for start in range(0, count, CHUNK_VALUES):
        yield slice(start, min(start + CHUNK_VALUES, count))


def _array(name: str, proto: tensor_pb2.TensorProto, dtype: tf.DType, shape: Shape) -> np.ndarray:
    count = math.prod(shape)
    if proto.tensor_content and count:
        read = _strings_in if dtype == tf.string else _numbers_in
        values = read(proto.tensor_content, count, dtype)
        if values is None:
            raise invalid(f"tensor parsing error: {name}")
        return values.reshape(shape)
    return _extended(_values(proto, count, dtype), count, dtype).reshape(shape)


def _values(proto: tensor_pb2.TensorProto, count: int, dtype: tf.DType) -> np.ndarray:
    """Return the first `count` values of the dtype's field; fewer if it has fewer."""
    field = _field(dtype)
    values = getattr(proto, field.name)
    parts = 2 if dtype.is_complex else 1
    read = np.empty(min(len(values) // parts, count) * parts, field.wire)
    for chunk in _chunks(len(read)):
        read[chunk] = values[chunk]
    if dtype == tf.string:
        return read
    if dtype.is_complex:
        return read.view(dtype.as_numpy_dtype)
    if field.bits:
        return read.astype(field.bits).view(dtype.as_numpy_dtype)
    return read.astype(dtype.as_numpy_dtype)


def _extended(values: np.ndarray, count: int, dtype: tf.DType) -> np.ndarray:
    """Extend values to `count` with the last value; with zero or "" if there is none."""
    if len(values) == count:
        return values
    nothing: Any = b"" if dtype == tf.string else 0
    extended = np.full(count, values[-1] if len(values) else nothing, values.dtype)
    extended[: len(values)] = values
    return extended


def _objects(values: list[bytes]) -> np.ndarray:
    array = np.empty(len(values), dtype=np.object_)
    array[:] = values
    return array


def _numbers_in(content: bytes, count: int, dtype: tf.DType) -> np.ndarray | None:
    """Decode raw bytes to numbers; None if they are not `count` valid values."""
    if len(content) != count * dtype.size:
        return None
    if dtype == tf.bool and max(content) > 1:
        return None
    return np.frombuffer(content, dtype.as_numpy_dtype)


def _strings_in(content: bytes, count: int, _dtype: tf.DType) -> np.ndarray | None:
    """Decode raw bytes to strings: all lengths as varints, then the texts; None if malformed."""
    lengths: list[int] = []
    position = 0
    while len(lengths) < count:
        length, shift = 0, 0
        while True:
            if position == len(content) or shift > 28:  # TensorFlow reads lengths as uint32
                return None
            byte = content[position]
            position += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        lengths.append(length)
    if position + sum(lengths) != len(content):
        return None
    ends = list(itertools.accumulate(lengths, initial=position))
    return _objects([content[start:end] for start, end in itertools.pairwise(ends)])


def message_bytes(array: np.ndarray) -> int:
    """Return an upper bound of an array's size in a message; strings are objects of bytes."""
    if array.dtype == np.object_:
        return text_bytes(array) + 6 * array.size
    if array.dtype.kind not in "iu" or not array.size:
        return max(array.itemsize, 3) * array.size  # half-precision bits are varints of 3 bytes
    if array.min() < 0:
        return 10 * array.size  # a negative varint has all of its bits
    return max(1, math.ceil(int(array.max()).bit_length() / 7)) * array.size


def write_array(proto: tensor_pb2.TensorProto, array: np.ndarray, dtype: tf.DType) -> None:
    """Write an array to an empty message, in the typed field like TensorFlow Serving.

    Args:
        proto: the message.
        array: the values; strings are objects of bytes.
        dtype: dtype in the signature.

    Raises:
        ServingError: UNIMPLEMENTED: messages do not support the dtype.
    """
    field = _field(dtype)
    proto.dtype = dtype.as_datatype_enum
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    flat = array.ravel()
    if field.bits:
        flat = flat.view(field.bits)
    elif dtype.is_complex:
        flat = flat.view(field.wire)
    values = getattr(proto, field.name)
    for chunk in _chunks(len(flat)):
        values.extend(flat[chunk].tolist())
