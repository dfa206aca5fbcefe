"""The files of a dataset's shards while they are read: a shard that changes is refused by name."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import InputError, JobError, unreadable
from pipeline.manifest import Shard
from pipeline.storage.files import crc32c

_AGAIN = "put it back and repeat the command, which resumes from the last checkpoint"


class ShardFiles:
    """The shards of a dataset folder, as local files.

    Attributes:
        fault: the first error; TensorFlow's pipeline passes on only its text.
    """

    def __init__(self, dataset: Path, shards: Iterable[Shard]) -> None:
        """Note the present version of every file.

        Args:
            dataset: the dataset folder.
            shards: its shards, of all splits.
        """
        self.fault: InputError | JobError | None = None
        self._dataset = dataset
        self._versions = {shard.name: _version(dataset / shard.name) for shard in shards}

    def expect(self, upcoming: Iterator[tuple[int, Shard]]) -> None:
        """Prepare for the files that will be read; files on a disk need no preparation.

        Args:
            upcoming: index of the global batch and the file that is first needed for it, in
                ascending order, without end. A file may come several times.
        """

    @contextmanager
    def opened(self, shard: Shard) -> Iterator[Path]:
        """Yield the local file of a shard; used for every few records that are read from it.

        In the context the file is not removed. A reader that has opened it may keep it open.

        Raises:
            InputError: the contents of the file have changed.
            OSError: the file is missing, or cannot be read.
        """
        path = self._dataset / shard.name
        version = _version(path)
        if version is None or version != self._versions[shard.name]:
            checksum = crc32c(path)
            if checksum != shard.crc32c:
                raise InputError(f"{path}: has changed since the training began; {_AGAIN}")
            self._versions[shard.name] = version  # the same bytes were written again
        yield path

    def failed(self, shard: Shard, error: InputError | JobError | OSError) -> InputError | JobError:
        """Return the exception for an error that occurred while a shard was read; keep the first.

        If the file does not have the checksum of the manifest, the error says so.
        """
        path = self._dataset / shard.name
        fault: InputError | JobError
        if isinstance(error, FileNotFoundError):
            fault = InputError(f"{path}: is missing; {_AGAIN}")
        elif isinstance(error, OSError):
            fault = unreadable(path, error, f"; {_AGAIN}")
        elif isinstance(error, JobError):
            fault = error
        else:
            try:
                checksum = crc32c(path)
            except OSError as failure:
                return self.failed(shard, failure)
            differs = checksum != shard.crc32c
            unlike = f" (its CRC-32C is {checksum}, in the manifest {shard.crc32c})"
            fault = InputError(f"{error}{unlike if differs else ''}")
        self.fault = self.fault or fault
        return self.fault


def _version(path: Path) -> tuple[int, int, int] | None:
    """Return a fingerprint of the file; None if unavailable."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
