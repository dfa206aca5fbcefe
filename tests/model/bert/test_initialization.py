"""Initial weights of heads that attend to neighbouring positions."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from model.bert.config import BertConfig
from model.bert.initialization import (
    OFFSETS,
    PEAK_LOGIT,
    attend_to_neighbours,
    initializer_range,
    offset_kernels,
    sinusoids,
)
from model.bert.network import build_encoder, with_intermediates

CONFIG = BertConfig(
    vocab_size=50,
    hidden_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=256,
    max_position_embeddings=64,
    initializer_range=initializer_range(128),
)


@pytest.mark.parametrize(("length", "width"), [(64, 128), (512, 256), (7, 33)])
def test_positions_have_variance_1_and_differ(length: int, width: int) -> None:
    positions = sinusoids(length, width)
    assert positions.shape == (length, width)
    even = positions[:, : width // 2 * 2]
    np.testing.assert_allclose(np.mean(even**2, axis=1), 1.0, rtol=1e-5)
    products = even @ even.T / even.shape[1]
    np.fill_diagonal(products, 0.0)
    assert products.max() < 0.7


@pytest.mark.parametrize("heads", [1, 2, 4, 8])
def test_a_head_has_its_peak_at_its_offset(heads: int) -> None:
    width, length = 128, 64
    query, key = offset_kernels(width, heads, seed=3)
    x = sinusoids(length, width) / np.sqrt(3)  # token and segment embeddings have the rest
    queries, keys = (np.einsum("lh,hnd->nld", x, kernel) for kernel in (query, key))
    logits = queries @ keys.transpose(0, 2, 1) / np.sqrt(width // heads)
    for head, offset in enumerate(OFFSETS[:heads]):
        inner = range(8, length - 8)
        assert [int(np.argmax(logits[head, i])) for i in inner] == [i + offset for i in inner]
        np.testing.assert_allclose([logits[head, i, i + offset] for i in inner], PEAK_LOGIT, 1e-4)


def test_an_encoder_attends_to_neighbours_in_its_first_layer_alone() -> None:
    keras.utils.set_random_seed(1)
    encoder = build_encoder(CONFIG)
    attend_to_neighbours(encoder, CONFIG, seed=5)
    ids = tf.random.stateless_uniform([8, 40], (1, 2), 0, 50, tf.int32)
    ones = tf.ones_like(ids)
    inputs = {"input_ids": ids, "input_mask": ones, "segment_ids": ones - ones}
    scores = with_intermediates(encoder)(inputs)["attention_scores"]
    for head, offset in enumerate(OFFSETS[:4]):
        first, second = (
            np.mean([layer[:, head, i, i + offset] for i in range(8, 32)]) for layer in scores
        )
        assert first > 0.2
        assert second < 0.1
    assert not np.allclose(*offset_kernels(16, 4, seed=1))


def test_the_rest_of_the_weights_stays_random() -> None:
    keras.utils.set_random_seed(1)
    plain = build_encoder(CONFIG)
    keras.utils.set_random_seed(1)
    encoder = build_encoder(CONFIG)
    attend_to_neighbours(encoder, CONFIG, seed=5)
    changed = {
        ours.path
        for before, ours in zip(plain.weights, encoder.weights, strict=True)
        if not np.array_equal(before.numpy(), ours.numpy())
    }
    layer = "transformer_layer_0/self_attention_layer"
    assert changed == {
        "position_embedding/embeddings",
        f"{layer}/query/kernel",
        f"{layer}/key/kernel",
    }
