"""Write the rejected documents of a job to files of JSON Lines.

Like documents, the lines are grouped by a hash, which selects their file, and sorted inside it, so
the files are the same on every runner with any number of workers.
"""

import hashlib
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam

from pipeline.corpus.cleaning import rejection_line
from pipeline.corpus.rules.rule import Rejection
from pipeline.jobs.job_report import RejectionFile
from pipeline.jobs.shuffle import Group, Place, gathered
from pipeline.storage.rejection_files import rejection_file
from pipeline.storage.remote_files import joined, open_to_write

REJECTED = "rejected"
"""Tag of the side output of (file name, [(line,)])."""


def recorded(rejection: Rejection, label: bytes, files: int) -> Iterator[Any]:
    """Yield a rejection for the side output `REJECTED`; nothing if the document has no label.

    Args:
        rejection: why the document is not used.
        label: as `pipeline.corpus.cleaning.label_of`; empty = rejections are not written.
        files: number of files of rejections.
    """
    if label:
        number = int.from_bytes(hashlib.blake2b(label, digest_size=8).digest(), "big") % files
        line = rejection_line(rejection, label)
        yield beam.pvalue.TaggedOutput(REJECTED, (rejection_file(number, files), [(line,)]))


class WriteRejections(beam.DoFn):
    """(File name, its lines) → a `RejectionFile` in the job's temporary folder."""

    def __init__(self, temporary: str) -> None:
        self._temporary = temporary

    def process(self, element: tuple[str, Iterable[Group | Place]]) -> Iterator[RejectionFile]:
        """Write the lines of one file, sorted."""
        name, groups = element
        rows: list[Any] = gathered(groups)
        lines = sorted(line for (line,) in rows)
        path = joined(self._temporary, f"{name}.{uuid.uuid4().hex}")  # Beam may retry a bundle
        with open_to_write(path) as file:
            file.writelines(line + b"\n" for line in lines)
        yield RejectionFile(name, path, len(lines))
