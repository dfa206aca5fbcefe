"""Checkpoints of a run: written whole or not at all, next to the training, and verified when read.

Each is a directory `step-NNNNNNNN` with a `tf.train.Checkpoint`, in which every weight has the name
that Keras gives it, and `checksums.json`, the size and CRC-32C of each of its files. `best.json`
names the one with the best evaluation, the metric and its value.
"""

import math
import re
import shutil
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from pipeline.console import notes
from pipeline.errors import InputError, JobError
from pipeline.storage.files import crc32c, make_folder, publish, reason, write_atomically
from pipeline.storage.strict_json import from_json, to_json

_PARTIAL = "partial-"
_DAMAGED = "damaged-"
_NAME = "checkpoint"
_BEST = "best.json"
_CHECKSUMS = "checksums.json"

_PASSING = (
    tf.errors.AbortedError,
    tf.errors.DeadlineExceededError,
    tf.errors.PermissionDeniedError,
    tf.errors.ResourceExhaustedError,
    tf.errors.UnavailableError,
)
"""TensorFlow's errors that say nothing about the bytes of a checkpoint."""

_READS = 10
"""Attempts at checkpoints that a training removes while they are being read."""


class DamagedError(Exception):
    """The bytes of a checkpoint are not those that were written; the message says which."""


class GoneError(Exception):
    """A checkpoint was removed while it was being read."""


@dataclass(frozen=True)
class Best:
    """The contents of `best.json`.

    Attributes:
        step: updates done at that checkpoint.
        metric: name of the evaluation metric that selected it; None in files that do not say.
        value: of the metric; NaN if it was not a finite number.
    """

    step: int
    metric: str | None
    value: float


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
        """Return the steps that there are checkpoints of, ascending; `checkpoint_steps`."""
        return checkpoint_steps(self.directory)

    @property
    def marked(self) -> Best | None:
        """What `best.json` says; None without one.

        Raises:
            InputError: it is damaged.
            JobError: it cannot be read.
        """
        file = self.directory / _BEST
        try:
            fields = from_json(file.read_text(encoding="utf-8"))
            if "metric" not in fields:  # an earlier release called the value of any metric a loss
                fields = {"step": fields["step"], "metric": None, "value": fields["loss"]}
            value = fields["value"]
            return Best(
                int(fields["step"]), fields["metric"], math.nan if value is None else float(value)
            )
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise JobError(f"{file}: cannot be read: {error.strerror}") from error
        except (ValueError, LookupError, TypeError) as error:
            raise InputError(
                f"{file}: damaged: {error!r}; remove it: the next evaluation selects the best "
                "checkpoint again, and --checkpoint last reads the last one"
            ) from error

    @property
    def best(self) -> Best | None:
        """What `best.json` says of a checkpoint that is there; None without one.

        Raises:
            InputError: as `marked`; `JobError` too.
        """
        best = self.marked
        return best if best and self._path(best.step).exists() else None

    def mark_best(self, step: int, metric: str, value: float) -> None:
        """Keep the checkpoint of a step as the best one, once it is written.

        Args:
            step: it has been, or is being saved.
            metric: name of the evaluation metric.
            value: of the metric.
        """
        self.wait()
        if self.writes:
            text = to_json({"step": step, "metric": metric, "value": value}) + "\n"
            write_atomically(self.directory / _BEST, text.encode())
            self._remove_old()

    def forget_best(self, step: int) -> None:
        """Let a best checkpoint of up to this step go: others are measured on other data."""
        best = self.best
        if self.writes and best and best.step <= step:
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
            make_folder(partial)
            tf.train.Checkpoint(**self._copy).write(str(partial / _NAME))
            write_checksums(partial)
            publish(partial, final)
        except (OSError, tf.errors.OpError) as error:
            _remove([partial])
            raise JobError(
                f"{final}: cannot be written: {reason(error)}; the checkpoints before it are whole"
            ) from error
        self._remove_old()

    def _remove_old(self) -> None:
        best = self.best
        for step in self.steps()[: -self.keep]:
            if not best or step != best.step:
                # Who reads it sees all of its files or none.
                _remove([self._path(step).replace(self.directory / f"{_PARTIAL}{step}")])

    def restore(self, state: dict[str, Any]) -> int | None:
        """Read the last undamaged checkpoint into the state, and return its step.

        A damaged one is named in a note, and renamed if an older one can be read. Leftovers of a
        save that was killed are removed.

        Returns:
            The step; None where there is no checkpoint.

        Raises:
            InputError: all of them are damaged, or the last one is of another model.
            JobError: one cannot be read now, whatever its bytes are: a permission, a lost disk.
        """
        if self.writes:
            _remove(self.directory.glob(f"{_PARTIAL}[0-9]*"))
        for _ in range(_READS):
            try:
                return self._restore_last(state)
            except GoneError:  # by a training, which has newer ones
                continue
        raise JobError(f"{self.directory}: the checkpoints disappear while they are being read")

    def _restore_last(self, state: dict[str, Any]) -> int | None:
        damaged: list[int] = []
        for step in reversed(self.steps()):
            try:
                self._read(step, state)
            except DamagedError as error:
                notes.print(
                    f"{self._path(step)}: damaged ({error}); going back to the one before",
                    soft_wrap=True,
                )
                damaged.append(step)
            else:
                if self.writes:
                    for each in damaged:
                        self._set_aside(each)
                return step
        if damaged:
            raise InputError(
                f"{self.directory}: all of the {len(damaged)} checkpoints are damaged; put one "
                "back from a backup, or start again with another --run"
            )
        return None

    def restore_best(self, state: dict[str, Any]) -> int:
        """Read the best checkpoint by evaluation into the state, and return its step.

        Raises:
            InputError: there is none, or it is damaged or missing, or of another model.
            JobError: it cannot be read now.
        """
        step = 0
        for _ in range(_READS):
            best = self.marked
            if best is None:
                raise InputError(
                    f"{self.directory}: no best checkpoint; train with --eval-every-steps to "
                    "have one"
                )
            step = best.step
            try:
                self._read(step, state)
            except DamagedError as error:
                raise InputError(
                    f"{self._path(step)}: the best checkpoint is damaged ({error}); put it back "
                    "from a backup, or give --checkpoint last"
                ) from error
            except GoneError:  # a training may have a better one by now
                continue
            return step
        raise InputError(
            f"{self._path(step)}: the best checkpoint is missing; put it back from a backup, or "
            "give --checkpoint last"
        )

    def _path(self, step: int) -> Path:
        return self.directory / checkpoint_name(step)

    def _set_aside(self, step: int) -> None:
        """Rename a damaged checkpoint, so that a person can look at it."""
        path, number = self.directory / f"{_DAMAGED}{step:08d}", 1
        while path.exists():
            number += 1
            path = self.directory / f"{_DAMAGED}{step:08d}-{number}"
        publish(self._path(step), path)
        notes.print(f"{self._path(step)}: kept as {path.name}", soft_wrap=True)

    def _read(self, step: int, state: dict[str, Any]) -> None:
        """Read a checkpoint into the state.

        Raises:
            DamagedError: its bytes are not those that were written.
            GoneError: it is not there any more.
            InputError: it is whole, but of another model.
            JobError: it cannot be read now.
        """
        path = self._path(step)
        try:
            is_verified = verify(path)
            checkpoint = tf.train.Checkpoint(**state)
            status = checkpoint.read(str(path / _NAME))
            status.assert_existing_objects_matched().expect_partial()
        except (OSError, *_PASSING) as error:
            if not path.exists():
                raise GoneError from error
            raise JobError(
                f"{path}: cannot be read: {reason(error)}; nothing was changed: "
                "try again when it can be"
            ) from error
        # TensorFlow has no one error for this: a short file, for one, is an IndexError.
        except (tf.errors.OpError, ValueError, LookupError, RuntimeError, AssertionError) as error:
            if not path.exists():
                raise GoneError from error
            why = reason(error)
            if is_verified:
                raise InputError(f"{path}: does not fit the run's config.json: {why}") from error
            raise DamagedError(why) from error


def checkpoint_name(step: int) -> str:
    """Return the name of a step's checkpoint, which is a directory."""
    return f"step-{step:08d}"


def checkpoint_steps(directory: Path) -> list[int]:
    """Return the steps that a directory has checkpoints of, ascending.

    Other names in it are not ours: a copy `step-00000020.bak`, say.

    Raises:
        JobError: the directory cannot be listed, which does not mean that it is empty.
    """
    try:
        names = [path.name for path in directory.iterdir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise JobError(f"{directory}: cannot be listed: {error.strerror}") from error
    matches = [re.fullmatch(r"step-(\d{8,})", name, re.ASCII) for name in names]
    return sorted(int(match[1]) for match in matches if match)


def write_checksums(checkpoint: Path) -> None:
    """Write the size in bytes and the CRC-32C of each file of a checkpoint next to them."""
    files = {
        file.name: {"bytes": file.stat().st_size, "crc32c": crc32c(file)}
        for file in sorted(filter(Path.is_file, checkpoint.iterdir()))
    }
    text = to_json({"files": files}, indent=1) + "\n"
    (checkpoint / _CHECKSUMS).write_text(text, encoding="utf-8")


def verify(checkpoint: Path) -> bool:
    """Compare a checkpoint's files with its checksums.

    Returns:
        Whether it has any: those of earlier releases have none.

    Raises:
        DamagedError: a file is missing, or has other bytes.
        OSError: a file cannot be read.
    """
    file = checkpoint / _CHECKSUMS
    names = {path.name for path in checkpoint.iterdir()}
    if file.name not in names:
        for path in filter(Path.is_file, checkpoint.iterdir()):
            crc32c(path)  # what cannot be read is not taken for damaged
        return False
    try:
        listed = {
            name: (facts["bytes"], facts["crc32c"])
            for name, facts in from_json(file.read_bytes())["files"].items()
        }
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DamagedError(f"{_CHECKSUMS} cannot be parsed") from error
    for name, facts in listed.items():
        if name not in names:
            raise DamagedError(f"{name} is missing")
        path = checkpoint / name
        if (path.stat().st_size, crc32c(path)) != facts:
            raise DamagedError(f"{name} does not have the checksum of {_CHECKSUMS}")
    unlisted = sorted(name for name in names - listed.keys() if name.startswith(f"{_NAME}."))
    if unlisted or not listed:
        raise DamagedError(f"{_CHECKSUMS} does not list {', '.join(unlisted) or 'any file'}")
    return True


def _variable_like(variable: tf.Variable) -> tf.Variable:
    return tf.Variable(tf.zeros(variable.shape, variable.dtype), trainable=False)


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        shutil.rmtree(path, ignore_errors=True)
