"""Integrated gradients of functions whose integrals are known in closed form."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from model.explaining.attribution import FIRST_POINTS, MOST_POINTS, integrated_gradients
from model.explaining.example import Example
from model.explaining.questions import ScoredQuestion
from pipeline import schema

LENGTH, HIDDEN = 5, 3
VECTORS = np.random.default_rng(4).normal(size=(1, LENGTH, HIDDEN)).astype(np.float32)
PIECES = ("[CLS]", "a", "b", "[MASK]", "[SEP]")
EXAMPLE = Example(
    PIECES, PIECES, np.arange(LENGTH), np.zeros(LENGTH, int),
    np.array([True, False, False, True, True]), np.ones(LENGTH, bool), 0,
)  # fmt: skip
WORDS = [1, 2]


def identity(inputs: dict[str, Any], *, training: bool) -> dict[str, Any]:
    """An encoder that returns its token vectors."""
    assert not training
    assert inputs.keys() == {schema.INPUT_MASK, schema.SEGMENT_IDS, "token_vectors"}
    return {"x": inputs["token_vectors"]}


def question(value: Callable[[Any], Any]) -> ScoredQuestion:
    """A question with two answers: the first is always 7, the second is a function of vectors."""

    def scores(encoded: dict[str, Any]) -> Any:
        second = value(encoded["x"])
        return tf.stack([7 * tf.ones_like(second), second], axis=1)

    return ScoredQuestion("score", "?", "", "", ("", ""), None, scores, is_number=True)


def test_a_linear_function_gives_each_word_its_own_term() -> None:
    weights = np.random.default_rng(5).normal(size=(LENGTH, HIDDEN)).astype(np.float32)
    linear = question(lambda x: tf.reduce_sum(x * weights, [1, 2]))
    found = integrated_gradients(identity, VECTORS, EXAMPLE, linear, 1)
    terms = (VECTORS[0] * weights).sum(axis=1)
    np.testing.assert_allclose(found.by_piece[WORDS], terms[WORDS], rtol=1e-5)
    # Special pieces keep their vectors in the baseline, so nothing can come from them.
    assert not found.by_piece[[0, 3, 4]].any()
    assert found.value == pytest.approx(terms.sum(), rel=1e-5)
    assert found.baseline_value == pytest.approx(terms[[0, 3, 4]].sum(), rel=1e-5)
    assert (found.points, found.is_complete, found.answer) == (FIRST_POINTS, True, 1)


def test_a_square_of_a_sum_is_divided_in_proportion() -> None:
    """∫ 2t s x dt over (0, 1) is s x for a baseline of 0, where s is the sum of all x."""
    of_words = np.zeros((1, LENGTH, HIDDEN), np.float32)
    of_words[0, WORDS] = 1
    square = question(lambda x: tf.reduce_sum(x * of_words, [1, 2]) ** 2)
    found = integrated_gradients(identity, VECTORS, EXAMPLE, square, 1)
    by_word = VECTORS[0, WORDS].sum(axis=1)
    np.testing.assert_allclose(found.by_piece[WORDS], by_word * by_word.sum(), rtol=1e-4)


def test_more_points_are_taken_until_the_sum_is_the_difference() -> None:
    """A steep step at 0.3 of the path: 16 points miss its slope."""
    size = float(np.abs(VECTORS[0, WORDS]).sum())
    steep = question(
        lambda x: tf.sigmoid(400 * (tf.reduce_sum(tf.abs(x[:, 1:3]), [1, 2]) / size - 0.3))
    )
    found = integrated_gradients(identity, VECTORS, EXAMPLE, steep, 1)
    assert FIRST_POINTS < found.points <= MOST_POINTS
    assert found.error <= 0.01
    assert found.by_piece.sum() == pytest.approx(1, abs=0.01)


def test_a_jump_has_no_gradient_and_is_reported_as_incomplete() -> None:
    jump = question(
        lambda x: tf.cast(tf.reduce_sum(x[:, 1:3] ** 2, [1, 2]) > 0.1, tf.float32) + 0 * x[:, 0, 0]
    )
    found = integrated_gradients(identity, VECTORS, EXAMPLE, jump, 1)
    assert (found.points, found.is_complete, found.error) == (MOST_POINTS, False, 1)


def test_an_answer_that_does_not_depend_on_the_text_is_complete() -> None:
    found = integrated_gradients(identity, VECTORS, EXAMPLE, question(lambda x: x[:, 1, 0]), 0)
    assert found.value == found.baseline_value == 7
    assert found.is_complete
    assert not found.by_piece.any()
