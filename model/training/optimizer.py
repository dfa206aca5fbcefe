"""AdamW and LAMB on gradients that are already summed over the replicas; learning-rate schedules.

Keras's AdamW clips each replica's gradients before it sums them, and sums them itself; ours clips
what the whole batch gives, once.

Sources: Loshchilov & Hutter 2017, https://arxiv.org/abs/1711.05101; the bias correction, with the
epsilon outside of it, is that of Kingma & Ba 2014, https://arxiv.org/abs/1412.6980, algorithm 1.
LAMB: You et al. 2019, https://arxiv.org/abs/1904.00962, algorithm 2.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

NOT_DECAYED = ("gamma", "beta", "bias", "output_bias")
"""Last parts of the names of weights that are not decayed: LayerNorm's gamma and beta, biases."""

Schedule = Callable[[tf.Tensor], tf.Tensor]


def is_decayed(path: str) -> bool:
    """Return whether the weight of this name (`…/layer/weight`) is decayed."""
    return path.rsplit("/", 1)[-1] not in NOT_DECAYED


def same_for_all(path: str) -> float:
    """Return 1: every weight is updated at the schedule's learning rate."""
    del path
    return 1.0


FINAL_DECAY_RATE = 0.1
"""Share of the steps over which `warmup-stable-decay` falls."""

# By name, the share of the peak at a share of the way from the warm-up's end to the last step.
_FALLS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "linear": lambda way: 1.0 - way,
    "cosine": lambda way: 0.5 * (1.0 + tf.cos(math.pi * way)),
    "polynomial": lambda way: tf.sqrt(1.0 - way),
    "warmup-stable-decay": lambda way: tf.minimum((1.0 - way) / FINAL_DECAY_RATE, 1.0),
}
SCHEDULES = tuple(_FALLS)


def make_schedule(name: str, peak: float, warmup_steps: int, steps: int) -> Schedule:
    """Return the learning rate by step: a linear rise to the peak, then a fall to 0.

    Step numbers count updates done, so the first update has step 0 and rate peak / warmup_steps;
    the fall would reach 0 at step `steps`, which no update has.

    Args:
        name: how it falls. linear: BERT's. cosine: half a period (Loshchilov & Hutter 2016,
            https://arxiv.org/abs/1608.03983). polynomial: the root of what is left of the way
            (NVIDIA's for LAMB). warmup-stable-decay: it stays at the peak and falls linearly at
            the very end (Hu et al. 2024, https://arxiv.org/abs/2404.06395).
        peak: highest learning rate, at step `warmup_steps` - 1 and the one after it.
        warmup_steps: length of the rise; 0 = start at the peak.
        steps: length of the whole.
    """

    def rate(step: tf.Tensor) -> tf.Tensor:
        done = tf.cast(step, tf.float32)
        rise = (done + 1.0) / max(warmup_steps, 1)
        way = tf.clip_by_value((done - warmup_steps) / max(steps - warmup_steps, 1), 0.0, 1.0)
        return peak * tf.where(done < warmup_steps, rise, _FALLS[name](way))

    return rate


@dataclass(frozen=True)
class OptimizerSettings:
    """The numbers of AdamW and LAMB, those of the BERT paper.

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
        self,
        variables: Mapping[str, tf.Variable],
        schedule: Schedule,
        settings: OptimizerSettings,
        learning_rate_factor: Callable[[str], float] = same_for_all,
    ) -> None:
        """Make zero state for the variables; call it in the scope of their strategy.

        Args:
            variables: by name.
            schedule: the learning rate.
            settings: the other numbers.
            learning_rate_factor: times which the learning rate holds for the variable of a name.
        """
        self.learning_rate_factor = learning_rate_factor
        self.variables = dict(variables)
        self.schedule = schedule
        self.settings = settings
        self.momentum = {path: _zeros_like(value) for path, value in self.variables.items()}
        self.velocity = {path: _zeros_like(value) for path, value in self.variables.items()}

    def apply(
        self, gradients: Sequence[tf.Tensor], step: tf.Tensor, scale: tf.Tensor | float = 1.0
    ) -> tf.Tensor:
        """Update every variable and return the gradients' global norm before clipping, float32 [].

        Nothing changes if the norm is not finite. Call it in a replica's context.

        Args:
            gradients: one a variable, in their order, summed over the replicas, times scale.
            step: int64 []. Number of updates done before this one.
            scale: float32 []. What they are to be divided by.
        """
        norm = tf.linalg.global_norm(gradients) / scale
        numbers = self._numbers(step, norm, scale)
        context = tf.distribute.get_replica_context()
        context.merge_call(self._update_all, args=(list(gradients), numbers))
        return norm

    def _numbers(
        self, step: tf.Tensor, norm: tf.Tensor, scale: tf.Tensor | float
    ) -> dict[str, tf.Tensor]:
        """Return this step's scalars, float32 [] each."""
        settings = self.settings
        number = tf.cast(step + 1, tf.float32)
        unbias_1 = 1.0 - tf.pow(settings.beta_1, number)
        unbias_2 = 1.0 - tf.pow(settings.beta_2, number)
        finite = tf.math.is_finite(norm)
        clip = settings.clip_norm / tf.maximum(norm, settings.clip_norm) / scale
        return {
            "clip": tf.where(finite, clip, 0.0),
            "learning_rate": tf.where(finite, self.schedule(step), 0.0),
            "beta_1": tf.where(finite, settings.beta_1, 1.0),
            "beta_2": tf.where(finite, settings.beta_2, 1.0),
            "unbias": tf.sqrt(unbias_2) / unbias_1,
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
            update = _faster(update, self.learning_rate_factor(path))
            strategy.extended.update(variable, update, args=(gradient, *slots, numbers))

    def _decay_and_update(
        self,
        variable: tf.Variable,
        gradient: tf.Tensor,
        momentum: tf.Variable,
        velocity: tf.Variable,
        numbers: dict[str, tf.Tensor],
    ) -> None:
        # One pass, whose result becomes the variable; `assign_sub` would read and write it again.
        variable.assign(variable * (1.0 - numbers["learning_rate"] * self.settings.weight_decay))
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
            lr=numbers["learning_rate"] * numbers["unbias"],
            beta1=numbers["beta_1"],
            beta2=numbers["beta_2"],
            epsilon=numbers["epsilon"],
            grad=tf.math.multiply_no_nan(gradient, numbers["clip"]),
        )


class Lamb(AdamW):
    """AdamW whose step on a weight is as long as a share of that weight: for very large batches.

    Biases and LayerNorm, which are not decayed, take AdamW's own step, as in google-research/bert's
    and NVIDIA's LAMB.
    """

    def _decay_and_update(
        self,
        variable: tf.Variable,
        gradient: tf.Tensor,
        momentum: tf.Variable,
        velocity: tf.Variable,
        numbers: dict[str, tf.Tensor],
    ) -> None:
        settings = self.settings
        gradient = tf.math.multiply_no_nan(gradient, numbers["clip"])
        momentum.assign_add((1.0 - numbers["beta_1"]) * (gradient - momentum))
        velocity.assign_add((1.0 - numbers["beta_2"]) * (tf.square(gradient) - velocity))
        step = numbers["unbias"] * momentum / (tf.sqrt(velocity) + numbers["epsilon"])
        step += settings.weight_decay * variable
        length, step_length = tf.norm(variable), tf.norm(step)
        ratio = tf.where((length > 0) & (step_length > 0), length / step_length, 1.0)
        variable.assign_sub(numbers["learning_rate"] * ratio * step)


def _faster(update: Callable[..., None], factor: float) -> Callable[..., None]:
    """Return the update at a multiple of the learning rate."""

    def call(*arguments: Any) -> None:
        *others, numbers = arguments
        update(*others, {**numbers, "learning_rate": numbers["learning_rate"] * factor})

    return update if factor == 1 else call


OPTIMIZERS = {"adamw": AdamW, "lamb": Lamb}


def _zeros_like(variable: tf.Variable) -> tf.Variable:
    return tf.Variable(tf.zeros(variable.shape, variable.dtype), trainable=False)
