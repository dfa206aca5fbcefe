"""Integrated gradients: how much each piece of the text contributes to an answer.

Shapes: L positions, H hidden size, S points on the integration path.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from model.explaining.example import Example
from model.explaining.questions import ScoredQuestion
from pipeline import schema

FIRST_POINTS, MOST_POINTS = 16, 512
"""Number of points on the integration path: initial number, and the limit of doubling it."""

WANTED_ERROR = 0.01
"""Target for the completeness error, relative to the difference from the baseline."""

NO_DIFFERENCE = 1e-6
"""Differences below this are treated as zero: float32 cannot resolve 1% of them."""

POSITIONS_AT_ONCE = 2048
"""Number of positions (points × L) per batch; it bounds the memory."""


@dataclass(frozen=True)
class Attribution:
    """The contribution of each piece to the value of an answer.

    Attributes:
        answer: index of the answer.
        by_piece: float32 [L]. Attributions; their sum approximates `value - baseline_value`.
        value: the answer's probability, or the predicted number, for the text.
        baseline_value: the same value for the baseline.
        error: completeness error: |sum of attributions - difference| / |difference|.
        points: number of points on the integration path.
    """

    answer: int
    by_piece: np.ndarray
    value: float
    baseline_value: float
    error: float
    points: int

    @property
    def is_complete(self) -> bool:
        """Whether the completeness error is within the target, or there is no difference."""
        difference = abs(self.value - self.baseline_value)
        return self.error <= WANTED_ERROR or difference <= NO_DIFFERENCE


def integrated_gradients(
    encode: keras.Model, token_vectors: Any, example: Example, question: ScoredQuestion, answer: int
) -> Attribution:
    """Return each piece's contribution to an answer's probability, or to a predicted number.

    Sundararajan et al. 2017, https://arxiv.org/abs/1703.01365, equation 1: the gradient is
    integrated along the straight path from a baseline to the text's token embeddings. The baseline
    is zero for every word, as the paper proposes for text, but keeps the vectors of [CLS], [SEP]
    and [MASK], which carry no content. The integral is computed by Gauss-Legendre quadrature; the
    number of points is doubled until the completeness error reaches `WANTED_ERROR`.

    Args:
        encode: the encoder from token vectors (`model.bert.network.from_token_vectors`).
        token_vectors: float32 [1, L, H]. Token embeddings of the example.
        example: the text.
        question: the question whose answer is explained.
        answer: index of the answer to explain.
    """
    # 1 for pieces that the baseline removes.
    words = (~example.is_special).astype(np.float32)[np.newaxis, :, np.newaxis]
    path = _Path(token_vectors, token_vectors * (1 - words))
    value_of = _differentiable(encode, example, question, answer)
    (value, baseline_value), _ = value_of(path.at([1.0, 0.0]))
    difference = float(value - baseline_value)
    points = FIRST_POINTS
    while True:
        by_piece = _integral(value_of, path, points)
        attribution = Attribution(
            answer, by_piece, float(value), float(baseline_value),
            # Completeness axiom (section 3): attributions sum to the difference.
            abs(float(by_piece.sum()) - difference) / max(abs(difference), 1e-30), points,
        )  # fmt: skip
        if attribution.is_complete or points == MOST_POINTS:
            return attribution
        points *= 2


@dataclass(frozen=True)
class _Path:
    """The straight path from the baseline (`start`) to the text (`end`): float32 [1, L, H]."""

    end: Any
    start: Any

    def at(self, shares: Any) -> Any:
        """Return the points at fractions float [S] of the path: float32 [S, L, H]."""
        return self.start + tf.reshape(tf.cast(shares, tf.float32), [-1, 1, 1]) * self.step

    @property
    def step(self) -> Any:
        return self.end - self.start


def _differentiable(
    encode: keras.Model, example: Example, question: ScoredQuestion, answer: int
) -> Callable[[Any], tuple[Any, Any]]:
    """Return the function from vectors [S, L, H] to the answer's values [S] and their gradients."""

    def value_of(vectors: Any) -> tuple[Any, Any]:
        # Mask and segments are the same at all points of the path.
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
    """Integrate gradient × path direction, summed over H, along the path: float32 [L]."""
    nodes, weights = np.polynomial.legendre.leggauss(points)  # on [-1, 1]
    length = path.end.shape[1]
    at_once = max(1, POSITIONS_AT_ONCE // length)
    # In float64: hundreds of points of both signs are added.
    total = np.zeros(length)
    for begin in range(0, points, at_once):
        chosen = slice(begin, begin + at_once)
        _, gradients = value_of(path.at((nodes[chosen] + 1) / 2))
        along = tf.reduce_sum(gradients * path.step, axis=-1)  # [S, L]
        # Halved: the path has length 1, and the rule is for an interval of length 2.
        total += weights[chosen] / 2 @ along.numpy()
    return total.astype(np.float32)
