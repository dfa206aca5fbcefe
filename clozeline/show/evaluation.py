"""An evaluation as tables in the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from clozeline.show.terminal import results, table
from model.tasks.evaluation import Evaluation
from model.tasks.task_kind import Task
from pipeline.storage.strict_json import JsonObject

MOST_CLASSES = 12
"""Maximum number of classes for which the terminal shows the confusion matrix."""

SHOWN_CHARACTERS = 100
"""Longer texts are shortened to this length in the terminal."""


def measure_text(name: str, value: float) -> str:
    """Format a metric: shares as a percentage, others with four decimals."""
    shares = ("accuracy", "f1", "precision", "recall", "match")
    return f"{value:.2%}" if name.endswith(shares) else f"{value:z.4f}"


def print_measures(title: str, measures: Mapping[str, float]) -> None:
    """Print metrics as a table."""
    rows = [(name.replace("_", " "), measure_text(name, value)) for name, value in measures.items()]
    results.print(table(title, ("", "value"), rows))


def print_confusion(evaluation: Evaluation, task: Task) -> None:
    """Print the confusion matrix, if there are few classes."""
    if evaluation.confusion is None or len(task.labels) > MOST_CLASSES:
        return
    rows = [
        [label, *map(int, counts)]
        for label, counts in zip(task.labels, evaluation.confusion, strict=True)
    ]
    results.print(
        table(
            "Confusion matrix (rows: expected class, columns: predicted class)",
            ["", *task.labels],
            rows,
        )
    )


def print_worst(worst: Sequence[JsonObject]) -> None:
    """Print the wrong answers with the largest error.

    Args:
        worst: answers with their `error`, the largest first; correct ones are not printed.
    """
    shown = [row for row in worst if _is_wrong(row)]
    if not shown:
        return
    rows = []
    for row in shown:
        inputs = {k: v for k, v in row.items() if k not in ("expected", "answer", "error")}
        place, *texts = inputs.values()
        words = " | ".join(_short(text) for text in texts if isinstance(text, str | list))
        rows.append((place, words, _short(row["expected"]), _short(row["answer"])))
    columns = (next(iter(shown[0])), "text", "expected", "predicted")
    results.print(table("Worst mistakes", columns, rows, frozenset({0, 1, 2, 3})))


def _is_wrong(row: JsonObject) -> bool:
    """Return whether an answer is wrong; for passages, which may have several answers, by error."""
    if isinstance(row["answer"], str) and isinstance(row["expected"], list):
        return bool(row["error"])
    return bool(row["answer"] != row["expected"] and row["error"])  # a perfect ranking has none


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:z.2f}"
    text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"
