"""Start of a training: workers, locks, run directory, trainer, last checkpoint."""

import contextlib
import logging
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import config as tf_config  # the public API has no way back

from model.run_config import (
    CHECKPOINTS,
    CONFIG,
    DatasetFacts,
    RunConfig,
    TextFacts,
    check_is_run_or_free,
    read_config,
    short_sha,
)
from model.source import Source
from model.training.agreement import check_agreement
from model.training.checkpoints import Checkpoints, checkpoint_steps
from model.training.config import ExecutionConfig, Precision, TrainingConfig, UpdateConfig
from model.training.loop import Trainer
from model.training.losses import Objective
from model.training.memory import shortage_named
from model.training.session import TrainingRun
from model.training.strategy import make_strategy
from model.training.workers import Workers
from pipeline.errors import InputError, JobError
from pipeline.manifest import VOCABULARY
from pipeline.progress import counted, stderr
from pipeline.storage.cache import CacheConfig
from pipeline.storage.files import write_atomically
from pipeline.storage.locks import only_writer_of_all

WARMUP_RATE = 0.1  # share of the steps

RECORDS_OF_DATASET = {"streams", "sha256"}
"""Fields of `DatasetFacts` that older releases did not save; see `_check_same_records`."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingPlan:
    """A run to start or resume.

    Attributes:
        path: directory of the run.
        config: contents of `config.json`.
        objective: training objective.
        vocabulary: contents of `vocab.txt`.
        data: path of the training data, for messages.
        source: initial weights; None = random.
    """

    path: Path
    config: RunConfig
    objective: Objective
    vocabulary: bytes
    data: Path
    source: Source | None

    @property
    def training(self) -> TrainingConfig:
        """Hyperparameters of the training."""
        assert self.config.training is not None  # only an imported run has none
        return self.config.training


def set_up_workers(execution: ExecutionConfig) -> Workers:
    """Set up the devices; workers other than the chief print nothing after a first note.

    Raises:
        InputError: the devices are not available, or the workers run different code.
        JobError: a worker is missing or lost.
    """
    workers = Workers(make_strategy(execution.strategy, execution.worker_timeout_secs))
    if not workers.is_chief:
        logger.info("%s: the first one shows the progress and writes the run", workers)
        stderr.quiet = True
    with workers.lost_ones_named():
        # Two versions of the code would train two models and average their gradients.
        check_agreement(workers)
    return workers


@contextlib.contextmanager
def deterministic_if(wanted: bool) -> Iterator[None]:
    """Make TensorFlow's operations deterministic, and restore the process's setting afterwards."""
    before = tf_config.is_op_determinism_enabled()
    if wanted:
        tf.config.experimental.enable_op_determinism()
    try:
        yield
    finally:
        # A later training of this process, as in a notebook, has a setting of its own.
        if not before:
            tf_config.disable_op_determinism()


def check_batch_size(name: str, batch_size: int, replicas: int, parts: int = 1) -> None:
    """Check that the batch size is a multiple of the devices times the accumulation steps.

    Args:
        name: name of the field with the batch size.
        batch_size: global batch size.
        replicas: number of devices.
        parts: number of gradient-accumulation steps.

    Raises:
        InputError: it is not.
    """
    if batch_size % (replicas * parts):
        times = f", times {parts} accumulation steps" if parts > 1 else ""
        raise InputError(
            f"`{name}` {batch_size}: must be a multiple of the {replicas} devices{times}; "
            f"try {-(-batch_size // (replicas * parts)) * replicas * parts}"
        )


@contextlib.contextmanager
def only_writer_of_runs(paths: Sequence[Path], workers: Workers) -> Iterator[None]:
    """Hold the locks of runs on the chief; if it fails, or a worker is lost, all workers stop.

    Raises:
        InputError: another process writes one of the runs, or a directory has files that are no
            run's.
        JobError: the chief failed to acquire the locks, a lock file cannot be written, a worker is
            lost, or the body runs out of memory.
    """
    # Other workers only read: the chief's lock stands for all of them.
    held = only_writer_of_all({path: f"`run_dir` {path}" for path in paths if workers.is_chief})
    failure: Exception | None = None
    shortage = shortage_named(
        "add `accumulation_steps` or `recompute`, or give a smaller `batch_size`"
    )
    with shortage, workers.lost_ones_named(), contextlib.ExitStack() as stack:
        try:
            stack.enter_context(held)
            if workers.is_chief:
                for path in paths:
                    check_is_run_or_free(path)
        except (InputError, JobError) as error:
            failure = error
        # All must hear of it; a worker that goes on alone waits for the others until its timeout.
        if workers.any(failure is not None):
            raise failure or JobError(
                "the first worker cannot write `run_dir`; its message says why"
            )
        yield


def trained_config(path: Path) -> RunConfig | None:
    """Return a run's config if the run has a checkpoint; else None.

    A run without a checkpoint can be started again with any config.

    Raises:
        InputError: the config cannot be read.
    """
    config = read_config(path)  # without a checkpoint too: one that is damaged is not replaced
    return config if checkpoint_steps(path / CHECKPOINTS) else None


def settled_updates(
    updates: UpdateConfig, run: Path, *, steps: int, seed: int, fastest: Precision
) -> TrainingConfig:
    """Return the hyperparameters of a run; defaults are taken from an earlier session of the run.

    Args:
        updates: hyperparameters of this session.
        run: directory of the run.
        steps: total number of steps.
        seed: seed of the run.
        fastest: precision of a new run if `updates` has `auto`.
    """
    earlier = trained_config(run)
    before = earlier.training if earlier else None
    warmup_steps = updates.warmup_steps
    if warmup_steps is None:
        # If the number of steps is increased, the warm-up must not change.
        warmup_steps = before.warmup_steps if before else round(WARMUP_RATE * steps)
    precision = updates.precision
    if precision == "auto":
        # A run that moves to other hardware keeps its precision, so that its weights do not change.
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
        dropout=updates.dropout,
    )


def open_training(
    plan: TrainingPlan, execution: ExecutionConfig, workers: Workers, caching: CacheConfig
) -> TrainingRun:
    """Create or open a run whose lock is held, and restore a trainer from its last checkpoint.

    Raises:
        InputError: the run was trained with another model, vocabulary or setting, or its
            checkpoints cannot be read.
        JobError: the workers have different settings, data or checkpoints.
    """
    workers.check_same(
        # A number, because workers compare numbers: 32 bits suffice against mistakes.
        zlib.crc32(plan.config.to_json().encode()),
        "the workers were started with different settings or data; give each the same",
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
        times_data=not tf_config.is_op_determinism_enabled(),
    )
    if plan.source:
        # Before the checkpoint is restored, which replaces these weights if there is one.
        missing = plan.source.fill(trainer.weights, plan.config.task)
        logger.info(
            "starts from %s; new weights: %s", plan.source.path, ", ".join(missing) or "none"
        )
    return restore_run(plan.path, plan.training, trainer, workers, caching)


def restore_run(
    path: Path,
    training: TrainingConfig,
    trainer: Trainer,
    workers: Workers,
    caching: CacheConfig,
) -> TrainingRun:
    """Restore a trainer from a run's last checkpoint, and log the step.

    Raises:
        InputError: there are checkpoints, but none can be read.
        JobError: the workers see different checkpoints.
    """
    checkpoints = Checkpoints(path / CHECKPOINTS, writes=workers.is_chief, caching=caching)
    step = checkpoints.restore(trainer.state) or 0
    workers.check_same(
        step,
        f"{path}: the workers do not see the same checkpoints; "
        "put `run_dir` on a disk that they share",
    )
    if step >= training.steps:
        logger.info(
            f"{path} is finished ({counted(step, 'steps')}); give more `steps` to train further"
        )
    elif step:
        logger.info(f"{path}: resuming from step {step:,} of {training.steps:,}")
    return TrainingRun(path, training, trainer, workers, checkpoints)


def open_run(path: Path, config: RunConfig, vocabulary: bytes, data: Path) -> None:
    """Create the run's directory, or check that an existing run can be resumed with this config.

    The number of steps may change; other hyperparameters that affect the weights may not.

    Args:
        path: directory of the run.
        config: contents of `config.json`.
        vocabulary: contents of `vocab.txt`.
        data: path of the training data, for messages.

    Raises:
        InputError: the run was trained with another model, vocabulary or setting.
    """
    existing = trained_config(path)
    if existing is not None:
        _check_same(path, existing, config, data)
    path.mkdir(parents=True, exist_ok=True)
    others = path / VOCABULARY
    if read_config(path) is None and others.exists() and others.read_bytes() != vocabulary:
        raise InputError(
            f"`run_dir` {path}: is no run (no {CONFIG}), but has another {VOCABULARY} than {data}; "
            "choose another directory"
        )
    # The config last: a directory with one is a run, and then has its vocabulary.
    write_atomically(path / VOCABULARY, vocabulary)
    write_atomically(path / CONFIG, config.to_json().encode())


def _check_same(path: Path, existing: RunConfig, config: RunConfig, data: Path) -> None:
    """Raise `InputError` for the first difference that makes it impossible to resume a run."""
    new = "start a new run with another `run_dir`"
    # The most general difference first; the next ones would be misleading.
    if existing.training is None or (existing.task is None) != (config.task is None):
        is_tuned = "fine-tuned" if existing.task else "pretrained"
        kind = is_tuned if existing.training else "imported"
        raise InputError(f"{path} has been {kind}; give it as `init`, and {new}")
    if existing.dataset.vocab_sha256 != config.dataset.vocab_sha256:
        raise InputError(
            f"{data} has another vocabulary ({short_sha(config.dataset.vocab_sha256)}) than {path} "
            f"was trained with ({short_sha(existing.dataset.vocab_sha256)}); {new}"
        )
    may_change = {"steps"}
    parts = ["model", "dataset", "training", "task", "tuning", "relations"]
    if existing.phase2_dataset:
        parts.append("phase2_dataset")
    else:
        may_change |= {"phase2_steps", "phase2_batch_size"}  # phase 2 can be added to a run
    for part in parts:
        before, now = (_fields(getattr(of, part)) for of in (existing, config))
        for name, value in now.items():
            if name in RECORDS_OF_DATASET or (part == "training" and name in may_change):
                continue
            if before[name] != value:
                raise InputError(
                    f"{path} was started with {part} {name} {before[name]}, not {value}; "
                    f"give the same again{_of_recipe(existing, config)}, or {new}"
                )
    _check_same_records(path, existing.dataset, config.dataset, str(data))
    _check_same_records(
        path, existing.phase2_dataset, config.phase2_dataset, "the dataset of `phase2_dataset`"
    )


def _of_recipe(existing: RunConfig, config: RunConfig) -> str:
    """Return which recipe a run had, for messages; "" if the config has the same one."""
    if existing.recipe == config.recipe:
        return ""
    # Hyperparameters of a recipe may be fields that the user never set.
    return f", with `recipe` {existing.recipe}" if existing.recipe else ", without `recipe`"


def _check_same_records(
    path: Path, before: TextFacts | None, now: TextFacts | None, data: str
) -> None:
    """Raise `InputError` if a run's dataset has other records, or another order, than before.

    Args:
        path: directory of the run.
        before: facts about the dataset that the run was started with.
        now: facts about the dataset that was given.
        data: the dataset, for messages.
    """
    if not (isinstance(before, DatasetFacts) and isinstance(now, DatasetFacts)):
        return
    remedy = "put back the dataset that it was started with, or start a new run"
    # Runs of older releases have no checksum of the records; streams tell the order of the batches.
    if before.sha256 is None and before.streams != now.streams:
        raise InputError(
            f"{data} has {now.streams} record streams, and {path} was started by an older release "
            f"with a dataset that has none: the run would not see the same batches; {remedy}"
        )
    if now.sha256 and before.sha256 and now.sha256 != before.sha256:
        raise InputError(
            f"{data} has changed ({short_sha(now.sha256)}) since {path} was started with it "
            f"({short_sha(before.sha256)}); {remedy}"
        )


def _fields(part: Any) -> dict[str, object]:
    return vars(part) if part else {}
