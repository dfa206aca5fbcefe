"""Means over the updates since the last line of the log."""

from collections.abc import Mapping

import tensorflow as tf

from model.training.loop import DATA_SECS, NORM, POSITIONS, REAL_POSITIONS
from model.training.losses import means
from model.training.optimizer import Schedule


class Window:
    """The sums over the updates since the last line of the log.

    Attributes:
        schedule: the learning rate by update.
        sums: by name.
        steps: updates summed over.
        secs: time that they took.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.sums: dict[str, float] = {}
        self.steps, self.secs = 0, 0.0

    def add(self, sums: Mapping[str, float], steps: int, secs: float) -> None:
        """Add the sums of some more updates, and the time that they took."""
        self.sums = {name: self.sums.get(name, 0.0) + value for name, value in sums.items()}
        self.steps += steps
        self.secs += secs

    def values(self, step: int) -> dict[str, float]:
        """Return the means, and the learning rate of the update before `step`."""
        waited = {}
        if DATA_SECS in self.sums:
            waited["data_wait_rate"] = self.sums[DATA_SECS] / self.secs
        return {
            **means(self.sums),
            NORM: self.sums[NORM] / self.steps,
            "padding_rate": 1 - self.sums[REAL_POSITIONS] / self.sums[POSITIONS],
            **waited,
            "learning_rate": float(self.schedule(tf.constant(step - 1))),
        }
