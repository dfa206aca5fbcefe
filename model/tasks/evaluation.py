"""All answers to a file of examples, their measures, and what went wrong most."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from model.tasks.kinds import Task
from model.tasks.tag_schemes import Scheme

if TYPE_CHECKING:
    from model.tasks.encoded import Encoded
    from model.tasks.examples import Examples


@dataclass
class Evaluation:
    """What a model answered.

    Attributes:
        measures: `loss`, and those of the task, by name; none where labels are unknown.
        answers: one row an example: what was given, expected and answered, by name.
        errors: how wrong each answer is, the higher the worse; empty where labels are unknown.
        confusion: int [C, C]. How often a class (row) was taken for another; None without classes.
        tag_scheme: how tags mark entities; None without tags.
        are_numbers: whether the answers are numbers.
    """

    measures: dict[str, float]
    answers: list[dict[str, Any]]
    errors: list[float] = field(default_factory=list)
    confusion: np.ndarray | None = None
    tag_scheme: Scheme | None = None
    are_numbers: bool = False


def evaluate(
    examples: "Examples", encoded: "Encoded", logits: Sequence[np.ndarray], task: Task
) -> Evaluation:
    """Return what a model's logits say of a file of examples.

    Args:
        examples: the file's.
        encoded: the same, encoded.
        logits: of `predict`.
        task: what the model was tuned for.
    """
    kind = task.definition
    evaluation = kind.evaluate(examples, encoded, logits, task)
    if evaluation.measures:
        loss = kind.mean_loss(examples, encoded, logits)
        evaluation.measures = {"loss": loss} | evaluation.measures
    return evaluation


def mean_cross_entropy(logits: np.ndarray, labels: Any) -> float:
    """Return the mean of the negative logarithms of the labels' probabilities.

    Args:
        logits: float32 [N, C].
        labels: int [N].
    """
    from scipy.special import log_softmax

    nats = -log_softmax(logits, axis=-1)
    return float(np.mean(nats[np.arange(len(labels)), labels]))


def confusion_matrix(expected: np.ndarray, answered: np.ndarray, classes: int) -> np.ndarray:
    """Return how often each class (row) was taken for each other: int64 [C, C]."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (expected, answered), 1)
    return counts
