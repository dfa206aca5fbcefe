"""What a network computes number by number between its matrix products, each as one kernel.

On a CPU the products are fastest as TensorFlow's own operations, which use oneDNN and with it the
units for bfloat16; everything between them is fastest when XLA makes one kernel of it. In the scope
of `fused_on_cpu` each function here is such a kernel, and so is its gradient, which starts from the
function's inputs: nothing in between is written to memory, but for an activation's slope. Outside
of that scope they are plain TensorFlow, for a server, or to be compiled with all the rest for a GPU
or TPU.

All compute in float32 and return the dtype of their first argument.

Shapes: B batch, L positions, H hidden size, N heads, D = H / N.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from inspect import signature
from typing import Any

import tensorflow as tf

_fuse = ContextVar("fuse", default=False)

XLA_FLAGS = "XLA_FLAGS"
NO_YNN = "--xla_cpu_experimental_ynn_fusion_type="
"""A kernel that runs twice at once, as two batches of an evaluation do, may kill the process where
XLA hands a part of it to YNNPACK: it adds a constant to a list without a lock (TensorFlow 2.21; the
maximum in `attention_weights` is such a part). Without, that kernel takes a tenth longer."""


def _avoid_ynn() -> None:
    """Tell XLA before its first kernel; what the variable has already comes after, and wins."""
    flags = os.environ.get(XLA_FLAGS, "")
    if not flags or flags.startswith("-"):  # otherwise it names a file
        os.environ[XLA_FLAGS] = f"{NO_YNN} {flags}".strip()


_avoid_ynn()


@contextmanager
def fused_on_cpu(fuse: bool) -> Iterator[None]:
    """Trace the functions of this module as XLA kernels of their own, or not."""
    token = _fuse.set(fuse)
    try:
        yield
    finally:
        _fuse.reset(token)


def fused(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function of tensors by position, and of settings by name, one kernel in that scope.

    Where the second tensor is a `bias` that is added to the first one, a product, its gradient is
    the sum of the product's, which TensorFlow multiplies faster than XLA adds it up.
    """
    compiled = tf.function(function, jit_compile=True, autograph=False)
    has_bias = list(signature(function).parameters)[1:2] == ["bias"]

    @tf.function(jit_compile=True, autograph=False)
    def gradient(inputs: tuple[tf.Tensor, ...], upstream: Any, settings: dict[str, Any]) -> Any:
        sources = [x for i, x in enumerate(inputs) if not (has_bias and i == 1)]
        with tf.GradientTape() as tape:
            tape.watch([x for x in sources if x.dtype.is_floating])
            outputs = function(*inputs, **settings)
        return tape.gradient(outputs, sources, output_gradients=upstream)

    @wraps(function)
    def call(*inputs: tf.Tensor, **settings: Any) -> Any:
        if not _fuse.get():
            return function(*inputs, **settings)

        @tf.custom_gradient
        def run(*inputs: tf.Tensor) -> tuple[Any, Callable[..., Any]]:
            outputs = compiled(*inputs, **settings)

            def gradients(*upstream: tf.Tensor) -> Any:
                given = upstream if isinstance(outputs, tuple) else upstream[0]
                found = gradient(inputs, given, settings)
                return [found[0], _of_bias(found[0]), *found[1:]] if has_bias else found

            return outputs, gradients

        return run(*map(tf.convert_to_tensor, inputs))

    return call


def _of_bias(gradient: tf.Tensor) -> tf.Tensor:
    """Return the sums over all axes but the last, float32 [K], of float [..., K]."""
    rows = tf.reshape(gradient, [-1, gradient.shape[-1]])
    ones = tf.ones(tf.stack([1, tf.shape(rows)[0]]), rows.dtype)
    return _float32(tf.matmul(ones, rows)[0])


def _float32(x: tf.Tensor) -> tf.Tensor:
    return tf.cast(x, tf.float32)


# ---- sums: XLA adds up rows and columns number by number on a CPU, and takes four to five times as
# long as for the product with ones. So in a kernel every sum is such a product, and the gradients
# are written out where TensorFlow's own would have others.


def _ones(count: tf.Tensor) -> tf.Tensor:
    return tf.ones(tf.reshape(count, [1]))


def _row_sums(x: tf.Tensor) -> tf.Tensor:
    """Return the sums over the last axis, float32 [..., 1]."""
    return tf.linalg.matvec(x, _ones(tf.shape(x)[-1]))[..., tf.newaxis]


def _column_sums(x: tf.Tensor) -> tf.Tensor:
    """Return the sums over all axes but the last, float32 [K], of float32 [..., K]."""
    rows = tf.reshape(x, [-1, x.shape[-1]])
    return tf.linalg.matvec(rows, _ones(tf.shape(rows)[0]), transpose_a=True)


def _biased(x: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """Return x + bias, float32 [..., K], of float [..., K] and float32 [K]."""
    return _float32(x) + bias


def _softmax(x: tf.Tensor) -> tf.Tensor:
    """Return float32 [..., K] whose rows add up to 1."""
    return _softmax_in_kernel(x) if _fuse.get() else tf.nn.softmax(x)


@tf.custom_gradient
def _softmax_in_kernel(x: tf.Tensor) -> tuple[tf.Tensor, Any]:
    powers = tf.exp(x - tf.reduce_max(x, -1, keepdims=True))
    shares = powers / _row_sums(powers)
    return shares, lambda upstream: shares * (upstream - _row_sums(upstream * shares))


# ---- dropout

FIRST_EXAMPLE = 1 << 32
"""See `_kept`."""


def _scrambled(x: tf.Tensor) -> tf.Tensor:
    """Return 32 bits each of which depends on all of x's: the finalizer of MurmurHash3.

    Austin Appleby, https://github.com/aappleby/smhasher (public domain), `fmix32`.
    """
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, tf.constant(shift, tf.uint32)))
        x *= tf.constant(factor, tf.uint32)
    return tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, tf.constant(16, tf.uint32)))


def _dropped(x: tf.Tensor, state: tf.Tensor, rate: float) -> tf.Tensor:
    """Return float32 x with a share `rate` of its numbers set to 0 and the others scaled up.

    Srivastava et al. 2014, https://jmlr.org/papers/v15/srivastava14a.html. What is dropped is a
    function of the state, the example's number in the whole batch, and the number's place in the
    example: a counter that is scrambled twice with two keys of the example. So a step drops the
    same on any number of devices, compiled or not, and forward and backward need not pass each
    other a mask. Philox, which XLA computes in no kernel with anything else, took a third of the
    whole step.

    Args:
        x: float32 [B, ...].
        state: int64 [2]. A seed, and the number in the whole batch of the first example here times
            `FIRST_EXAMPLE`, plus another seed below that.
        rate: 0 to 1.
    """
    if not rate:
        return x
    shape = tf.shape(x)
    rows = tf.ones_like(shape[1:])
    seed, other_seed = tf.cast(state % FIRST_EXAMPLE, tf.uint32)[0], state[1] % FIRST_EXAMPLE
    examples = tf.cast(state[1] // FIRST_EXAMPLE, tf.int32) + tf.range(shape[0])
    first_key = _scrambled(tf.cast(examples, tf.uint32) + seed)
    second_key = _scrambled(tf.bitwise.bitwise_xor(first_key, tf.cast(other_seed, tf.uint32)))
    first_key, second_key = (
        tf.reshape(key, tf.concat([shape[:1], rows], 0)) for key in (first_key, second_key)
    )
    places = tf.reshape(tf.range(tf.reduce_prod(shape[1:])), tf.concat([[1], shape[1:]], 0))
    bits = _scrambled(tf.bitwise.bitwise_xor(tf.cast(places, tf.uint32), first_key))
    bits = _scrambled(bits + second_key)
    kept = bits >= tf.constant(round(rate * 2**32), tf.uint32)
    return tf.where(kept, x * (1.0 / (1.0 - rate)), 0.0)


@fused
def dropout(x: tf.Tensor, state: tf.Tensor, *, rate: float) -> tf.Tensor:
    """Return x with a share of its numbers dropped.

    Args:
        x: float [B, ...].
        state: int64 [2], of `_dropped`.
        rate: 0 to 1.
    """
    return tf.cast(_dropped(_float32(x), state, rate), x.dtype)


# ---- normalization and activation


def _normalized(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float) -> tf.Tensor:
    """Ba et al. 2016, https://arxiv.org/abs/1607.06450, over the last axis."""
    if _fuse.get():
        normalized: tf.Tensor = _normalized_in_kernel(x, gamma, beta, epsilon)
        return normalized
    centred = x - tf.reduce_mean(x, -1, keepdims=True)
    variance = tf.reduce_mean(tf.square(centred), -1, keepdims=True)
    return centred * tf.math.rsqrt(variance + epsilon) * gamma + beta


def _normalized_in_kernel(
    x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float
) -> tf.Tensor:
    size = x.shape[-1]

    @tf.custom_gradient
    def run(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) -> tuple[tf.Tensor, Any]:
        centred = x - _row_sums(x) / size
        scale = tf.math.rsqrt(_row_sums(tf.square(centred)) / size + epsilon)
        unit = centred * scale

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            of_unit = upstream * gamma
            mean, along = _row_sums(of_unit) / size, _row_sums(of_unit * unit) / size
            of_x = scale * (of_unit - mean - unit * along)
            return of_x, _column_sums(upstream * unit), _column_sums(upstream)

        return unit * gamma + beta, gradient

    return run(x, gamma, beta)


@fused
def layer_norm(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, *, epsilon: float) -> tf.Tensor:
    """Return float [..., H] normalized over its last axis, times gamma plus beta, float32 [H]."""
    return tf.cast(_normalized(_float32(x), gamma, beta, epsilon), x.dtype)


@fused
def add_and_norm(
    x: tf.Tensor,
    bias: tf.Tensor,
    residual: tf.Tensor,
    gamma: tf.Tensor,
    beta: tf.Tensor,
    state: tf.Tensor,
    *,
    rate: float,
    epsilon: float,
) -> tf.Tensor:
    """Return what closes a block: the product x plus bias, dropped from, on top of the residual.

    Args:
        x: float [B, L, H].
        bias: float32 [H].
        residual: float [B, L, H].
        gamma: float32 [H].
        beta: float32 [H].
        state: int64 [2], of `dropout`.
        rate: of the dropout.
        epsilon: of the normalization.
    """
    added = _float32(residual) + _dropped(_biased(x, bias), state, rate)
    return tf.cast(_normalized(added, gamma, beta, epsilon), x.dtype)


def activated(x: tf.Tensor, bias: tf.Tensor, *, activation: Callable[..., Any]) -> tf.Tensor:
    """Return activation(x + bias) of float [..., H] and float32 [H].

    The one function here that keeps something for its gradient: its slope, in place of x. Both
    take the same powers and error functions, which are most of the work.
    """
    if not _fuse.get():
        return tf.cast(activation(_biased(x, bias)), x.dtype)

    @tf.custom_gradient
    def run(x: tf.Tensor, bias: tf.Tensor) -> tuple[tf.Tensor, Any]:
        outputs, slopes = _activated_and_slopes(x, bias, activation=activation)

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            of_x = _times(upstream, slopes)
            return of_x, _of_bias(of_x)

        return outputs, gradient

    activations: tf.Tensor = run(x, bias)
    return activations


@fused
def _activated_and_slopes(
    x: tf.Tensor, bias: tf.Tensor, *, activation: Callable[..., Any]
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return activation(x + bias), and its derivative there."""
    at = _biased(x, bias)
    with tf.GradientTape() as tape:
        tape.watch(at)
        outputs = activation(at)
    return tf.cast(outputs, x.dtype), tf.cast(tape.gradient(outputs, at), x.dtype)


@fused
def _times(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    return tf.cast(_float32(x) * _float32(y), x.dtype)


@fused
def add_bias(x: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """Return x + bias of float [..., V] and float32 [V]."""
    return tf.cast(_biased(x, bias), x.dtype)


# ---- attention: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3.2


@fused
def split_heads(x: tf.Tensor, bias: tf.Tensor, *, heads: int, scale: float = 1.0) -> tf.Tensor:
    """Return x + bias, times scale, by head: float [B, N, L, D].

    Args:
        x: float [B, L, H].
        bias: float32 [H].
        heads: N.
        scale: what queries are divided by √D with.
    """
    shape = tf.shape(x)
    size = x.shape[-1] // heads
    by_head = tf.reshape(_biased(x, bias) * scale, [shape[0], shape[1], heads, size])
    return tf.cast(tf.transpose(by_head, [0, 2, 1, 3]), x.dtype)


HIDDEN = -1e9
"""What is added to the score of padding."""


@fused
def attention_weights(
    scores: tf.Tensor, padding_mask: tf.Tensor, state: tf.Tensor, *, rate: float
) -> tf.Tensor:
    """Return each position's share in what a head gathers, in training with some dropped.

    Args:
        scores: float [B, N, L, L]. Of each position (last axis) for each other.
        padding_mask: int32 [B, L]. 1 = real piece, 0 = padding.
        state: int64 [2], of `dropout`.
        rate: of the dropout.
    """
    hidden = (1.0 - _float32(padding_mask))[:, tf.newaxis, tf.newaxis, :] * HIDDEN
    return tf.cast(_dropped(_softmax(_float32(scores) + hidden), state, rate), scores.dtype)


@fused
def merge_heads(x: tf.Tensor) -> tf.Tensor:
    """Return float [B, L, H] of [B, N, L, D]."""
    shape = tf.shape(x)
    merged = tf.transpose(x, [0, 2, 1, 3])
    return tf.reshape(merged, [shape[0], shape[2], x.shape[1] * x.shape[3]])
