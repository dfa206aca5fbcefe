"""The objective of fine-tuning against NumPy; learning rates by layer, frozen layers."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax

from model.bert.config import BertConfig
from model.tasks.encoded import NO_LABEL
from model.tasks.objective import Tuning
from model.tasks.task_kind import Task
from model.training.sums import means


def sums(task: Task, logits: np.ndarray, class_weights: tuple = (), **batch) -> dict[str, float]:
    objective = Tuning(task, 2, class_weights=class_weights)
    features = {name: tf.constant(values) for name, values in batch.items()}
    found = objective.sums({"task_logits": tf.constant(logits, tf.float32)}, features)
    assert list(found) == objective.sum_names
    assert float(objective.weights(features)["task"]) == pytest.approx(float(found["task_weight"]))
    return {name: float(value) for name, value in found.items()}


RNG = np.random.default_rng(3)
WEIGHTS = np.array([1, 1, 0], np.float32)


def test_classes() -> None:
    logits, labels = RNG.normal(size=(3, 4)), np.array([2, 0, 1], np.int32)
    task = Task("single", ("a", "b", "c", "d"), takes_pairs=False)
    found = sums(task, logits, task_labels=labels, example_weights=WEIGHTS)
    nats = -log_softmax(logits, axis=1)[range(3), labels]
    right = logits.argmax(axis=1) == labels
    assert found["task_loss"] == pytest.approx(nats[0] + nats[1], rel=1e-6)
    assert found["task_accuracy"] == right[:2].sum()
    assert found["task_weight"] == 2
    balanced = sums(task, logits, (3.0, 1.0, 0.5, 1.0), task_labels=labels, example_weights=WEIGHTS)
    assert balanced["task_loss"] == pytest.approx(0.5 * nats[0] + 3 * nats[1], rel=1e-6)
    assert balanced["task_weight"] == 3.5
    assert means(balanced)["loss"] == pytest.approx(balanced["task_loss"] / 3.5)


def test_numbers() -> None:
    task = Task("regression", (), takes_pairs=True)
    logits, labels = np.array([[1.5], [-1], [9]]), np.array([2, 1, 0], np.float32)
    found = sums(task, logits, task_labels=labels, example_weights=WEIGHTS)
    assert found == {"task_loss": 0.25 + 4, "task_weight": 2}


def test_only_first_pieces_of_words_count_for_tags() -> None:
    logits = RNG.normal(size=(3, 5, 3))
    labels = np.full((3, 5), NO_LABEL, np.int32)
    labels[0, 1], labels[0, 3], labels[1, 2], labels[2, 1] = 2, 0, 1, 1
    task = Task("tagging", ("x", "y", "z"), takes_pairs=False)
    found = sums(task, logits, task_labels=labels, example_weights=WEIGHTS)
    nats = -log_softmax(logits, axis=-1)
    expected = nats[0, 1, 2] + nats[0, 3, 0] + nats[1, 2, 1]
    assert found["task_loss"] == pytest.approx(expected, rel=1e-6)
    assert found["task_weight"] == 3


def test_starts_and_ends_never_lie_in_padding() -> None:
    logits = RNG.normal(size=(3, 5, 2))
    logits[0, 4] = 50  # padding
    mask = np.array([[1, 1, 1, 1, 0], [1] * 5, [1] * 5], np.int32)
    labels = np.array([[1, 3], [0, 0], [2, 2]], np.int32)
    task = Task("span", (), takes_pairs=True)
    found = sums(task, logits, task_labels=labels, example_weights=WEIGHTS, input_mask=mask)
    first = log_softmax(logits[0, :4], axis=0)
    second = log_softmax(logits[1], axis=0)
    expected = -(first[1, 0] + first[3, 1] + second[0, 0] + second[0, 1]) / 2
    assert found["task_loss"] == pytest.approx(expected, rel=1e-5)


def test_learning_rates_decay_by_layer(small_config: BertConfig) -> None:
    task = Task("single", ("a", "b"), takes_pairs=False)
    tuning = Tuning(task, small_config.num_hidden_layers, layer_decay=0.5)
    weights = [weight.path for weight in tuning.build_model(small_config).weights]
    factors: dict[float, set[str]] = {}
    for path in weights:
        factors.setdefault(tuning.learning_rate_factor(path), set()).add(path.split("/")[0])
    assert factors == {
        1.0: {"pooled_dense", "task"},
        0.5: {"transformer_layer_1"},
        0.25: {"transformer_layer_0"},
        0.125: {
            "token_embedding",
            "position_embedding",
            "segment_embedding",
            "embeddings_layer_norm",
        },
    }


@pytest.mark.parametrize(
    ("frozen", "learning"),
    [
        (0, {"token_embedding", "transformer_layer_0", "transformer_layer_1", "pooled_dense"}),
        (1, {"transformer_layer_1", "pooled_dense"}),
        (2, {"pooled_dense"}),
    ],
)
def test_frozen_layers(small_config: BertConfig, frozen: int, learning: set[str]) -> None:
    task = Task("single", ("a", "b"), takes_pairs=False)
    model = Tuning(task, 2, frozen_layers=frozen).build_model(small_config)
    names = {weight.path.split("/")[0] for weight in model.trainable_variables}
    others = {"position_embedding", "segment_embedding", "embeddings_layer_norm", "task"}
    assert names - others == learning
    assert ("position_embedding" in names) == (frozen == 0)
