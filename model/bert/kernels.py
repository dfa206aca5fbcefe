"""Element-wise computations between the matrix multiplications, each fused into one kernel on CPUs.

On a CPU, matrix multiplications are fastest as TensorFlow operations, which use oneDNN and its
bfloat16 support; everything between them is fastest when XLA fuses it into one kernel. In the scope
of `fused_on_cpu` each function here is such a kernel, and so is its gradient, which is recomputed
from the function's inputs: no intermediate result is stored, except the slope of an activation.
Outside that scope the functions are plain TensorFlow, for a server, or for XLA to compile with the
whole step for a GPU or TPU.

All functions compute in float32 and return the dtype of their first argument.

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
"""Flag that keeps XLA from using YNNPACK. YNNPACK is not thread-safe: if one kernel runs twice
concurrently, as in evaluation, it may crash the process, since it appends to a list of constants
without a lock (TensorFlow 2.21; the maximum in `attention_weights` is such a case). Without
YNNPACK that kernel takes 10% longer."""


def _avoid_ynn() -> None:
    """Set the flag before XLA compiles its first kernel; the user's own flags take precedence."""
    flags = os.environ.get(XLA_FLAGS, "")
    if not flags or flags.startswith("-"):  # otherwise the variable names a file with flags
        os.environ[XLA_FLAGS] = f"{NO_YNN} {flags}".strip()


_avoid_ynn()


@contextmanager
def fused_on_cpu(fuse: bool) -> Iterator[None]:
    """Inside the context, trace this module's functions as XLA kernels if `fuse` is set."""
    token = _fuse.set(fuse)
    try:
        yield
    finally:
        _fuse.reset(token)


def fused(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a function to be one XLA kernel in the scope of `fused_on_cpu`.

    The function takes tensors as positional arguments and settings as keyword arguments. If its
    second tensor is a `bias` added to the first one, the gradient of the bias is the sum of the
    first one's gradient over all positions: it is computed outside the kernel, as a matrix product
    with ones (`_bias_gradient`), since XLA's reduction is slower.
    """
    compiled = tf.function(function, jit_compile=True, autograph=False)
    has_bias = list(signature(function).parameters)[1:2] == ["bias"]

    @tf.function(jit_compile=True, autograph=False)
    def gradient(inputs: tuple[tf.Tensor, ...], upstream: Any, settings: dict[str, object]) -> Any:
        # The bias is left out: `call` derives its gradient from that of the first tensor.
        sources = [x for i, x in enumerate(inputs) if not (has_bias and i == 1)]
        with tf.GradientTape() as tape:
            tape.watch([x for x in sources if x.dtype.is_floating])
            outputs = function(*inputs, **settings)
        return tape.gradient(outputs, sources, output_gradients=upstream)

    @wraps(function)
    def call(*inputs: tf.Tensor, **settings: object) -> Any:
        if not _fuse.get():
            return function(*inputs, **settings)

        @tf.custom_gradient
        def run(*inputs: tf.Tensor) -> tuple[Any, Callable[..., Any]]:
            outputs = compiled(*inputs, **settings)

            def gradients(*upstream: tf.Tensor) -> Any:
                # The tape gives one upstream gradient per output; the kernel takes them as the
                # function returns them.
                of_outputs = upstream if isinstance(outputs, tuple) else upstream[0]
                of_inputs = gradient(inputs, of_outputs, settings)
                if not has_bias:
                    return of_inputs
                return [of_inputs[0], _bias_gradient(of_inputs[0]), *of_inputs[1:]]

            return outputs, gradients

        return run(*map(tf.convert_to_tensor, inputs))

    return call


def _bias_gradient(gradient: tf.Tensor) -> tf.Tensor:
    """Return the sum of a gradient, float [..., K], over all axes but the last: float32 [K]."""
    rows = tf.reshape(gradient, [-1, gradient.shape[-1]])
    ones = tf.ones(tf.stack([1, tf.shape(rows)[0]]), rows.dtype)
    return _float32(tf.matmul(ones, rows)[0])


def _float32(x: tf.Tensor) -> tf.Tensor:
    return tf.cast(x, tf.float32)


# ---- sums: XLA's row and column reductions are scalar loops on a CPU, four to five times slower
# than a product with a vector of ones. So inside a kernel every sum is such a product, and where
# TensorFlow's automatic gradient would contain reductions, the gradient is written by hand.


def _ones(count: tf.Tensor) -> tf.Tensor:
    return tf.ones(tf.reshape(count, [1]))


def _row_sums(x: tf.Tensor) -> tf.Tensor:
    """Return the sums over the last axis, float32 [..., 1]."""
    return tf.linalg.matvec(x, _ones(tf.shape(x)[-1]))[..., tf.newaxis]


def _column_sums(x: tf.Tensor) -> tf.Tensor:
    """Return the sums of float32 [..., K] over all axes but the last: float32 [K]."""
    rows = tf.reshape(x, [-1, x.shape[-1]])
    return tf.linalg.matvec(rows, _ones(tf.shape(rows)[0]), transpose_a=True)


def _biased(x: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """Return x + bias, float32 [..., K], of float [..., K] and float32 [K]."""
    return _float32(x) + bias


def _softmax(x: tf.Tensor) -> tf.Tensor:
    """Return the softmax over the last axis, float32 [..., K]."""
    return _softmax_in_kernel(x) if _fuse.get() else tf.nn.softmax(x)


@tf.custom_gradient
def _softmax_in_kernel(x: tf.Tensor) -> tuple[tf.Tensor, Any]:
    # The maximum is subtracted so that no power overflows; it cancels in the quotient.
    powers = tf.exp(x - tf.reduce_max(x, -1, keepdims=True))
    shares = powers / _row_sums(powers)
    # The Jacobian of softmax is diag(s) - s sᵀ, so the gradient needs only its outputs.
    return shares, lambda upstream: shares * (upstream - _row_sums(upstream * shares))


# ---- dropout

FIRST_EXAMPLE = 1 << 32
"""Factor of the first example's index in a dropout state, see `_dropped`."""


def _scrambled(x: tf.Tensor) -> tf.Tensor:
    """Return a hash, uint32, of uint32 x: MurmurHash3's finalizer, a bijection.

    Austin Appleby, https://github.com/aappleby/smhasher (public domain), `fmix32`.
    """
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, tf.constant(shift, tf.uint32)))
        x *= tf.constant(factor, tf.uint32)
    return tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, tf.constant(16, tf.uint32)))


def _dropped(x: tf.Tensor, state: tf.Tensor, rate: float) -> tf.Tensor:
    """Return float32 x after dropout: a share `rate` of elements is 0, the others are scaled up.

    Srivastava et al. 2014, https://jmlr.org/papers/v15/srivastava14a.html. The mask comes from a
    counter-based generator: a hash of the state, the example's index in the global batch, and the
    element's index in the example. So a step drops the same elements on any number of devices,
    compiled or not, and the backward pass recomputes the mask instead of storing it. Philox,
    TensorFlow's generator, cannot be fused by XLA and took a third of the whole step.

    Args:
        x: float32 [B, ...].
        state: int64 [2]. A seed, of which the low 32 bits count; and `FIRST_EXAMPLE` times the
            index in the global batch of the first example of x, plus a second seed below 2^32.
        rate: dropout rate, 0 to below 1.
    """
    if not rate:
        return x
    shape = tf.shape(x)
    # The axes of one example, with size 1: a key per example is broadcast over them.
    rows = tf.ones_like(shape[1:])
    # state[1] packs two numbers: the example's index above, a 32-bit seed below.
    seed, other_seed = tf.cast(state % FIRST_EXAMPLE, tf.uint32)[0], state[1] % FIRST_EXAMPLE
    # Keys depend on the index in the global batch, not on this device, so that every split of the
    # batch over devices drops the same elements.
    examples = tf.cast(state[1] // FIRST_EXAMPLE, tf.int32) + tf.range(shape[0])
    first_key = _scrambled(tf.cast(examples, tf.uint32) + seed)
    second_key = _scrambled(tf.bitwise.bitwise_xor(first_key, tf.cast(other_seed, tf.uint32)))
    first_key, second_key = (
        tf.reshape(key, tf.concat([shape[:1], rows], 0)) for key in (first_key, second_key)
    )
    # The index of each element in its example, with an axis of 1 to broadcast over the examples.
    places = tf.reshape(tf.range(tf.reduce_prod(shape[1:])), tf.concat([[1], shape[1:]], 0))
    bits = _scrambled(tf.bitwise.bitwise_xor(tf.cast(places, tf.uint32), first_key))
    # A second round with another key: after one, the masks of any two examples would be the same up
    # to an exclusive or of the places.
    bits = _scrambled(bits + second_key)
    # Uniform 32-bit integers: a share `rate` of them lies below rate · 2^32.
    kept = bits >= tf.constant(round(rate * 2**32), tf.uint32)
    # Scaled up, so that the expected value is that of x and inference needs no scaling.
    return tf.where(kept, x * (1.0 / (1.0 - rate)), 0.0)


@fused
def dropout(x: tf.Tensor, state: tf.Tensor, *, rate: float) -> tf.Tensor:
    """Return x after dropout.

    Args:
        x: float [B, ...].
        state: int64 [2]. State of the random generator, see `_dropped`.
        rate: dropout rate, 0 to below 1.
    """
    return tf.cast(_dropped(_float32(x), state, rate), x.dtype)


# ---- normalization and activation


def _normalized(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float) -> tf.Tensor:
    """Layer normalization over the last axis (Ba et al. 2016, https://arxiv.org/abs/1607.06450)."""
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
        # Centre first and square then: E[x²] - E[x]² would cancel digits in float32.
        centred = x - _row_sums(x) / size
        scale = tf.math.rsqrt(_row_sums(tf.square(centred)) / size + epsilon)
        unit = centred * scale

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            of_unit = upstream * gamma
            # x influences its row's mean and variance, too: their two terms are subtracted.
            mean, along = _row_sums(of_unit) / size, _row_sums(of_unit * unit) / size
            of_x = scale * (of_unit - mean - unit * along)
            return of_x, _column_sums(upstream * unit), _column_sums(upstream)

        return unit * gamma + beta, gradient

    return run(x, gamma, beta)


@fused
def layer_norm(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, *, epsilon: float) -> tf.Tensor:
    """Return the layer normalization of float [..., H]; gamma and beta are float32 [H]."""
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
    """Return LayerNorm(residual + dropout(x + bias)), the end of a Transformer block.

    Args:
        x: float [B, L, H]. The block's last matrix product, without its bias.
        bias: float32 [H].
        residual: float [B, L, H]. The block's input.
        gamma: float32 [H]. Scale of the normalization.
        beta: float32 [H]. Offset of the normalization.
        state: int64 [2]. State of the dropout, see `_dropped`.
        rate: dropout rate, 0 to below 1.
        epsilon: epsilon of the normalization.
    """
    added = _float32(residual) + _dropped(_biased(x, bias), state, rate)
    return tf.cast(_normalized(added, gamma, beta, epsilon), x.dtype)


def activated(x: tf.Tensor, bias: tf.Tensor, *, activation: Callable[..., Any]) -> tf.Tensor:
    """Return activation(x + bias) of float [..., H] and float32 [H].

    The only function here that stores something for its gradient: the activation's slope, instead
    of x. Value and slope share their exponentials and error functions, which are most of the work.
    """
    if not _fuse.get():
        return tf.cast(activation(_biased(x, bias)), x.dtype)

    @tf.custom_gradient
    def run(x: tf.Tensor, bias: tf.Tensor) -> tuple[tf.Tensor, Any]:
        outputs, slopes = _activated_and_slopes(x, bias, activation=activation)

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            of_x = _times(upstream, slopes)
            return of_x, _bias_gradient(of_x)

        return outputs, gradient

    activations: tf.Tensor = run(x, bias)
    return activations


@fused
def _activated_and_slopes(
    x: tf.Tensor, bias: tf.Tensor, *, activation: Callable[..., Any]
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return activation(x + bias) and the activation's derivative at x + bias."""
    at = _biased(x, bias)
    outputs = activation(at)
    # Not a tape: gradient checkpointing calls this where no tape records.
    (slopes,) = tf.gradients(outputs, [at])
    return tf.cast(outputs, x.dtype), tf.cast(slopes, x.dtype)


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
    """Return (x + bias) · scale, split into heads: float [B, N, L, D].

    Args:
        x: float [B, L, H].
        bias: float32 [H].
        heads: N.
        scale: 1/√D for queries, else 1.
    """
    shape = tf.shape(x)
    size = x.shape[-1] // heads
    by_head = tf.reshape(_biased(x, bias) * scale, [shape[0], shape[1], heads, size])
    return tf.cast(tf.transpose(by_head, [0, 2, 1, 3]), x.dtype)


HIDDEN = -1e9
"""Added to the attention scores of padding; its softmax is exactly 0 in float32."""


@fused
def attention_weights(
    scores: tf.Tensor, padding_mask: tf.Tensor, state: tf.Tensor, *, rate: float
) -> tf.Tensor:
    """Return the attention weights after dropout, float [B, N, L, L].

    Args:
        scores: float [B, N, L, L]. Attention scores; the last axis is the keys' position.
        padding_mask: int32 [B, L]. 1 = real piece, 0 = padding. Or int32 [B, L, L]. 1 = the
            position of the second axis sees that of the third.
        state: int64 [2]. State of the dropout, see `_dropped`.
        rate: dropout rate, 0 to below 1.
    """
    if padding_mask.shape.rank == 2:
        padding_mask = padding_mask[:, tf.newaxis, :]
    hidden = (1.0 - _float32(padding_mask))[:, tf.newaxis, :, :] * HIDDEN
    return tf.cast(_dropped(_softmax(_float32(scores) + hidden), state, rate), scores.dtype)


@fused
def merge_heads(x: tf.Tensor) -> tf.Tensor:
    """Concatenate the heads of float [B, N, L, D] to [B, L, H]."""
    shape = tf.shape(x)
    merged = tf.transpose(x, [0, 2, 1, 3])
    return tf.reshape(merged, [shape[0], shape[2], x.shape[1] * x.shape[3]])
