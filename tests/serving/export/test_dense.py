"""Dense layers of the inference graph against NumPy."""

import math

import numpy as np
import pytest
import tensorflow as tf

from serving.export.dense import ACTIVATIONS, FloatDense

RNG = np.random.default_rng(2)
X = RNG.normal(size=(3, 4)).astype(np.float32)
KERNEL = RNG.normal(size=(4, 5)).astype(np.float32)
BIAS = RNG.normal(size=5).astype(np.float32)
PRODUCT = X @ KERNEL + BIAS


def gelu(x: float) -> float:
    """Hendrycks & Gimpel 2016, x times the normal distribution function."""
    return x * (1 + math.erf(x / math.sqrt(2))) / 2


def tanh_gelu(x: float) -> float:
    """Their approximation."""
    return x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


FORMULAS = {
    "gelu": gelu,
    "gelu_new": tanh_gelu,
    "gelu_pytorch_tanh": tanh_gelu,
    "relu": lambda x: max(x, 0.0),
}


@pytest.mark.parametrize("transposed", [False, True])
def test_a_layer_and_what_is_added_to_it(transposed: bool) -> None:
    kernel = KERNEL.T if transposed else KERNEL
    layer = FloatDense(tf.Variable(kernel), tf.Variable(BIAS), transposed=transposed)
    np.testing.assert_allclose(layer(X), PRODUCT, rtol=1e-5)
    np.testing.assert_allclose(layer.plus(X, tf.constant(2 * PRODUCT)), 3 * PRODUCT, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(FORMULAS))
def test_activations_are_those_of_their_papers(name: str) -> None:
    layer = FloatDense(tf.Variable(KERNEL), tf.Variable(BIAS))
    expected = np.vectorize(FORMULAS[name])(PRODUCT)
    np.testing.assert_allclose(layer.activated(X, name), expected, rtol=1e-4, atol=1e-6)
    assert FORMULAS.keys() == ACTIVATIONS.keys()


def test_bfloat16_weights_multiply_in_bfloat16_and_return_the_dtype_of_the_input() -> None:
    weights = [tf.Variable(tf.cast(values, tf.bfloat16)) for values in (KERNEL, BIAS)]
    found = FloatDense(*weights)(tf.constant(X))
    assert found.dtype == tf.float32
    # Each value is a bfloat16 number: the lower half of its bits is zero.
    assert not (found.numpy().view(np.uint32) & 0xFFFF).any()
    np.testing.assert_allclose(found, PRODUCT, rtol=0.05, atol=0.05)
