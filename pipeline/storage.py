"""The folder through which workers hand files to the process that submitted the job."""

import contextlib
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions

from pipeline.errors import JobError


class OnSharedStorage(beam.DoFn):
    """Elements → the same ones, if the worker sees the folder that the submitting process made.

    Where it does not, its files would end up on its own disk, unnoticed until the job's end.
    """

    def __init__(self, folder: str) -> None:
        """Leave a mark in the folder, before the job is submitted."""
        self._folder = folder
        self._mark = FileSystems.join(folder, f"mark-{uuid.uuid4().hex}")
        FileSystems.create(self._mark).close()

    def setup(self) -> None:
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


@contextlib.contextmanager
def folder_beside(output: Path, options: PipelineOptions) -> Iterator[str]:
    """Yield a new folder in Beam's `--temp_location`, or else beside a file to write; remove it."""
    location = options.view_as(GoogleCloudOptions).temp_location or str(output.parent.absolute())
    folder = FileSystems.join(location, f".{output.name}.{uuid.uuid4().hex}")
    FileSystems.mkdirs(folder)
    try:
        yield folder
    finally:
        FileSystems.delete([folder])
