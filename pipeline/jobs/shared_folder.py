"""The temporary folder that workers share with the process that submitted the job.

Only files that our jobs create, recognized by name, are deleted, and folders only if empty.
"""

import contextlib
import logging
import socket
import uuid
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions

from pipeline.errors import JobError
from pipeline.storage.files import hidden_prefix
from pipeline.storage.locks import only_writer, remove_left
from pipeline.storage.publishing import undo
from pipeline.storage.remote import PARTIAL, path_from
from pipeline.storage.remote_files import (
    exists,
    joined,
    names_in,
    open_to_write,
    remove_files,
)

_log = logging.getLogger(__name__)

_NAMES = ("mark-*", "documents-*", "train-*", "eval-*", "rejected-*", "*vocab.txt", "*.json",
          f"*{PARTIAL}")  # fmt: skip
"""Glob patterns of the files that jobs create in their folder."""


class OnSharedStorage(beam.DoFn):
    """Pass-through DoFn that fails if the worker does not share storage with the submitter.

    Otherwise the worker's files would end up on its own disk, unnoticed until the job ends.
    """

    def __init__(self, folder: str) -> None:
        """Create a marker file in the folder; runs in the submitter, before workers start."""
        self._folder = folder
        self._mark = joined(folder, f"mark-{uuid.uuid4().hex}")
        with open_to_write(self._mark):
            pass

    def start_bundle(self) -> None:  # not in `setup`: if that fails, Flink waits 3 minutes
        """Check that the marker file exists.

        Raises:
            JobError: the marker file is missing.
        """
        if not exists(self._mark):
            raise JobError(
                f"{self._folder} is not the same folder on worker {socket.gethostname()} as on the "
                "machine that submitted the job; write to storage that all of them share"
            )

    def process(self, element: Any) -> Iterator[Any]:
        """Yield the element unchanged."""
        yield element


def folder_beside(output: Path, options: PipelineOptions) -> contextlib.AbstractContextManager[str]:
    """Return a `job_folder` in Beam's `--temp_location`, or else in the directory of `output`."""
    location = options.view_as(GoogleCloudOptions).temp_location or str(output.parent.absolute())
    return job_folder(location, hidden_prefix(output))


@contextlib.contextmanager
def job_folder(parent: str, prefix: str) -> Iterator[str]:
    """Yield a new folder for one job; on exit, remove the job's files and the folder.

    First remove folders of killed jobs, if they are certainly dead: the folder's lock file names a
    process on this machine, and no process holds the lock; or a remote folder's lease has ended.

    Args:
        parent: folder to create it in; created if missing, removed again if it stays empty.
        prefix: prefix of the folder's name; a unique id follows.
    """
    folder = joined(parent, f"{prefix}{uuid.uuid4().hex}")
    remove_left(path_from(parent), prefix, _remove)
    with only_writer(path_from(folder), folder):
        try:
            yield folder
        except BaseException:
            undo(folder)
            raise
        finally:
            _empty(folder)


def _remove(folder: Path) -> None:
    """Remove the files of a killed job, and the shards that it published partially."""
    undo(str(folder))
    _empty(str(folder))


def _empty(folder: str) -> None:
    """Remove the job's files from its folder."""
    while left := [name for name in names_in(folder) if _is_ours(name)]:  # workers may still write
        remove_files(joined(folder, name) for name in left)


def _is_ours(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in _NAMES)
