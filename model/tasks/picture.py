"""Plots of an evaluation: the confusion matrix, or predicted against expected numbers."""

import io
from pathlib import Path
from typing import Any

import numpy as np

from model.tasks.evaluation import Evaluation
from model.tasks.task_kind import Task
from pipeline.storage.files import write_atomically
from pipeline.storage.recognition import PICTURE

MOST_CELLS = 40
"""Maximum number of classes for which the confusion matrix shows counts."""


def draw_evaluation(path: Path, evaluation: Evaluation, task: Task, title: str) -> bool:
    """Draw the confusion matrix, or a scatter plot of predicted against expected numbers, as PNG.

    Returns:
        Whether a picture was drawn; span tasks have none.
    """
    from matplotlib.figure import Figure

    if evaluation.confusion is None and not evaluation.are_numbers:
        return False
    figure = Figure(figsize=(6.5, 5.5), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title)
    if evaluation.confusion is None:
        _draw_numbers(axes, evaluation)
    else:
        _draw_confusion(figure, axes, evaluation.confusion, task)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110, metadata=PICTURE)
    write_atomically(path, picture.getvalue())
    return True


def _draw_numbers(axes: Any, evaluation: Evaluation) -> None:
    answers = evaluation.answers
    expected = np.array([row["expected"] for row in answers], float)
    predicted = np.array([row["answer"] for row in answers], float)
    axes.scatter(expected, predicted, s=8, alpha=0.5)
    ends = [expected.min(), expected.max()]
    axes.plot(ends, ends, linewidth=1, color="0.5")
    axes.set_xlabel("expected")
    axes.set_ylabel("answered")
    axes.grid(alpha=0.3)


def _draw_confusion(figure: Any, axes: Any, counts: np.ndarray, task: Task) -> None:
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, label="share of the class that is expected")
    places = range(len(task.labels))
    axes.set_xticks(places, task.labels, rotation=90)
    axes.set_yticks(places, task.labels)
    axes.set_xlabel("answered")
    axes.set_ylabel("expected")
    if len(task.labels) <= MOST_CELLS:
        for row, column in np.argwhere(counts):
            color = "white" if shares[row, column] > 0.5 else "black"
            number = f"{counts[row, column]:,}"
            axes.text(column, row, number, color=color, ha="center", va="center", size="small")
