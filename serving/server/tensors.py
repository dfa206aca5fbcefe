"""Tensors to and from the protocol buffers that gRPC and warm-up records carry."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from serving.server.signature import check_size
from serving.server.status import invalid


def tensors_from_protos(
    protos: Mapping[str, tensor_pb2.TensorProto], max_elements: int
) -> dict[str, tf.Tensor]:
    """Return the tensors by name.

    A list of values shorter than the shape is filled up with its last value, and a longer one is
    cut: what TensorFlow's own parser does.

    Raises:
        ServingError: INVALID_ARGUMENT, a tensor is malformed or declares too many elements.
    """
    return {name: _tensor(name, proto, max_elements) for name, proto in protos.items()}


def _tensor(name: str, proto: tensor_pb2.TensorProto, max_elements: int) -> tf.Tensor:
    check_size(tuple(dim.size for dim in proto.tensor_shape.dim), max_elements)
    try:
        return tf.io.parse_tensor(proto.SerializeToString(), tf.dtypes.as_dtype(proto.dtype))
    except (tf.errors.OpError, TypeError, ValueError) as error:
        raise invalid(f"tensor parsing error: {name}") from error


def proto_from_array(array: np.ndarray, dtype: tf.DType) -> tensor_pb2.TensorProto:
    """Return an array as TensorFlow Serving sends it: in the typed field, not as raw bytes."""
    proto = tensor_pb2.TensorProto(dtype=dtype.as_datatype_enum)
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    field, values = _FIELDS[dtype.name]
    getattr(proto, field).extend(values(array.ravel()))
    return proto


def _plain(flat: np.ndarray) -> list[Any]:
    return flat.tolist()


def _bits(flat: np.ndarray) -> list[int]:
    return flat.view(np.uint16).tolist()


def _parts(flat: np.ndarray) -> list[float]:
    """Return real and imaginary parts in turn."""
    return flat.view(flat.real.dtype).tolist()


_FIELDS: dict[str, tuple[str, Callable[[np.ndarray], list[Any]]]] = {
    "float32": ("float_val", _plain),
    "float64": ("double_val", _plain),
    "float16": ("half_val", _bits),
    "bfloat16": ("half_val", _bits),
    "complex64": ("scomplex_val", _parts),
    "complex128": ("dcomplex_val", _parts),
    "int8": ("int_val", _plain),
    "int16": ("int_val", _plain),
    "int32": ("int_val", _plain),
    "uint8": ("int_val", _plain),
    "uint16": ("int_val", _plain),
    "int64": ("int64_val", _plain),
    "uint32": ("uint32_val", _plain),
    "uint64": ("uint64_val", _plain),
    "bool": ("bool_val", _plain),
    "string": ("string_val", _plain),
}
