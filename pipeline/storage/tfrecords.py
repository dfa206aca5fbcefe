"""Read and check untrusted TFRecord files: each length is validated before memory is allocated.

TensorFlow's reader allocates a record's stated length before it reads the data: a length of 2^40
kills the process. Format: https://www.tensorflow.org/tutorials/load_data/tfrecord
"""

import gzip
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import google_crc32c

from pipeline.errors import InputError

MAX_RECORD_BYTES = 256 << 20
"""Records longer than this are considered damaged; ours have a few kilobytes."""

_HEADER = struct.Struct("<QI")  # length of the data, checksum of the length; the data follow
_FOOTER = struct.Struct("<I")  # checksum of the data
_CHUNK = 1 << 20

_RUN_CHUNK = 1 << 14
"""Buffer for runs of records: small, since what is read past the end of a run is read in vain."""

INDEX_RECORDS = 512
"""An index of a file has the byte offset of every record whose number is a multiple of this."""


class _DamagedRecordError(Exception):
    """A record is damaged or truncated."""


def check_records(path: Path, compression: str = "") -> None:
    """Check in constant memory that every record of a file is complete.

    The checksums of the data are not verified: the reader that follows does that.

    Args:
        path: a local file.
        compression: TensorFlow's name of the compression: `GZIP`, or empty.

    Raises:
        InputError: a record is truncated, or longer than `MAX_RECORD_BYTES`.
        OSError: the file cannot be read.
    """
    for _ in _walk(path, compression, with_data=False):
        pass


def read_records(path: Path, compression: str = "") -> Iterator[bytes]:
    """Yield the records of a file.

    Args:
        path: a local file.
        compression: TensorFlow's name of the compression: `GZIP`, or empty.

    Raises:
        InputError: a record is damaged, truncated, or longer than `MAX_RECORD_BYTES`.
        OSError: the file cannot be read.
    """
    return _walk(path, compression, with_data=True)


class RecordFile:
    """A TFRecord file that is read in runs of records, from any record on.

    The position in the file is kept, so a compressed file that is read in ascending order is
    decompressed once.

    Attributes:
        path: a local file.
    """

    def __init__(self, path: Path, compression: str = "", index: Sequence[int] = ()) -> None:
        """Open a file.

        Args:
            path: a local file.
            compression: TensorFlow's name of the compression: `GZIP`, or empty.
            index: byte offset of every `INDEX_RECORDS`-th record, beginning with the first; may be
                shorter or empty: then more records are skipped by their lengths.

        Raises:
            OSError: the file cannot be opened.
        """
        self.path = path
        self._file = gzip.open(path) if compression else path.open("rb", buffering=_RUN_CHUNK)  # noqa: SIM115
        self._size_bytes = None if compression else path.stat().st_size
        self._index = () if compression else index
        self._number = 0  # of the record at the position in the file

    def read(self, first: int, count: int) -> list[bytes]:
        """Return `count` records from the record number `first` on.

        Raises:
            InputError: a record is damaged, truncated, missing, or longer than `MAX_RECORD_BYTES`.
            OSError: the file cannot be read.
        """
        try:
            self._seek(first)
            while self._number < first:
                self._next(with_data=False)
            return [self._next(with_data=True) for _ in range(count)]
        except (_DamagedRecordError, EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise _damaged(self.path, self._number) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _seek(self, number: int) -> None:
        """Move to the last known offset up to a record, unless the position is between the two."""
        entry = min(number // INDEX_RECORDS, len(self._index) - 1)
        known = max(entry, 0) * INDEX_RECORDS
        if known <= self._number <= number:
            return
        self._number = known
        offset = self._index[entry] if known else 0
        if self._size_bytes is not None and not 0 <= offset <= self._size_bytes:
            raise _DamagedRecordError
        self._file.seek(offset)

    def _next(self, *, with_data: bool) -> bytes:
        header = self._file.read(_HEADER.size)
        record = _record(self._file, header, self._size_bytes, with_data=with_data)
        self._number += 1
        return record


def record_bytes(record: bytes) -> int:
    """Return how many bytes a record takes in an uncompressed file."""
    return _HEADER.size + len(record) + _FOOTER.size


def _walk(path: Path, compression: str, *, with_data: bool) -> Iterator[bytes]:
    """Yield each record's data; empty bytes for each record if `with_data` is False."""
    number = 0
    with gzip.open(path) if compression else path.open("rb", buffering=_CHUNK) as file:
        size_bytes = None if compression else path.stat().st_size
        try:
            while header := file.read(_HEADER.size):
                yield _record(file, header, size_bytes, with_data=with_data)
                number += 1
        except (_DamagedRecordError, EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise _damaged(path, number) from error


def _damaged(path: Path, number: int) -> InputError:
    return InputError(f"{path}: record {number} is corrupt or truncated; make the file again")


def _record(
    file: BinaryIO | gzip.GzipFile, header: bytes, size_bytes: int | None, *, with_data: bool
) -> bytes:
    """Read or skip the rest of a record.

    Args:
        file: positioned after the record's header.
        header: the header's bytes.
        size_bytes: size of the file; None if it is compressed.
        with_data: whether the data are read and verified.

    Raises:
        _DamagedRecordError: the record is damaged or truncated.
    """
    if len(header) < _HEADER.size:
        raise _DamagedRecordError
    length, crc = _HEADER.unpack(header)
    rest = length + _FOOTER.size
    # Before the read: a forged length must not allocate memory for data that are not there.
    is_complete = size_bytes is None or file.tell() + rest <= size_bytes
    if crc != masked_crc(header[:8]) or length > MAX_RECORD_BYTES or not is_complete:
        raise _DamagedRecordError
    if with_data:
        data, footer = file.read(length), file.read(_FOOTER.size)
        if footer != _FOOTER.pack(masked_crc(data)):
            raise _DamagedRecordError
        return data
    if size_bytes is not None:
        file.seek(rest, 1)
        return b""
    # A compressed file cannot be skipped in, only read; in pieces, to bound the memory.
    while rest:
        skipped = len(file.read(min(rest, _CHUNK)))
        if not skipped:
            raise _DamagedRecordError
        rest -= skipped
    return b""


def masked_crc(data: bytes) -> int:
    """Return the masked CRC-32C that TFRecords, LevelDB and TensorFlow's checkpoints store."""
    # Masked, since a checksum over data that contain their own checksum says little (`kMaskDelta`
    # in TensorFlow's crc32c.h).
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
