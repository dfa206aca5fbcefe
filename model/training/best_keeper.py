"""Selection of a run's best checkpoint, and early stopping."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from model.training.checkpoints import Checkpoints
from model.training.evaluation_schedule import EarlyStopping, EvaluationSchedule, evaluations_since
from model.training.workers import Workers
from pipeline.errors import InputError


class BestKeeper:
    """Marks the checkpoint of the best evaluation; the chief decides for all workers.

    Attributes:
        evaluations: metric and patience.
        early_stopping: counter of evaluations since the best one.
    """

    def __init__(
        self,
        run: Path,
        evaluations: EvaluationSchedule,
        checkpoints: Checkpoints,
        workers: Workers,
        lines: Iterable[Mapping[str, Any]],
    ) -> None:
        """Restore the state from the run's checkpoints and log.

        Args:
            run: directory of the run, for messages.
            evaluations: metric and patience.
            checkpoints: checkpoints of the run.
            workers: all processes that train the run.
            lines: lines of `metrics.jsonl`; only the chief has them.

        Raises:
            InputError: the best checkpoint was selected by another metric.
        """
        self.evaluations = evaluations
        self._checkpoints = checkpoints
        self._workers = workers
        best = checkpoints.best
        if best and best.metric not in (None, evaluations.measure):
            raise InputError(
                f"{run}: its best checkpoint was selected by {best.metric}, not "
                f"{evaluations.measure}; give `metric` {best.metric}, or start a new run with "
                "another `run_dir`"
            )
        # From the log, so that patience goes on counting after a resume.
        since = evaluations_since(lines, best.step if best else None)
        self.early_stopping = EarlyStopping(evaluations.patience, round(workers.of_chief(since)))

    def record(self, step: int, values: Mapping[str, float]) -> bool:
        """Count an evaluation, and return whether it is the best so far.

        Args:
            step: step of the evaluation; it may be a repetition of the best one.
            values: metrics of the evaluation by name.
        """
        best = self._checkpoints.best
        value = values[self.evaluations.measure]
        others = best.value if best and best.step != step else None
        is_best = self.evaluations.is_new_best(value, others)
        # Sums may differ in the last bit between workers; all must take the same decision.
        is_best = bool(self._workers.of_chief(float(is_best)))
        self.early_stopping.record(is_best=is_best)
        return is_best

    def mark(self, step: int, values: Mapping[str, float]) -> None:
        """Mark the checkpoint of a step as the best one; it may still be being written.

        Args:
            step: step of the checkpoint.
            values: metrics of its evaluation by name.
        """
        measure = self.evaluations.measure
        self._checkpoints.mark_best(step, measure, values[measure])
