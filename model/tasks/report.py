"""An evaluation as a person reads it: tables in the terminal, and a picture."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from model.tasks.evaluation import Evaluation
from model.tasks.kinds import Task
from pipeline.console import results, table
from pipeline.storage.files import write_atomically
from pipeline.storage.strict_json import to_json

MOST_CLASSES = 12
"""Classes up to which the terminal shows who was taken for whom."""

MOST_CELLS = 40
"""Classes up to which the picture shows numbers."""

SHOWN_CHARACTERS = 100


def measure_text(name: str, value: float) -> str:
    """Return a measure as its unit asks for."""
    shares = ("accuracy", "f1", "precision", "recall", "match")
    return f"{value:.2%}" if name.endswith(shares) else f"{value:.4f}"


def print_measures(title: str, measures: Mapping[str, float]) -> None:
    """Print measures as a table."""
    rows = [(name.replace("_", " "), measure_text(name, value)) for name, value in measures.items()]
    results.print(table(title, ("", "value"), rows))


def print_confusion(evaluation: Evaluation, task: Task) -> None:
    """Print which class was taken for which, where they are few."""
    if evaluation.confusion is None or len(task.labels) > MOST_CLASSES:
        return
    rows = [
        [label, *map(int, counts)]
        for label, counts in zip(task.labels, evaluation.confusion, strict=True)
    ]
    results.print(table("Expected (rows), answered (columns)", ["", *task.labels], rows))


def worst(evaluation: Evaluation, count: int) -> list[dict[str, Any]]:
    """Return the answers that are most wrong, the worst first, each with its `error`."""
    order = np.argsort(-np.array(evaluation.errors), kind="stable")[:count]
    return [evaluation.answers[i] | {"error": evaluation.errors[i]} for i in order]


def print_worst(evaluation: Evaluation, count: int) -> None:
    """Print the answers that are most wrong."""
    shown = [row for row in worst(evaluation, count) if _is_wrong(row)]
    if not shown:
        return
    rows = []
    for row in shown:
        given = {k: v for k, v in row.items() if k not in ("expected", "answer", "error")}
        place, *texts = given.values()
        words = " | ".join(_short(text) for text in texts if isinstance(text, str | list))
        rows.append((place, words, _short(row["expected"]), _short(row["answer"])))
    columns = (next(iter(shown[0])), "text", "expected", "answered")
    results.print(table("Most wrong", columns, rows, frozenset({0, 1, 2, 3})))


def _is_wrong(row: dict[str, Any]) -> bool:
    """Return whether an answer is wrong; of a passage, where several may be right, by its error."""
    if isinstance(row["answer"], str) and isinstance(row["expected"], list):
        return row["error"] > 0
    return bool(row["answer"] != row["expected"])


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2f}"
    text = value if isinstance(value, str) else " ".join(map(str, value))
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"


def write_answers(path: Path, answers: list[dict[str, Any]]) -> None:
    """Write answers as JSON Lines."""
    lines = [to_json(answer) + "\n" for answer in answers]
    write_atomically(path, "".join(lines).encode())


def draw_evaluation(path: Path, evaluation: Evaluation, task: Task, title: str) -> bool:
    """Draw who was taken for whom, or numbers beside those expected, as a PNG.

    Returns:
        Whether there is something to draw.
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
    figure.savefig(picture, format="png", dpi=110)
    write_atomically(path, picture.getvalue())
    return True


def _draw_numbers(axes: Any, evaluation: Evaluation) -> None:
    expected = [row["expected"] for row in evaluation.answers]
    found = [row["answer"] for row in evaluation.answers]
    axes.scatter(expected, found, s=8, alpha=0.5)
    ends = [min(expected), max(expected)]
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
