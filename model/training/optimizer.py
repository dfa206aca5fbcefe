"""AdamW, LAMB and Muon for gradients summed over the replicas; learning-rate schedules.

Keras's AdamW clips each replica's gradients separately and then sums them; ours clips the gradient
of the global batch once.

Sources: Loshchilov & Hutter 2017, https://arxiv.org/abs/1711.05101; the bias correction, with
epsilon outside of it, is that of Kingma & Ba 2014, https://arxiv.org/abs/1412.6980, algorithm 1.
LAMB: You et al. 2019, https://arxiv.org/abs/1904.00962, algorithm 2. Muon: Jordan et al. 2024,
https://kellerjordan.github.io/posts/muon/, with the scale of Liu et al. 2025,
https://arxiv.org/abs/2502.16982, equation 4.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import tensorflow as tf

from model.bert.flops import NEWTON_SCHULZ_STEPS

NOT_DECAYED = ("gamma", "beta", "bias", "output_bias")
"""Name suffixes of weights without weight decay: LayerNorm's gamma and beta, biases."""

Schedule = Callable[[tf.Tensor], tf.Tensor]


def is_decayed(path: str) -> bool:
    """Return whether weight decay applies to the weight with this path (`…/layer/weight`)."""
    return path.rsplit("/", 1)[-1] not in NOT_DECAYED


def is_layer_matrix(path: str) -> bool:
    """Return whether the weight with this path is a matrix of a Transformer layer."""
    return re.search(r"(^|/)transformer_layer_\d+/.*\bkernel$", path) is not None


def same_for_all(path: str) -> float:
    """Return the learning-rate multiplier 1, the same for every weight."""
    del path
    return 1.0


FINAL_DECAY_RATE = 0.1
"""Share of the steps after the warm-up over which `warmup-stable-decay` decays to 0."""

# Learning rate relative to the peak, as a function of the progress (0 to 1) after the warm-up.
_FALLS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1.0 + tf.cos(math.pi * progress)),
    "polynomial": lambda progress: tf.sqrt(1.0 - progress),
    "warmup-stable-decay": lambda progress: tf.minimum((1.0 - progress) / FINAL_DECAY_RATE, 1.0),
}
SCHEDULES = tuple(_FALLS)


def make_schedule(name: str, peak: float, warmup_steps: int, steps: int) -> Schedule:
    """Return the learning rate by step: a linear warm-up to the peak, then a decay to 0.

    Steps are numbered from 0, so the first step has the rate peak / warmup_steps. The decay would
    reach 0 at step `steps`, one after the last.

    Args:
        name: kind of decay. linear: BERT's. cosine: half a period (Loshchilov & Hutter 2016,
            https://arxiv.org/abs/1608.03983). polynomial: square root of the remaining share of
            steps (NVIDIA's for LAMB). warmup-stable-decay: constant, then a linear decay over the
            last tenth (Hu et al. 2024, https://arxiv.org/abs/2404.06395).
        peak: peak learning rate, at steps `warmup_steps` - 1 and `warmup_steps`.
        warmup_steps: number of warm-up steps; 0 = start at the peak.
        steps: total number of steps.
    """

    def rate(step: tf.Tensor) -> tf.Tensor:
        done = tf.cast(step, tf.float32)
        rise = (done + 1.0) / max(warmup_steps, 1)
        progress = tf.clip_by_value((done - warmup_steps) / max(steps - warmup_steps, 1), 0.0, 1.0)
        return peak * tf.where(done < warmup_steps, rise, _FALLS[name](progress))

    return rate


@dataclass(frozen=True)
class OptimizerSettings:
    """Hyperparameters of the optimizers; the defaults are those of the BERT paper, and of Muon's.

    Attributes:
        weight_decay: decoupled weight decay: each step multiplies a weight by
            1 - learning rate · weight_decay.
        beta_1: decay rate of the first moment (mean gradient).
        beta_2: decay rate of the second moment (mean squared gradient).
        epsilon: added to the square root of the second moment.
        clip_norm: largest global norm of the gradients; larger ones are scaled down.
        muon_momentum: Nesterov momentum of Muon's matrices.
        compute_dtype: dtype of the matrix products in a Muon step.
    """

    weight_decay: float = 0.01
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-6
    clip_norm: float = 1.0
    muon_momentum: float = 0.95
    compute_dtype: str = "float32"


class AdamW:
    """The AdamW optimizer of some variables.

    Attributes:
        momentum: first moments, by the variable's path.
        velocity: second moments, by the variable's path, of the variables that have one.
    """

    def __init__(
        self,
        variables: Mapping[str, tf.Variable],
        schedule: Schedule,
        settings: OptimizerSettings,
        learning_rate_factor: Callable[[str], float] = same_for_all,
    ) -> None:
        """Create the moments, initially zero; call it in the scope of the variables' strategy.

        Args:
            variables: the variables to optimize, by path.
            schedule: learning rate by step.
            settings: the other hyperparameters.
            learning_rate_factor: function from a variable's path to its learning-rate multiplier.
        """
        self.learning_rate_factor = learning_rate_factor
        self.variables = dict(variables)
        self.schedule = schedule
        self.settings = settings
        self.momentum = {path: _zeros_like(value) for path, value in self.variables.items()}
        self.velocity = {
            path: _zeros_like(value)
            for path, value in self.variables.items()
            if self._has_velocity(path)
        }

    def apply(
        self, gradients: Sequence[tf.Tensor], step: tf.Tensor, scale: tf.Tensor | float = 1.0
    ) -> tf.Tensor:
        """Update every variable and return the gradients' global norm before clipping, float32 [].

        If the norm is not finite, nothing changes. Call it in a replica's context.

        Args:
            gradients: one per variable, in order, summed over the replicas, multiplied by `scale`.
            step: int64 []. Number of steps done before this one.
            scale: float32 []. Loss scale, by which the gradients are divided.
        """
        norm = tf.linalg.global_norm(gradients) / scale
        numbers = self._numbers(step, norm, scale)
        context = tf.distribute.get_replica_context()
        # In the cross-replica context, where a strategy allows to update mirrored variables.
        context.merge_call(self._update_all, args=(list(gradients), numbers))
        return norm

    def _numbers(
        self, step: tf.Tensor, norm: tf.Tensor, scale: tf.Tensor | float
    ) -> dict[str, tf.Tensor]:
        """Return this step's scalars, float32 [] each; no-op values if the norm is not finite."""
        settings = self.settings
        number = tf.cast(step + 1, tf.float32)
        unbias_1 = 1.0 - tf.pow(settings.beta_1, number)
        unbias_2 = 1.0 - tf.pow(settings.beta_2, number)
        finite = tf.math.is_finite(norm)
        # 1 / scale up to clip_norm, and less above: gradients are only ever scaled down.
        clip = settings.clip_norm / tf.maximum(norm, settings.clip_norm) / scale
        return {
            "clip": tf.where(finite, clip, 0.0),
            "learning_rate": tf.where(finite, self.schedule(step), 0.0),
            # Decay rates of 1 and a gradient of 0 leave the moments as they are.
            "beta_1": tf.where(finite, settings.beta_1, 1.0),
            "beta_2": tf.where(finite, settings.beta_2, 1.0),
            # Bias correction in the form of Kingma and Ba 2014, section 2: one factor on the step,
            # and an epsilon to match, instead of corrected copies of both moments.
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
            slots = [slots[path] for slots in (self.momentum, self.velocity) if path in slots]
            update = _rescaled(self._update_of(path), self.learning_rate_factor(path))
            strategy.extended.update(variable, update, args=(gradient, *slots, numbers))

    def _has_velocity(self, path: str) -> bool:
        """Return whether the variable with this path has a second moment."""
        del path
        return True

    def _update_of(self, path: str) -> Callable[..., None]:
        """Return the function that updates the variable with this path."""
        return self._decay_and_update if is_decayed(path) else self._update

    def _decay_and_update(
        self,
        variable: tf.Variable,
        gradient: tf.Tensor,
        momentum: tf.Variable,
        velocity: tf.Variable,
        numbers: dict[str, tf.Tensor],
    ) -> None:
        # One pass over the memory; `assign_sub` would read and write the variable once more.
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
        # TensorFlow's fused Adam kernel: one in-place pass over the four arrays. The powers of beta
        # are 0 to switch off its bias correction, which is already in `numbers`.
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
            # 0 · NaN is 0 here, so a step whose norm is not finite changes nothing.
            grad=tf.math.multiply_no_nan(gradient, numbers["clip"]),
        )


class Lamb(AdamW):
    """LAMB, for very large batches: AdamW with each step scaled by the weight's norm (trust ratio).

    Biases and LayerNorm, which are not decayed, take AdamW's step, as in google-research/bert's and
    NVIDIA's LAMB.
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
        # Exponential averages in the form m += (1 - β)(g - m), which changes nothing for β = 1.
        momentum.assign_add((1.0 - numbers["beta_1"]) * (gradient - momentum))
        velocity.assign_add((1.0 - numbers["beta_2"]) * (tf.square(gradient) - velocity))
        step = numbers["unbias"] * momentum / (tf.sqrt(velocity) + numbers["epsilon"])
        # The decay is part of the step that is rescaled, unlike AdamW's.
        step += settings.weight_decay * variable
        length, step_length = tf.norm(variable), tf.norm(step)
        # A weight that is still zero would never move with a ratio of 0.
        ratio = tf.where((length > 0) & (step_length > 0), length / step_length, 1.0)
        variable.assign_sub(numbers["learning_rate"] * ratio * step)


class Muon(AdamW):
    """Muon for the matrices of the Transformer layers; AdamW for all other weights.

    A matrix's step is its momentum with all singular values near 1. It is scaled so that its root
    mean square is that of a typical step of AdamW: both take the same learning rate.
    """

    def _has_velocity(self, path: str) -> bool:
        return not is_layer_matrix(path)

    def _update_of(self, path: str) -> Callable[..., None]:
        if not is_layer_matrix(path):
            return super()._update_of(path)
        return partial(self._update_matrix, path.endswith("attention_output/kernel"))

    def _update_matrix(
        self,
        joins_heads: bool,
        variable: tf.Variable,
        gradient: tf.Tensor,
        momentum: tf.Variable,
        numbers: dict[str, tf.Tensor],
    ) -> None:
        """Update a matrix of shape [inputs, outputs], or with one side as [heads, head size].

        Args:
            joins_heads: whether the first two axes are the inputs.
            variable: the matrix.
            gradient: its gradient, summed over the replicas.
            momentum: sum of earlier gradients, each multiplied by `muon_momentum` per step.
            numbers: this step's scalars.
        """
        settings, rate = self.settings, numbers["learning_rate"]
        gradient = tf.math.multiply_no_nan(gradient, numbers["clip"])
        is_finite = numbers["beta_1"] < 1  # else nothing may change
        momentum.assign(tf.where(is_finite, settings.muon_momentum, 1.0) * momentum + gradient)
        step = gradient + settings.muon_momentum * momentum  # Nesterov's
        inputs = math.prod(variable.shape[: 2 if joins_heads else 1])
        matrix = tf.reshape(step, [inputs, -1])
        # A matrix with singular values 1 has the root mean square 1 / √(longer side); 0.2 is that
        # of AdamW's steps.
        scale = 0.2 * math.sqrt(max(matrix.shape))
        step = tf.reshape(orthogonalized(matrix, settings.compute_dtype), variable.shape)
        decayed = variable * (1.0 - rate * settings.weight_decay)
        variable.assign(decayed - rate * scale * step)


NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of x, x³ and x⁵ in a Newton–Schulz step. Jordan et al. chose them for a large slope
at 0, so that five steps bring singular values from 0.01 to 1 between 0.7 and 1.2."""


def orthogonalized(matrix: tf.Tensor, compute_dtype: str = "float32") -> tf.Tensor:
    """Return a matrix with the same singular vectors and singular values near 1, float32 [n, m].

    Args:
        matrix: float32 [n, m].
        compute_dtype: dtype of the products.
    """
    is_tall = matrix.shape[0] > matrix.shape[1]
    # The products are then of the shorter side.
    x = tf.transpose(matrix) if is_tall else matrix
    # The iteration converges for singular values up to 1; none is above the Frobenius norm. 1e-7: a
    # matrix of zeros stays one.
    x = tf.cast(x / (tf.norm(x) + 1e-7), compute_dtype)
    linear, cubic, quintic = NEWTON_SCHULZ
    for _ in range(NEWTON_SCHULZ_STEPS):
        square = tf.matmul(x, x, transpose_b=True)
        x = linear * x + tf.matmul(cubic * square + quintic * tf.matmul(square, square), x)
    x = tf.cast(x, tf.float32)
    return tf.transpose(x) if is_tall else x


def _rescaled(update: Callable[..., None], factor: float) -> Callable[..., None]:
    """Return the update function with its learning rate multiplied by a factor."""

    def call(*arguments: Any) -> None:
        *others, numbers = arguments
        update(*others, {**numbers, "learning_rate": numbers["learning_rate"] * factor})

    return update if factor == 1 else call


OPTIMIZERS = {"adamw": AdamW, "lamb": Lamb, "muon": Muon}


def _zeros_like(variable: tf.Variable) -> tf.Variable:
    return tf.Variable(tf.zeros(variable.shape, variable.dtype), trainable=False)
