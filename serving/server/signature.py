"""What a signature takes and gives, and whether inputs fit it."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_shape_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from serving.server.status import invalid

DEFAULT_SIGNATURE = "serving_default"
Arrays = dict[str, np.ndarray]  # by name; strings are objects of bytes


@dataclass(frozen=True)
class TensorInfo:
    """What a signature says about one input or output."""

    dtype: tf.DType
    shape: tuple[int | None, ...] | None  # None: unknown rank, or a size that is not fixed
    graph_name: str  # the tensor in the graph, such as "serving_default_text:0"

    @property
    def has_rows(self) -> bool:
        """Whether the first axis is known to be a batch of any size."""
        return bool(self.shape) and self.shape is not None and self.shape[0] is None


@dataclass(frozen=True)
class Signature:
    """One function of a loaded model. Both tables are sorted by name."""

    name: str
    inputs: Mapping[str, TensorInfo]
    outputs: Mapping[str, TensorInfo]
    function: Callable[..., Mapping[str, tf.Tensor]]

    @property
    def can_batch(self) -> bool:
        """Whether rows of several requests can share a run."""
        infos = (*self.inputs.values(), *self.outputs.values())
        return bool(self.inputs) and all(info.has_rows for info in infos)


def signature_from(
    name: str, definition: meta_graph_pb2.SignatureDef, function: Callable[..., Any]
) -> Signature:
    """Return the signature that a SavedModel describes by `definition`."""
    return Signature(name, _infos(definition.inputs), _infos(definition.outputs), function)


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


def check_inputs(signature: Signature, inputs: Mapping[str, tf.Tensor | np.ndarray]) -> None:
    """Compare names, kinds and ranks with the signature.

    Only a rank that is too low is refused here: it crashes kernels. Higher ranks and inner sizes
    are left to the graph, as in TensorFlow Serving.

    Raises:
        ServingError: INVALID_ARGUMENT, naming what does not fit.
    """
    if len(inputs) != len(signature.inputs):
        raise invalid(_sizes_differ(inputs.keys(), signature.inputs.keys()))
    for position, (name, info) in enumerate(signature.inputs.items()):
        if name not in inputs:
            raise invalid(
                f"Signature input alias: {name}(feed name: {info.graph_name}) not found in request "
                "and no default value provided. Inputs expected to be in the request "
                f"{_braced(inputs)}, or default input alias set: "
            )
        dtype = tf.dtypes.as_dtype(inputs[name].dtype)
        if dtype != info.dtype and inputs[name].dtype != np.object_:
            raise invalid(
                f"Expects arg[{position}] to be {type_name(info.dtype)} "
                f"but {type_name(dtype)} is provided"
            )
        shape = list(inputs[name].shape)
        if info.shape is not None and len(shape) < len(info.shape):
            raise invalid(
                f"Input {name}: expected {len(info.shape)} dimensions as in signature "
                f"{signature.name}, received shape {shape}"
            )


def type_name(dtype: tf.DType) -> str:
    """Return a dtype's name as TensorFlow's C++ core writes it."""
    return {"float16": "half", "float32": "float", "float64": "double"}.get(dtype.name, dtype.name)


def check_size(shape: tuple[int, ...], max_elements: int) -> None:
    """Refuse a declared shape before anything of its size is allocated.

    Raises:
        ServingError: INVALID_ARGUMENT, the shape has a negative size or too many elements.
    """
    if any(size < 0 for size in shape) or math.prod(shape) > max_elements:
        raise invalid(f"Tensor of shape {list(shape)}: expected 0 to {max_elements} elements")


def _sizes_differ(received: Any, expected: Any) -> str:
    return (
        f"input size does not match signature: {len(received)}!={len(expected)} "
        f"len({_braced(received)}) != len({_braced(expected)}). "
        f"Sent extra: {_braced(received - expected)}. "
        f"Missing but required: {_braced(expected - received)}."
    )


def _braced(names: Any) -> str:
    return "{" + ",".join(sorted(names)) + "}"
