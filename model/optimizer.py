"""AdamW on gradients that are already summed over the replicas, with its learning-rate schedule.

Keras's AdamW clips each replica's gradients before it sums them, and sums them itself; ours clips
what the whole batch gives, once.

Sources: Loshchilov & Hutter 2017, https://arxiv.org/abs/1711.05101; the bias correction, with the
epsilon outside of it, is that of Kingma & Ba 2014, https://arxiv.org/abs/1412.6980, algorithm 1.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import tensorflow as tf

NOT_DECAYED = ("gamma", "beta", "bias", "output_bias")
"""Last parts of the names of weights that are not decayed: LayerNorm's gamma and beta, biases."""

Schedule = Callable[[tf.Tensor], tf.Tensor]


def is_decayed(path: str) -> bool:
    """Return whether the weight of this name (`…/layer/weight`) is decayed."""
    return path.rsplit("/", 1)[-1] not in NOT_DECAYED


def linear_schedule(peak: float, warmup_steps: int, steps: int) -> Schedule:
    """Return the learning rate by step: a linear rise to the peak, then a linear fall to 0.

    Step numbers count updates done, so the first update has step 0 and rate peak / warmup_steps;
    the fall would reach 0 at step `steps`, which no update has.

    Args:
        peak: highest learning rate, at step `warmup_steps` - 1 and the one after it.
        warmup_steps: length of the rise; 0 = start at the peak.
        steps: length of the whole.
    """

    def rate(step: tf.Tensor) -> tf.Tensor:
        done = tf.cast(step, tf.float32)
        rise = (done + 1.0) / max(warmup_steps, 1)
        fall = (steps - done) / max(steps - warmup_steps, 1)
        return peak * tf.maximum(tf.where(done < warmup_steps, rise, fall), 0.0)

    return rate


@dataclass(frozen=True)
class AdamWSettings:
    """AdamW's numbers, those of the BERT paper.

    Attributes:
        weight_decay: share of a weight taken off at each update, times the learning rate.
        beta_1: decay of the mean gradient per step.
        beta_2: decay of the mean squared gradient per step.
        epsilon: added to the root of the mean squared gradient.
        clip_norm: longest allowed norm of all gradients together.
    """

    weight_decay: float = 0.01
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-6
    clip_norm: float = 1.0


class AdamW:
    """The update of some variables, and its state.

    Attributes:
        momentum: mean gradient by the variable's name.
        velocity: mean squared gradient by the variable's name.
    """

    def __init__(
        self, variables: Mapping[str, tf.Variable], schedule: Schedule, settings: AdamWSettings
    ) -> None:
        """Make zero state for the variables; call it in the scope of their strategy."""
        self.variables = dict(variables)
        self.schedule = schedule
        self.settings = settings
        self.momentum = {path: _zeros_like(value) for path, value in self.variables.items()}
        self.velocity = {path: _zeros_like(value) for path, value in self.variables.items()}

    def apply(self, gradients: Sequence[tf.Tensor], step: tf.Tensor) -> tf.Tensor:
        """Update every variable and return the gradients' global norm before clipping, float32 [].

        Call it in a replica's context.

        Args:
            gradients: one a variable, in their order, summed over the replicas.
            step: int64 []. Number of updates done before this one.
        """
        norm = tf.linalg.global_norm(gradients)
        numbers = self._numbers(step, norm)
        context = tf.distribute.get_replica_context()
        context.merge_call(self._update_all, args=(list(gradients), numbers))
        return norm

    def _numbers(self, step: tf.Tensor, norm: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return this step's scalars, float32 [] each."""
        settings = self.settings
        number = tf.cast(step + 1, tf.float32)
        unbias_1 = 1.0 - tf.pow(settings.beta_1, number)
        unbias_2 = 1.0 - tf.pow(settings.beta_2, number)
        rate = self.schedule(step)
        return {
            "clip": settings.clip_norm / tf.maximum(norm, settings.clip_norm),
            "decay": rate * settings.weight_decay,
            "rate": rate * tf.sqrt(unbias_2) / unbias_1,
            "epsilon": settings.epsilon * tf.sqrt(unbias_2),
        }

    def _update_all(
        self,
        strategy: tf.distribute.Strategy,
        gradients: list[tf.Tensor],
        numbers: dict[str, tf.Tensor],
    ) -> None:
        for (path, variable), gradient in zip(self.variables.items(), gradients, strict=True):
            slots = (self.momentum[path], self.velocity[path])
            update = self._decay_and_update if is_decayed(path) else self._update
            strategy.extended.update(variable, update, args=(gradient, *slots, numbers))

    def _decay_and_update(
        self,
        variable: tf.Variable,
        gradient: tf.Tensor,
        momentum: tf.Variable,
        velocity: tf.Variable,
        numbers: dict[str, tf.Tensor],
    ) -> None:
        variable.assign_sub(numbers["decay"] * variable)
        self._update(variable, gradient, momentum, velocity, numbers)

    def _update(
        self,
        variable: tf.Variable,
        gradient: tf.Tensor,
        momentum: tf.Variable,
        velocity: tf.Variable,
        numbers: dict[str, tf.Tensor],
    ) -> None:
        # The kernel behind tf.keras's old Adam: one pass in place over the four arrays. Its powers
        # of beta are 0 because `numbers` has the bias corrections already.
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=momentum.handle,
            v=velocity.handle,
            beta1_power=0.0,
            beta2_power=0.0,
            lr=numbers["rate"],
            beta1=self.settings.beta_1,
            beta2=self.settings.beta_2,
            epsilon=numbers["epsilon"],
            grad=gradient * numbers["clip"],
        )


def _zeros_like(variable: tf.Variable) -> tf.Variable:
    return tf.Variable(tf.zeros(variable.shape, variable.dtype), trainable=False)
