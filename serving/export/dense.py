"""Dense layers of the inference graph: float, int8 with dynamic ranges, int8 with measured ranges.

Shapes: R rows, K inputs, N outputs.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import tensorflow as tf

ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "gelu": tf.nn.gelu,  # exact by default
    "gelu_new": lambda x: tf.nn.gelu(x, approximate=True),
    "gelu_pytorch_tanh": lambda x: tf.nn.gelu(x, approximate=True),
    "relu": tf.nn.relu,
}
"""Activations by `BertConfig.hidden_act`."""


class Dense(tf.Module):
    """A dense layer: [R, K] → float [R, N]."""

    @abstractmethod
    def __call__(self, x: Any) -> Any:
        """Return x times the kernel plus the bias."""

    def prepared(self, x: Any) -> Any:
        """Return x in the form that the product reads, once for all layers of a plan's product."""
        return x

    def plus(self, x: Any, addend: Any) -> Any:
        """Return the layer's output for x plus an addend, float [R, N]."""
        return tf.cast(self(x), addend.dtype) + addend

    def activated(self, x: Any, activation: str) -> Any:
        """Return the activation of the layer's output; only a layer's `plus` may read it.

        Args:
            x: input of the layer.
            activation: name in `ACTIVATIONS`.
        """
        return ACTIVATIONS[activation](self(x))


class FloatDense(Dense):
    """A dense layer in the dtype of its kernel, float32 or bfloat16."""

    def __init__(self, kernel: tf.Variable, bias: tf.Variable, *, transposed: bool = False) -> None:
        """Use the given variables.

        Args:
            kernel: float [K, N]; [N, K] if `transposed`.
            bias: float [N].
            transposed: whether the kernel is [N, K].
        """
        super().__init__(name="dense")
        self.kernel = kernel
        self.bias = bias
        self._transposed = transposed

    def __call__(self, x: Any) -> Any:
        """Return x times the kernel plus the bias, in the dtype of x."""
        product = tf.matmul(
            tf.cast(x, self.kernel.dtype), self.kernel, transpose_b=self._transposed
        )
        return tf.cast(tf.nn.bias_add(product, self.bias), x.dtype)


def gathered(table: tf.Variable, ids: Any) -> Any:
    """Return rows of a variable: [V, H], int32 [...] → [..., H].

    `tf.gather` of a variable would be `ResourceGather`, after which each read copies the variable:
    a product that shares the table would copy it in every request.
    """
    return tf.gather(tf.convert_to_tensor(table), ids)
