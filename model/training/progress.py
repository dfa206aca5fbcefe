"""Show a training's progress: a bar on a terminal, else a plain line every few seconds."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.progress import progress, stderr

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
    return " · ".join(
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
        self.started = self.printed = time.monotonic()

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
        speed = f"{values['tokens_per_sec']:,.0f} tokens/s"
        line = f"step {step:,} · {status_line(values)} · {speed}"
        self.bar.update(self.task, completed=step * self.batch_size, status=line)
        now = time.monotonic()
        if self.bar.disable and (now - self.printed >= PLAIN_LINE_SECS or step == self.steps):
            self.printed = now
            left = (now - self.started) / (step - self.first_step) * (self.steps - step)
            stderr.print(
                f"{line} · {time_left(left)} left (of {self.steps:,} steps)", soft_wrap=True
            )
