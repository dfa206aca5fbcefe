"""The best checkpoint of a run by evaluation, and how long there has been no better one."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from model.training.checkpoints import Checkpoints
from model.training.evaluations import EarlyStopping, Evaluations, evaluations_since
from model.training.workers import Workers
from pipeline.errors import InputError


class BestKeeper:
    """Marks the checkpoint of the best evaluation; all workers decide what the chief decides.

    Attributes:
        evaluations: by which measure, and with how much patience.
        early_stopping: counts the evaluations since the best one.
    """

    def __init__(
        self,
        run: Path,
        evaluations: Evaluations,
        checkpoints: Checkpoints,
        workers: Workers,
        lines: Iterable[Mapping[str, Any]],
    ) -> None:
        """Continue from what an earlier start of the run left.

        Args:
            run: directory of the run, for messages.
            evaluations: by which measure, and with how much patience.
            checkpoints: the run's.
            workers: all that train.
            lines: the chief's, of `metrics.jsonl`.

        Raises:
            InputError: the best checkpoint was selected by another measure.
        """
        self.evaluations = evaluations
        self._checkpoints = checkpoints
        self._workers = workers
        best = checkpoints.best
        if best and best.metric not in (None, evaluations.measure):
            raise InputError(
                f"{run}: its best checkpoint was selected by {best.metric}, not "
                f"{evaluations.measure}; give --metric {best.metric}, or start a new run with "
                "another --run"
            )
        since = evaluations_since(lines, best.step if best else None)
        self.early_stopping = EarlyStopping(evaluations.patience, round(workers.of_chief(since)))

    def record(self, values: Mapping[str, float]) -> bool:
        """Count an evaluation, and return whether it is the best one so far.

        Args:
            values: its measures by name.
        """
        best = self._checkpoints.best
        value = values[self.evaluations.measure]
        is_best = self.evaluations.is_new_best(value, best.value if best else None)
        is_best = bool(self._workers.of_chief(float(is_best)))
        self.early_stopping.record(is_best=is_best)
        return is_best

    def mark(self, step: int, values: Mapping[str, float]) -> None:
        """Keep the checkpoint of a step, which has been or is being saved, as the best one.

        Args:
            step: updates done.
            values: measures of its evaluation by name.
        """
        measure = self.evaluations.measure
        self._checkpoints.mark_best(step, measure, values[measure])
