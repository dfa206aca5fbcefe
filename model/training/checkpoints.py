"""Checkpoints of a run: written atomically in the background, and verified when read.

Each is a directory `step-NNNNNNNN` with a `tf.train.Checkpoint`, in which weights are stored by
their Keras path, and `checksums.json`, the size and CRC-32C of each of its files. `best.json`
contains the step of the best checkpoint, the metric that selected it, and the metric's value.

In remote storage `checksums.json` is uploaded last, and a directory without it is no checkpoint.
TensorFlow reads and writes local files only: checkpoints are uploaded after they were written, and
downloaded before they are read.
"""

import contextlib
import logging
import math
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from pipeline.errors import InputError, JobError, reason, unreadable
from pipeline.storage.cache import CacheConfig
from pipeline.storage.files import (
    crc32c,
    make_folder,
    move_folder,
    publish,
    remove_folder,
    without_glob,
    write_atomically,
)
from pipeline.storage.local_copies import local_copy
from pipeline.storage.locks import temporary_folder
from pipeline.storage.remote import is_remote, sizes_below
from pipeline.storage.strict_json import JsonObject, from_json, read_json_file, to_json
from pipeline.storage.uploads import Uploads

logger = logging.getLogger(__name__)

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
"""Temporary errors of TensorFlow, which do not mean that a checkpoint is corrupt."""

_UPLOADS_AT_ONCE = 2
"""Checkpoints that may wait for their upload; each takes its size on the local disk."""

_READS = 10
"""Number of attempts to read a checkpoint if a concurrent training removes it meanwhile."""


State = Mapping[str, tf.Variable | Mapping[str, tf.Variable]]
"""Contents of a checkpoint: variables, or dictionaries of variables, by name."""


class DamagedCheckpointError(Exception):
    """A checkpoint's files do not match their checksums; the message names the file."""


class GoneError(Exception):
    """A checkpoint was removed while it was being read."""


@dataclass(frozen=True)
class Best:
    """The contents of `best.json`.

    Attributes:
        step: step of the checkpoint.
        metric: name of the evaluation metric that selected it; None in files of old releases.
        value: value of the metric; NaN if it was not finite.
    """

    step: int
    metric: str | None
    value: float

    @classmethod
    def from_json(cls, text: str) -> "Best":
        """Parse the text of `best.json`.

        Raises:
            ValueError: it is not JSON; `TypeError` or `KeyError` if its keys or values are others.
        """
        fields = from_json(text)
        if "metric" not in fields:  # an earlier release called the value of any metric a loss
            return cls(int(fields["step"]), None, _float(fields["loss"]))
        return cls(int(fields["step"]), fields["metric"], _float(fields["value"]))


class Checkpoints:
    """The checkpoints in a directory.

    Attributes:
        directory: directory of the checkpoints.
        keep: number of recent checkpoints to keep; the best one is kept as well.
        writes: whether this process may modify the directory; True for one worker of a run only.
        caching: local copies of remote checkpoints.
        uploads: background thread that writes to remote storage.
    """

    def __init__(
        self,
        directory: Path,
        keep: int = 3,
        *,
        writes: bool = True,
        caching: CacheConfig | None = None,
    ) -> None:
        self.directory = directory
        self.keep = keep
        self.writes = writes
        self.caching = caching or CacheConfig()
        self._copy: State = {}
        # One thread: there is one copy in memory, and it must not change while it is written.
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoints")
        self._pending: Future[None] | None = None
        self.uploads = Uploads()
        self._newly_marked: Best | None = None  # `best.json` may not be uploaded yet

    def steps(self) -> list[int]:
        """Return the steps of all checkpoints, ascending; see `checkpoint_steps`."""
        return checkpoint_steps(self.directory)

    @property
    def marked(self) -> Best | None:
        """The contents of `best.json`; None if it does not exist.

        Raises:
            InputError: the file is damaged.
            JobError: the file cannot be read.
        """
        return self._newly_marked or self._read_marked()

    def _read_marked(self) -> Best | None:
        return read_json_file(
            self.directory / _BEST,
            Best.from_json,
            "remove it: the next evaluation selects the best checkpoint again, and `checkpoint` "
            "last reads the last one",
        )

    @property
    def best(self) -> Best | None:
        """The contents of `best.json`; None if the file or its checkpoint does not exist.

        Raises:
            InputError: the file is damaged.
            JobError: the file cannot be read.
        """
        best = self.marked
        if best is None or best is self._newly_marked:
            return best
        return best if self._path(best.step).exists() else None

    def mark_best(self, step: int, metric: str, value: float) -> None:
        """Mark the checkpoint of a step as the best one; wait until it is written.

        In remote storage it is marked in the background, once it is uploaded.

        Args:
            step: step of a checkpoint that has been, or is being saved.
            metric: name of the evaluation metric.
            value: value of the metric.
        """
        self._wait_for_copy()
        if not self.writes:
            return
        text = to_json({"step": step, "metric": metric, "value": value}) + "\n"

        def mark() -> None:
            write_atomically(self.directory / _BEST, text.encode())
            self._remove_old()

        if is_remote(self.directory):
            self._newly_marked = Best(step, metric, value)
            self.uploads.submit(mark)
        else:
            mark()

    def forget_best(self, step: int) -> None:
        """Unpin the best checkpoint up to this step; later evaluations use another dataset."""
        best = self.best
        if self.writes and best and best.step <= step:
            self.wait()
            self._newly_marked = None
            (self.directory / _BEST).unlink()

    def hold(self, state: State) -> None:
        """Copy the state in memory, so that `roll_back` can restore it.

        Args:
            state: the variables.
        """
        self._wait_for_copy()  # the background thread may still be writing the previous copy
        if not self._copy:
            # A second model and its moments may not fit into a device's memory.
            with tf.device("CPU:0"):
                self._copy = tf.nest.map_structure(_variable_like, state)
        tf.nest.map_structure(lambda copy, value: copy.assign(value), self._copy, state)

    def roll_back(self, state: State) -> None:
        """Restore the state from the last `hold` or `save`."""
        tf.nest.map_structure(lambda value, copy: value.assign(copy), state, self._copy)

    def save(self, step: int, state: State) -> None:
        """Copy the state, and write the copy in the background while the training continues.

        A write error is raised by the next call of `save`, `hold`, `wait` or `check`.

        Args:
            step: number of steps done.
            state: the variables.

        Raises:
            JobError: the previous checkpoint could not be written.
        """
        self.hold(state)
        if self.writes:
            self._pending = self._writer.submit(self._write, step)

    def wait(self) -> None:
        """Wait until the pending checkpoint is written, and all uploads are done.

        Raises:
            JobError: it could not be written.
        """
        self._wait_for_copy()
        self.uploads.wait()

    @contextlib.contextmanager
    def settled(self) -> Iterator[None]:
        """Wait at the end until nothing is being written, also if the body fails.

        The lock of the run is released after that, and another process may write the run.

        Raises:
            JobError: the body succeeded, but the pending checkpoint could not be written.
        """
        try:
            yield
        except BaseException:
            # The error of the body is the one to report.
            for wait in (self._wait_for_copy, self.uploads.wait):
                with contextlib.suppress(Exception):
                    wait()
            raise
        self.wait()

    def _wait_for_copy(self) -> None:
        """Wait until the copy of the state is on a disk."""
        # Forgotten before its error is raised, so that the error is raised once.
        pending, self._pending = self._pending, None
        if pending:
            pending.result()

    def check(self) -> None:
        """Raise the `JobError` of a background save that has already failed; do not wait."""
        self.uploads.check()
        if self._pending and self._pending.done():
            self._wait_for_copy()

    def _write(self, step: int) -> None:
        final = self._path(step)
        with contextlib.ExitStack() as stack:
            try:
                partial = stack.enter_context(self._partial(step))
                tf.train.Checkpoint(**self._copy).write(str(partial / _NAME))
                write_checksums(partial)
                if is_remote(final):
                    self.uploads.wait(_UPLOADS_AT_ONCE)
                    kept = stack.pop_all()  # until it is uploaded
                    self.uploads.submit(lambda: self._upload(partial, final, kept))
                    return
                publish(partial, final)
            except (OSError, tf.errors.OpError) as error:
                raise JobError(
                    f"{final}: cannot be written: {reason(error)}; earlier checkpoints are intact"
                ) from error
        self._remove_old()

    @contextlib.contextmanager
    def _partial(self, step: int) -> Iterator[Path]:
        """Yield a new local directory, which is removed unless it is renamed."""
        if is_remote(self.directory):
            with temporary_folder() as partial:
                yield partial
            return
        partial = self.directory / f"{_PARTIAL}{step}"
        _remove([partial])
        make_folder(partial)
        try:
            yield partial
        finally:
            _remove([partial])

    def _upload(self, partial: Path, final: Path, kept: contextlib.ExitStack) -> None:
        with kept:
            remove_folder(final, _CHECKSUMS)  # what a killed upload left
            publish(partial, final, _CHECKSUMS)
        self._remove_old()

    def _remove_old(self) -> None:
        # While a better one is being uploaded, readers still see the one before.
        best = {mark.step for mark in (self._newly_marked, self._read_marked()) if mark}
        # Only after a newer one is complete: a kill at any moment leaves a whole checkpoint.
        for step in self.steps()[: -self.keep]:
            if step in best:
                continue
            if is_remote(self.directory):
                remove_folder(self._path(step), _CHECKSUMS)
            else:
                # Rename before removing, so that a concurrent reader sees all files or none.
                _remove([self._path(step).replace(self.directory / f"{_PARTIAL}{step}")])

    def restore(self, state: State) -> int | None:
        """Read the last undamaged checkpoint into the state, and return its step.

        A damaged checkpoint is reported, and renamed if an older one can be read. Leftovers of a
        killed save are removed.

        Returns:
            The step; None if there is no checkpoint.

        Raises:
            InputError: all checkpoints are damaged, or the last one belongs to another model or
                gives no permission.
            JobError: a checkpoint cannot be read now, for example from a lost disk.
        """
        if self.writes and is_remote(self.directory):
            self._remove_unfinished()
        elif self.writes:
            _remove(self.directory.glob(f"{_PARTIAL}[0-9]*"))
        for _ in range(_READS):
            try:
                return self._restore_last(state)
            except GoneError:  # removed by a running training, which has written newer ones
                continue
        raise JobError(f"{self.directory}: checkpoints are removed while they are being read")

    def _remove_unfinished(self) -> None:
        """Remove checkpoints that a killed training did not upload whole."""
        names = {name.split("/")[0] for name in sizes_below(self.directory) if "/" in name}
        for step in set(_steps_of(names)) - set(self.steps()):
            remove_folder(self._path(step), _CHECKSUMS)

    def _restore_last(self, state: State) -> int | None:
        damaged: list[int] = []
        for step in reversed(self.steps()):
            try:
                self._read(step, state)
            except DamagedCheckpointError as error:
                logger.info(
                    f"{self._path(step)}: damaged ({error}); falling back to the one before"
                )
                damaged.append(step)
            else:
                if self.writes:
                    for each in damaged:
                        self._set_aside(each)
                return step
        if damaged:
            raise InputError(
                f"{self.directory}: every checkpoint is damaged ({len(damaged)} in all); put one "
                "back from a backup, or start again with another `run_dir`"
            )
        return None

    def restore_best(self, state: State) -> int:
        """Read the best checkpoint by evaluation into the state, and return its step.

        Raises:
            InputError: there is no best checkpoint, it is damaged or missing, or it belongs to
                another model.
            JobError: it cannot be read now.
        """
        step = 0
        for _ in range(_READS):
            best = self.marked
            if best is None:
                raise InputError(
                    f"{self.directory}: no best checkpoint; train with `eval_every_steps` to "
                    "have one"
                )
            step = best.step
            try:
                self._read(step, state)
            except DamagedCheckpointError as error:
                raise InputError(
                    f"{self._path(step)}: the best checkpoint is damaged ({error}); put it back "
                    "from a backup, or give `checkpoint` last"
                ) from error
            except GoneError:  # a running training may have marked a better one meanwhile
                continue
            return step
        raise InputError(
            f"{self._path(step)}: the best checkpoint is missing; put it back from a backup, or "
            "give `checkpoint` last"
        )

    def _path(self, step: int) -> Path:
        return self.directory / checkpoint_name(step)

    def _set_aside(self, step: int) -> None:
        """Rename a damaged checkpoint, so that it is ignored but can be examined."""
        path, number = self.directory / f"{_DAMAGED}{step:08d}", 1
        while path.exists():
            number += 1
            path = self.directory / f"{_DAMAGED}{step:08d}-{number}"
        move_folder(self._path(step), path)
        logger.info(f"{self._path(step)}: kept as {path.name}")

    def _read(self, step: int, state: State) -> None:
        """Read a checkpoint into the state.

        Raises:
            DamagedCheckpointError: the checkpoint's files are corrupt.
            GoneError: the checkpoint was removed.
            InputError: the checkpoint is intact, but belongs to another model.
            JobError: the checkpoint cannot be read now.
        """
        path = self._path(step)
        try:
            with local_copy(path, self.caching) as local, without_glob(local) as folder:
                is_verified = verify(local)
                checkpoint = tf.train.Checkpoint(**state)
                status = checkpoint.read(str(folder / _NAME))
                # Every variable of ours must be in the file; more in the file (an older head, say)
                # is no error.
                status.assert_existing_objects_matched().expect_partial()
        except (OSError, *_PASSING) as error:
            if not path.exists():
                raise GoneError from error
            then = "; nothing was changed: try again when it can be"
            raise unreadable(path, error, then) from error
        # TensorFlow raises many types for a corrupt checkpoint, for example IndexError for a short
        # file. If the checksums were verified, the file is intact and the model must be different.
        except (tf.errors.OpError, ValueError, LookupError, RuntimeError, AssertionError) as error:
            if not path.exists():
                raise GoneError from error
            why = reason(error)
            if is_verified:
                raise InputError(f"{path}: does not fit the run's config.json: {why}") from error
            raise DamagedCheckpointError(why) from error


def checkpoint_name(step: int) -> str:
    """Return the directory name of a step's checkpoint."""
    return f"step-{step:08d}"


def checkpoint_steps(directory: Path) -> list[int]:
    """Return the steps of a directory's checkpoints, ascending.

    Other names and plain files are ignored, for example a user's copy `step-00000020.bak`.

    Raises:
        InputError, JobError: the directory exists but cannot be listed.
    """
    if is_remote(directory):
        markers = [name for name in sizes_below(directory) if name.endswith(f"/{_CHECKSUMS}")]
        return _steps_of(name.split("/")[0] for name in markers)
    try:
        names = [path.name for path in directory.iterdir() if path.is_dir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise unreadable(directory, error) from error
    return _steps_of(names)


def _steps_of(names: Iterable[str]) -> list[int]:
    """Return the steps of those names that are a checkpoint's, ascending."""
    matches = [re.fullmatch(r"step-(\d{8,})", name, re.ASCII) for name in names]
    return sorted(int(match[1]) for match in matches if match)


def write_checksums(checkpoint: Path) -> None:
    """Write `checksums.json`: size in bytes and CRC-32C of each file of a checkpoint."""
    files: JsonObject = {
        file.name: {"bytes": file.stat().st_size, "crc32c": crc32c(file)}
        for file in sorted(filter(Path.is_file, checkpoint.iterdir()))
    }
    text = to_json({"files": files}, indent=1) + "\n"
    (checkpoint / _CHECKSUMS).write_text(text, encoding="utf-8")


def verify(checkpoint: Path) -> bool:
    """Compare a checkpoint's files with its checksums.

    Returns:
        Whether the checkpoint has checksums; those of earlier releases have none.

    Raises:
        DamagedCheckpointError: a file is missing or corrupt.
        OSError: a file cannot be read.
    """
    file = checkpoint / _CHECKSUMS
    names = {path.name for path in checkpoint.iterdir()}
    if file.name not in names:
        for path in filter(Path.is_file, checkpoint.iterdir()):
            crc32c(path)  # raises OSError for an unreadable file, which is not a damaged one
        return False
    try:
        listed = {
            name: (facts["bytes"], facts["crc32c"])
            for name, facts in from_json(file.read_bytes())["files"].items()
        }
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DamagedCheckpointError(f"{_CHECKSUMS} cannot be parsed") from error
    for name, facts in listed.items():
        if name not in names:
            raise DamagedCheckpointError(f"{name} is missing")
        path = checkpoint / name
        if (path.stat().st_size, crc32c(path)) != facts:
            raise DamagedCheckpointError(f"{name} does not have the checksum of {_CHECKSUMS}")
    unlisted = sorted(name for name in names - listed.keys() if name.startswith(f"{_NAME}."))
    if unlisted or not listed:
        raise DamagedCheckpointError(
            f"{_CHECKSUMS} does not list {', '.join(unlisted) or 'any file'}"
        )
    return True


def _float(value: Any) -> float:
    """Return a number as JSON has it, where NaN is null."""
    return math.nan if value is None else float(value)


def _variable_like(variable: tf.Variable) -> tf.Variable:
    return tf.Variable(tf.zeros(variable.shape, variable.dtype), trainable=False)


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        shutil.rmtree(path, ignore_errors=True)
