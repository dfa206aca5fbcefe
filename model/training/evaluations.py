"""Evaluations: when they take place, which one is the best, and when to stop early."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Evaluations:
    """When to evaluate, by which measure the best checkpoint is selected, and the patience.

    Attributes:
        every_steps: updates between two evaluations; None = only at the end.
        measure: name of the measure.
        higher_is_better: whether the highest value is the best; otherwise the lowest.
        patience: evaluations in a row without a new best one, after which training stops; None =
            it never stops early.
    """

    every_steps: int | None = None
    measure: str = "loss"
    higher_is_better: bool = False
    patience: int | None = None

    def is_new_best(self, value: float, best: float | None) -> bool:
        """Return whether an evaluation is better than the best one before.

        Args:
            value: of the measure.
            best: the best value before; None or NaN if there is none.
        """
        if best is None or math.isnan(best):
            return True
        return value > best if self.higher_is_better else value < best


class EarlyStopping:
    """Counts the evaluations since the best one.

    Attributes:
        patience: as in `Evaluations`.
        since_best: evaluations in a row without a new best one.
    """

    def __init__(self, patience: int | None, since_best: int = 0) -> None:
        self.patience = patience
        self.since_best = since_best

    def record(self, *, is_best: bool) -> None:
        """Count an evaluation."""
        self.since_best = 0 if is_best else self.since_best + 1

    @property
    def is_exhausted(self) -> bool:
        """Whether patience has run out."""
        return self.patience is not None and self.since_best >= self.patience


def evaluations_since(lines: Iterable[Mapping[str, Any]], best_step: int | None) -> int:
    """Return how many evaluations a run's log has after the best one; 0 if there is no best one.

    Args:
        lines: of `metrics.jsonl`.
        best_step: updates done at the best evaluation; None if there is none.
    """
    if best_step is None:
        return 0
    return sum(line["split"] == "eval" and line["step"] > best_step for line in lines)
