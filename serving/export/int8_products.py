"""Matrix products in int8: TensorFlow's operation `_QuantizedMatMul`, which oneDNN computes.

The operation multiplies int8 by int8 into int32 and returns float: the sums times the scales of its
input and its weights. `tf.raw_ops` has no function for it, since its name begins with `_`, so its
node is put into the graph by name. TensorFlow registers it in builds with oneDNN (x86), and the
official wheel and TensorFlow Serving are such builds; elsewhere a graph with it cannot be loaded.

oneDNN's program for a product is cached in TensorFlow under a key that holds the limits of the
input and the address of the weights' scales, and keeps the scales that it was built with. An
address alone could be that of an unloaded model's scales. So the lower limit of the input, which
has no effect in the mode SCALED as long as the upper one is larger, is a number derived from the
scales.

Shapes: R rows, K inputs, N outputs.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2

from serving.export.dense import Dense, gathered
from serving.export.quantization import LARGEST, Quantized, Range

OP = "_QuantizedMatMul"

_NO_VNNI = (
    "an int8 model needs a CPU with VNNI or AMX, whose int8 products are exact; "
    "export the run in bfloat16 or float32 for this machine"
)

_FUSED = {
    "gelu": "GeluExact",
    "gelu_new": "GeluApproximate",
    "gelu_pytorch_tanh": "GeluApproximate",
    "relu": "Relu",
}
"""The operation's activations by `BertConfig.hidden_act`."""

_SMALLEST = np.finfo(np.float32).tiny
"""Lower limit of a row's scale: a row of zeros has the scale of a number that is not 0."""


@dataclass(frozen=True)
class Kernel:
    """Weights of a product.

    Attributes:
        values: qint8 [K, N], or [N, K] for a transposed product.
        ranges: float32 [N]. Largest number of each column; a constant or a variable, so that it is
            at the same address in every call.
        key: a number from 0 to 1 derived from the scales, for the input's lower limit.
    """

    values: Any
    ranges: Any
    key: float


class Int8Matrix(tf.Module):
    """A quantized matrix, which an embedding and a product may share."""

    def __init__(self, quantized: Quantized) -> None:
        super().__init__(name="int8_matrix")
        self.values = tf.Variable(tf.bitcast(quantized.values, tf.qint8), trainable=False)
        self.ranges = quantized.scales * np.float32(LARGEST)
        # 24 bits of the hash: as many as the significand of a float32 has.
        digest = hashlib.sha256(np.ascontiguousarray(quantized.scales).tobytes()).digest()
        self._key = int.from_bytes(digest[:3], "big") / 2**24

    @property
    def kernel(self) -> Kernel:
        """The matrix as weights of a product."""
        return Kernel(self.values, self.ranges, self._key)


class DynamicDense(Dense):
    """A dense layer with int8 weights: float [R, K] → float32 [R, N].

    Each row of the input is divided by its own largest number and rounded to int8, so the result
    for a row does not depend on the other rows, and no data is needed to choose a range.
    """

    def __init__(self, matrix: Int8Matrix, bias: np.ndarray, *, transposed: bool = False) -> None:
        """Use the given weights.

        Args:
            matrix: weights [K, N] with a scale per column; [N, K] with one per row if `transposed`.
            bias: float32 [N].
            transposed: whether the kernel is [N, K].
        """
        super().__init__(name="int8_dense")
        self.matrix = matrix
        self.bias = bias
        self._transposed = transposed

    def __call__(self, x: Any) -> Any:
        """Return x times the kernel plus the bias."""
        rows, scales = quantized_rows(tf.cast(x, tf.float32))
        none = tf.zeros(self.matrix.ranges.shape)
        # With the limit 127 an integer stands for itself; the rows' own scales follow.
        sums = product(rows, self.matrix.kernel, none, LARGEST, transposed=self._transposed)
        return sums * scales + self.bias


class CalibratedDense(Dense):
    """A dense layer with int8 weights and a measured range of its input.

    Bias, residual and activation are computed by the operation that multiplies, and an activation
    stays 8 bits wide for the next layer. Numbers outside the range become its limits.
    """

    def __init__(
        self,
        kernel: np.ndarray,
        bias: np.ndarray,
        inputs: Range,
        outputs: Range | None = None,
        dtype: tf.DType = tf.float32,
    ) -> None:
        """Quantize the weights.

        Args:
            kernel: float32 [K, N].
            bias: float32 [N].
            inputs: range of the input.
            outputs: range of the activation, if the next layer is one of these.
            dtype: dtype of the output.
        """
        super().__init__(name="int8_dense")
        self.matrix = Int8Matrix(inputs.weights(kernel))
        # x = low + step · q: the constant part of the product is added to the bias once, here.
        bias = bias + inputs.low * inputs.column_sums(kernel)
        self.bias = bias.astype(np.float32)
        divisors = inputs.divisors
        # Inverted once: a product per number is cheaper than a quotient.
        self.factors = None if divisors is None else (1.0 / divisors).astype(np.float32)
        self._inputs = inputs
        self._outputs = outputs
        self._dtype = dtype

    def __call__(self, x: Any) -> Any:
        """Return x times the kernel plus the bias."""
        return self._product(x, output=self._dtype)

    def plus(self, x: Any, addend: Any) -> Any:
        """Return the layer's output for x plus an addend, float32 [R, N]."""
        return self._product(x, addend=addend)

    def activated(self, x: Any, activation: str) -> Any:
        """Return the activation of the layer's output, in the next layer's form."""
        return self._product(x, activation=_FUSED[activation], outputs=self._outputs)

    def _product(self, x: Any, **fused: Any) -> Any:
        span = self._inputs.high - self._inputs.low if self._inputs.low else self._inputs.high
        return product(self.prepared(x), self.matrix.kernel, self.bias, span, **fused)

    def prepared(self, x: Any) -> Any:
        """Return x, float [R, K] or already quantized, in 8 bits."""
        if x.dtype in (tf.quint8, tf.qint8):
            return x
        x = tf.cast(x, tf.float32)
        if self.factors is not None:
            x *= self.factors
        low, high = self._inputs.low, self._inputs.high
        # TensorFlow has NumPy's rounding, HALF_TO_EVEN, in the mode SCALED only.
        return tf.raw_ops.QuantizeV2(
            input=x,
            min_range=low or -high,
            max_range=high,
            T=tf.quint8 if low else tf.qint8,
            mode="MIN_FIRST" if low else "SCALED",
            round_mode="HALF_AWAY_FROM_ZERO" if low else "HALF_TO_EVEN",
            narrow_range=not low,
        ).output


class Int8Embedding(tf.Module):
    """A table of vectors with int8 weights and a scale for each row."""

    def __init__(self, table: Int8Matrix) -> None:
        super().__init__(name="int8_embedding")
        self.table = table

    def __call__(self, ids: Any) -> Any:
        """Return the vectors of ids, int32 [...]: float32 [..., H]."""
        values = tf.bitcast(gathered(self.table.values, ids), tf.int8)
        scales = tf.gather(self.table.ranges, ids) / LARGEST
        return tf.cast(values, tf.float32) * scales[..., tf.newaxis]


def layer_norm(x: Any, gamma: Any, beta: Any, epsilon: float) -> Any:
    """Return the layer normalization over the last axis of float32 [R, N], as one operation."""
    graph = tf.compat.v1.get_default_graph()
    attributes = _attributes({"T": x.dtype, "epsilon": epsilon})
    inputs = [x, tf.convert_to_tensor(gamma), tf.convert_to_tensor(beta)]
    node = graph.create_op("_MklLayerNorm", inputs, [x.dtype], attrs=attributes, name="layer_norm")
    found = node.outputs[0]
    found.set_shape(x.shape)
    return found


def check_cpu() -> Any:
    """Return an op that fails on a CPU that multiplies int8 inexactly.

    Without VNNI or AMX, oneDNN adds pairs of products in 16 bits, which do not hold the largest
    ones, and the answers would be wrong without a sign of it. The product here has constant inputs,
    so TensorFlow computes it once, when it optimizes the graph.
    """
    ones = tf.fill([4, 64], tf.constant(LARGEST))
    rows, _ = quantized_rows(ones)
    values = tf.bitcast(tf.constant(int(LARGEST), tf.int8, [64, 16]), tf.qint8)
    kernel = Kernel(values, tf.fill([16], tf.constant(LARGEST)), 0.0)
    sums = product(rows, kernel, tf.zeros([16]), LARGEST)
    return tf.debugging.Assert(tf.reduce_all(sums == 64 * LARGEST**2), [_NO_VNNI])


def quantized_rows(x: Any) -> tuple[Any, Any]:
    """Quantize each row of float32 [R, K]: qint8 [R, K], and its scale, float32 [R, 1]."""
    scale = tf.reduce_max(tf.abs(x), axis=1, keepdims=True) / LARGEST
    scale = tf.maximum(scale, _SMALLEST)
    return tf.bitcast(tf.cast(tf.round(x / scale), tf.int8), tf.qint8), scale


def product(
    rows: Any,
    kernel: Kernel,
    bias: Any,
    span: float,
    *,
    addend: Any = None,
    activation: str | None = None,
    outputs: Range | None = None,
    output: tf.DType = tf.float32,
    transposed: bool = False,
) -> Any:
    """Return rows times a kernel, times both scales, plus a bias: float [R, N].

    Args:
        rows: qint8 or quint8 [R, K].
        kernel: the kernel [K, N], or [N, K] if transposed.
        bias: float32 [N].
        span: number that the largest integer of `rows` (127 or 255) stands for.
        addend: float32 [R, N], added to the product; None = nothing.
        activation: name of a fused activation, applied last.
        outputs: range of the outputs: they are returned as quint8; None = float.
        output: dtype of float outputs.
        transposed: whether the kernel is [N, K].
    """
    ranges = tf.convert_to_tensor(kernel.ranges)
    tensors = [rows, tf.convert_to_tensor(kernel.values), tf.convert_to_tensor(bias)]
    tensors += [] if addend is None else [addend]
    # The larger absolute value of both limits counts, so a column's lower limit may be its upper.
    limits = [tf.constant(-span * kernel.key), tf.constant(span, tf.float32), ranges, ranges]
    fused = ["BiasAdd", "Add" if addend is not None else activation]
    results = [output]
    if outputs:
        limits += [tf.constant(outputs.low), tf.constant(outputs.high)]
        results = [tf.quint8, tf.float32, tf.float32]
    fused.append("Requantize" if outputs else "Dequantize")
    found = _add_node(tensors, limits, results, [name for name in fused if name], transposed)
    found.set_shape([rows.shape[0], ranges.shape[0]])
    return found


def _add_node(
    tensors: Sequence[Any],
    limits: Sequence[Any],
    results: Sequence[tf.DType],
    fused: Sequence[str],
    transposed: bool,
) -> Any:
    """Add a node of the operation to the graph and return its first output.

    Args:
        tensors: quantized input, quantized kernel, bias, and what is added to the product.
        limits: float32 [] or [N]. Lower and upper limit of each quantized tensor, in order.
        results: dtypes of the outputs: the product, and its limits if it is quantized.
        fused: names of the operations that follow the product, in order.
        transposed: whether the kernel is [N, K].
    """
    attributes = {
        "T1": tensors[0].dtype,
        "T2": tf.qint8,
        "Tbias": tf.float32,
        "U": tf.float32,
        "Tout": results[0],
        "Tdevice_inputs": [tensor.dtype for tensor in tensors],
        "Thost_inputs": [limit.dtype for limit in limits],
        "Tdevice_outputs": results[:1],
        "Thost_outputs": results[1:],
        "transpose_a": False,
        "transpose_b": transposed,
        "is_weight_const": True,
        "is_bias_const": True,
        "fused_ops": fused,
        "input_quant_mode": "SCALED",
        "output_quant_mode": "MIN_FIRST",
    }
    graph = tf.compat.v1.get_default_graph()
    node = graph.create_op(
        OP, [*tensors, *limits], results, attrs=_attributes(attributes), name="int8_product"
    )
    return node.outputs[0]


def _attributes(values: Mapping[str, Any]) -> dict[str, attr_value_pb2.AttrValue]:
    """Return a node's attributes in TensorFlow's form."""
    attributes = {}
    for name, value in values.items():
        attribute = attr_value_pb2.AttrValue()
        if isinstance(value, tf.DType):
            attribute.type = value.as_datatype_enum
        elif isinstance(value, bool):
            attribute.b = value
        elif isinstance(value, float):
            attribute.f = value
        elif isinstance(value, str):
            attribute.s = value.encode()
        elif name == "fused_ops":
            attribute.list.s.extend(each.encode() for each in value)
        else:
            # An empty list must be there, too: a node without the attribute is refused.
            attribute.list.SetInParent()
            attribute.list.type.extend(each.as_datatype_enum for each in value)
        attributes[name] = attribute
    return attributes
