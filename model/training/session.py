"""The outer training loop: calls of the compiled loop, logging, checkpoints, evaluations, stops.

With several workers, all run the same session; only the chief writes files and prints.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NoReturn, Protocol

import tensorflow as tf

from model.bert.config import BertConfig
from model.finite import NotFiniteError, check_finite
from model.training.best_keeper import BestKeeper
from model.training.checkpoints import Checkpoints
from model.training.config import RecoveryConfig, TrainingConfig
from model.training.divergence import DivergenceGuard
from model.training.evaluation_schedule import EvaluationSchedule
from model.training.loop import POSITIONS, Trainer, distribute
from model.training.peak import matrix_peak
from model.training.progress import Progress
from model.training.run_log import RunLog
from model.training.signals import stop_requested
from model.training.sums import means
from model.training.throughput import Throughput
from model.training.window import Window
from model.training.workers import Workers, device_count
from pipeline.errors import InputError
from pipeline.progress import counted

logger = logging.getLogger(__name__)

CALL_SECS = 1.0
"""Target duration of a call of the compiled loop; the progress bar is updated after each call."""


class Data(Protocol):
    """Training and evaluation data of a phase.

    Attributes:
        batch_size: global batch size.
    """

    @property
    def batch_size(self) -> int: ...  # noqa: D102

    def __str__(self) -> str:
        """Return the path of the data, for messages."""

    def train_batches(
        self, context: tf.distribute.InputContext, *, skip_examples: int
    ) -> tf.data.Dataset:
        """Return the training batches of this process, as an infinite dataset."""

    def measure(self, trainer: Trainer) -> dict[str, float] | None:
        """Return the exact metrics on the evaluation data; None if there is none."""

    def step_flops(self, config: BertConfig, length: float) -> float:
        """Return the floating-point operations of a step with examples of this mean length."""

    def faults_named(self) -> AbstractContextManager[None]:
        """Convert TensorFlow's errors about the data into an `InputError`, inside the context."""


@dataclass(frozen=True)
class Phase:
    """A part of a run that is trained on one dataset.

    Attributes:
        data: training and evaluation data.
        first_step: number of steps before the phase.
        end_step: number of steps at the end of the phase.
    """

    data: Data
    first_step: int
    end_step: int


@dataclass(frozen=True)
class Measured:
    """Final metrics of a training.

    Attributes:
        split: split of the metrics: `eval`, or `train` without evaluation data.
        values: metrics by name.
    """

    split: Literal["train", "eval"]
    values: Mapping[str, float]


@dataclass(frozen=True)
class TrainingRun:
    """A run whose lock is held, with its trainer at the run's last checkpoint.

    Attributes:
        path: directory of the run.
        training: hyperparameters of the run.
        trainer: model, optimizer and step counter.
        workers: all processes that train the run.
        checkpoints: checkpoints of the run.
    """

    path: Path
    training: TrainingConfig
    trainer: Trainer
    workers: Workers
    checkpoints: Checkpoints


class Session:
    """The training loop of a phase, from the run's current step to the end of the phase.

    Attributes:
        trainer: model, optimizer and step counter.
        throughput: throughput of the calls.
    """

    def __init__(
        self,
        run: TrainingRun,
        phase: Phase,
        evaluations: EvaluationSchedule,
        recovery: RecoveryConfig,
    ) -> None:
        self.run, self.phase = run, phase
        self.data, self.trainer = phase.data, run.trainer
        self.workers, self.checkpoints = run.workers, run.checkpoints
        self.every_steps = evaluations.every_steps
        self.checkpoint_every_steps = recovery.checkpoint_every_steps
        # About 100 lines for a short run, one line per 50 steps for a long one.
        self.log_every_steps = max(1, min(50, run.training.steps // 100))
        self.throughput = Throughput(self.data.batch_size)
        self._peak_flops = matrix_peak(run.training.precision) * device_count(self.trainer.strategy)
        self._first_step = self._saved_step = self.trainer.steps_done
        self.log = RunLog(
            run.path,
            self._first_step,
            writes=self.workers.is_chief,
            uploads=self.checkpoints.uploads,
        )
        lines = self.log.lines()
        losses = [line["loss"] for line in lines if line["split"] == "train"]
        # Only the chief has the log, and all workers must come to the same verdict on a loss.
        recent_loss = self.workers.of_chief(losses[-1] if losses else 0.0)
        self.guard = DivergenceGuard(recovery, recent_loss)
        self._evaluations = evaluations
        if self._repeats_evaluation:
            lines = [line for line in lines if line["step"] < self._first_step]
        self._read_evaluations(lines)

    def _read_evaluations(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Restore the best checkpoint and the patience from these lines of the log."""
        self.best = BestKeeper(
            self.run.path, self._evaluations, self.checkpoints, self.workers, lines
        )
        self._evaluated: tuple[int, dict[str, float] | None] | None = None

    @property
    def _repeats_evaluation(self) -> bool:
        """Whether the evaluation at the checkpoint of a resumed run is repeated.

        The process may have ended before that evaluation did, or before the best checkpoint was
        marked.
        """
        return self._first_step > self.phase.first_step and self._is_evaluation(self._first_step)

    @property
    def stopped_early(self) -> bool:
        """Whether early stopping ended the training before the end of the phase."""
        return self.trainer.steps_done < self.phase.end_step

    @property
    def mfu(self) -> float:
        """Model FLOP utilization: the model's FLOP/s relative to the devices' peak.

        Chowdhery et al. 2022, https://arxiv.org/abs/2204.02311, appendix B.
        """
        flops = self.data.step_flops(self.trainer.config, self.throughput.mean_length)
        return flops * self.throughput.steps_per_sec / self._peak_flops

    def train(self) -> Measured:
        """Train until the end of the phase, and return the final metrics.

        Raises:
            InputError: the loss diverged; or the run is finished, and has no evaluation data.
            KeyboardInterrupt: a signal requested a stop, and a checkpoint was saved.
        """
        with self.checkpoints.settled():
            last = self._train()
            measured = self._evaluate(self.trainer.steps_done)
            self.log.draw()
        if measured:
            return Measured("eval", measured)
        if not last:
            raise InputError(
                f"{self.run.path} is finished, and nothing of {self.data} is held out to "
                "measure it on; give more `steps` to train it further"
            )
        logger.info(f"{self.data}: nothing is held out, so the losses are of the last steps")
        return Measured("train", last)

    def _train(self) -> dict[str, float]:
        """Train until the end of the phase; return the metrics of the last window, if any."""
        first_step = self._first_step
        if first_step == self.phase.first_step:
            self.trainer.position.assign(0)  # in this phase's stream
        self.checkpoints.hold(self.trainer.state)
        if self._repeats_evaluation:
            self._evaluate(first_step)
        if first_step >= self.phase.end_step or self.best.early_stopping.is_exhausted:
            return {}
        bar = Progress(self.phase.end_step, first_step, self.data.batch_size)
        with bar.shown(), stop_requested() as stopped:
            return self._train_from(first_step, bar, stopped)

    def _train_from(
        self, step: int, bar: Progress, stopped: Callable[[], bool]
    ) -> dict[str, float]:
        """Train from a step to the end of the phase; return the metrics of the last window."""
        batches, window = self._train_batches(), Window(self.trainer.schedule)
        values: dict[str, float] = {}
        while step < self.phase.end_step and not self.best.early_stopping.is_exhausted:
            count = self._call_steps(step)
            sums = self._call(batches, count, window)
            step += count
            self.checkpoints.check()
            # Before the log and the checkpoint: neither may hold what diverged.
            if self.guard.diverged(sums, means(sums)["loss"]):
                step, batches, window = self._start_again(step)
                continue
            values = {**window.values(step), **self._speed()}
            bar.update(step, values)
            if self._is_due(step, self.log_every_steps):
                self.log.add(step, "train", values)
                window = Window(self.trainer.schedule)
            try:
                self._after_call(step, stopped)
            except NotFiniteError:  # the losses are those of the weights before the last update
                step, batches, window = self._start_again(step)
        self._save(step)  # early stopping may end between two checkpoints
        self.checkpoints.wait()
        return values

    def _start_again(self, step: int) -> tuple[int, Iterator[Any], Window]:
        """Roll back after a divergence; return the step, and batches and a window from there on."""
        return self._roll_back(step), self._train_batches(), Window(self.trainer.schedule)

    def _train_batches(self) -> Iterator[Any]:
        position = int(self.trainer.position.numpy())
        skip_examples = position * self.data.batch_size
        batches = partial(self.data.train_batches, skip_examples=skip_examples)
        return distribute(self.trainer.strategy, batches)

    def _call_steps(self, step: int) -> int:
        """Return the number of steps of the next call: about `CALL_SECS`, up to the next event.

        An event is a log line, a checkpoint or an evaluation.
        """
        intervals = [
            self.log_every_steps,
            self.checkpoint_every_steps,
            self.every_steps or self.run.training.steps,
        ]
        # A call cannot be interrupted, so it ends where something is due.
        to_event = min(every - step % every for every in intervals)
        # All workers must run the same number of steps, and each measures another throughput.
        steps = self.workers.of_chief(self.throughput.steps_within(CALL_SECS))
        return max(1, min(round(steps), to_event, self.phase.end_step - step))

    def _call(self, batches: Iterator[Any], count: int, window: Window) -> dict[str, float]:
        """Run `count` steps in one call of the compiled loop, and return the sums over them."""
        started = time.monotonic()
        sums = self.trainer.train(batches, tf.constant(count))
        sums = {name: float(value) for name, value in sums.items()}  # waits for the devices
        secs = time.monotonic() - started
        window.add(sums, count, secs)
        self.throughput.add(count, sums[POSITIONS], secs)
        return sums

    def _speed(self) -> dict[str, float]:
        return {
            "tokens_per_sec": self.throughput.tokens_per_sec,
            "examples_per_sec": self.throughput.examples_per_sec,
            "mfu": self.mfu,
        }

    def _is_due(self, step: int, every: int) -> bool:
        return step % every == 0 or step == self.phase.end_step

    def _is_evaluation(self, step: int) -> bool:
        return self._is_due(step, self.every_steps or self.phase.end_step)

    def _after_call(self, step: int, stopped: Callable[[], bool]) -> None:
        """Stop if a signal requested it; save and evaluate if due."""
        # A signal may reach only one worker, and all must leave the loop at the same step.
        if self.workers.any(stopped()):
            self._stop(step)
        if self._is_due(step, self.checkpoint_every_steps):
            self._save(step)
        if self._is_evaluation(step) and step < self.phase.end_step:  # `train` does the last one
            self._evaluate(step)

    def _stop(self, step: int) -> NoReturn:
        self._save(step)
        self.checkpoints.wait()
        self.log.draw()
        logger.info(
            f"stopped and saved at step {step:,} of {self.run.training.steps:,}: "
            "the same command resumes from there"
        )
        raise KeyboardInterrupt

    def _roll_back(self, step: int) -> int:
        """Restore the last checkpoint, skip the batches since then, and return its step.

        The log lines since then are removed.

        Raises:
            InputError: `on_blow_up` is stop, or the training has been rolled back too often.
        """
        learning_rate = self.run.training.learning_rate
        divergence = self.guard.roll_back(step, self._saved_step, learning_rate)
        # The position in the data is kept: the same batches would diverge again.
        position = self.trainer.position.numpy()
        self.checkpoints.roll_back(self.trainer.state)
        self.trainer.position.assign(position)
        self.checkpoints.hold(self.trainer.state)
        back_to = self.trainer.steps_done
        skipped = counted(step - back_to, "steps")
        logger.info(f"{divergence}: resuming there without the batches of {skipped}")
        self.log.cut(back_to)
        self._read_evaluations(self.log.lines())
        return back_to

    def _save(self, step: int) -> None:
        """Save a checkpoint, unless the last one is of this step.

        Raises:
            NotFiniteError: a weight is not finite, or so large that products with it are not.
        """
        if step != self._saved_step:
            squares = (float(tf.nn.l2_loss(each)) for each in self.trainer.weights.values())
            check_finite(self.trainer.predictor.name, squares)
            self.log.sync()  # before the checkpoint: a resumed run must find the lines up to it
            self.checkpoints.save(step, self.trainer.state)
            self._saved_step = step
            self.guard.saved()

    def _evaluate(self, step: int) -> dict[str, float] | None:
        """Evaluate at most once per step, and log the metrics; None without evaluation data."""
        # Early stopping ends the loop after an evaluation, and `train` evaluates at the end, too.
        if self._evaluated and self._evaluated[0] == step:
            return self._evaluated[1]
        values = self.data.measure(self.trainer)
        if values:
            if step == self._first_step:
                self.log.remove(step, "eval")
            self.log.add(step, "eval", values)
            self.log.sync()
            # After the log is on the disk: a resumed run reads the best value from it.
            if self.best.record(step, values):
                self._save(step)
                self.best.mark(step, values)
        self._evaluated = step, values
        return values
