"""The settings of a training: what determines its updates, how they are computed, and saved."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class TrainingConfig:
    """What determines a run's sequence of updates, apart from the model and the dataset.

    Attributes:
        steps: number of updates; the learning rate falls to 0 over them.
        batch_size: examples an update, over all devices.
        learning_rate: the highest, reached at the end of the warm-up.
        warmup_steps: updates over which the learning rate rises from 0.
        weight_decay: share of a weight taken off at each update, times the learning rate.
        seed: of the initial weights, the order of the examples, and dropout.
        optimizer: adamw or lamb.
        schedule: how the learning rate falls; one of `model.training.optimizer.SCHEDULES`.
        precision: what matrices are multiplied in; one of `model.training.precision.POLICIES`.
        phase2_steps: updates, the last of them all, on a second dataset; 0 = there is none.
        phase2_batch_size: examples an update there.
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

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class RecoveryConfig:
    """When checkpoints are written, and what happens when the loss diverges.

    Attributes:
        checkpoint_every_steps: updates between checkpoints.
        on_blow_up: stop; or skip: return to the last checkpoint, and leave out the batches since.
        blow_up_ratio: the loss diverges when it is this many times its moving average; infinity:
            only when it is not a finite number.
    """

    checkpoint_every_steps: int = 500
    on_blow_up: Literal["stop", "skip"] = "stop"
    blow_up_ratio: float = 3.0


ClassWeights = Literal["none", "balanced"]

DOC_STRIDE = 128
"""Default stride between the windows of a long passage, in pieces; google-research/bert's."""


@dataclass(frozen=True)
class TuningConfig:
    """What else determines the updates of a run that is tuned for a task.

    Attributes:
        train_sha256: of the labelled examples, as hexadecimal digits.
        init: what the weights come from.
        layer_decay: times which a layer's learning rate is that of the layer above it (Howard &
            Ruder 2018, https://arxiv.org/abs/1801.06146, section 3.2); 1 = the same everywhere.
        frozen_layers: number of Transformer layers, from below, that stay as they are, and the
            embeddings with them; 0 = none of both.
        class_weights: balanced: an example counts by how rare its class is.
        doc_stride: pieces between the starts of two windows of a long passage; at least 1 for a
            span task, 0 for the others.
    """

    train_sha256: str
    init: str
    layer_decay: float = 1.0
    frozen_layers: int = 0
    class_weights: ClassWeights = "none"
    doc_stride: int = 0
