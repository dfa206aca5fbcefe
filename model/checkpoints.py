"""Checkpoints of a run: written whole or not at all, and the last one that can be read is used.

Each is a directory `step-NNNNNNNN` that holds a `tf.train.Checkpoint`, in which every weight stands
under the name that Keras gives it.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf

from pipeline.console import notes
from pipeline.errors import InputError

_PREFIX = "step-"
_PARTIAL = "partial-"
_NAME = "checkpoint"


class Checkpoints:
    """The checkpoints in a directory.

    Attributes:
        directory: where they are.
        keep: how many of the last ones stay.
        writes: whether this process may change the directory, as only one of a run's workers may.
    """

    def __init__(self, directory: Path, keep: int = 3, *, writes: bool = True) -> None:
        self.directory = directory
        self.keep = keep
        self.writes = writes

    def steps(self) -> list[int]:
        """Return the steps that there are checkpoints of, ascending."""
        found = self.directory.glob(f"{_PREFIX}*")
        return sorted(int(path.name.removeprefix(_PREFIX)) for path in found)

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Write a checkpoint, then remove those that are too old.

        Args:
            step: number of updates done.
            state: what to save: trackable objects, or dicts of variables, by name.

        Returns:
            The checkpoint's directory.
        """
        partial = self.directory / f"{_PARTIAL}{step}"
        final = self._path(step)
        _remove([partial])
        partial.mkdir(parents=True)
        tf.train.Checkpoint(**state).write(str(partial / _NAME))
        _remove([final])  # there only when it could not be read
        partial.rename(final)
        _remove(self._path(old) for old in self.steps()[: -self.keep])
        return final

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


def _remove(paths: Iterator[Path] | list[Path]) -> None:
    for path in paths:
        shutil.rmtree(path, ignore_errors=True)
