"""A run's log of metrics: `metrics.jsonl`, TensorBoard events, `curves.png`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from model.run_config import CURVES, LOGS, METRICS
from model.training.curves import draw_curves
from model.training.metrics_file import MetricsFile


class RunLog:
    """A run's log of metrics; only the chief writes, the logs of other workers do nothing.

    Attributes:
        run: directory of the run.
    """

    def __init__(self, run: Path, first_step: int, *, writes: bool = True) -> None:
        """Open the log, and remove lines of later steps, which will be trained again.

        Args:
            run: directory of the run.
            first_step: current step of the run.
            writes: whether this process writes the run's files.
        """
        self.run = run
        self._metrics = MetricsFile(run / METRICS, first_step) if writes else None
        self._events = tf.summary.create_file_writer(str(run / LOGS)) if writes else None

    def lines(self) -> list[dict[str, Any]]:
        """Return the lines of the log; empty if another process writes it."""
        return self._metrics.lines() if self._metrics else []

    def cut(self, step: int) -> None:
        """Remove the lines of later steps, which will be trained again."""
        if self._metrics:
            self._metrics.cut(step)

    def add(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Write the metrics of a split at a step."""
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
        """Plot the metrics, if there are any."""
        lines = self.lines()
        if lines:
            draw_curves(self.run / CURVES, lines, self.run.name)
