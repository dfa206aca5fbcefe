"""An evaluation as tables in the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from clozeline.show.terminal import results, table
from model.tasks.evaluation import Evaluation
from model.tasks.task_kind import Task

MOST_CLASSES = 12
"""Classes up to which the terminal shows who was taken for whom."""

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


def print_worst(worst: Sequence[dict[str, Any]]) -> None:
    """Print the answers that are most wrong.

    Args:
        worst: answers with their `error`, the worst first; right ones are left out.
    """
    shown = [row for row in worst if _is_wrong(row)]
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
