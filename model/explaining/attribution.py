"""Integrated gradients: how much each piece of the text adds to an answer.

Shapes: L positions, H hidden size, S points on the path.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from model.explaining.example import Example
from model.explaining.questions import Question
from pipeline import schema

FIRST_POINTS, MOST_POINTS = 16, 512
"""Points on the path: from, and doubled up to."""

WANTED_ERROR = 0.01
"""Of the difference that the attributions must add up to."""

NO_DIFFERENCE = 1e-6
"""Below it float32 has no digits left for an error of a hundredth."""

POSITIONS_AT_ONCE = 2048
"""Bounds the memory."""


@dataclass(frozen=True)
class Attribution:
    """What each piece adds to the value of an answer.

    Attributes:
        answer: index of the answer.
        by_piece: float32 [L]. They add up to `value - baseline_value`.
        value: of the answer, for the text.
        baseline_value: the same for a text in which no word says anything.
        error: how far the sum is off, as a share of that difference.
        points: on the path.
    """

    answer: int
    by_piece: np.ndarray
    value: float
    baseline_value: float
    error: float
    points: int

    @property
    def is_complete(self) -> bool:
        """Whether the sum is right to a hundredth, or there is no difference to speak of."""
        difference = abs(self.value - self.baseline_value)
        return self.error <= WANTED_ERROR or difference <= NO_DIFFERENCE


def integrated_gradients(
    encode: keras.Model, token_vectors: Any, example: Example, question: Question, answer: int
) -> Attribution:
    """Return what each piece adds to an answer's probability, or to the number that is answered.

    Sundararajan et al. 2017, https://arxiv.org/abs/1703.01365, equation 1: the gradient along the
    straight path from a baseline to the token embeddings of the text. The baseline has zeros for
    every word, which the paper proposes for text, but the vectors of [CLS], [SEP] and [MASK]: they
    say nothing about it. The integral is a Gauss-Legendre sum, of twice as many points until the
    attributions add up.

    Args:
        encode: the encoder from its token vectors on (`model.bert.network.from_token_vectors`).
        token_vectors: float32 [1, L, H]. Of the example.
        example: the text.
        question: what is asked.
        answer: index of the answer to explain.
    """
    words = (~example.is_special).astype(np.float32)[np.newaxis, :, np.newaxis]
    path = _Path(token_vectors, token_vectors * (1 - words))
    value_of = _differentiable(encode, example, question, answer)
    (value, baseline_value), _ = value_of(path.at([1.0, 0.0]))
    difference = float(value - baseline_value)
    points = FIRST_POINTS
    while True:
        by_piece = _integral(value_of, path, points)
        found = Attribution(
            answer, by_piece, float(value), float(baseline_value),
            abs(float(by_piece.sum()) - difference) / max(abs(difference), 1e-30), points,
        )  # fmt: skip
        if found.is_complete or points == MOST_POINTS:
            return found
        points *= 2


@dataclass(frozen=True)
class _Path:
    """The straight line from the baseline to the text: float32 [1, L, H] both."""

    end: Any
    start: Any

    def at(self, shares: Any) -> Any:
        """Return the points at shares float [S] of the way: float32 [S, L, H]."""
        return self.start + tf.reshape(tf.cast(shares, tf.float32), [-1, 1, 1]) * self.step

    @property
    def step(self) -> Any:
        return self.end - self.start


def _differentiable(
    encode: keras.Model, example: Example, question: Question, answer: int
) -> Callable[[Any], tuple[Any, Any]]:
    """Return the function from vectors [S, L, H] to the answer's values [S] and their gradients."""

    def value_of(vectors: Any) -> tuple[Any, Any]:
        rows = tf.shape(vectors)[0]
        inputs = {
            name: tf.repeat(features, rows, axis=0)
            for name, features in example.features().items()
            if name != schema.INPUT_IDS
        }
        with tf.GradientTape() as tape:
            tape.watch(vectors)
            encoded = encode(inputs | {"token_vectors": vectors}, training=False)
            values = question.values(encoded)[:, answer]
        return values, tape.gradient(values, vectors)

    return value_of


def _integral(value_of: Callable[[Any], tuple[Any, Any]], path: _Path, points: int) -> np.ndarray:
    """Return the gradient times the path's direction, summed over H, integrated: float32 [L]."""
    nodes, weights = np.polynomial.legendre.leggauss(points)  # on [-1, 1]
    length = path.end.shape[1]
    at_once = max(1, POSITIONS_AT_ONCE // length)
    total = np.zeros(length)
    for begin in range(0, points, at_once):
        chosen = slice(begin, begin + at_once)
        _, gradients = value_of(path.at((nodes[chosen] + 1) / 2))
        along = tf.reduce_sum(gradients * path.step, axis=-1)  # [S, L]
        total += weights[chosen] / 2 @ along.numpy()
    return total.astype(np.float32)
