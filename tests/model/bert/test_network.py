"""The layer routine on the functional models: numbers, shapes, names, saving, exporting."""

import dataclasses
import math
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from model.bert.config import BertConfig
from model.bert.network import build_encoder, build_pretraining_model, weights_by_name

B, L, P = 5, 9, 2


@pytest.fixture(scope="module")
def batch() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {
        "input_ids": rng.integers(0, 50, (B, L)),
        "input_mask": (np.arange(L) < rng.integers(4, L + 1, (B, 1))).astype(int),
        "segment_ids": rng.integers(0, 4, (B, L)),
        "masked_lm_positions": rng.integers(0, 4, (B, P)),
    }


def reference_forward(weights: dict[str, np.ndarray], batch: dict, config: BertConfig) -> dict:
    """BERT in NumPy, one example and one head at a time, written from the paper."""

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + config.layer_norm_eps)
        return scaled * weights[f"{name}/gamma"] + weights[f"{name}/beta"]

    def dense(x: np.ndarray, name: str) -> np.ndarray:
        return x @ weights[f"{name}/kernel"] + weights[f"{name}/bias"]

    def activation(x: np.ndarray) -> np.ndarray:
        if config.hidden_act == "gelu":
            return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    def attend(x: np.ndarray, mask: np.ndarray, name: str) -> np.ndarray:
        total = weights[f"{name}/attention_output/bias"]
        for head in range(config.num_attention_heads):
            q, k, v = (
                x @ weights[f"{name}/{part}/kernel"][:, head] + weights[f"{name}/{part}/bias"][head]
                for part in ("query", "key", "value")
            )
            scores = q @ k.T / math.sqrt(config.hidden_size // config.num_attention_heads)
            scores = np.exp(scores) * mask
            weighted = scores / scores.sum(-1, keepdims=True) @ v
            total = total + weighted @ weights[f"{name}/attention_output/kernel"][head]
        return total

    table = weights["token_embedding/embeddings"]
    found: dict[str, list] = {"masked_lm_logits": [], "next_sentence_logits": []}
    for ids, mask, segments, positions in zip(*batch.values(), strict=True):
        x = table[ids] + weights["position_embedding/embeddings"][: len(ids)]
        x = norm(x + weights["segment_embedding/embeddings"][segments], "embeddings_layer_norm")
        for index in range(config.num_hidden_layers):
            layer = f"transformer_layer_{index}"
            attended = attend(x, mask, f"{layer}/self_attention_layer")
            x = norm(x + attended, f"{layer}/self_attention_layer_norm")
            inner = activation(dense(x, f"{layer}/feedforward_intermediate_dense"))
            inner = dense(inner, f"{layer}/feedforward_output_dense")
            x = norm(x + inner, f"{layer}/feedforward_layer_norm")
        pooled = np.tanh(dense(x[0], "pooled_dense"))
        hidden = activation(dense(x[positions], "masked_lm/intermediate_dense"))
        hidden = norm(hidden, "masked_lm/intermediate_layer_norm")
        found["masked_lm_logits"].append(hidden @ table.T + weights["masked_lm/output_bias"])
        found["next_sentence_logits"].append(dense(pooled, "next_sentence"))
    return {name: np.stack(values) for name, values in found.items()}


def randomize(model: keras.Model) -> dict[str, np.ndarray]:
    """Set every weight to random numbers, so that no bias is 0, and return them by name."""
    rng = np.random.default_rng(4)
    for weight in model.weights:
        weight.assign(rng.normal(0.1, 0.3, weight.shape))
    return {weight.path: weight.numpy().astype(np.float64) for weight in model.weights}


@pytest.mark.parametrize("activation", ["gelu", "gelu_new"])
def test_outputs_equal_those_of_the_formulas(
    small_config: BertConfig, batch: dict, activation: str
) -> None:
    config = dataclasses.replace(small_config, hidden_act=activation)
    model = build_pretraining_model(config)
    expected = reference_forward(randomize(model), batch, config)
    found = model(batch, training=False)
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-5)


def test_logits_at_some_slots_are_those_of_the_formulas(
    small_config: BertConfig, batch: dict
) -> None:
    model = build_pretraining_model(small_config)
    expected = reference_forward(randomize(model), batch, small_config)
    slots = np.array([7, 0, 4])  # in any order, of B·P = 10
    found = model.variants.at_slots({**batch, "masked_lm_slots": slots}, training=False)
    logits = expected.pop("masked_lm_logits").reshape(B * P, -1)[slots]
    np.testing.assert_allclose(found["masked_lm_logits"], logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        found["next_sentence_logits"], expected["next_sentence_logits"], rtol=1e-4, atol=1e-5
    )


def test_weight_names_and_shapes(small_config: BertConfig) -> None:
    shapes = {
        path: tuple(w.shape) for path, w in weights_by_name(build_encoder(small_config)).items()
    }
    layer = "transformer_layer_1"
    assert shapes["token_embedding/embeddings"] == (50, 12)
    assert shapes["position_embedding/embeddings"] == (16, 12)
    assert shapes["segment_embedding/embeddings"] == (4, 12)
    assert shapes[f"{layer}/self_attention_layer/query/kernel"] == (12, 3, 4)
    assert shapes[f"{layer}/feedforward_intermediate_dense/kernel"] == (12, 20)
    assert len(shapes) == 3 + 2 + 2 * 16 + 2


def test_initial_weights_come_from_the_config_and_are_all_different(
    small_config: BertConfig,
) -> None:
    keras.utils.set_random_seed(1)
    config = dataclasses.replace(small_config, hidden_size=60, intermediate_size=60)
    weights = weights_by_name(build_pretraining_model(config))
    drawn = ("kernel", "embeddings")
    matrices = [w.numpy().ravel() for path, w in weights.items() if path.endswith(drawn)]
    for matrix in matrices:
        # A normal cut off at two standard deviations has 0.88 of its deviation left.
        assert np.abs(matrix).max() <= 2 * config.initializer_range
        if matrix.size > 1000:
            assert matrix.std() == pytest.approx(0.88 * config.initializer_range, rel=0.05)
    assert len({matrix[0] for matrix in matrices}) == len(matrices)
    assert all(np.all(w == 0) for path, w in weights.items() if path.endswith(("bias", "beta")))


def test_each_dropout_layer_has_its_rate(small_config: BertConfig) -> None:
    encoder = build_encoder(small_config)
    layer = encoder.get_layer("transformer_layer_1")
    assert layer._weights_dropout.rate == 0.25
    assert layer._attention_dropout.rate == layer._output_dropout.rate == 0.15
    assert encoder.get_layer("embeddings_dropout").rate == 0.15


@pytest.mark.parametrize("which", ["hidden_dropout_prob", "attention_probs_dropout_prob"])
def test_dropout_is_active_in_training_only(
    small_config: BertConfig, batch: dict, which: str
) -> None:
    off = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0)
    model = build_pretraining_model(dataclasses.replace(small_config, **off | {which: 0.4}))
    first, second = (model(batch, training=True)["masked_lm_logits"] for _ in range(2))
    assert np.abs(first - second).max() > 1e-3
    first, second = (model(batch, training=False)["masked_lm_logits"] for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_dropout_keeps_the_mean() -> None:
    from model.bert.layers import Dropout

    dropped = Dropout(0.3, seed=5)(tf.ones([200, 500]), training=True).numpy()
    assert np.mean(dropped == 0) == pytest.approx(0.3, abs=0.01)
    assert np.unique(dropped).tolist() == pytest.approx([0, 1 / 0.7])


def test_padding_does_not_matter(small_config: BertConfig, batch: dict) -> None:
    model = build_pretraining_model(small_config)
    changed = {**batch, "input_ids": np.where(batch["input_mask"] == 1, batch["input_ids"], 7)}
    assert not np.array_equal(changed["input_ids"], batch["input_ids"])
    for name, values in model(batch).items():
        np.testing.assert_allclose(values, model(changed)[name], atol=1e-6)


# Keras's own, when it saves.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy")
def test_the_head_is_tied_also_after_saving(
    small_config: BertConfig, batch: dict, tmp_path: Path
) -> None:
    model = build_pretraining_model(small_config)
    randomize(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert len(loaded.weights) == len(model.weights)
    for name, values in model(batch).items():
        np.testing.assert_allclose(values, loaded(batch)[name], atol=1e-6)
    table = loaded.get_layer("encoder").get_layer("token_embedding").embeddings
    table.assign(table * 2)
    before = model(batch)["masked_lm_logits"] - model.get_layer("masked_lm")._bias
    after = loaded(batch)["masked_lm_logits"] - loaded.get_layer("masked_lm")._bias
    assert np.abs(after / before).mean() > 1.5


def test_the_gradient_of_the_token_embedding_is_dense_and_right(
    small_config: BertConfig, batch: dict
) -> None:
    from model.bert.layers import TokenEmbedding

    layer = TokenEmbedding(50, 12)
    ids = tf.constant(batch["input_ids"], tf.int32)
    upstream = tf.random.stateless_normal([B, L, 12], [1, 2])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(ids) * upstream)
    gradient = tape.gradient(loss, layer.embeddings.value)
    assert isinstance(gradient, tf.Tensor)
    expected = np.zeros((50, 12))
    np.add.at(expected, batch["input_ids"], upstream.numpy())
    np.testing.assert_allclose(gradient, expected, atol=1e-5)


def test_exports_with_dynamic_batch_and_length(
    small_config: BertConfig, batch: dict, tmp_path: Path
) -> None:
    class Served(tf.Module):
        def __init__(self, model: keras.Model) -> None:
            super().__init__()
            self.model = model

        @tf.function
        def __call__(self, features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            return self.model(features, training=False)

    model = build_pretraining_model(small_config)
    served = Served(model)
    spec = {name: tf.TensorSpec([None, None], tf.int32, name=name) for name in batch}
    tf.saved_model.save(served, str(tmp_path), served.__call__.get_concrete_function(spec))
    loaded = tf.saved_model.load(str(tmp_path))
    for rows, length in ((B, L), (2, 4)):
        cut = {name: tf.constant(v[:rows, :length], tf.int32) for name, v in batch.items()}
        expected = model(cut, training=False)
        for name, values in loaded(cut).items():
            np.testing.assert_allclose(values, expected[name], atol=1e-5)


def test_bfloat16_policy_computes_near_float32(small_config: BertConfig, batch: dict) -> None:
    model = build_pretraining_model(small_config)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        narrow = build_pretraining_model(small_config)
    finally:
        keras.config.set_dtype_policy(before)
    narrow.set_weights(model.get_weights())
    found = narrow(batch)["masked_lm_logits"]
    assert found.dtype == tf.bfloat16
    np.testing.assert_allclose(
        tf.cast(found, tf.float32), model(batch)["masked_lm_logits"], atol=0.5
    )


def test_parameter_count_is_computed_without_a_model(small_config: BertConfig) -> None:
    for changed in ({}, {"hidden_size": 24, "vocab_size": 7}, {"num_hidden_layers": 3}):
        config = dataclasses.replace(small_config, **changed)
        assert config.parameter_count == build_pretraining_model(config).count_params()
