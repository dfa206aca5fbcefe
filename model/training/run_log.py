"""A run's measurements as it keeps them: `metrics.jsonl`, TensorBoard's events, `curves.png`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from model.run_config import CURVES, LOGS, METRICS
from model.training.curves import draw_curves
from model.training.metrics_file import MetricsFile


class RunLog:
    """The measurements of a run; one process writes them, and the other workers' logs do nothing.

    Attributes:
        run: directory of the run.
    """

    def __init__(self, run: Path, first_step: int, *, writes: bool = True) -> None:
        """Open the log, without the lines of the steps after the first.

        Args:
            run: directory of the run.
            first_step: updates done.
            writes: whether this process writes the run's files.
        """
        self.run = run
        self._metrics = MetricsFile(run / METRICS, first_step) if writes else None
        self._events = tf.summary.create_file_writer(str(run / LOGS)) if writes else None

    def lines(self) -> list[dict[str, Any]]:
        """Return what has been written; nothing where another process writes."""
        return self._metrics.lines() if self._metrics else []

    def cut(self, step: int) -> None:
        """Remove the lines of the steps after this one, which are about to be repeated."""
        if self._metrics:
            self._metrics.cut(step)

    def add(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Write the measures of a split at a step."""
        if not (self._metrics and self._events):
            return
        self._metrics.add(step, split, values)
        with self._events.as_default():
            for name, value in values.items():
                tf.summary.scalar(f"{split}/{name}", value, step)
        self._events.flush()

    def sync(self) -> None:
        """Wait until the lines are on the disk."""
        if self._metrics:
            self._metrics.sync()

    def draw(self) -> None:
        """Draw the curves of all lines, if there are any."""
        lines = self.lines()
        if lines:
            draw_curves(self.run / CURVES, lines, self.run.name)
