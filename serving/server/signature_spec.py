"""Inputs and outputs of a signature, and checks whether arrays match them."""

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_shape_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from pipeline.schema import Arrays
from serving.server.limits import CHUNK_VALUES
from serving.server.status import invalid, shortened

MAX_RANK = 64  # NumPy's limit; TensorFlow's is 254
Shape = tuple[int, ...]
_NAMES_SHOWN = 64


def size_bytes(arrays: Arrays) -> int:
    """Return the memory size of arrays, including the bytes of their strings."""
    return sum(
        array.nbytes + (text_bytes(array) if array.dtype == np.object_ else 0)
        for array in arrays.values()
    )


def text_bytes(texts: np.ndarray) -> int:
    """Return the total length of an array's strings, which are objects of bytes."""
    flat = texts.ravel()
    starts = range(0, flat.size, CHUNK_VALUES)
    return sum(sum(map(len, flat[start : start + CHUNK_VALUES])) for start in starts)


@dataclass(frozen=True)
class TensorInfo:
    """Dtype and shape of one input or output."""

    dtype: tf.DType
    shape: tuple[int | None, ...] | None  # None = unknown rank; a size None = unknown size
    graph_name: str  # name of the tensor in the graph, for example "serving_default_text:0"

    @property
    def has_rows(self) -> bool:
        """Whether the first axis is a batch axis of unknown size."""
        return bool(self.shape) and self.shape is not None and self.shape[0] is None


@dataclass(frozen=True)
class ServableSignature:
    """One function of a loaded model; inputs and outputs are sorted by name."""

    name: str
    inputs: Mapping[str, TensorInfo]
    outputs: Mapping[str, TensorInfo]
    function: Callable[..., Mapping[str, tf.Tensor]]

    @property
    def can_batch(self) -> bool:
        """Whether rows of several requests can be batched."""
        infos = (*self.inputs.values(), *self.outputs.values())
        return bool(self.inputs) and all(info.has_rows for info in infos)


def signature_from(
    name: str, definition: meta_graph_pb2.SignatureDef, function: Callable[..., Any]
) -> ServableSignature:
    """Build a signature from its definition in a SavedModel and its function."""
    return ServableSignature(name, _infos(definition.inputs), _infos(definition.outputs), function)


def _infos(tensors: Mapping[str, meta_graph_pb2.TensorInfo]) -> dict[str, TensorInfo]:
    return {
        name: TensorInfo(
            dtype=tf.dtypes.as_dtype(info.dtype),
            shape=None if info.tensor_shape.unknown_rank else _sizes(info.tensor_shape),
            graph_name=info.name,
        )
        for name, info in sorted(tensors.items())
    }


def _sizes(shape: tensor_shape_pb2.TensorShapeProto) -> tuple[int | None, ...]:
    return tuple(None if dim.size < 0 else dim.size for dim in shape.dim)


def check_inputs(signature: ServableSignature, inputs: Arrays) -> None:
    """Check names, dtypes and ranks of arrays against the signature.

    Raises:
        ServingError: INVALID_ARGUMENT, naming the first mismatch.
    """
    check_names(signature, inputs)
    for name in signature.inputs:
        check_dtype(signature, name, type_name(tf.dtypes.as_dtype(inputs[name].dtype)))
        check_rank(signature, name, inputs[name].shape)


def check_names(signature: ServableSignature, names: Collection[str]) -> None:
    """Check the names of a request's inputs against the signature's.

    Raises:
        ServingError: INVALID_ARGUMENT, naming the first mismatch.
    """
    if len(names) != len(signature.inputs):
        raise invalid(_sizes_differ(names, signature.inputs))
    for name, info in signature.inputs.items():
        if name not in names:
            raise invalid(
                f"Signature input alias: {name}(feed name: {info.graph_name}) not found in request "
                "and no default value provided. Inputs expected to be in the request "
                f"{_braced(names)}, or default input alias set: "
            )


def check_dtype(signature: ServableSignature, name: str, received: str) -> None:
    """Check one input's dtype, as named by `type_name`, against the signature's.

    Raises:
        ServingError: INVALID_ARGUMENT: they differ.
    """
    expected = type_name(signature.inputs[name].dtype)
    if received != expected:
        position = list(signature.inputs).index(name)
        raise invalid(f"Expects arg[{position}] to be {expected} but {received} is provided")


def check_rank(signature: ServableSignature, name: str, shape: Shape) -> None:
    """Refuse a rank lower than the signature's, which would crash kernels.

    Higher ranks and inner sizes are checked by the graph, as in TensorFlow Serving.

    Raises:
        ServingError: INVALID_ARGUMENT: the rank is too low.
    """
    expected = signature.inputs[name].shape
    if expected is not None and len(shape) < len(expected):
        raise invalid(
            f"Input {name}: expected {len(expected)} dimensions as in signature "
            f"{signature.name}, received shape {list(shape)}"
        )


def check_rows(rows: int, most_rows: int | None) -> None:
    """Refuse requests of too many rows; None = no limit.

    Raises:
        ServingError: INVALID_ARGUMENT, in TensorFlow Serving's wording.
    """
    if most_rows is not None and rows > most_rows:
        raise invalid(f"Task size {rows} is larger than maximum input batch size {most_rows}")


def type_name(dtype: tf.DType) -> str:
    """Return a dtype's name as TensorFlow's C++ core writes it."""
    return {"float16": "half", "float32": "float", "float64": "double"}.get(dtype.name, dtype.name)


def _sizes_differ(received: Collection[str], expected: Collection[str]) -> str:
    extra = (name for name in received if name not in expected)
    missing = (name for name in expected if name not in received)
    return (
        f"input size does not match signature: {len(received)}!={len(expected)} "
        f"len({_braced(received)}) != len({_braced(expected)}). "
        f"Sent extra: {_braced(extra)}. Missing but required: {_braced(missing)}."
    )


def _braced(names: Iterable[str]) -> str:
    """Return the first names in braces; a client may send millions of names."""
    first = sorted(itertools.islice(names, _NAMES_SHOWN))
    return "{" + shortened(",".join(first)) + "}"
