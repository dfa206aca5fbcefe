"""Show a training's progress: a bar on a terminal, else a plain line every few seconds."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.progress import SEPARATOR, counted, progress, stderr

NOTEWORTHY_WAIT_RATE = 0.05
"""Share of time spent waiting for batches above which the progress line shows it."""

PLAIN_LINE_SECS = 15.0
"""Interval between plain lines if the output is not a terminal."""


MEASURES = {
    "masked_lm_accuracy": "masked",
    "next_sentence_accuracy": "next",
    "task_accuracy": "right",
}
"""Labels of the metrics that the progress line shows, by metric name."""


def status_line(values: dict[str, float]) -> str:
    """Return a window's metrics as one short line."""
    shares = [f"{word} {values[name]:.1%}" for name, word in MEASURES.items() if name in values]
    if values.get("data_wait_rate", 0) > NOTEWORTHY_WAIT_RATE:
        shares.append(f"waiting for data {values['data_wait_rate']:.0%}")
    return SEPARATOR.join(
        [f"loss {values['loss']:.3f}", *shares, f"rate {values['learning_rate']:.1e}"]
    )


def time_left(seconds: float) -> str:
    """Return a duration as `1:02:03`."""
    minutes, secs = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{secs:02}"


class Progress:
    """A progress bar on a terminal; a plain line every `PLAIN_LINE_SECS` otherwise."""

    def __init__(self, steps: int, first_step: int, batch_size: int) -> None:
        self.steps = steps
        self.first_step = first_step
        self.batch_size = batch_size
        self.bar = progress()
        self.bar.disable = not stderr.is_terminal
        self.task = self.bar.add_task(
            "training",
            total=steps * batch_size,
            completed=first_step * batch_size,
            unit="examples",
            status="compiling",
        )
        self.printed = time.monotonic()
        self.measured_from: tuple[int, float] | None = None
        """Step and time of the first update: the call before it compiles, which takes long."""

    @contextmanager
    def shown(self) -> Iterator["Progress"]:
        """Show the bar inside the context."""
        with self.bar:
            yield self

    def update(self, step: int, values: dict[str, float]) -> None:
        """Show the progress after a call of the training loop.

        Args:
            step: number of steps done.
            values: metrics of the latest steps, by name.
        """
        now = time.monotonic()
        line = SEPARATOR.join([f"step {step:,}", status_line(values), *self._speed(values)])
        self.bar.update(self.task, completed=step * self.batch_size, status=line)
        if self.bar.disable and (now - self.printed >= PLAIN_LINE_SECS or step == self.steps):
            self.printed = now
            line = SEPARATOR.join([line, *self._left(step, now)])
            stderr.print(f"{line} (of {counted(self.steps, 'steps')})", soft_wrap=True)
        self.measured_from = self.measured_from or (step, now)

    def _speed(self, values: dict[str, float]) -> Iterator[str]:
        """Yield the speed if it was measured: not after the first call, which compiles."""
        if self.measured_from:
            yield f"{values['tokens_per_sec']:,.0f} tokens/s"

    def _left(self, step: int, now: float) -> Iterator[str]:
        """Yield the time left at the speed since the first update, if there were steps since."""
        first_step, since = self.measured_from or (step, now)
        if step > first_step:  # a rollback goes back beyond it
            left = (now - since) / (step - first_step) * (self.steps - step)
            yield f"{time_left(left)} left"
