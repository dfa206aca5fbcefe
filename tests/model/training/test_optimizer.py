"""The schedule, the set of decayed weights, and the update against the papers' formulas."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from model.bert.config import BertConfig
from model.bert.network import build_pretraining_model
from model.training.optimizer import (
    OPTIMIZERS,
    AdamW,
    Lamb,
    Muon,
    OptimizerSettings,
    is_decayed,
    make_schedule,
    orthogonalized,
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


MATRICES = {
    "transformer_layer_0/feedforward_intermediate_dense/kernel": (4, 6),
    "encoder/transformer_layer_11/feedforward_output_dense/kernel": (6, 4),
    "transformer_layer_1/self_attention_layer/query/kernel": (4, 2, 3),
    "transformer_layer_1/self_attention_layer/attention_output/kernel": (2, 3, 5),
}


def test_muon_updates_matrices_as_keras_does() -> None:
    """Keras's Muon takes two-dimensional matrices; the heads are joined here for it."""
    rng = np.random.default_rng(3)
    sides = {path: (6, 5) if shape[-1] == 5 else (4, 6) for path, shape in MATRICES.items()}
    sides["encoder/transformer_layer_11/feedforward_output_dense/kernel"] = (6, 4)
    start = {path: rng.normal(size=shape) for path, shape in sides.items()}
    gradients = [{path: rng.normal(size=shape) for path, shape in sides.items()} for _ in range(3)]
    settings = OptimizerSettings(weight_decay=0.3, clip_norm=1e9)
    ours = {
        path: tf.Variable(start[path].reshape(shape), dtype=tf.float32)
        for path, shape in MATRICES.items()
    }
    optimizer = Muon(ours, lambda _: tf.constant(0.05), settings)
    assert optimizer.velocity == {}
    for step, gradient in enumerate(gradients):
        given = [
            tf.constant(gradient[path].reshape(shape), tf.float32)
            for path, shape in MATRICES.items()
        ]
        optimizer.apply(given, tf.constant(step, tf.int64))
    for path, variable in ours.items():
        expected = keras.Variable(start[path], dtype="float32", name="kernel")
        keras_muon = keras.optimizers.Muon(0.05, weight_decay=0.3, rms_rate=0.2, momentum=0.95)
        for gradient in gradients:
            keras_muon.apply([tf.constant(gradient[path], tf.float32)], [expected])
        found = variable.numpy().reshape(sides[path])
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5, err_msg=path)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.06)])
def test_an_orthogonalized_matrix_has_its_singular_vectors(dtype: str, tolerance: float) -> None:
    matrix = np.random.default_rng(1).normal(size=(6, 9)).astype(np.float32)
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    found = orthogonalized(tf.constant(matrix), dtype).numpy()
    values /= np.linalg.norm(matrix)
    a, b, c = 3.4445, -4.7750, 2.0315
    for _ in range(5):
        values = a * values + b * values**3 + c * values**5
    assert 0.6 < values.min() < values.max() < 1.3
    np.testing.assert_allclose(found, (left * values) @ right, atol=tolerance)


def test_muon_is_adamw_for_all_other_weights(small_config: BertConfig) -> None:
    weights = build_pretraining_model(small_config).trainable_variables
    optimizer = Muon({each.path: each.value for each in weights}, lambda _: 1.0, SETTINGS)
    matrices = optimizer.momentum.keys() - optimizer.velocity.keys()
    parts = ("query", "key", "value", "attention_output")
    layer = [f"self_attention_layer/{part}" for part in parts]
    layer += ["feedforward_intermediate_dense", "feedforward_output_dense"]
    assert matrices == {f"transformer_layer_{i}/{name}/kernel" for i in range(2) for name in layer}
    shapes, rng = {"pooled_dense/kernel": (3, 2), "a/bias": (2,)}, np.random.default_rng(5)
    start = {path: rng.normal(size=shape) for path, shape in shapes.items()}
    moved = []
    for kind in (Muon, AdamW):
        variables = {path: tf.Variable(value, dtype=tf.float32) for path, value in start.items()}
        optimizer = kind(variables, lambda _: tf.constant(0.05), SETTINGS)
        optimizer.apply([tf.ones([3, 2]), tf.ones([2])], tf.constant(0, tf.int64))
        moved.append([variable.numpy() for variable in variables.values()])
    for found, expected in zip(*moved, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ["adamw", "lamb", "muon"])
def test_a_learning_rate_multiplier(name: str) -> None:
    start = np.array([[1.0, -2.0], [3.0, 0.5]], np.float32)
    gradient = tf.constant([[0.25, 0.5], [-0.125, 1.0]])
    moved = {}
    for factor in (1.0, 0.25):
        variables = {
            "transformer_layer_0/kernel": tf.Variable(start),
            "layer/bias": tf.Variable(start),
        }
        settings = OptimizerSettings(weight_decay=0.5)
        optimizer = OPTIMIZERS[name](
            variables,
            make_schedule("linear", 0.1, 0, 10),
            settings,
            lambda path, factor=factor: factor if path == "transformer_layer_0/kernel" else 1.0,
        )
        optimizer.apply([gradient, gradient], tf.constant(0, tf.int64))
        moved[factor] = {path: value.numpy() - start for path, value in variables.items()}
    np.testing.assert_array_equal(moved[1.0]["layer/bias"], moved[0.25]["layer/bias"])
    # Decay and step follow one another, so the kernel's is not exactly a quarter.
    np.testing.assert_allclose(
        moved[0.25]["transformer_layer_0/kernel"],
        moved[1.0]["transformer_layer_0/kernel"] / 4,
        rtol=0.05,
        atol=1e-4,
    )
