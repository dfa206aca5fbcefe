"""Divergence of the loss: detection with a moving average, and the stop or roll-back."""

import math
from collections.abc import Mapping

from model.training.config import RecoveryConfig
from pipeline.errors import InputError

RECENT_WEIGHT = 0.1
"""Weight of the latest call in the moving average of the loss."""

LEAST_NATS = 0.2
"""Smaller averages count as this one: near 0, a few wrong answers triple the loss of a batch. Three
times it is below ln 2, the loss of guessing whether a sentence is the next one."""

MAX_ROLL_BACKS = 5
"""Maximum number of roll-backs to the same checkpoint before the training stops."""


class DivergenceGuard:
    """Detects divergence, and limits the number of roll-backs.

    Attributes:
        config: threshold, and reaction to divergence.
        recent_loss: moving average of the loss; 0 before the first call.
        roll_backs: number of roll-backs to the last checkpoint.
    """

    def __init__(self, config: RecoveryConfig, recent_loss: float = 0.0) -> None:
        self.config = config
        self.recent_loss = recent_loss
        self.roll_backs = 0

    def diverged(self, sums: Mapping[str, float], loss: float) -> bool:
        """Return whether a sum is not finite, or the loss is far above its moving average.

        An average below `LEAST_NATS` counts as that.

        Args:
            sums: sums over the steps of a call, by name: losses, weights, gradient norms.
            loss: mean loss of the call.
        """
        # Sums over all steps of a call: a NaN in any of them is seen, and none hides behind a mean.
        if not all(map(math.isfinite, sums.values())):
            return True
        # The first loss is its own average.
        recent = self.recent_loss or loss
        if loss > self.config.blow_up_ratio * max(recent, LEAST_NATS):
            return True
        # A loss that diverged is not counted: it would raise the limit for the next one.
        self.recent_loss = RECENT_WEIGHT * loss + (1 - RECENT_WEIGHT) * recent
        return False

    def roll_back(self, step: int, saved_step: int, learning_rate: float) -> str:
        """Count a roll-back to the last checkpoint.

        Args:
            step: step at which divergence was detected.
            saved_step: step of the last checkpoint.
            learning_rate: peak learning rate, which may be the cause.

        Returns:
            Description of the divergence, for a message.

        Raises:
            InputError: `on_blow_up` is stop, or the training has been rolled back too often.
        """
        diverged = f"the loss diverged before step {step:,} (last checkpoint: step {saved_step:,})"
        lower = f"a lower `learning_rate` than {learning_rate:g}"
        if self.config.on_blow_up == "stop":
            raise InputError(
                f"{diverged}; start a new `run_dir` with {lower}, or set `on_blow_up` skip"
            )
        self.roll_backs += 1
        if self.roll_backs > MAX_ROLL_BACKS:
            raise InputError(
                f"{diverged}, for the {self.roll_backs}th time; start a new `run_dir` with {lower}"
            )
        return diverged

    def saved(self) -> None:
        """Reset the number of roll-backs after a new checkpoint."""
        self.roll_backs = 0
