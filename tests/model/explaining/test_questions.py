"""Which questions a model answers about a text, and which of its vectors they read."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from model.explaining.example import Example
from model.explaining.questions import questions
from model.tasks.task_kind import Task

PIECES = ("[CLS]", "the", "[MASK]", "[SEP]", "fox", "[SEP]")
SPECIAL = np.array([True, False, True, True, False, True])
SEQUENCE = np.random.default_rng(1).normal(size=(2, 6, 3)).astype(np.float32)
POOLED = np.random.default_rng(2).normal(size=(2, 3)).astype(np.float32)
ENCODED = {"sequence_output": tf.constant(SEQUENCE), "pooled_output": tf.constant(POOLED)}


def example(pieces: tuple[str, ...] = PIECES) -> Example:
    segments = np.array([0, 0, 0, 0, 1, 1])
    return Example(pieces, pieces, np.arange(6), segments, SPECIAL, np.ones(6, bool), 0)


def run(*heads: str, task: Task | None = None) -> Any:
    return SimpleNamespace(heads=heads, task=task, vocabulary=SimpleNamespace(pieces=("a", "b")))


MASKED_LM = lambda x, positions: tf.gather(x, positions, batch_dims=1)  # noqa: E731
MODEL: Any = SimpleNamespace(get_layer={"masked_lm": MASKED_LM, "next_sentence": lambda p: -p,
                                        "task": lambda x: 2 * x}.get)  # fmt: skip


def softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def test_a_pretrained_model_predicts_every_mask_and_the_next_sentence() -> None:
    asked = questions(run("masked_lm", "next_sentence"), MODEL, example(), 1)
    assert [(each.kind, each.position) for each in asked] == [
        ("masked_lm", 2), ("next_sentence", None),
    ]  # fmt: skip
    np.testing.assert_allclose(asked[0].values(ENCODED), softmax(SEQUENCE[:, 2]), rtol=1e-5)
    np.testing.assert_allclose(asked[1].values(ENCODED), softmax(-POOLED), rtol=1e-5)


def test_without_a_mask_the_given_position_is_predicted() -> None:
    pieces = (*PIECES[:2], "red", *PIECES[3:])
    (asked,) = questions(run("masked_lm"), MODEL, example(pieces), 1)
    assert asked.position == 1
    assert "position 1 (the)" in asked.title


def test_one_text_has_no_next_sentence() -> None:
    one = example()
    one.segment_ids[:] = 0
    assert questions(run("next_sentence"), MODEL, one, 1) == []


@pytest.mark.parametrize(
    ("kind", "labels", "expected"),
    [
        ("pair", ("x", "y", "z"), softmax(2 * POOLED)),
        ("regression", (), 2 * POOLED),  # a number is shown as it is
    ],
)
def test_a_task_is_the_only_question(
    kind: str, labels: tuple[str, ...], expected: np.ndarray
) -> None:
    task = Task(kind, labels, takes_pairs=True)
    (asked,) = questions(run("masked_lm", task=task), MODEL, example(), 1)
    np.testing.assert_allclose(asked.values(ENCODED), expected, rtol=1e-5)


def test_a_span_is_asked_for_its_ends_over_all_positions() -> None:
    asked = questions(run(task=Task("span", (), takes_pairs=True)), MODEL, example(), 1)
    assert len(asked) == 2
    for column, question in enumerate(asked):
        found = question.values(ENCODED)
        np.testing.assert_allclose(found, softmax(2 * SEQUENCE[:, :, column]), rtol=1e-5)
