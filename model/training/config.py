"""Configs of a training: hyperparameters, execution, recovery, fine-tuning."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

from pipeline.config_types import check_types
from pipeline.errors import InputError, check_range
from pipeline.storage.strict_json import JsonObject

Precision = Literal["float32", "bfloat16", "float16"]

Initialization = Literal["random", "neighbours", "neighbours-and-matches"]
"""random: truncated normal. neighbours: the heads of the first layer attend to neighbouring
positions from the start. neighbours-and-matches: the last of them attends to equal pieces in
segment A instead. See `model.bert.initialization`."""


@dataclass(frozen=True)
class TrainingConfig:
    """Hyperparameters that, with model and dataset, determine the weights after each step.

    Attributes:
        steps: total number of steps; the learning rate decays to 0 over them.
        batch_size: global batch size, over all devices.
        learning_rate: peak learning rate, reached at the end of the warm-up.
        warmup_steps: number of steps over which the learning rate rises from 0.
        weight_decay: decoupled weight decay: each step multiplies a weight by
            1 - learning rate · weight_decay.
        seed: seed of the initial weights, the order of the examples, and dropout.
        optimizer: adamw, lamb or muon.
        schedule: decay of the learning rate; one of `model.training.optimizer.SCHEDULES`.
        precision: compute dtype of matrix multiplications; one of
            `model.training.precision.POLICIES`.
        phase2_steps: number of steps on a second dataset, the last of `steps`; 0 = no phase 2.
        phase2_batch_size: global batch size in phase 2.
        initialization: initial weights of the encoder.
        next_sentence_weight: weight of the next-sentence loss after twice the warm-up, above 0 to
            1; before that it is 1. Metrics have the loss with weight 1.
        dropout: dropout rate of the whole model in this training; None = the rates of the model's
            config, which are also those of a later fine-tuning.
    """

    steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int
    weight_decay: float
    seed: int
    optimizer: str = "adamw"
    schedule: str = "linear"
    precision: Precision = "float32"
    phase2_steps: int = 0
    phase2_batch_size: int = 0
    initialization: Initialization = "random"
    next_sentence_weight: float = 1.0
    dropout: float | None = None

    def to_dict(self) -> JsonObject:
        """Return the fields by name."""
        return dataclasses.asdict(self)


Optimizer = Literal["adamw", "lamb", "muon"]

Schedule = Literal["linear", "cosine", "polynomial", "warmup-stable-decay"]

START_FACTOR = 10
"""How many times the timeout workers wait for each other at the start: machines may have to fetch
an image first."""

Strategy = Literal["auto", "one", "mirrored", "multi-worker", "tpu"]


@dataclass(frozen=True, kw_only=True)
class UpdateConfig:
    """Hyperparameters given by the user, with defaults; `TrainingConfig` has the final values.

    Attributes:
        steps: total number of steps; the learning rate decays to 0 over them. None = from `epochs`.
        batch_size: global batch size, over all devices.
        learning_rate: peak learning rate, reached at the end of the warm-up.
        warmup_steps: number of steps over which the learning rate rises from 0. None = that of the
            existing run, or a tenth of the steps.
        optimizer: adamw; lamb for batches of thousands of examples; muon for the matrices of the
            layers, and adamw for the rest.
        schedule: decay of the learning rate; one of `model.training.optimizer.SCHEDULES`.
        weight_decay: decoupled weight decay, as in `TrainingConfig`; biases and LayerNorm are not
            decayed.
        precision: compute dtype of matrix multiplications. auto: that of the existing run, or
            bfloat16 on hardware that supports it.
        dropout: dropout rate of the whole model, as in `TrainingConfig`.
    """

    steps: int | None = None
    batch_size: int = 32
    learning_rate: float = 1e-4
    warmup_steps: int | None = None
    optimizer: Optimizer = "adamw"
    schedule: Schedule = "linear"
    weight_decay: float = 0.01
    precision: Literal["auto"] | Precision = "auto"
    dropout: float | None = None

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            InputError: a field is out of range.
        """
        check_types(self)
        check_ranges(self, steps=1, warmup_steps=0, weight_decay=0)
        check_batch_range("batch_size", self.batch_size)
        if not 0 < self.learning_rate < math.inf:
            raise InputError(f"`learning_rate` {self.learning_rate}: must be above 0, finite")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise InputError(f"`dropout` {self.dropout}: must be at least 0 and below 1")


@dataclass(frozen=True, kw_only=True)
class ExecutionConfig:
    """Execution of the training; it does not affect the results, apart from rounding.

    Attributes:
        strategy: distribution strategy, see `model.training.strategy.make_strategy`.
        accumulation_steps: gradient accumulation: number of parts that a device's share of the
            batch is processed in.
        recompute: gradient checkpointing: recompute layers in the backward pass.
        xla: compile with XLA.
        deterministic: use only deterministic operations.
        worker_timeout_secs: time without a heartbeat after which a worker counts as lost.
    """

    strategy: Strategy = "auto"
    accumulation_steps: int = 1
    recompute: bool = False
    xla: bool = True
    deterministic: bool = False
    worker_timeout_secs: float = 60.0

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            InputError: a field is out of range.
        """
        check_types(self)
        check_ranges(self, accumulation_steps=1)
        check_range("worker_timeout_secs", self.worker_timeout_secs, 1, 1e9)  # as threads can wait


@dataclass(frozen=True, kw_only=True)
class LaunchConfig:
    """Config of a launch: a command that trains, run by several workers.

    Attributes:
        command: words of the command, the program first.
        workers: number of workers on this machine. None = one, of those that the environment names
            (see `model.training.cluster`).
        restart: how many times the workers are started again after one has failed. Those on other
            machines that are lost are left out.
        grace_secs: time that workers have to save and end; then they are killed.
        worker_timeout_secs: time after which the workers of the environment notice a loss.
        shared_examples: number that the number of workers must divide, such as the batch size.
    """

    command: tuple[str, ...]
    workers: int | None = None
    restart: int = 0
    grace_secs: float = 30.0
    worker_timeout_secs: float = ExecutionConfig.worker_timeout_secs
    shared_examples: int = 0

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            InputError: a field is out of range.
        """
        check_types(self)
        check_ranges(self, workers=1, restart=0, grace_secs=0)


@dataclass(frozen=True, kw_only=True)
class RecoveryConfig:
    """When checkpoints are written, and how the training reacts to divergence.

    Attributes:
        checkpoint_every_steps: number of steps between checkpoints.
        on_blow_up: stop; or skip: restore the last checkpoint and skip the batches since then.
        blow_up_ratio: a loss of this many times its moving average counts as divergence; infinity =
            only a loss that is not finite does.
    """

    checkpoint_every_steps: int = 500
    on_blow_up: Literal["stop", "skip"] = "stop"
    blow_up_ratio: float = 3.0

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            InputError: a field is out of range.
        """
        check_types(self)
        check_ranges(self, checkpoint_every_steps=1)
        if not self.blow_up_ratio > 1:
            raise InputError(f"`blow_up_ratio` {self.blow_up_ratio}: must be above 1")


LARGEST_SEED = 2**32 - 1
"""Largest seed that Keras takes."""


def check_ranges(config: object, **lows: float) -> None:
    """Check that fields are not below their minimum; None is allowed.

    Args:
        config: object with the fields.
        lows: minimum by field name.

    Raises:
        InputError: a field is below its minimum.
    """
    for name, low in lows.items():
        value = getattr(config, name)
        if value is not None:
            check_range(name, value, low)


LARGEST_BATCH = 2**20
"""Larger batches have more positions than an int32 counts, in which TensorFlow computes shapes."""


def check_batch_range(name: str, batch_size: int | None) -> None:
    """Check the size of a batch, which may be None.

    Raises:
        InputError: it is out of range.
    """
    if batch_size is not None:
        check_range(name, batch_size, 1)
        if batch_size > LARGEST_BATCH:
            raise InputError(f"`{name}` {batch_size}: must be at most {LARGEST_BATCH:,}")


ClassWeights = Literal["none", "balanced"]

Long = Literal["first", "first-last", "mean-of-windows"]
"""Parts read of a text that is too long: its beginning; its beginning and its end; or all of it, in
windows whose outputs are averaged."""

DOC_STRIDE = 128
"""Default stride between the windows of a long passage, in pieces; google-research/bert's."""


@dataclass(frozen=True)
class RelationsConfig:
    """Targets of a pretrained student from its teacher: relations of one layer's vectors.

    Attributes:
        teacher: run or checkpoint.
        teacher_sha256: SHA-256 of the teacher's weights.
        layer: layer of the teacher, from 1.
        heads: number of relation heads; it divides both hidden sizes.
    """

    teacher: str
    teacher_sha256: str
    layer: int
    heads: int


@dataclass(frozen=True)
class TuningConfig:
    """Further hyperparameters of a fine-tuned run.

    Attributes:
        train_sha256: SHA-256 of the labelled examples, as hexadecimal digits.
        init: source of the initial weights.
        layers_to_keep: Transformer layers of `init` that the model started with; empty = all.
        layer_decay: layer-wise learning-rate decay: ratio of a layer's learning rate to that of the
            layer above (Howard & Ruder 2018, https://arxiv.org/abs/1801.06146, section 3.2);
            1 = none.
        frozen_layers: number of lowest Transformer layers that are frozen, together with the
            embeddings; 0 = nothing is frozen.
        class_weights: balanced: weight examples inversely to the frequency of their class.
        doc_stride: stride between the windows of a long passage, in pieces; at least 1 for a span
            task, 0 for other tasks.
        long: parts that are read of a text that is too long.
        teacher: model whose answers are soft targets; "" = none.
        teacher_sha256: SHA-256 of the teacher's weights.
        teacher_weight: share of the soft targets in the loss, 0 to 1.
        temperature: temperature of the soft targets.
        unlabelled_sha256: SHA-256 of further examples without labels; "" = none.
    """

    train_sha256: str
    init: str
    layer_decay: float = 1.0
    frozen_layers: int = 0
    class_weights: ClassWeights = "none"
    doc_stride: int = 0
    long: Long = "first"
    teacher: str = ""
    teacher_sha256: str = ""
    teacher_weight: float = 0.0
    temperature: float = 1.0
    unlabelled_sha256: str = ""
    layers_to_keep: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Convert the list that JSON has."""
        object.__setattr__(self, "layers_to_keep", tuple(self.layers_to_keep))
