"""The folder through which workers hand files to the process that submitted the job.

We delete only what a job of ours made, by name, and folders only when they are empty. Local paths
are removed by Python: Beam takes a path to be removed for a glob.
"""

import contextlib
import socket
import uuid
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions

from pipeline.console import notes
from pipeline.errors import InputError, JobError
from pipeline.storage.locks import LOCK, only_writer, read_holder
from pipeline.storage.publishing import undo
from pipeline.storage.remote_files import is_local_path, names_in, remove_files, remove_folders

_NAMES = ("mark-*", "documents-*", "train-*", "eval-*", "*vocab.txt", "*.json")
"""What jobs leave in their folder."""


class OnSharedStorage(beam.DoFn):
    """Pass-through DoFn that fails if the worker does not share storage with the submitter.

    Where it does not, its files would end up on its own disk, unnoticed until the job's end.
    """

    def __init__(self, folder: str) -> None:
        """Leave a mark in the folder, before the job is submitted."""
        self._folder = folder
        self._mark = FileSystems.join(folder, f"mark-{uuid.uuid4().hex}")
        FileSystems.create(self._mark).close()

    def start_bundle(self) -> None:  # Flink would wait 3 minutes after a `setup` that failed
        """Look for the mark.

        Raises:
            JobError: it is not there.
        """
        if not FileSystems.exists(self._mark):
            raise JobError(
                f"{self._folder} is not the same folder on worker {socket.gethostname()} as on the "
                "machine that submitted the job; write to storage that all of them share"
            )

    def process(self, element: Any) -> Iterator[Any]:
        """Pass an element on."""
        yield element


def folder_beside(output: Path, options: PipelineOptions) -> contextlib.AbstractContextManager[str]:
    """Return a `job_folder` in Beam's `--temp_location`, or else in the directory of a file."""
    location = options.view_as(GoogleCloudOptions).temp_location or str(output.parent.absolute())
    return job_folder(location, f".{output.name}.")


@contextlib.contextmanager
def job_folder(parent: str, prefix: str) -> Iterator[str]:
    """Yield a new folder for one job, and remove what the job left in it.

    Folders of jobs that were killed are removed first, where it is certain that they are dead: a
    process on this machine had the lock of the folder, and no process has it now.

    Args:
        parent: folder to put it in; made if it is missing, and removed if it stays empty.
        prefix: what the folder's name begins with; an id follows.
    """
    folder = FileSystems.join(parent, f"{prefix}{uuid.uuid4().hex}")
    if is_local_path(parent):
        _remove_left(Path(parent), prefix)
        lock: contextlib.AbstractContextManager[None] = only_writer(Path(folder), folder)
    else:
        FileSystems.mkdirs(folder)
        lock = contextlib.nullcontext()
    with lock:
        try:
            yield folder
        except BaseException:
            undo(folder)
            raise
        finally:
            _empty(folder)


def _remove_left(parent: Path, prefix: str) -> None:
    """Remove folders that killed jobs left behind."""
    for name in names_in(str(parent)):
        folder = parent / name
        holder = read_holder(folder / LOCK) if name.startswith(prefix) else None
        if holder is None:
            continue
        if holder.host != socket.gethostname():  # whose locks may not reach this machine
            notes.print(f"{folder}: left by {holder}; remove it if that has ended", soft_wrap=True)
            continue
        try:
            with only_writer(folder, str(folder)):
                undo(str(folder))
                _empty(str(folder))
            remove_folders([str(folder)])
        except InputError:  # it is running
            continue
        except (JobError, OSError) as error:  # it is another user's
            notes.print(f"{folder}: cannot be removed: {error}", soft_wrap=True)


def _empty(folder: str) -> None:
    """Remove what a job leaves in its folder."""
    while left := [name for name in names_in(folder) if _is_ours(name)]:  # workers may still write
        remove_files(FileSystems.join(folder, name) for name in left)


def _is_ours(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in _NAMES)
