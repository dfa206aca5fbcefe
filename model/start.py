"""How a training starts: workers, locks, the run's directory, its trainer, its last checkpoint."""

import contextlib
import logging
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from model.run_config import CHECKPOINTS, CONFIG, RunConfig, read_config, short_sha
from model.source import Source
from model.training.checkpoints import Checkpoints, checkpoint_steps
from model.training.config import ExecutionConfig, Precision, TrainingConfig, UpdateConfig
from model.training.loop import Trainer
from model.training.losses import Objective
from model.training.session import TrainingRun
from model.training.strategy import make_strategy
from model.training.workers import Workers
from pipeline.errors import InputError, JobError
from pipeline.manifest import VOCABULARY
from pipeline.progress import stderr
from pipeline.storage.files import write_atomically
from pipeline.storage.locks import only_writer_of_all

WARMUP_RATE = 0.1  # share of the steps

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingPlan:
    """What a run is to be, and what it starts with.

    Attributes:
        path: directory of the run.
        config: contents of its `config.json`.
        objective: what is minimised.
        vocabulary: the bytes of `vocab.txt`.
        data: what it is trained on, for messages.
        source: the first weights; None = random ones.
    """

    path: Path
    config: RunConfig
    objective: Objective
    vocabulary: bytes
    data: Path
    source: Source | None

    @property
    def training(self) -> TrainingConfig:
        """What determines the updates."""
        assert self.config.training is not None  # only an imported run has none
        return self.config.training


def set_up_workers(execution: ExecutionConfig) -> Workers:
    """Take the devices; a worker other than the chief says nothing after a first note.

    Raises:
        InputError: the devices are not there.
    """
    workers = Workers(make_strategy(execution.strategy))
    if execution.deterministic:
        tf.config.experimental.enable_op_determinism()
    if not workers.is_chief:
        logger.info("%s: the first one shows the progress and writes the run", workers)
        stderr.quiet = True
    return workers


def check_batch_size(name: str, batch_size: int, replicas: int, parts: int = 1) -> None:
    """Check that a batch divides evenly among the replicas, and there in parts.

    Args:
        name: of the field that has the batch size.
        batch_size: examples per update.
        replicas: number of devices.
        parts: gradient-accumulation steps.

    Raises:
        InputError: it does not.
    """
    if batch_size % (replicas * parts):
        times = f", times {parts} accumulation steps" if parts > 1 else ""
        raise InputError(
            f"`{name}` {batch_size}: must be a multiple of the {replicas} devices{times}; "
            f"try {-(-batch_size // (replicas * parts)) * replicas * parts}"
        )


@contextlib.contextmanager
def only_writer_of_runs(paths: Sequence[Path], workers: Workers) -> Iterator[None]:
    """Let the chief worker hold the locks of runs; if it cannot, or a worker is lost, all end.

    Raises:
        InputError: another process writes one of the runs.
        JobError: the chief could not have the locks; or their files cannot be written; or a worker
            is lost.
    """
    held = only_writer_of_all({path: f"`run_dir` {path}" for path in paths if workers.is_chief})
    failure: Exception | None = None
    with workers.lost_ones_named(), contextlib.ExitStack() as stack:
        try:
            stack.enter_context(held)
        except (InputError, JobError) as error:
            failure = error
        if workers.any(failure is not None):
            raise failure or JobError(
                "the first worker cannot write `run_dir`; its message says why"
            )
        yield


def trained_config(path: Path) -> RunConfig | None:
    """Return a run's config if it has been trained for at least one checkpoint.

    One that has not may be started with anything.

    Raises:
        InputError: there is a config that cannot be read.
    """
    return read_config(path) if checkpoint_steps(path / CHECKPOINTS) else None


def settled_updates(
    updates: UpdateConfig, run: Path, *, steps: int, seed: int, fastest: Precision
) -> TrainingConfig:
    """Return what determines a run's updates: what is asked for, and what an earlier start settled.

    Args:
        updates: what is asked for.
        run: directory of the run.
        steps: number of updates.
        seed: of the run.
        fastest: precision of a new run, if none is asked for.
    """
    earlier = trained_config(run)
    before = earlier.training if earlier else None
    warmup_steps = updates.warmup_steps
    if warmup_steps is None:
        # A run that is given more steps keeps the warm-up it had.
        warmup_steps = before.warmup_steps if before else round(WARMUP_RATE * steps)
    precision = updates.precision
    if precision == "auto":
        precision = before.precision if before else fastest
    return TrainingConfig(
        steps=steps,
        batch_size=updates.batch_size,
        learning_rate=updates.learning_rate,
        warmup_steps=warmup_steps,
        weight_decay=updates.weight_decay,
        seed=seed,
        optimizer=updates.optimizer,
        schedule=updates.schedule,
        precision=precision,
    )


def open_training(plan: TrainingPlan, execution: ExecutionConfig, workers: Workers) -> TrainingRun:
    """Open a run whose lock is held, and bring a trainer to where the run stands.

    Raises:
        InputError: the run was trained with another model, vocabulary or setting, or its
            checkpoints cannot be read.
        JobError: the workers do not have the same settings, data or checkpoints.
    """
    workers.check_same(
        zlib.crc32(plan.config.to_json().encode()),
        "the workers were started with different flags or data; give each the same",
    )
    if workers.is_chief:
        open_run(plan.path, plan.config, plan.vocabulary, plan.data)
    trainer = Trainer(
        plan.config.model,
        plan.training,
        plan.objective,
        workers.strategy,
        xla=execution.xla,
        accumulation_steps=execution.accumulation_steps,
        recompute=execution.recompute,
        times_data=not execution.deterministic,
    )
    if plan.source:
        missing = plan.source.fill(trainer.weights, plan.config.task)
        logger.info(
            "starts from %s; new weights: %s", plan.source.path, ", ".join(missing) or "none"
        )
    return restore_run(plan.path, plan.training, trainer, workers)


def restore_run(
    path: Path, training: TrainingConfig, trainer: Trainer, workers: Workers
) -> TrainingRun:
    """Load a run's last checkpoint into a trainer, and say where the training stands.

    Raises:
        InputError: there are checkpoints, but none can be read.
        JobError: the workers see different ones.
    """
    checkpoints = Checkpoints(path / CHECKPOINTS, writes=workers.is_chief)
    step = checkpoints.restore(trainer.state) or 0
    workers.check_same(
        step,
        f"{path}: the workers do not see the same checkpoints; "
        "put `run_dir` on a disk that they share",
    )
    if step >= training.steps:
        logger.info(f"{path} is finished ({step:,} steps); give more `steps` to train further")
    elif step:
        logger.info(f"{path}: going on from step {step:,} of {training.steps:,}")
    return TrainingRun(path, training, trainer, workers, checkpoints)


def open_run(path: Path, config: RunConfig, vocabulary: bytes, data: Path) -> None:
    """Make the run's directory, or check that the one that is there may go on with this config.

    The number of steps may change from one start to the next; nothing else that decides on the
    sequence of updates may.

    Args:
        path: the directory.
        config: what the run is about to be.
        vocabulary: the bytes of `vocab.txt`.
        data: what it is to be trained on, for messages.

    Raises:
        InputError: the run was trained with another model, vocabulary or setting.
    """
    there = trained_config(path)
    if there is not None:
        _check_same(path, there, config, data)
    path.mkdir(parents=True, exist_ok=True)
    write_atomically(path / VOCABULARY, vocabulary)
    write_atomically(path / CONFIG, config.to_json().encode())


def _check_same(path: Path, there: RunConfig, config: RunConfig, data: Path) -> None:
    """Raise `InputError` on the first difference that keeps a run from going on."""
    new = "start a new run with another `run_dir`"
    if there.training is None or (there.task is None) != (config.task is None):
        is_tuned = "tuned for a task" if there.task else "pretrained"
        kind = is_tuned if there.training else "imported"
        raise InputError(f"{path} has been {kind}; give it as `init`, and {new}")
    if there.dataset.vocab_sha256 != config.dataset.vocab_sha256:
        raise InputError(
            f"{data} has another vocabulary ({short_sha(config.dataset.vocab_sha256)}) than {path} "
            f"was trained with ({short_sha(there.dataset.vocab_sha256)}); {new}"
        )
    may_change = {"steps"}
    parts = ["model", "dataset", "training", "task", "tuning"]
    if there.phase2_dataset:
        parts.append("phase2_dataset")
    else:
        may_change |= {"phase2_steps", "phase2_batch_size"}  # it may be given a second phase now
    for part in parts:
        before, now = (_fields(getattr(of, part)) for of in (there, config))
        for name, value in now.items():
            if before[name] != value and not (part == "training" and name in may_change):
                raise InputError(
                    f"{path} was started with {part} {name} {before[name]}, not {value}; "
                    f"give the same again, or {new}"
                )


def _fields(part: Any) -> dict[str, Any]:
    return vars(part) if part else {}
