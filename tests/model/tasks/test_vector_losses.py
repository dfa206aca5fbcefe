"""Losses of vectors, and their gradients, against sentence-transformers'."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from model.tasks import vector_losses as losses
from model.tasks.objective import Tuning
from model.tasks.task_kind import Task
from model.tasks.vectors import VectorSettings

GOLDEN = dict(np.load(Path(__file__).parents[2] / "golden" / "vector_losses.npz"))
VECTORS, SCORES = GOLDEN["vectors"], GOLDEN["scores"]
IDS = np.arange(24, dtype=np.int32).reshape(6, 4)

CASES: dict[str, tuple[int, dict[str, Any], np.ndarray]] = {
    "in_batch_pairs": (2, {}, IDS),
    "in_batch_pairs_scale_7": (2, {"scale": 7.0}, IDS),
    "in_batch_both_directions": (2, {"both_directions": True}, IDS),
    "in_batch_negatives": (4, {}, IDS),
    "in_batch_negatives_both_directions": (3, {"both_directions": True}, IDS),
    "triplet": (3, {"loss": "triplet", "margin": 0.3}, IDS),
    "cosent": (2, {"loss": "cosent"}, SCORES),
    "cosine": (2, {"loss": "cosine", "score_range": 5.0}, SCORES),
}


def tuning(**settings: Any) -> Tuning:
    return Tuning(Task("similarity", (), takes_pairs=False, vectors=VectorSettings(**settings)), 2)


def loss_and_gradient(objective: Tuning, count: int, labels: np.ndarray) -> tuple[Any, Any]:
    vectors = tf.constant(VECTORS[:, :count])
    labels = labels[:, :count] if labels.ndim == 2 else labels
    batch = {"task_labels": tf.constant(labels), "example_weights": tf.ones(6)}
    with tf.GradientTape() as tape:
        tape.watch(vectors)
        sums = objective.sums({"task_logits": vectors}, batch)
        loss = sums["task_loss"] / sums["task_weight"]
    assert list(sums) == objective.sum_names
    return loss, tape.gradient(loss, vectors)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("sizes", [(), (8,), (16, 8, 3)])
def test_losses_equal_those_of_sentence_transformers(name: str, sizes: tuple[int, ...]) -> None:
    count, settings, labels = CASES[name]
    loss, gradient = loss_and_gradient(tuning(dimensions=sizes, **settings), count, labels)
    sizes = sizes or (16,)
    wanted = sum(GOLDEN[f"{name}/{size}"] for size in sizes)
    assert float(loss) == pytest.approx(float(wanted), rel=2e-6)
    expected = sum(GOLDEN[f"{name}/{size}/gradient"] for size in sizes)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)


def test_equal_texts_are_not_negatives() -> None:
    """Examples 0 and 1 have the same positive; the negative of 2 is the anchor of 3."""
    ids = np.array([[0, 1, 2], [3, 1, 4], [5, 6, 7], [7, 8, 9]], np.int32)
    unit = VECTORS[:4, :3] / np.linalg.norm(VECTORS[:4, :3], axis=-1, keepdims=True)
    found = losses.in_batch_negatives(tf.constant(VECTORS[:4, :3]), tf.constant(ids), scale=5.0)
    order = [(row, text) for text in (1, 2) for row in range(4)]
    for row in range(4):
        scores = {
            (other, text): 5.0 * unit[row, 0] @ unit[other, text]
            for other, text in order
            if (other, text) == (row, 1) or ids[other, text] not in ids[row, :2]
        }
        wanted = np.log(sum(np.exp(score) for score in scores.values())) - scores[row, 1]
        assert float(found[row]) == pytest.approx(float(wanted), rel=1e-5)
        assert len(scores) == {0: 7, 1: 7, 2: 8, 3: 7}[row]


def test_filler_does_not_count() -> None:
    weights = tf.constant([1.0, 1.0, 1.0, 0.0])
    vectors, scores = tf.constant(VECTORS[:4, :2]), tf.constant(SCORES[:4])
    whole = losses.cosent(vectors, scores, weights, scale=20.0)
    real = losses.cosent(vectors[:3], scores[:3], tf.ones(3), scale=20.0)
    assert float(whole) == pytest.approx(float(real))


@pytest.mark.parametrize(
    ("loss", "needed"), [("in-batch", True), ("cosent", True), ("triplet", False)]
)
def test_which_losses_compare_examples(loss: Any, needed: bool) -> None:
    assert tuning(loss=loss).needs_whole_batch == needed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pooling": "sum"}, "pooling must be one of mean, cls, max, received 'sum'"),
        ({"loss": "softmax"}, "loss must be one of in-batch, triplet, cosent, cosine"),
        ({"default_prompt": "query"}, "default_prompt 'query' is not one of the prompts"),
    ],
)
def test_settings_are_checked(change: dict[str, Any], message: str) -> None:
    make: Callable[..., Any] = VectorSettings
    with pytest.raises(ValueError, match=message):
        make(**change)
