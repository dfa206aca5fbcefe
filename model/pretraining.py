"""One start of `pretrain`: open the run, train from its last checkpoint on, evaluate, close."""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import tensorflow as tf

from model.checkpoints import Checkpoints
from model.commands import Pretrain
from model.config import SIZES, BertConfig, TrainingConfig
from model.input import corrupt_files_named, eval_batches, train_batches
from model.loop import NORM, Trainer, distribute
from model.losses import heads, means
from model.progress import Log, Progress, print_result
from model.run import CHECKPOINTS, DatasetFacts, RunConfig, open_run, trained_config
from model.strategy import make_strategy
from pipeline.console import notes
from pipeline.errors import InputError
from pipeline.manifest import Manifest, read_manifest
from pipeline.tokenizer import dataset_vocabulary

DEFAULT_EPOCHS = 10.0
WARMUP_RATE = 0.1  # share of the steps
CALL_SECS = 1.0  # how long one call of the compiled loop should take: the bar moves this often


def pretrain(options: Pretrain) -> dict[str, Any]:
    """Train a run to its end and return what came of it.

    Raises:
        InputError: the dataset, the run or a flag cannot be used, or the loss is not a number.
        KeyboardInterrupt: it was told to stop, and has saved a checkpoint.
    """
    started = time.monotonic()
    manifest = open_dataset(options.dataset)
    config = run_config(options, manifest)
    strategy = make_strategy(options.strategy)
    parts = options.accumulation_steps
    check_batch_size(options.batch_size, strategy.num_replicas_in_sync, parts)
    if options.deterministic:
        tf.config.experimental.enable_op_determinism()
    open_run(options.run_dir, config, options.dataset)
    trained = heads(manifest.pairing)
    trainer = Trainer(
        config.model,
        config.training,
        trained,
        strategy,
        xla=options.xla,
        accumulation_steps=parts,
    )
    session = Session(options, manifest, config, trainer)
    with corrupt_files_named(options.dataset, manifest):
        measured = session.train()
    result = {
        "run": str(options.run_dir),
        "model": options.model,
        "steps": trainer.steps_done,
        **measured,
        "tokens_per_sec": session.tokens_per_sec,
        "seconds": time.monotonic() - started,
    }
    print_result(result)
    return result


def open_dataset(dataset: Path) -> Manifest:
    """Return a dataset's manifest after checking that it can be trained on.

    Raises:
        InputError: it is not whole, its vocabulary is another one, or it has no train example.
    """
    manifest = read_manifest(dataset)
    dataset_vocabulary(dataset, manifest)
    if not manifest.examples("train"):
        raise InputError(f"{dataset}: no example in its train split; make it from more text")
    return manifest


def run_config(options: Pretrain, manifest: Manifest) -> RunConfig:
    """Return everything a run is determined by, from the flags, the dataset, and an earlier start.

    Raises:
        InputError: the model's name or file cannot be used, or does not fit the dataset.
    """
    examples = manifest.examples("train")
    epochs = DEFAULT_EPOCHS if options.epochs is None else options.epochs
    steps = options.steps or math.ceil(epochs * examples / options.batch_size)
    there = trained_config(options.run_dir)
    warmup_steps = options.warmup_steps
    if warmup_steps is None:
        # A run that is given more steps keeps the warm-up it had.
        warmup_steps = there.training.warmup_steps if there else round(WARMUP_RATE * steps)
    training = TrainingConfig(
        steps=steps,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        warmup_steps=warmup_steps,
        weight_decay=options.weight_decay,
        seed=options.seed,
        optimizer=options.optimizer,
        schedule=options.schedule,
    )
    return RunConfig(model_config(options.model, manifest), training, DatasetFacts.of(manifest))


def model_config(model: str, manifest: Manifest) -> BertConfig:
    """Return the config of a size by name, or from a JSON file, for a dataset.

    Raises:
        InputError: there is no such size or file, or it does not fit the dataset.
    """
    if model in SIZES:
        config = SIZES[model].config(manifest.vocab_size)
    elif model.endswith(".json"):
        try:
            config = BertConfig.from_json(Path(model).read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"--model {model}: cannot be used: {error}") from error
    else:
        raise InputError(f"--model {model}: expected {', '.join(SIZES)}, or a .json file")
    if config.vocab_size != manifest.vocab_size:
        raise InputError(
            f"--model {model}: vocab_size {config.vocab_size}, but the dataset's vocabulary has "
            f"{manifest.vocab_size} pieces; give it that size"
        )
    if config.max_position_embeddings < manifest.max_seq_length:
        raise InputError(
            f"--model {model}: max_position_embeddings {config.max_position_embeddings}, but the "
            f"dataset's sequences have {manifest.max_seq_length}; make the dataset with a shorter "
            "--max-seq-length, or give a .json file with more positions"
        )
    return config


def check_batch_size(batch_size: int, replicas: int, parts: int = 1) -> None:
    """Raise `InputError` unless the batch divides evenly among the replicas, and there in parts."""
    if batch_size % (replicas * parts):
        times = f", times {parts} accumulation steps" if parts > 1 else ""
        raise InputError(
            f"--batch-size {batch_size}: must be a multiple of the {replicas} devices{times}; "
            f"try {-(-batch_size // (replicas * parts)) * replicas * parts}"
        )


class Session:
    """A training from the last checkpoint to the last step.

    Attributes:
        tokens_per_sec: positions trained on a second, padding included, after compilation.
    """

    def __init__(
        self, options: Pretrain, manifest: Manifest, config: RunConfig, trainer: Trainer
    ) -> None:
        self.options = options
        self.manifest = manifest
        self.training = config.training
        self.trainer = trainer
        self.checkpoints = Checkpoints(options.run_dir / CHECKPOINTS)
        self.tokens_per_step = config.training.batch_size * manifest.max_seq_length
        self.log_every_steps = max(1, min(50, config.training.steps // 100))
        self._timed_steps, self._timed_secs = 0, 0.0
        self._saved_step = -1

    def train(self) -> dict[str, Any]:
        """Do the steps that are left, and return the final measures with the split's name."""
        first_step = self._restore()
        self.log = Log(self.options.run_dir, first_step)
        last: dict[str, float] = {}
        if first_step < self.training.steps:
            bar = Progress(self.training.steps, first_step, self.tokens_per_step)
            with bar.shown(), stop_requested() as stopped:
                last = self._train_from(first_step, bar, stopped)
        if self.manifest.examples("eval"):
            return {"split": "eval", **self._evaluate(self.trainer.steps_done)}
        if not last:
            raise InputError(
                f"{self.options.run_dir} is finished, and {self.options.dataset} has no eval split "
                "to measure it on; give more --steps to train it further"
            )
        notes.print(
            f"{self.options.dataset} has no eval split: the losses are of the last steps",
            soft_wrap=True,
        )
        return {"split": "train", **last}

    @property
    def tokens_per_sec(self) -> float:
        """Positions trained on a second, padding included, without the first, compiling call."""
        return self._timed_steps * self.tokens_per_step / max(self._timed_secs, 1e-9)

    def _restore(self) -> int:
        """Load the last checkpoint, say where the training stands, and return the step."""
        step = self.checkpoints.restore(self.trainer.state) or 0
        run, steps = self.options.run_dir, self.training.steps
        if step >= steps:
            notes.print(
                f"{run} is finished ({step:,} steps); give more --steps to train further",
                soft_wrap=True,
            )
        elif step:
            notes.print(f"{run}: going on from step {step:,} of {steps:,}", soft_wrap=True)
        self._saved_step = step
        return step

    def _train_from(
        self, step: int, bar: Progress, stopped: Callable[[], bool]
    ) -> dict[str, float]:
        """Train from a step to the end; return the measures of the last window."""
        batches = self._train_batches(step)
        window = Window(self.trainer)
        values: dict[str, float] = {}
        while step < self.training.steps:
            count = self._call_steps(step)
            started = time.monotonic()
            sums = self.trainer.train(batches, tf.constant(count))
            window.add({name: float(value) for name, value in sums.items()}, count)
            self._count_time(count, time.monotonic() - started)
            step += count
            self._check_finite(step, window)
            values = {**window.values(step), "tokens_per_sec": self.tokens_per_sec}
            bar.update(step, values)
            if self._due(step, self.log_every_steps):
                self.log.add(step, "train", values)
                window = Window(self.trainer)
            if stopped():
                self._save(step)
                self._say_how_to_go_on(step)
                raise KeyboardInterrupt
            if self._due(step, self.options.checkpoint_every_steps):
                self._save(step)
            every = self.options.eval_every_steps
            if every and step % every == 0 and step < self.training.steps:
                self._evaluate(step)
        return values

    def _train_batches(self, step: int) -> Iterator[Any]:
        strategy = self.trainer.strategy
        batches = train_batches(
            self.options.dataset,
            self.manifest,
            batch_size=self.training.batch_size // strategy.num_replicas_in_sync,
            seed=self.training.seed,
            skip_examples=step * self.training.batch_size,
        )
        return distribute(strategy, batches)

    def _due(self, step: int, every: int) -> bool:
        return step % every == 0 or step == self.training.steps

    def _call_steps(self, step: int) -> int:
        """Return how many steps the next call should do: about a second, and not past an event."""
        intervals = [
            self.log_every_steps,
            self.options.checkpoint_every_steps,
            self.options.eval_every_steps or self.training.steps,
        ]
        to_event = min(every - step % every for every in intervals)
        wanted = CALL_SECS * self._timed_steps / self._timed_secs if self._timed_steps else 1
        return max(1, min(round(wanted), to_event, self.training.steps - step))

    def _count_time(self, steps: int, secs: float) -> None:
        """Add a call to the time taken; the first one, which compiles, does not count."""
        if self._compiled:
            self._timed_steps += steps
            self._timed_secs += secs
        self._compiled = True

    _compiled = False

    def _check_finite(self, step: int, window: "Window") -> None:
        """Stop before a broken state is saved.

        Raises:
            InputError: a loss or a gradient of the latest steps was infinite or not a number.
        """
        if not window.is_finite():
            raise InputError(
                f"the loss is no longer a number before step {step:,} (last checkpoint: step "
                f"{max(self._saved_step, 0):,}); start a new --run with a lower --learning-rate "
                f"than {self.training.learning_rate:g}"
            )

    def _save(self, step: int) -> None:
        if step != self._saved_step:
            self.checkpoints.save(step, self.trainer.state)
            self._saved_step = step

    def _say_how_to_go_on(self, step: int) -> None:
        notes.print(
            f"stopped and saved at step {step:,} of {self.training.steps:,}: "
            "the same command goes on from there",
            soft_wrap=True,
        )

    def _evaluate(self, step: int) -> dict[str, float]:
        """Measure the whole eval split, exactly, and log it."""
        strategy = self.trainer.strategy
        replicas = strategy.num_replicas_in_sync
        batch_size = self.training.batch_size
        batches = eval_batches(
            self.options.dataset,
            self.manifest,
            "eval",
            batch_size=batch_size // replicas,
            multiple=replicas,
        )
        count = math.ceil(self.manifest.examples("eval") / batch_size)
        sums = self.trainer.evaluate(distribute(strategy, batches), tf.constant(count))
        values = means({name: float(value) for name, value in sums.items()})
        self.log.add(step, "eval", values)
        return values


class Window:
    """The sums over the steps since the last line of the log."""

    def __init__(self, trainer: Trainer) -> None:
        self.schedule = trainer.schedule
        self.sums: dict[str, float] = {}
        self.steps = 0

    def add(self, sums: dict[str, float], steps: int) -> None:
        """Add the sums of some more steps."""
        self.sums = {name: self.sums.get(name, 0.0) + value for name, value in sums.items()}
        self.steps += steps

    def is_finite(self) -> bool:
        """Return whether every loss and every gradient was a number."""
        return all(map(math.isfinite, self.sums.values()))

    def values(self, step: int) -> dict[str, float]:
        """Return the means, and the learning rate of the update before `step`."""
        return {
            **means(self.sums),
            NORM: self.sums[NORM] / self.steps,
            "learning_rate": float(self.schedule(tf.constant(step - 1))),
        }


@contextmanager
def stop_requested() -> Iterator[Callable[[], bool]]:
    """Catch the first SIGTERM or Ctrl-C, so that the training can save; a second one acts at once.

    Yields:
        A function that tells whether one has come.
    """
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped.is_set  # Python lets only the main thread handle signals
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def stop(_number: int, _frame: FrameType | None) -> None:
        stopped.set()
        restore()

    for number in before:
        signal.signal(number, stop)
    try:
        yield stopped.is_set
    finally:
        restore()
