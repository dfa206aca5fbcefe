"""Initial weights of attention heads that attend to neighbouring positions and to equal pieces.

With random weights, BERT spends its first steps on a plateau: it predicts masked pieces from their
frequencies, until some heads have learned to attend to neighbours. Here the heads of the first
layer start with that ability. The architecture does not change, and all weights are trained.

Whether two segments belong together is told by the pieces that both have. With random weights, no
head finds them for thousands of steps; here the last head of the first layer can start as one that
does, a matching head: it attends to the same piece in segment A, or else to its own position.

The idea is that of mimetic initialization (Trockman & Kolter 2023,
https://arxiv.org/abs/2305.09828): weights start like those of trained models. The construction:
position embeddings are sinusoids (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section
3.5), so a shift by d positions is a rotation of each pair (cos, sin). A head's key kernel selects
some of these pairs, its query kernel selects and rotates them; their product has its maximum at d.

A matching head's query and key kernels select the same columns of the inputs, so that their product
is large for equal pieces. Position embeddings are 0 in these columns.

Shapes: L positions, H hidden size, N heads, D = H / N, C columns of the position embeddings.
"""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from model.bert.config import BertConfig

OFFSETS = (-1, 1, -2, 2, -3, 3, -4, 4, -5, 5, -6, 6, -7, 7, -8, 8)
"""Offsets to which the heads attend; head n has the offset n, or n modulo their number."""

PEAK_LOGIT = 4.0
"""Attention logit at a head's offset; the logits of other positions are about 0."""

RANDOM_SHARE = 0.3
"""Factor for the random weights of query and key kernels, which are added to the selection."""

MATCH_LOGIT = 14.0
"""Attention logit of a matching head for two equal pieces. It is that large because the softmax
runs over all positions, and because training would soon undo a head that is less certain."""

SEGMENT_LOGIT = 1.5
"""Added to the logits of segment A by a matching head, and subtracted from those of segment B: more
than the spread of the logits of one piece's copies."""

FEWEST_HEADS = 3
"""Heads that a layer needs to have a matching head: the others attend to neighbours."""


def initializer_range(hidden_size: int) -> float:
    """Return the standard deviation of the random weights: 0.05 for H = 256.

    BERT's 0.02 is for H = 768. In narrower models it makes the outputs of all blocks small compared
    with the residual connections, so that they learn late.
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


def offset_kernels(
    width: int, heads: int, size: int, share: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return query and key kernels of heads that attend to `OFFSETS`, float32 [C, heads, D] each.

    Args:
        width: C, columns of the position embeddings.
        heads: number of such heads.
        size: D.
        share: variance of the position's part of an encoder input in these columns; LayerNorm
            scales the variance of the sum of token, position and segment embedding to 1.
        seed: seed of the choice of each head's D / 2 frequencies.
    """
    frequencies = _frequencies(width)
    pairs = np.arange(min(size, width) // 2)
    # The sum of D / 2 products of pairs with amplitude² = 2 · share, divided by √D.
    gain = PEAK_LOGIT * math.sqrt(size) / (max(len(pairs), 1) * 2 * share)
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
    width, heads = config.hidden_size, config.num_attention_heads
    _assign_positions(encoder, config, width)
    # Token, position and segment embeddings have equal variances.
    _add_to_kernels(encoder, *offset_kernels(width, heads, width // heads, 1 / 3, seed))


def attend_to_neighbours_and_matches(encoder: keras.Model, config: BertConfig, seed: int) -> None:
    """Set the weights of `attend_to_neighbours`, and those of a matching head.

    With fewer heads than `FEWEST_HEADS` there is no matching head. Position embeddings then are 0
    in the last half of the columns, and the two segment embeddings have opposite signs.

    Args:
        encoder: model of `build_encoder`, with random weights.
        config: its config.
        seed: seed of the weights.
    """
    width, heads = config.hidden_size, config.num_attention_heads
    size = width // heads  # D
    if heads < FEWEST_HEADS or config.type_vocab_size < len(_SEGMENT_SIGNS) or size < 2:
        attend_to_neighbours(encoder, config, seed)
        return
    columns = width // 4 * 2  # C, half of them, and even
    _assign_positions(encoder, config, columns)
    segment = _assign_segments(encoder, width, seed)
    variance = 2.0 + columns / width  # of the sum of the three embeddings, in that of a token's
    neighbours = offset_kernels(columns, heads - 1, size, 1 / variance, seed)
    matches = matching_kernels(segment, columns, size, 1 / variance, seed)
    below = ((0, width - columns), (0, 1), (0, 0))  # no other columns, no matching head
    kernels = [np.pad(kernel, below) for kernel in neighbours]
    for kernel, matching in zip(kernels, matches, strict=True):
        kernel[:, -1] = matching
    _add_to_kernels(encoder, *kernels)
    # All queries prefer the keys of segment A, by a constant in the last column.
    bias = _first_layer(encoder).query_bias
    values = bias.numpy()
    values[-1, -1] = math.sqrt(SEGMENT_LOGIT * math.sqrt(size))
    bias.assign(values)


INITIALIZERS: dict[str, Callable[[keras.Model, BertConfig, int], None] | None] = {
    "random": None,
    "neighbours": attend_to_neighbours,
    "neighbours-and-matches": attend_to_neighbours_and_matches,
}
"""Function that sets the initial weights of a new encoder, by the values of `Initialization`;
None = random weights stay."""


def matching_kernels(
    segment: np.ndarray, columns: int, size: int, share: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the query and key kernel of a matching head, float32 [H, D] each.

    The query's last column is 0: its bias and the key's last column add `SEGMENT_LOGIT`.

    Args:
        segment: direction in which the two segment embeddings differ, float32 [H], norm 1.
        columns: C; the others have no part of the position.
        size: D.
        share: variance of the token's part of an encoder input, and of the segment's.
        seed: seed of the choice of columns.
    """
    width, count = len(segment), size - 1
    free = columns + np.random.default_rng(seed).permutation(width - columns)
    chosen = np.zeros((width, size), np.float32)
    chosen[free[np.arange(count) % len(free)], np.arange(count)] = 1.0
    chosen -= np.outer(segment, segment @ chosen)  # equal pieces match in different segments
    query = chosen * math.sqrt(MATCH_LOGIT * math.sqrt(size) / (count * share))
    key = query.copy()
    length = math.sqrt(width * share)  # of a segment's part of an input, along `segment`
    key[:, -1] = segment * math.sqrt(SEGMENT_LOGIT * math.sqrt(size)) / length
    return query, key


_SEGMENT_SIGNS = (1.0, -1.0)
"""Signs of the embeddings of segments A and B."""


def _assign_positions(encoder: keras.Model, config: BertConfig, columns: int) -> None:
    """Set the position embeddings to sinusoids in the first columns, and to 0 in the others."""
    positions = encoder.get_layer("position_embedding").position_embeddings
    # They get the variance of the tokens, which the shares of the kernels assume.
    waves = sinusoids(config.max_position_embeddings, columns)
    padded = np.pad(waves, [(0, 0), (0, config.hidden_size - columns)])
    positions.assign(_token_scale(encoder) * padded)


def _assign_segments(encoder: keras.Model, width: int, seed: int) -> np.ndarray:
    """Set the embeddings of segments A and B to opposite signs; return the direction of A's."""
    signs = np.random.default_rng(seed).choice(_SEGMENT_SIGNS, width).astype(np.float32)
    embeddings = encoder.get_layer("segment_embedding").embeddings
    values = embeddings.numpy()
    values[: len(_SEGMENT_SIGNS)] = np.outer(_SEGMENT_SIGNS, signs) * _token_scale(encoder)
    embeddings.assign(values)
    return signs / math.sqrt(width)


def _add_to_kernels(encoder: keras.Model, query: np.ndarray, key: np.ndarray) -> None:
    """Add kernels [H, N, D] to the first layer's query and key kernels, which are scaled down."""
    kernels = _first_layer(encoder).query_and_key_kernels
    for kernel, added in zip(kernels, (query, key), strict=True):
        kernel.assign(RANDOM_SHARE * kernel.numpy() + added)


def _first_layer(encoder: keras.Model) -> Any:
    return encoder.get_layer("transformer_layer_0")


def _token_scale(encoder: keras.Model) -> float:
    """Return the standard deviation of the token embeddings."""
    return float(np.std(encoder.get_layer("token_embedding").embeddings.numpy()))


def _frequencies(width: int) -> np.ndarray:
    """Return the angle per position of each (cos, sin) pair, float64 [width // 2]."""
    count = width // 2
    return math.pi * (np.arange(count) + 0.5) / count
