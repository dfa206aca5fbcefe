"""Dynamic loss scaling for float16."""

import tensorflow as tf


def counter(start: int) -> tf.Variable:
    """Return an integer variable, int64 [], that every replica reads and the first one sets."""
    first = tf.VariableAggregation.ONLY_FIRST_REPLICA
    return tf.Variable(start, dtype=tf.int64, trainable=False, aggregation=first)


class LossScale:
    """Dynamic loss scaling, which keeps float16 gradients from underflowing.

    Micikevicius et al. 2017, https://arxiv.org/abs/1710.03740, section 3.2: non-finite gradients
    skip the step and halve the factor; after `STEPS_TO_DOUBLE` finite steps it is doubled.

    Attributes:
        state: variables for the checkpoint: `power` (the factor's exponent to base 2) and `steps`
            (finite steps since it changed).
    """

    # The initial factor 2^15 and the interval are those of Keras's `LossScaleOptimizer`.
    START_POWER = 15
    STEPS_TO_DOUBLE = 2000

    def __init__(self) -> None:
        self.state = {"power": counter(self.START_POWER), "steps": counter(0)}

    def value(self) -> tf.Tensor:
        """Return the factor, float32 []."""
        return tf.pow(2.0, tf.cast(self.state["power"], tf.float32))

    def updated(self, norm: tf.Tensor) -> tf.Tensor:
        """Update the factor after a step, and return the gradient norm to record.

        Args:
            norm: float32 []. Global norm of the step's gradients.

        Returns:
            float32 []. The norm; 0 if it is not finite, since the step was merely skipped, unless
            the factor is already 1: then the divergence is real and must be seen.
        """
        power, steps = (tf.identity(self.state[name]) for name in ("power", "steps"))
        finite = tf.math.is_finite(norm)
        steps = tf.where(finite, steps + 1, 0)
        doubled = steps >= self.STEPS_TO_DOUBLE
        up = tf.cast(doubled, tf.int64)
        self.state["power"].assign(tf.where(finite, power + up, tf.maximum(power - 1, 0)))
        self.state["steps"].assign(tf.where(doubled, tf.zeros_like(steps), steps))
        return tf.where(finite | (power == 0), norm, 0.0)
