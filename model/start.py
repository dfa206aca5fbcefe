"""How a training starts: its run's directory and lock, and its last checkpoint."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from model.commands import TrainingFlags
from model.run_config import CHECKPOINTS, CONFIG, RunConfig, read_config, short_sha
from model.training.checkpoints import Checkpoints, checkpoint_steps
from model.training.config import Precision, TrainingConfig
from model.training.loop import Trainer
from model.training.session import TrainingRun
from model.training.workers import Workers
from pipeline.console import notes
from pipeline.errors import InputError, JobError
from pipeline.manifest import VOCABULARY
from pipeline.storage.files import write_atomically
from pipeline.storage.locks import only_writer_of_all

WARMUP_RATE = 0.1  # share of the steps


def trained_config(path: Path) -> RunConfig | None:
    """Return a run's config if it has been trained for at least one checkpoint.

    One that has not may be started with anything.

    Raises:
        InputError: there is a config that cannot be read.
    """
    return read_config(path) if checkpoint_steps(path / CHECKPOINTS) else None


def training_config(
    options: TrainingFlags, steps: int, seed: int, precision: Precision
) -> TrainingConfig:
    """Return what determines a run's updates, from the flags and an earlier start.

    Args:
        options: the flags.
        steps: number of updates.
        seed: of the run.
        precision: of a new run, if the flags leave it open.
    """
    there = trained_config(options.run_dir)
    before = there.training if there else None
    warmup_steps = options.warmup_steps
    if warmup_steps is None:
        # A run that is given more steps keeps the warm-up it had.
        warmup_steps = before.warmup_steps if before else round(WARMUP_RATE * steps)
    if options.precision != "auto":
        precision = options.precision
    elif before:
        precision = before.precision
    return TrainingConfig(
        steps=steps,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        warmup_steps=warmup_steps,
        weight_decay=options.weight_decay,
        seed=seed,
        optimizer=options.optimizer,
        schedule=options.schedule,
        precision=precision,
    )


def restore_run(
    run: Path, training: TrainingConfig, trainer: Trainer, workers: Workers
) -> TrainingRun:
    """Load a run's last checkpoint into a trainer, and say where the training stands.

    Raises:
        InputError: there are checkpoints, but none can be read.
        JobError: the workers see different ones.
    """
    checkpoints = Checkpoints(run / CHECKPOINTS, writes=workers.is_chief)
    step = checkpoints.restore(trainer.state) or 0
    workers.check_same(
        step,
        f"{run}: the workers do not see the same checkpoints; put --run on a disk that they share",
    )
    if step >= training.steps:
        notes.print(
            f"{run} is finished ({step:,} steps); give more --steps to train further",
            soft_wrap=True,
        )
    elif step:
        notes.print(f"{run}: going on from step {step:,} of {training.steps:,}", soft_wrap=True)
    return TrainingRun(run, training, trainer, workers, checkpoints)


@contextlib.contextmanager
def only_writer_of_runs(paths: Sequence[Path], workers: "Workers") -> Iterator[None]:
    """Let the chief worker hold the locks of runs; if it cannot, every worker ends.

    Raises:
        InputError: another process writes one of the runs.
        JobError: the chief could not have the locks; or their files cannot be written.
    """
    held = only_writer_of_all({path: f"--run {path}" for path in paths if workers.is_chief})
    failure: Exception | None = None
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(held)
        except (InputError, JobError) as error:
            failure = error
        if workers.any(failure is not None):
            raise failure or JobError("the first worker cannot write --run; its message says why")
        yield


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
    new = "start a new run with another --run"
    if there.training is None or (there.task is None) != (config.task is None):
        is_tuned = "tuned for a task" if there.task else "pretrained"
        kind = is_tuned if there.training else "imported"
        raise InputError(f"{path} has been {kind}; give it as --init, and {new}")
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
