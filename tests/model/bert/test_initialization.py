"""Initial weights whose heads attend to neighbouring positions and to equal pieces."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from model.bert.config import BertConfig
from model.bert.initialization import (
    OFFSETS,
    PEAK_LOGIT,
    attend_to_neighbours,
    attend_to_neighbours_and_matches,
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
    query, key = offset_kernels(width, heads, width // heads, 1 / 3, seed=3)
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
    assert not np.allclose(*offset_kernels(16, 4, 4, 1 / 3, seed=1))


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


def attention_of_first_layer(config: BertConfig, first: list[int], second: list[int]) -> np.ndarray:
    """Return the attention weights of a new encoder for two segments, [heads, L, L]."""
    keras.utils.set_random_seed(1)
    encoder = build_encoder(config)
    attend_to_neighbours_and_matches(encoder, config, seed=5)
    ids = tf.constant([first + second])
    segments = tf.constant([[0] * len(first) + [1] * len(second)])
    inputs = {"input_ids": ids, "input_mask": tf.ones_like(ids), "segment_ids": segments}
    weights = with_intermediates(encoder)(inputs)["attention_scores"][0][0]
    return np.asarray(weights)


def test_the_last_head_attends_to_the_same_piece_in_segment_a_or_to_itself() -> None:
    first, second = list(range(1, 20)), list(range(30, 45))
    second[3], second[9] = 5, 12  # pieces 5 and 12 stand at positions 4 and 11 of segment A
    weights = attention_of_first_layer(CONFIG, first, second)[-1]
    read = np.argmax(weights, axis=-1)
    expected = np.arange(len(first) + len(second))
    expected[len(first) + 3], expected[len(first) + 9] = 4, 11
    twins = [len(first) + 3, len(first) + 9]
    np.testing.assert_array_equal(read[twins], [4, 11])
    # Token embeddings are random, and some pieces are similar to others by chance.
    assert np.mean(read == expected) > 0.9
    assert np.mean(weights[np.arange(len(expected)), expected]) > 0.8


def test_the_other_heads_attend_to_neighbours() -> None:
    weights = attention_of_first_layer(CONFIG, list(range(1, 21)), list(range(21, 41)))
    for head, offset in enumerate(OFFSETS[:3]):
        by_distance = [np.mean(np.diagonal(weights[head], shift)[8:32]) for shift in OFFSETS[:6]]
        assert OFFSETS[int(np.argmax(by_distance))] == offset
        assert max(by_distance) > 4 * sorted(by_distance)[-2]


@pytest.mark.parametrize("change", [{"num_attention_heads": 2}, {"type_vocab_size": 1}])
def test_two_heads_or_one_segment_have_no_matching_head(change: dict[str, int]) -> None:
    config = dataclasses.replace(CONFIG, **change)
    weights = []
    for initialize in (attend_to_neighbours, attend_to_neighbours_and_matches):
        keras.utils.set_random_seed(1)
        encoder = build_encoder(config)
        initialize(encoder, config, 5)
        weights.append([weight.numpy() for weight in encoder.weights])
    for ours, theirs in zip(*weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(("width", "heads"), [(12, 3), (33, 11), (10, 5), (64, 64)])
def test_every_width_can_be_initialized(width: int, heads: int) -> None:
    config = dataclasses.replace(
        CONFIG, hidden_size=width, num_attention_heads=heads, num_hidden_layers=1
    )
    assert np.isfinite(attention_of_first_layer(config, [1, 2, 3], [2, 7])).all()
