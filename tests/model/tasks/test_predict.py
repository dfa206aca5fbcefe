"""Logits come back in the order of the examples, without padding and filler."""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from model import served
from model.tasks.batches import Batches
from model.tasks.encoded import Encoded
from model.tasks.predict import evaluate, predict
from model.tasks.task_kind import Task
from model.tasks.texts import Texts


class Echo:
    """A model whose logits are computed from the ids of its input alone."""

    strategy = tf.distribute.get_strategy()
    name = "echo"

    def __init__(self, task: Task) -> None:
        self.task = task
        self.rows = 0

    def predict(self, batch: Any) -> dict[str, np.ndarray]:
        ids = batch["input_ids"].numpy().astype(np.float32)
        self.rows += len(ids)
        first = ids if self.task.is_per_position else ids[:, 1]
        return {served.TASK_LOGITS: np.stack([first, -first], axis=-1)}


def batches(task: Task, labels: Any) -> Batches:
    lengths = [9, 4, 30, 5, 18]
    ids = [np.array([2, 10 + i, *[7] * (n - 2)], np.int32) for i, n in enumerate(lengths)]
    encoded = Encoded(ids, np.array(lengths), labels, np.arange(5))
    return Batches(encoded, task, batch_size=2, pad_id=99, max_seq_length=32)


def test_one_answer_per_example() -> None:
    task = Task("single", ("no", "yes"), takes_pairs=False)
    model: Any = Echo(task)
    found = predict(model, batches(task, np.zeros(5, np.int32)))
    assert [values.tolist() for values in found] == [[10 + i, -10 - i] for i in range(5)]
    assert model.rows == 6  # the last batch is filled up, and its filler is not returned


def test_one_answer_per_position() -> None:
    task = Task("tagging", ("O", "B-X"), takes_pairs=False)
    encoded = batches(task, [np.zeros(n, np.int32) for n in (9, 4, 30, 5, 18)])
    model: Any = Echo(task)
    found = predict(model, encoded)
    for ids, values in zip(encoded.encoded.input_ids, found, strict=True):
        np.testing.assert_array_equal(values, np.stack([ids, -ids], axis=-1))


def test_the_loss_is_measured_with_the_metrics_of_the_task() -> None:
    task = Task("single", ("no", "yes"), takes_pairs=False)
    labels = np.array([0, 0, 0, 1, 1], np.int32)
    names = [task.labels[label] for label in labels]
    texts = Texts(Path("f"), [("a",)] * 5, names, list(range(5)), ["text", "label"])
    model: Any = Echo(task)
    measured = evaluate(model, texts, batches(task, labels)).measures
    # The logits are ±(10 + i), so class 0 is answered: 3 of 5 right, and 2 · (10 + i) nats else.
    assert next(iter(measured)) == "loss"
    assert measured["accuracy"] == 3 / 5
    np.testing.assert_allclose(measured["loss"], (2 * 13 + 2 * 14) / 5, rtol=1e-5)
