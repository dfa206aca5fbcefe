"""The kernels: equal results fused or not; dropout as a function of the position."""

import os
from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf

from model.bert import kernels as functions
from model.bert.kernels import FIRST_EXAMPLE, NO_YNN, attention_weights, dropout, fused_on_cpu
from model.bert.layers import gelu_tanh

B, L, H, N = 3, 5, 12, 4


def normal(seed: int, *shape: int) -> tf.Tensor:
    return tf.random.stateless_normal(shape, [seed, 2])


STATE = tf.constant([7, 11], tf.int64)
CASES: dict[str, tuple[list[tf.Tensor], dict]] = {
    "dropout": ([normal(1, B, L, H), STATE], {"rate": 0.3}),
    "layer_norm": ([normal(1, B, L, H), normal(2, H), normal(3, H)], {"epsilon": 1e-3}),
    "add_and_norm": (
        [normal(1, B, L, H), normal(2, H), normal(3, B, L, H), normal(4, H), normal(5, H), STATE],
        {"rate": 0.2, "epsilon": 1e-3},
    ),
    "activated": ([normal(1, B, L, H), normal(2, H)], {"activation": keras.activations.gelu}),
    "add_bias": ([normal(1, B, L, H), normal(2, H)], {}),
    "split_heads": ([normal(1, B, L, H), normal(2, H)], {"heads": N, "scale": 0.5}),
    "attention_weights": (
        [normal(1, B, N, L, L), tf.constant([[1] * 5, [1, 1, 1, 0, 0], [1] * 4 + [0]]), STATE],
        {"rate": 0.25},
    ),
    "merge_heads": ([normal(1, B, N, L, H // N)], {}),
}


def outputs_and_gradients(name: str, inputs: list[tf.Tensor]) -> list[np.ndarray]:
    """Return a function's outputs, and the gradients of their weighted sum."""
    function = getattr(functions, name)
    with tf.GradientTape() as tape:
        tape.watch([x for x in inputs if x.dtype.is_floating])
        outputs = tf.nest.flatten(function(*inputs, **CASES[name][1]))
        loss = tf.add_n(
            [tf.reduce_sum(tf.cast(y, tf.float32) * normal(9 + i, *y.shape))
             for i, y in enumerate(outputs)]
        )  # fmt: skip
    gradients = tape.gradient(loss, [x for x in inputs if x.dtype.is_floating])
    return [tf.cast(x, tf.float32).numpy() for x in [*outputs, *gradients]]


@pytest.mark.parametrize("name", CASES)
def test_fused_kernels_have_the_same_values_and_gradients(name: str) -> None:
    inputs = CASES[name][0]
    plain = outputs_and_gradients(name, inputs)
    with fused_on_cpu(True):
        found = outputs_and_gradients(name, inputs)
    assert len(found) == len(plain) >= 2
    for x, expected in zip(found, plain, strict=True):
        assert np.abs(expected).max() > 0.01
        np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-5)


def test_a_kernel_may_be_traced_first_where_no_tape_records() -> None:
    # Gradient checkpointing computes a layer first without recording; this shape is in no other
    # test, so the kernel has not been traced before.
    inputs = [normal(1, B, L, H + 1), normal(2, H + 1)]
    settings = CASES["activated"][1]
    plain = functions.activated(*inputs, **settings)
    with fused_on_cpu(True), tf.GradientTape() as tape:
        tape.watch(inputs)
        fused = tf.recompute_grad(lambda *x: functions.activated(*x, **settings))(*inputs)
    np.testing.assert_allclose(fused, plain, rtol=1e-5, atol=1e-6)
    assert all(gradient is not None for gradient in tape.gradient(fused, inputs))


def test_no_part_of_a_kernel_goes_to_ynnpack() -> None:
    """As the maximum of 48 scores would: see `functions.NO_YNN`."""
    kernel = tf.function(attention_weights, jit_compile=True, autograph=False)
    inputs = normal(1, 8, 2, 48, 48), tf.ones([8, 48], tf.int32), STATE
    program: str = kernel.experimental_get_compiler_ir(*inputs, rate=0.1)(stage="optimized_hlo")
    assert "maximum(" in program
    assert "__ynn_fusion" not in program


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", NO_YNN),
        ("--xla_dump_to=there", f"{NO_YNN} --xla_dump_to=there"),
        ("flags.txt", "flags.txt"),
    ],
)
def test_xla_flags_of_the_user_override_ours(
    given: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XLA_FLAGS", given)
    functions._avoid_ynn()
    assert os.environ["XLA_FLAGS"] == expected


@pytest.mark.parametrize("name", CASES)
def test_bfloat16_inputs_are_computed_in_float32_and_returned_in_bfloat16(name: str) -> None:
    inputs = CASES[name][0]
    narrow = [tf.cast(x, tf.bfloat16) if x.shape.rank > 2 else x for x in inputs]
    found = getattr(functions, name)(*narrow, **CASES[name][1])
    widened = [tf.cast(x, tf.float32) if x.dtype == tf.bfloat16 else x for x in narrow]
    exact = getattr(functions, name)(*widened, **CASES[name][1])
    for x, expected in zip(tf.nest.flatten(found), tf.nest.flatten(exact), strict=True):
        np.testing.assert_array_equal(x, tf.cast(expected, tf.bfloat16))


@pytest.mark.parametrize("activation", [keras.activations.gelu, gelu_tanh, keras.activations.relu])
def test_a_slope_kept_in_bfloat16_is_rounded_once(activation: Callable) -> None:
    x, bias = (tf.cast(tf.cast(y, tf.bfloat16), tf.float32) for y in CASES["activated"][0])
    with tf.GradientTape() as tape:
        tape.watch(x)
        expected = activation(x + bias)
    slopes = tape.gradient(expected, x).numpy()
    narrow = tf.cast(x, tf.bfloat16)
    with fused_on_cpu(True), tf.GradientTape() as tape:
        tape.watch(narrow)
        found = functions.activated(narrow, bias, activation=activation)
    gradients = tape.gradient(found, narrow)
    assert gradients.dtype == tf.bfloat16
    gradients = tf.cast(gradients, tf.float32).numpy()
    np.testing.assert_allclose(gradients, slopes, rtol=2**-8, atol=1e-6)
    assert len(np.unique(gradients)) > 1


def test_every_function_is_tested() -> None:
    fused = {n for n, f in vars(functions).items() if hasattr(f, "__wrapped__") and n[0] != "_"}
    assert fused - {"fused_on_cpu"} == set(CASES) - {"activated"}


# ---- dropout


def mask(
    first: int, shape: tuple[int, ...], rate: float = 0.25, seeds: tuple = (71, 83)
) -> Callable:
    state = tf.constant([seeds[0], first * FIRST_EXAMPLE + seeds[1]], tf.int64)
    return dropout(tf.ones(shape), state, rate=rate).numpy()


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("shape", [(6, 12), (3, 5, 7)])
def test_dropout_on_a_part_of_a_batch_equals_dropout_on_the_whole(
    shape: tuple[int, ...], fuse: bool
) -> None:
    with fused_on_cpu(fuse):
        whole = mask(0, (8, *shape))
        parts = [mask(0, (3, *shape)), mask(3, (4, *shape)), mask(7, (1, *shape))]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    np.testing.assert_array_equal(whole, mask(0, (8, *shape)))  # compiled or not
    assert len(np.unique(whole.reshape(8, -1), axis=0)) == 8
    assert set(np.unique(whole)) == {np.float32(0), np.float32(1 / 0.75)}


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5])
def test_dropped_elements_look_random(rate: float) -> None:
    examples, numbers = 64, 128 * 96
    dropped = mask(5, (examples, numbers), rate) == 0
    # Shares of examples, and of places: as often outside of 3 standard deviations as a binomial.
    for axis, count in ((1, numbers), (0, examples)):
        z = (dropped.sum(axis) - count * rate) / np.sqrt(count * rate * (1 - rate))
        assert z.std() == pytest.approx(1, abs=5 / np.sqrt(2 * z.size))
        assert abs(z.mean()) < 5 / np.sqrt(z.size)
    # No number tells of its neighbours, at any distance that has a meaning in a tensor, nor of the
    # same place in the next examples.
    centred = (dropped - rate) / np.sqrt(rate * (1 - rate))
    for step in (1, 2, 3, 4, 7, 8, 16, 32, 64, 96, 128, 256, 1024, 4096):
        product = centred[:, step:] * centred[:, :-step]
        assert abs(product.mean()) < 5 / np.sqrt(product.size), step
        if step < examples:
            product = centred[step:] * centred[:-step]
            assert abs(product.mean()) < 5 / np.sqrt(product.size), step


def test_other_seeds_drop_other_elements() -> None:
    first = mask(0, (4, 10_000), 0.5)
    for seeds in ((72, 83), (71, 84), (83, 71), (71 + 2**31, 83)):
        assert np.mean(mask(0, (4, 10_000), 0.5, seeds) == first) == pytest.approx(0.5, abs=0.02)
