"""The schedule, the set of decayed weights, and the update against the papers' formulas."""

import numpy as np
import pytest
import tensorflow as tf

from model.bert.config import BertConfig
from model.bert.network import build_pretraining_model
from model.training.optimizer import (
    OPTIMIZERS,
    AdamW,
    Lamb,
    OptimizerSettings,
    is_decayed,
    make_schedule,
)


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("cosine", [1.0, 2.0, 2.0, 1 + 0.5**0.5, 1.0, 1 - 0.5**0.5, 0.0]),
        ("polynomial", [1.0, 2.0, 2.0, 3**0.5, 2**0.5, 1.0, 0.0]),
        ("warmup-stable-decay", [1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 0.0]),
    ],
)
def test_cosine_and_polynomial_schedules(name: str, rates: list[float]) -> None:
    rate = make_schedule(name, 2.0, 2, 6)
    assert [float(rate(tf.constant(step))) for step in range(7)] == pytest.approx(rates, abs=1e-6)


def test_warmup_stable_decay_decays_over_the_last_tenth() -> None:
    rate = make_schedule("warmup-stable-decay", 2.0, 0, 100)
    found = [float(rate(tf.constant(step))) for step in (0, 89, 90, 91, 95, 99)]
    assert found == pytest.approx([2.0, 2.0, 2.0, 1.8, 1.0, 0.2], abs=1e-5)


@pytest.mark.parametrize(
    ("warmup_steps", "rates"),
    [
        (4, [0.5, 1.0, 1.5, 2.0, 2.0, 1.6, 1.2, 0.8, 0.4, 0.0, 0.0]),
        (0, [2.0, 16 / 9, 14 / 9, 12 / 9, 10 / 9, 8 / 9, 6 / 9, 4 / 9, 2 / 9, 0.0, 0.0]),
    ],
)
def test_schedule(warmup_steps: int, rates: list[float]) -> None:
    rate = make_schedule("linear", 2.0, warmup_steps, 9)
    assert [float(rate(tf.constant(step))) for step in range(11)] == pytest.approx(rates, abs=1e-6)


def test_biases_and_layer_norms_are_not_decayed(small_config: BertConfig) -> None:
    paths = [weight.path for weight in build_pretraining_model(small_config).trainable_variables]
    layer = ["self_attention_layer/" + part for part in ("query", "key", "value")]
    layer += ["self_attention_layer/attention_output", "feedforward_intermediate_dense"]
    layer += ["feedforward_output_dense"]
    kernels = [f"transformer_layer_{i}/{name}/kernel" for i in range(2) for name in layer]
    decayed = {
        "token_embedding/embeddings",
        "position_embedding/embeddings",
        "segment_embedding/embeddings",
        "pooled_dense/kernel",
        "masked_lm/intermediate_dense/kernel",
        "next_sentence/kernel",
        *kernels,
    }
    assert {path for path in paths if is_decayed(path)} == decayed
    left_out = {path for path in paths if not is_decayed(path)}
    assert sum(path.endswith(("/gamma", "/beta")) for path in left_out) == 2 * (1 + 2 * 2 + 1)
    assert sum(path.endswith("bias") for path in left_out) == 2 * 6 + 4
    assert len(left_out) == 12 + 16


SETTINGS = OptimizerSettings(weight_decay=0.3, beta_1=0.8, beta_2=0.95, epsilon=1e-2, clip_norm=2.0)


def reference_updates(start: dict, gradients: list[dict], rate: float, *, lamb: bool) -> dict:
    """AdamW or LAMB as in the papers, in NumPy, with the gradients clipped together."""
    weights = {name: value.astype(np.float64) for name, value in start.items()}
    m = {name: 0 * value for name, value in weights.items()}
    v = {name: 0 * value for name, value in weights.items()}
    for t, gradient in enumerate(gradients, start=1):
        norm = np.sqrt(sum((g**2).sum() for g in gradient.values()))
        for name in weights:
            g = gradient[name] * min(1, SETTINGS.clip_norm / norm)
            m[name] = SETTINGS.beta_1 * m[name] + (1 - SETTINGS.beta_1) * g
            v[name] = SETTINGS.beta_2 * v[name] + (1 - SETTINGS.beta_2) * g**2
            m_hat = m[name] / (1 - SETTINGS.beta_1**t)
            v_hat = v[name] / (1 - SETTINGS.beta_2**t)
            decayed = name.endswith("kernel")
            step = m_hat / (np.sqrt(v_hat) + SETTINGS.epsilon)
            step += SETTINGS.weight_decay * weights[name] * decayed
            if lamb and decayed and np.any(weights[name]):
                step *= np.linalg.norm(weights[name]) / np.linalg.norm(step)
            weights[name] -= rate * step
    return weights


@pytest.mark.parametrize("kind", [AdamW, Lamb])
def test_update_against_numpy(kind: type[AdamW]) -> None:
    rng = np.random.default_rng(6)
    shapes = {"a/kernel": (3, 2), "a/bias": 2, "b/kernel": (4, 2)}
    start = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    start["b/kernel"] *= 0  # has no length yet
    # The first gradient is longer than the clipping norm, the second shorter.
    gradients = [{name: scale * rng.normal(size=start[name].shape) for name in start}
                 for scale in (5.0, 0.1, 1.0)]  # fmt: skip
    variables = {name: tf.Variable(value, dtype=tf.float32) for name, value in start.items()}
    optimizer = kind(variables, lambda _: tf.constant(0.05), SETTINGS)
    norms = [
        float(optimizer.apply([tf.constant(g, tf.float32) for g in gradient.values()], step))
        for step, gradient in zip(tf.range(3, dtype=tf.int64), gradients, strict=True)
    ]
    assert norms[0] > SETTINGS.clip_norm > norms[1]
    for name, expected in reference_updates(start, gradients, 0.05, lamb=kind is Lamb).items():
        np.testing.assert_allclose(variables[name], expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_a_learning_rate_multiplier(name: str) -> None:
    start = np.array([[1.0, -2.0], [3.0, 0.5]], np.float32)
    gradient = tf.constant([[0.25, 0.5], [-0.125, 1.0]])
    moved = {}
    for factor in (1.0, 0.25):
        variables = {"layer/kernel": tf.Variable(start), "layer/bias": tf.Variable(start)}
        settings = OptimizerSettings(weight_decay=0.5)
        optimizer = OPTIMIZERS[name](
            variables,
            make_schedule("linear", 0.1, 0, 10),
            settings,
            lambda path, factor=factor: factor if path == "layer/kernel" else 1.0,
        )
        optimizer.apply([gradient, gradient], tf.constant(0, tf.int64))
        moved[factor] = {path: value.numpy() - start for path, value in variables.items()}
    np.testing.assert_array_equal(moved[1.0]["layer/bias"], moved[0.25]["layer/bias"])
    # Decay and step follow one another, so the kernel's is not exactly a quarter.
    np.testing.assert_allclose(
        moved[0.25]["layer/kernel"], moved[1.0]["layer/kernel"] / 4, rtol=0.05, atol=1e-4
    )
