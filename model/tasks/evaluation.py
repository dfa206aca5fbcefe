"""Evaluation of a model on a file of examples: its answers, the metrics, the loss per example."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from model.tasks.tag_schemes import Scheme
from pipeline.storage.strict_json import JsonObject


@dataclass
class Evaluation:
    """The answers of a model, and their metrics.

    Attributes:
        measures: loss and the task's metrics by name; empty if labels are unknown.
        answers: one dict per example: input, expected answer and answer by name.
        errors: loss or error of each example, higher is worse; empty if labels are unknown.
        confusion: int64 [C, C]. Confusion matrix, true classes as rows; None without classes.
        tag_scheme: tag scheme of the labels (IOB2, …); None without tags.
        are_numbers: whether the answers are numbers (regression).
    """

    measures: dict[str, float]
    answers: list[JsonObject]
    errors: list[float] = field(default_factory=list)
    confusion: np.ndarray | None = None
    tag_scheme: Scheme | None = None
    are_numbers: bool = False


def mean_cross_entropy(logits: np.ndarray, labels: Any) -> float:
    """Return the mean cross-entropy, in nats.

    Args:
        logits: float32 [N, C].
        labels: int [N].
    """
    from scipy.special import log_softmax

    nats = -log_softmax(logits, axis=-1)
    return float(np.mean(nats[np.arange(len(labels)), labels]))


def confusion_matrix(expected: np.ndarray, answered: np.ndarray, classes: int) -> np.ndarray:
    """Return the confusion matrix, with true classes as rows: int64 [C, C]."""
    counts = np.zeros((classes, classes), np.int64)
    # `add.at`, because plain indexing counts a repeated pair once.
    np.add.at(counts, (expected, answered), 1)
    return counts
