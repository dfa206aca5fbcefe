"""Checkpoints of a run: written whole or not at all, beside the training, and read back likewise.

Each is a directory `step-NNNNNNNN` that holds a `tf.train.Checkpoint`, in which every weight stands
under the name that Keras gives it. `best.json` names the one with the lowest evaluation loss.
"""

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import tensorflow as tf

from pipeline.console import notes
from pipeline.errors import InputError, JobError
from pipeline.files import write_atomically
from pipeline.strict_json import to_json

_PREFIX = "step-"
_PARTIAL = "partial-"
_NAME = "checkpoint"
_BEST = "best.json"


class Checkpoints:
    """The checkpoints in a directory.

    Attributes:
        directory: where they are.
        keep: how many of the last ones stay; the best one does too.
        writes: whether this process may change the directory, as only one of a run's workers may.
    """

    def __init__(self, directory: Path, keep: int = 3, *, writes: bool = True) -> None:
        self.directory = directory
        self.keep = keep
        self.writes = writes
        self._copy: dict[str, Any] = {}
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoints")
        self._pending: Future[None] | None = None

    def steps(self) -> list[int]:
        """Return the steps that there are checkpoints of, ascending."""
        found = self.directory.glob(f"{_PREFIX}*")
        return sorted(int(path.name.removeprefix(_PREFIX)) for path in found)

    @property
    def best(self) -> tuple[int, float] | None:
        """The step with the lowest evaluation loss that is kept, and that loss; None without."""
        try:
            found = json.loads((self.directory / _BEST).read_text(encoding="utf-8"))
            step, loss = int(found["step"]), float(found["loss"])
        except (OSError, ValueError, LookupError, TypeError):
            return None
        return (step, loss) if self._path(step).exists() else None

    def mark_best(self, step: int, loss: float) -> None:
        """Keep the checkpoint of a step as the best one, once it is written.

        Args:
            step: it has been, or is being saved.
            loss: of the evaluation.
        """
        self.wait()
        if self.writes:
            text = to_json({"step": step, "loss": loss}) + "\n"
            write_atomically(self.directory / _BEST, text.encode())
            self._remove_old()

    def forget_best(self, step: int) -> None:
        """Let a best checkpoint of up to this step go: others are measured on other data."""
        best = self.best
        if self.writes and best and best[0] <= step:
            (self.directory / _BEST).unlink()

    def hold(self, state: dict[str, Any]) -> None:
        """Copy the state, so that `roll_back` can return to it.

        Args:
            state: trackable objects, or dicts of variables, by name.
        """
        self.wait()  # the copy may still be on its way to the disk
        if not self._copy:
            with tf.device("CPU:0"):
                self._copy = tf.nest.map_structure(_variable_like, state)
        tf.nest.map_structure(lambda copy, value: copy.assign(value), self._copy, state)

    def roll_back(self, state: dict[str, Any]) -> None:
        """Set the state to what was held or saved last."""
        tf.nest.map_structure(lambda value, copy: value.assign(copy), state, self._copy)

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Copy the state, and let it be written while the training goes on.

        Errors in the writing come up at the next call of this class.

        Args:
            step: number of updates done.
            state: what to save: dicts of variables, or variables, by name.

        Raises:
            JobError: the one before could not be written.
        """
        self.hold(state)
        if self.writes:
            self._pending = self._writer.submit(self._write, step)

    def wait(self) -> None:
        """Return when nothing is left to be written.

        Raises:
            JobError: something could not be.
        """
        pending, self._pending = self._pending, None
        if pending:
            pending.result()

    def check(self) -> None:
        """Raise the error of a save that has failed by now; `JobError`."""
        if self._pending and self._pending.done():
            self.wait()

    def _write(self, step: int) -> None:
        partial = self.directory / f"{_PARTIAL}{step}"
        final = self._path(step)
        try:
            _remove([partial])
            partial.mkdir(parents=True)
            tf.train.Checkpoint(**self._copy).write(str(partial / _NAME))
            _remove([final])  # there only when it could not be read
            partial.rename(final)
        except (OSError, tf.errors.OpError) as error:
            _remove([partial])
            why = str(error).splitlines()[0]
            raise JobError(
                f"{final}: cannot be written: {why}; the checkpoints before it are whole"
            ) from error
        self._remove_old()

    def _remove_old(self) -> None:
        best = self.best
        old = self.steps()[: -self.keep]
        _remove(self._path(step) for step in old if not best or step != best[0])

    def restore(self, state: dict[str, Any]) -> int | None:
        """Read the last checkpoint that can be read into the state, and return its step.

        A checkpoint that cannot be read is named in a note, and removed if an older one can be.
        Leftovers of a save that was killed are removed.

        Returns:
            The step; None where there is no checkpoint.

        Raises:
            InputError: there are checkpoints, but none can be read.
        """
        if self.writes:
            _remove(self.directory.glob(f"{_PARTIAL}*"))
        unreadable: list[Path] = []
        for step in reversed(self.steps()):
            if self._read(step, state):
                if self.writes:
                    _remove(unreadable)
                return step
            notes.print(
                f"{self._path(step)}: cannot be read; going back to the one before", soft_wrap=True
            )
            unreadable.append(self._path(step))
        if unreadable:
            raise InputError(
                f"{self.directory}: none of the {len(unreadable)} checkpoints can be read; "
                "remove the directory to start the run again"
            )
        return None

    def restore_best(self, state: dict[str, Any]) -> int:
        """Read the checkpoint with the lowest evaluation loss into the state, and return its step.

        Raises:
            InputError: there is none, or it cannot be read.
        """
        best = self.best
        if best is None or not self._read(best[0], state):
            raise InputError(
                f"{self.directory}: no best checkpoint; train with --eval-every-steps to have one"
            )
        return best[0]

    def _path(self, step: int) -> Path:
        return self.directory / f"{_PREFIX}{step:08d}"

    def _read(self, step: int, state: dict[str, Any]) -> bool:
        checkpoint = tf.train.Checkpoint(**state)
        try:
            status = checkpoint.read(str(self._path(step) / _NAME))
            status.assert_existing_objects_matched().expect_partial()
        # TensorFlow has no one error for this: a short file, for one, is an IndexError.
        except (tf.errors.OpError, ValueError, LookupError, RuntimeError, AssertionError):
            return False
        return True


def _variable_like(variable: tf.Variable) -> tf.Variable:
    return tf.Variable(tf.zeros(variable.shape, variable.dtype), trainable=False)


def _remove(paths: Iterator[Path] | list[Path]) -> None:
    for path in paths:
        shutil.rmtree(path, ignore_errors=True)
