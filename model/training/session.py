"""A training from the last checkpoint on: calls of the compiled loop, measures, saves, evaluations.

Where several workers train, each runs the same session; the chief alone writes files and talks.
"""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any, Protocol

import tensorflow as tf

from model.bert.config import BertConfig
from model.commands import TrainingFlags
from model.run_config import CURVES
from model.training.checkpoints import Checkpoints
from model.training.config import TrainingConfig
from model.training.curves import draw_curves
from model.training.flops import matrix_peak
from model.training.loop import DATA_SECS, NORM, POSITIONS, REAL_POSITIONS, Trainer, distribute
from model.training.losses import means
from model.training.progress import Log, Progress
from model.training.workers import Workers, device_count
from pipeline.console import notes
from pipeline.errors import InputError

WARMUP_RATE = 0.1  # share of the steps
CALL_SECS = 1.0  # how long one call of the compiled loop should take: the bar moves this often
RECENT_WEIGHT = 0.1  # of a call in the recent loss, which a blow-up is held against
MAX_ROLL_BACKS = 5  # to one checkpoint


class Data(Protocol):
    """What a phase trains on, and is measured on.

    Attributes:
        batch_size: examples an update.
    """

    @property
    def batch_size(self) -> int: ...  # noqa: D102

    def __str__(self) -> str:
        """Return where it is, for messages."""

    def train_batches(
        self, context: tf.distribute.InputContext, *, skip_examples: int
    ) -> tf.data.Dataset:
        """Return the endless train stream from one of its examples on, or a process's share."""

    def measure(self, trainer: Trainer) -> dict[str, float] | None:
        """Return the measures on all that is held out, exactly; None where nothing is."""

    def step_flops(self, config: BertConfig, length: float) -> float:
        """Return the floating-point operations of an update with examples of this length."""

    def faults_named(self) -> AbstractContextManager[None]:
        """Turn TensorFlow's errors about the data, inside the context, into an `InputError`."""


@dataclass(frozen=True)
class Phase:
    """A part of a run, on one dataset.

    Attributes:
        data: what it trains on.
        first_step: updates done before it.
        end_step: updates done after it.
    """

    data: Data
    first_step: int
    end_step: int


@dataclass(frozen=True)
class Evaluations:
    """When to evaluate, which evaluation is the best, and when to wait for a better one no longer.

    Attributes:
        every_steps: updates between two; None = only at the end.
        measure: name of the measure.
        higher_is_better: otherwise the lowest is the best.
        patience: evaluations in a row that may pass without a new best one; None = all.
    """

    every_steps: int | None = None
    measure: str = "loss"
    higher_is_better: bool = False
    patience: int | None = None

    def is_better(self, value: float, best: float) -> bool:
        """Return whether a value is better than the best before."""
        return value > best if self.higher_is_better else value < best


class Session:
    """A training from where it stands to the end of a phase.

    Attributes:
        gave_up: whether it ended early, for want of better evaluations.
    """

    def __init__(
        self,
        options: TrainingFlags,
        phase: Phase,
        training: TrainingConfig,
        trainer: Trainer,
        workers: Workers,
        checkpoints: Checkpoints,
        evaluations: Evaluations,
    ) -> None:
        self.options = options
        self.phase = phase
        self.data = phase.data
        self.training = training
        self.trainer = trainer
        self.workers = workers
        self.checkpoints = checkpoints
        self.evaluations = evaluations
        self.gave_up = False
        self.log_every_steps = max(1, min(50, training.steps // 100))
        self._timed_steps, self._timed_positions, self._timed_secs = 0, 0.0, 0.0
        self._saved_step = trainer.steps_done
        self._recent_loss = 0.0
        self._roll_backs = 0
        self._evaluations_since_best = 0
        self._peak_flops = matrix_peak(training.precision) * device_count(trainer.strategy)

    def train(self) -> dict[str, Any]:
        """Do the steps that are left, and return the final measures with the split's name."""
        first_step = self.trainer.steps_done
        if first_step == self.phase.first_step:
            self.trainer.position.assign(0)  # in this phase's stream
        self.checkpoints.hold(self.trainer.state)
        self.log = Log(self.options.run_dir, first_step) if self.workers.is_chief else None
        self._remember(self.log.metrics.lines() if self.log else [])
        last: dict[str, float] = {}
        if first_step < self.phase.end_step and not self._gives_up():
            bar = Progress(self.phase.end_step, first_step, self.data.batch_size)
            with bar.shown(), stop_requested() as stopped:
                last = self._train_from(first_step, bar, stopped)
        measured = self._evaluate(self.trainer.steps_done)
        self._draw()
        if measured:
            return {"split": "eval", **measured}
        if not last:
            raise InputError(
                f"{self.options.run_dir} is finished, and nothing of {self.data} is held out to "
                "measure it on; give more --steps to train it further"
            )
        notes.print(
            f"{self.data}: nothing is held out, so the losses are of the last steps", soft_wrap=True
        )
        return {"split": "train", **last}

    def _remember(self, lines: list[dict[str, Any]]) -> None:
        """Take up what an earlier start left in the log, which the chief alone has."""
        losses = [line["loss"] for line in lines if line["split"] == "train"]
        self._recent_loss = self.workers.of_chief(losses[-1] if losses else 0.0)
        best = self.checkpoints.best
        if best and best.metric not in (None, self.evaluations.measure):
            raise InputError(
                f"{self.options.run_dir}: its best checkpoint was selected by {best.metric}, not "
                f"{self.evaluations.measure}; give --metric {best.metric}, or start a new run with "
                "another --run"
            )
        since = [x for x in lines if best and x["split"] == "eval" and x["step"] > best.step]
        self._evaluations_since_best = round(self.workers.of_chief(len(since)))

    def _gives_up(self) -> bool:
        """Return whether too many evaluations have passed without a better one."""
        patience = self.evaluations.patience
        self.gave_up = patience is not None and self._evaluations_since_best >= patience
        return self.gave_up

    @property
    def steps_per_sec(self) -> float:
        """Updates a second, without the first, compiling call."""
        return self._timed_steps / max(self._timed_secs, 1e-9)

    @property
    def tokens_per_sec(self) -> float:
        """Positions trained on a second, padding included, without the first, compiling call."""
        return self._timed_positions / max(self._timed_secs, 1e-9)

    @property
    def examples_per_sec(self) -> float:
        """Examples trained on a second, without the first, compiling call."""
        return self.steps_per_sec * self.data.batch_size

    @property
    def mfu(self) -> float:
        """Share of the machine's matrix peak that the model's products make use of."""
        length = self.tokens_per_sec / max(self.examples_per_sec, 1e-9)
        flops = self.data.step_flops(self.trainer.config, length)
        return flops * self.steps_per_sec / self._peak_flops

    def _train_from(
        self, step: int, bar: Progress, stopped: Callable[[], bool]
    ) -> dict[str, float]:
        """Train from a step to the end; return the measures of the last window."""
        batches = self._train_batches()
        window = self._window()
        values: dict[str, float] = {}
        while step < self.phase.end_step and not self._gives_up():
            count = self._call_steps(step)
            started = time.monotonic()
            sums = self.trainer.train(batches, tf.constant(count))
            sums = {name: float(value) for name, value in sums.items()}
            seconds = time.monotonic() - started
            window.add(sums, count, seconds)
            self._count_time(count, sums[POSITIONS], seconds)
            step += count
            self.checkpoints.check()
            if self._blown_up(sums):
                step = self._roll_back(step)
                batches, window = self._train_batches(), self._window()
                continue
            values = {
                **window.values(step),
                "tokens_per_sec": self.tokens_per_sec,
                "examples_per_sec": self.examples_per_sec,
                "mfu": self.mfu,
            }
            bar.update(step, values)
            if self._due(step, self.log_every_steps):
                self._log(step, "train", values)
                window = self._window()
            if self.workers.any(stopped()):
                self._save(step)
                self.checkpoints.wait()
                self._draw()
                self._say_how_to_go_on(step)
                raise KeyboardInterrupt
            if self._due(step, self.options.checkpoint_every_steps):
                self._save(step)
            every = self.evaluations.every_steps
            if every and step % every == 0 and step < self.phase.end_step:
                self._evaluate(step)
        self._save(step)  # where it gave up between two checkpoints
        self.checkpoints.wait()
        return values

    def _train_batches(self) -> Iterator[Any]:
        position = int(self.trainer.position.numpy())
        skip_examples = position * self.data.batch_size
        batches = partial(self.data.train_batches, skip_examples=skip_examples)
        return distribute(self.trainer.strategy, batches)

    def _window(self) -> "Window":
        return Window(self.trainer)

    def _due(self, step: int, every: int) -> bool:
        return step % every == 0 or step == self.phase.end_step

    def _call_steps(self, step: int) -> int:
        """Return how many steps the next call should do: about a second, and not past an event."""
        intervals = [
            self.log_every_steps,
            self.options.checkpoint_every_steps,
            self.evaluations.every_steps or self.training.steps,
        ]
        to_event = min(every - step % every for every in intervals)
        wanted = CALL_SECS * self._timed_steps / self._timed_secs if self._timed_steps else 1
        wanted = self.workers.of_chief(wanted)  # each has a clock of its own
        return max(1, min(round(wanted), to_event, self.phase.end_step - step))

    def _count_time(self, steps: int, positions: float, secs: float) -> None:
        """Add a call to the time taken; the first one, which compiles, does not count."""
        if self._compiled:
            self._timed_steps += steps
            self._timed_positions += positions
            self._timed_secs += secs
        self._compiled = True

    _compiled = False

    def _blown_up(self, sums: dict[str, float]) -> bool:
        """Return whether a call's loss or gradients are no numbers, or far above the recent ones'.

        Args:
            sums: of the call.
        """
        if not all(map(math.isfinite, sums.values())):
            return True
        loss = means(sums)["loss"]
        recent = self._recent_loss or loss
        if loss > self.options.blow_up_ratio * recent:
            return True
        self._recent_loss = RECENT_WEIGHT * loss + (1 - RECENT_WEIGHT) * recent
        return False

    def _roll_back(self, step: int) -> int:
        """Return to the last save, leave out the batches since then, and return its step.

        Nothing that came of the blow-up is saved or stays in the log.

        Raises:
            InputError: that is not to be done, or has been done too often.
        """
        blown_up = (
            f"the loss blew up before step {step:,} (last checkpoint: step "
            f"{max(self._saved_step, 0):,})"
        )
        lower = f"a lower --learning-rate than {self.training.learning_rate:g}"
        if self.options.on_blow_up == "stop":
            raise InputError(
                f"{blown_up}; start a new --run with {lower}, or give --on-blow-up skip"
            )
        self._roll_backs += 1
        if self._roll_backs > MAX_ROLL_BACKS:
            raise InputError(
                f"{blown_up}, for the {self._roll_backs}th time; start a new --run with {lower}"
            )
        used_up = self.trainer.position.numpy()
        self.checkpoints.roll_back(self.trainer.state)
        self.trainer.position.assign(used_up)
        self.checkpoints.hold(self.trainer.state)
        back_to = self.trainer.steps_done
        notes.print(
            f"{blown_up}: going on from there without the {step - back_to:,} batches since",
            soft_wrap=True,
        )
        if self.log:
            self.log.cut(back_to)
        return back_to

    def _save_best(self, step: int, value: float) -> None:
        """Keep this step's checkpoint if no evaluation before was as good."""
        best = self.checkpoints.best
        is_best = (
            best is None or math.isnan(best.value) or self.evaluations.is_better(value, best.value)
        )
        if self.workers.of_chief(float(is_best)):
            self._save(step)
            self.checkpoints.mark_best(step, self.evaluations.measure, value)
            self._evaluations_since_best = 0
        else:
            self._evaluations_since_best += 1

    def _draw(self) -> None:
        lines = self.log.metrics.lines() if self.log else []
        if lines:
            run = self.options.run_dir
            draw_curves(run / CURVES, lines, run.name)

    def _log(self, step: int, split: str, values: dict[str, float]) -> None:
        if self.log:
            self.log.add(step, split, values)

    def _save(self, step: int) -> None:
        if step != self._saved_step:
            if self.log:
                self.log.metrics.sync()  # a checkpoint's own lines are there when it is
            self.checkpoints.save(step, self.trainer.state)
            self._saved_step = step
            self._roll_backs = 0

    def _say_how_to_go_on(self, step: int) -> None:
        notes.print(
            f"stopped and saved at step {step:,} of {self.training.steps:,}: "
            "the same command goes on from there",
            soft_wrap=True,
        )

    def _evaluate(self, step: int) -> dict[str, float] | None:
        """Measure what is held out, once a step, and log it; None where nothing is."""
        if self._evaluated and self._evaluated[0] == step:
            return self._evaluated[1]
        values = self.data.measure(self.trainer)
        if values:
            self._log(step, "eval", values)
            if self.log:
                self.log.metrics.sync()
            self._save_best(step, values[self.evaluations.measure])
        self._evaluated = step, values
        return values

    _evaluated: tuple[int, dict[str, float] | None] | None = None


class Window:
    """The sums over the steps since the last line of the log."""

    def __init__(self, trainer: Trainer) -> None:
        self.schedule = trainer.schedule
        self.sums: dict[str, float] = {}
        self.steps, self.seconds = 0, 0.0

    def add(self, sums: dict[str, float], steps: int, seconds: float) -> None:
        """Add the sums of some more steps, and the time they took."""
        self.sums = {name: self.sums.get(name, 0.0) + value for name, value in sums.items()}
        self.steps += steps
        self.seconds += seconds

    def values(self, step: int) -> dict[str, float]:
        """Return the means, and the learning rate of the update before `step`."""
        waited = {}
        if DATA_SECS in self.sums:
            waited["data_wait_rate"] = self.sums[DATA_SECS] / self.seconds
        return {
            **means(self.sums),
            NORM: self.sums[NORM] / self.steps,
            "padding_rate": 1 - self.sums[REAL_POSITIONS] / self.sums[POSITIONS],
            **waited,
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
