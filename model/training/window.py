"""Means over the steps since the last line of the log."""

from collections.abc import Mapping

import tensorflow as tf

from model.training.loop import DATA_SECS, NORM, POSITIONS, REAL_POSITIONS
from model.training.optimizer import Schedule
from model.training.sums import means


class Window:
    """Sums over the steps since the last line of the log.

    Attributes:
        schedule: learning rate by step.
        sums: sums by name.
        steps: number of steps.
        secs: time of these steps, in seconds.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.sums: dict[str, float] = {}
        self.steps, self.secs = 0, 0.0

    def add(self, sums: Mapping[str, float], steps: int, secs: float) -> None:
        """Add the sums and the time of a call."""
        self.sums = {name: self.sums.get(name, 0.0) + value for name, value in sums.items()}
        self.steps += steps
        self.secs += secs

    def values(self, step: int) -> dict[str, float]:
        """Return the means, and the learning rate of the last step."""
        waited = {}
        if DATA_SECS in self.sums:
            waited["data_wait_rate"] = self.sums[DATA_SECS] / self.secs
        return {
            # Sums divided once, so that each position counts the same, whatever step it was in.
            **means(self.sums),
            NORM: self.sums[NORM] / self.steps,
            "padding_rate": 1 - self.sums[REAL_POSITIONS] / self.sums[POSITIONS],
            **waited,
            # Steps are counted from 0, and `step` of them are done.
            "learning_rate": float(self.schedule(tf.constant(step - 1))),
        }
