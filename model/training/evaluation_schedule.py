"""Evaluation schedule, selection of the best evaluation, and early stopping."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class EvaluationSchedule:
    """Evaluation schedule, metric of the best checkpoint, and patience.

    Attributes:
        every_steps: steps between two evaluations; None = only at the end.
        measure: name of the metric that selects the best checkpoint.
        higher_is_better: whether higher values of the metric are better.
        patience: training stops after this number of evaluations in a row without improvement;
            None = never.
    """

    every_steps: int | None = None
    measure: str = "loss"
    higher_is_better: bool = False
    patience: int | None = None

    def is_new_best(self, value: float, best: float | None) -> bool:
        """Return whether an evaluation is better than all before.

        Args:
            value: value of the metric.
            best: best value so far; None or NaN if there is none.
        """
        if best is None or math.isnan(best):
            return True
        return value > best if self.higher_is_better else value < best


class EarlyStopping:
    """Early stopping: counts the evaluations since the best one.

    Attributes:
        patience: see `EvaluationSchedule`.
        since_best: number of evaluations in a row without improvement.
    """

    def __init__(self, patience: int | None, since_best: int = 0) -> None:
        self.patience = patience
        self.since_best = since_best

    def record(self, *, is_best: bool) -> None:
        """Count an evaluation."""
        self.since_best = 0 if is_best else self.since_best + 1

    @property
    def is_exhausted(self) -> bool:
        """Whether training should stop."""
        return self.patience is not None and self.since_best >= self.patience


def evaluations_since(lines: Iterable[Mapping[str, Any]], best_step: int | None) -> int:
    """Return the number of evaluations in a run's log after the best one; 0 without a best one.

    Args:
        lines: lines of `metrics.jsonl`.
        best_step: step of the best evaluation; None if there is none.
    """
    if best_step is None:
        return 0
    return sum(line["split"] == "eval" and line["step"] > best_step for line in lines)
