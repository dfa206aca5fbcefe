"""A run's log of metrics: `metrics.jsonl`, TensorBoard events, `curves.png`."""

import contextlib
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from model.run_config import CURVES, LOGS, METRICS
from model.training.curves import draw_curves
from model.training.metrics_file import MetricsFile
from pipeline.errors import JobError
from pipeline.storage.files import write_atomically
from pipeline.storage.locks import temporary_folder
from pipeline.storage.remote import download, is_remote
from pipeline.storage.uploads import Uploads

UPLOAD_EVERY_SECS = 15.0
"""Least time between two uploads of a log that grows; checkpoints upload it as well."""


class RunLog:
    """A run's log of metrics; only the chief writes, the logs of other workers do nothing.

    The log of a remote run is kept in a temporary directory and uploaded in the background.

    Attributes:
        run: directory of the run.
    """

    def __init__(
        self, run: Path, first_step: int, *, writes: bool = True, uploads: Uploads | None = None
    ) -> None:
        """Open the log, and remove lines of later steps, which will be trained again.

        Args:
            run: directory of the run.
            first_step: current step of the run.
            writes: whether this process writes the run's files.
            uploads: uploads of a remote run.
        """
        self.run = run
        self._copy = _LocalCopy(run, uploads or Uploads()) if is_remote(run) and writes else None
        self._folder = self._copy.folder if self._copy else run
        self._metrics = MetricsFile(self._folder / METRICS, first_step) if writes else None
        self._events = tf.summary.create_file_writer(str(self._folder / LOGS)) if writes else None

    def lines(self) -> list[dict[str, Any]]:
        """Return the lines of the log; empty if another process writes it."""
        return self._metrics.lines() if self._metrics else []

    def cut(self, step: int) -> None:
        """Remove the lines of later steps, which will be trained again."""
        if self._metrics:
            self._metrics.cut(step)

    def remove(self, step: int, split: str) -> None:
        """Remove the line of a split at a step, which is measured again."""
        if self._metrics:
            self._metrics.remove(step, split)

    def add(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Write the metrics of a split at a step."""
        if not (self._metrics and self._events):
            return
        self._metrics.add(step, split, values)
        with self._events.as_default():
            for name, value in values.items():
                tf.summary.scalar(f"{split}/{name}", value, step)
        self._events.flush()
        if self._copy:
            self._copy.upload_soon()

    def sync(self) -> None:
        """Wait until the lines are on the disk; those of a remote run are uploaded next."""
        if self._metrics:
            self._metrics.sync()
        if self._copy:
            self._copy.upload(self._draw)

    def draw(self) -> None:
        """Plot the metrics, if there are any; of a remote run, wait until all is uploaded."""
        if self._copy:
            self._copy.upload(self._draw)
            self._copy.uploads.wait()
        else:
            self._draw()

    def _draw(self) -> None:
        lines = self.lines()
        if lines:
            draw_curves(self._folder / CURVES, lines, self.run.name)


class _LocalCopy:
    """The local copy of a remote run's log; it exists as long as this object.

    Attributes:
        folder: the local directory.
        uploads: background thread for the uploads.
    """

    def __init__(self, run: Path, uploads: Uploads) -> None:
        self.uploads = uploads
        with contextlib.ExitStack() as stack:
            self.folder = stack.enter_context(temporary_folder())
            weakref.finalize(self, stack.pop_all().close)
        self._run = run
        self._uploaded: dict[Path, int] = {}  # by file, the time of its last change
        self._last_secs = time.monotonic()
        with contextlib.suppress(FileNotFoundError):
            download(run / METRICS, self.folder / METRICS)

    def upload_soon(self) -> None:
        """Upload what has changed, in the background, unless that was done a short time ago."""
        if time.monotonic() >= self._last_secs + UPLOAD_EVERY_SECS:
            self._submit(self._tolerant)

    def upload(self, before: Callable[[], None]) -> None:
        """Upload what has changed, in the background, where `before` is called first."""

        def work() -> None:
            before()
            self._changed()

        self._submit(work)

    def _submit(self, work: Callable[[], None]) -> None:
        self.uploads.submit(work)
        self._last_secs = time.monotonic()

    def _tolerant(self) -> None:
        # The next upload contains the same lines and more.
        with contextlib.suppress(JobError):
            self._changed()

    def _changed(self) -> None:
        """Upload the files that have changed since they were uploaded."""
        for path in sorted(filter(Path.is_file, self.folder.rglob("*"))):
            version = path.stat().st_mtime_ns
            if self._uploaded.get(path) != version:
                name = path.relative_to(self.folder).as_posix()
                write_atomically(self._run / name, path.read_bytes())
                self._uploaded[path] = version
