"""The flags that every command which trains has: `pretrain` and `finetune`."""

import os
from abc import abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from clozeline.commands.caching import CachingCommand
from clozeline.options import Command, config_from
from model.configs import FinetuneConfig, PretrainConfig
from model.existing import check_source_exists
from model.tasks.tables import Columns
from model.training.cluster import cluster_from, names_workers
from model.training.config import (
    ExecutionConfig,
    Optimizer,
    RecoveryConfig,
    Strategy,
    UpdateConfig,
)
from pipeline.storage.outputs import Output
from pipeline.storage.remote import is_remote


@dataclass(frozen=True, kw_only=True)
class TrainingFlags(CachingCommand):
    """Options of all commands that train."""

    # The front door calls options.run(), so the field has another name than its flag.
    run_dir: Annotated[Path, tyro.conf.arg(name="run")] = field(metadata={"flag": "run"})
    """Run directory; created, or resumed if it exists."""
    steps: int | None = None
    """Total number of steps; the learning rate decays to 0 over them. Default: from --epochs."""
    batch_size: int = UpdateConfig.batch_size
    """Global batch size, over all devices."""
    accumulation_steps: int = ExecutionConfig.accumulation_steps
    """Gradient-accumulation steps: each device computes its share of a batch in this many parts.
    Needs less memory; the result is the same."""
    recompute: bool = ExecutionConfig.recompute
    """Gradient checkpointing: recompute each layer in the backward pass instead of storing its
    activations. Needs less memory for large models and long sequences, a third more computation,
    and gives the same results."""
    learning_rate: float = UpdateConfig.learning_rate
    """Peak learning rate, reached at the end of the warm-up."""
    warmup_steps: int | None = None
    """Warm-up steps, over which the learning rate rises from 0. Default: a tenth of the steps."""
    optimizer: Optimizer = UpdateConfig.optimizer
    """adamw. lamb: for batches of thousands of examples. muon: for the matrices of the layers, with
    adamw for all other weights; it takes the learning rate of adamw."""
    schedule: Literal["linear", "cosine", "polynomial", "warmup-stable-decay"] = (
        UpdateConfig.schedule
    )
    """Learning-rate schedule after the warm-up."""
    weight_decay: float = UpdateConfig.weight_decay
    """Decoupled weight decay (AdamW's), relative to the learning rate; not applied to biases and
    LayerNorm."""
    dropout: float | None = UpdateConfig.dropout
    """Dropout rate of the whole model in this training. Default: the model's (0.1 for a size)."""
    strategy: Strategy = ExecutionConfig.strategy
    """one: a single device. mirrored: all local GPUs. multi-worker: the workers that TF_CONFIG,
    Slurm or a Kubernetes Indexed Job names. tpu: the TPU named by TPU_NAME. auto: chosen from the
    hardware and the environment."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = UpdateConfig.precision
    """Compute dtype of matrix multiplications; weights stay float32. auto: bfloat16 if the hardware
    supports it, else float32; a resumed run keeps its precision."""
    checkpoint_every_steps: int = RecoveryConfig.checkpoint_every_steps
    """Steps between checkpoints; the last 3 and the best by evaluation are kept."""
    on_blow_up: Literal["stop", "skip"] = RecoveryConfig.on_blow_up
    """On divergence (NaN, or a loss --blow-up-ratio times the recent average): stop, or skip:
    restore the last checkpoint and skip the batches since then."""
    blow_up_ratio: float = RecoveryConfig.blow_up_ratio
    """Ratio of the loss to its recent average that counts as divergence."""
    xla: bool = ExecutionConfig.xla
    """Compile with XLA: the whole forward and backward pass; on a CPU only the computation between
    matrix multiplications."""
    deterministic: bool = ExecutionConfig.deterministic
    """Use only deterministic operations, for bit-identical results; slower on GPUs."""
    worker_timeout_secs: Annotated[float, tyro.conf.arg(name="worker-timeout")] = field(
        default=ExecutionConfig.worker_timeout_secs, metadata={"flag": "worker_timeout"}
    )
    """Seconds without a heartbeat after which a worker counts as lost, and the training ends. At
    the start, workers wait for each other ten times as long."""

    @abstractmethod
    def engine_config(self) -> PretrainConfig | FinetuneConfig:
        """Return the engine's config."""

    @property
    def outputs(self) -> list[Output]:
        """Files and folders that this worker writes: the first worker writes the run.

        Raises:
            InputError: the environment does not name the workers.
        """
        # With another strategy, workers that the environment names take no part.
        has_workers = self.strategy == "multi-worker" or (
            self.strategy == "auto" and names_workers(os.environ)
        )
        if has_workers and cluster_from(os.environ).index:
            return []
        return self.engine_config().outputs

    def before_tensorflow(self) -> None:
        """Look for local models to start or learn from; remote ones take requests.

        Raises:
            InputError: there is none.
        """
        for name in ("init", "teacher"):
            path: Path | None = getattr(self, name)
            if path is not None and not is_remote(path):
                check_source_exists(path, name)

    def parts(self) -> dict[str, Any]:
        """Return the parts of the engine's config that these flags make, by name.

        Raises:
            InputError: a flag is out of range.
        """
        return {
            "updates": config_from(self, UpdateConfig),
            "execution": config_from(self, ExecutionConfig),
            "recovery": config_from(self, RecoveryConfig),
        }


def named_columns(options: Command) -> Columns:
    """Return which columns of labelled examples are what, from the flags that name them."""
    return config_from(options, Columns)
