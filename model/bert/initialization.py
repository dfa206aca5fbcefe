"""Initial weights of attention heads that attend to neighbouring positions.

With random weights, BERT spends its first steps on a plateau: it predicts masked pieces from their
frequencies, until some heads have learned to attend to neighbours. Here the heads of the first
layer start with that ability. The architecture does not change, and all weights are trained.

The idea is that of mimetic initialization (Trockman & Kolter 2023,
https://arxiv.org/abs/2305.09828): weights start like those of trained models. The construction:
position embeddings are sinusoids (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section
3.5), so a shift by d positions is a rotation of each pair (cos, sin). A head's key kernel selects
some of these pairs, its query kernel selects and rotates them; their product has its maximum at d.

Shapes: L positions, H hidden size, N heads, D = H / N.
"""

import math

import keras
import numpy as np

from model.bert.config import BertConfig

OFFSETS = (-1, 1, -2, 2, -3, 3, -4, 4, -5, 5, -6, 6, -7, 7, -8, 8)
"""Offsets to which the heads attend; head n has the offset n, or n modulo their number."""

PEAK_LOGIT = 4.0
"""Attention logit at a head's offset; the logits of other positions are about 0."""

RANDOM_SHARE = 0.3
"""Factor for the random weights of query and key kernels, which are added to the selection."""

_POSITION_SHARE = 1 / 3
"""Variance of the position's part of an encoder input: token, position and segment embeddings have
equal variances, and LayerNorm scales their sum to 1."""


def initializer_range(hidden_size: int) -> float:
    """Return the standard deviation of the random weights: 0.05 for H = 256.

    BERT's 0.02 is for H = 768. In narrower models it makes the outputs of all blocks small beside
    the residual connections, so that they learn late.
    """
    return 0.8 / math.sqrt(hidden_size)


def sinusoids(length: int, width: int) -> np.ndarray:
    """Return position embeddings with variance 1, float32 [length, width].

    The frequencies are evenly spaced in (0, π), unlike those of Vaswani et al.: the product of two
    positions' embeddings, summed over the frequencies, then has one sharp maximum, at distance 0.
    An odd width leaves the last column 0.
    """
    angles = np.arange(length)[:, np.newaxis] * _frequencies(width)
    pairs = math.sqrt(2) * np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    return np.pad(pairs, [(0, 0), (0, width % 2)]).astype(np.float32)


def offset_kernels(width: int, heads: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return query and key kernels of heads that attend to `OFFSETS`, float32 [H, N, D] each.

    Args:
        width: H.
        heads: N; H is a multiple of it.
        seed: seed of the choice of each head's D / 2 frequencies.
    """
    size = width // heads  # D
    frequencies = _frequencies(width)
    pairs = np.arange(min(size, width) // 2)
    # The sum of D / 2 products of pairs with amplitude² = 2 · _POSITION_SHARE, divided by √D.
    gain = PEAK_LOGIT * math.sqrt(size) / (max(len(pairs), 1) * 2 * _POSITION_SHARE)
    # A random order: with neighbouring frequencies alone, several offsets would have almost the
    # logit of the head's own.
    order = np.random.default_rng(seed).permutation(len(frequencies))
    query = np.zeros((width, heads, size), np.float32)
    key = np.zeros_like(query)
    for head in range(heads):
        chosen = order[(head * len(pairs) + pairs) % len(order)]
        cosines, sines = chosen, len(frequencies) + chosen  # columns of `sinusoids`
        turn = OFFSETS[head % len(OFFSETS)] * frequencies[chosen]
        first, second = 2 * pairs, 2 * pairs + 1
        key[cosines, head, first] = key[sines, head, second] = 1.0
        # cos(a + d·w) = cos a · cos(d·w) - sin a · sin(d·w), and sin(a + d·w) likewise.
        query[cosines, head, first], query[sines, head, first] = np.cos(turn), -np.sin(turn)
        query[cosines, head, second], query[sines, head, second] = np.sin(turn), np.cos(turn)
    return query * math.sqrt(gain), key * math.sqrt(gain)


def attend_to_neighbours(encoder: keras.Model, config: BertConfig, seed: int) -> None:
    """Set the position embeddings and the first layer's query and key kernels of a new encoder.

    Args:
        encoder: model of `build_encoder`, with random weights.
        config: its config.
        seed: seed of the weights.
    """
    width = config.hidden_size
    positions = encoder.get_layer("position_embedding").position_embeddings
    # Positions get the variance of the tokens: `_POSITION_SHARE` assumes equal variances.
    scale = float(np.std(encoder.get_layer("token_embedding").embeddings.numpy()))
    positions.assign(scale * sinusoids(config.max_position_embeddings, width))
    kernels = offset_kernels(width, config.num_attention_heads, seed)
    for kernel, offset_kernel in zip(
        encoder.get_layer("transformer_layer_0").query_and_key_kernels, kernels, strict=True
    ):
        kernel.assign(RANDOM_SHARE * kernel.numpy() + offset_kernel)


def _frequencies(width: int) -> np.ndarray:
    """Return the angle per position of each (cos, sin) pair, float64 [width // 2]."""
    count = width // 2
    return math.pi * (np.arange(count) + 0.5) / count
