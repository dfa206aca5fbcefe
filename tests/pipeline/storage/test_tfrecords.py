"""TFRecord files with wrong lengths: a one-line error, and no memory of the claimed size."""

import gzip
import itertools
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

import google_crc32c
import pytest
import tensorflow as tf

from pipeline.errors import InputError
from pipeline.storage import tfrecords
from pipeline.storage.tfrecords import RecordFile, check_records, read_records, record_bytes

RECORDS = [b"one", b"", b"three" * 1000, bytes(range(256))]


def masked(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return ((crc >> 15) | (crc << 17 & 0xFFFFFFFF)) + 0xA282EAD8 & 0xFFFFFFFF


def length_of(size: int) -> bytes:
    """Return a record's header, with the right checksum."""
    length = struct.pack("<Q", size)
    return length + struct.pack("<I", masked(length))


def packed(data: bytes, compression: str) -> bytes:
    return gzip.compress(data) if compression else data


@pytest.fixture(params=["", "GZIP"])
def compression(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def file(tmp_path: Path, compression: str) -> Path:
    """A file of TensorFlow's own writer."""
    with tf.io.TFRecordWriter(str(tmp_path / "file"), compression) as writer:
        for record in RECORDS:
            writer.write(record)
    return tmp_path / "file"


def plain(file: Path, compression: str) -> bytearray:
    return bytearray(gzip.decompress(file.read_bytes()) if compression else file.read_bytes())


def test_records_written_by_tensorflow(file: Path, compression: str) -> None:
    assert list(read_records(file, compression)) == RECORDS
    check_records(file, compression)


@pytest.mark.parametrize("size", [5, 1 << 20, 1 << 31, (1 << 40) - 3, 1 << 40, (1 << 64) - 1])
def test_a_length_past_the_end(file: Path, compression: str, size: int) -> None:
    data = plain(file, compression)
    file.write_bytes(packed(data + length_of(size) + b"tiny", compression))
    for read in (check_records, lambda *where: list(read_records(*where))):
        with pytest.raises(InputError, match="file: record 4 is corrupt or truncated"):
            read(file, compression)


def test_a_complete_record_above_the_size_limit(
    file: Path, compression: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tfrecords, "MAX_RECORD_BYTES", 4999)
    with pytest.raises(InputError, match="file: record 2 is corrupt"):
        check_records(file, compression)
    monkeypatch.setattr(tfrecords, "MAX_RECORD_BYTES", 5000)
    check_records(file, compression)


def places(data: Iterable[int]) -> range:
    return range(0, len(bytes(data)), 97)


def test_every_truncation_is_detected(file: Path, compression: str) -> None:
    data = plain(file, compression)
    ends, end = {0}, 0
    for record in RECORDS:
        end += 16 + len(record)
        ends.add(end)
    for size in places(data):
        file.write_bytes(packed(data[:size], compression))
        if size in ends:
            check_records(file, compression)
        else:
            with pytest.raises(InputError, match=r"record [0-3] is corrupt or truncated"):
                check_records(file, compression)


def test_every_flipped_bit_is_detected_by_the_reader(file: Path, compression: str) -> None:
    data = plain(file, compression)
    for place in places(data):
        data[place] ^= 16
        file.write_bytes(packed(data, compression))
        with pytest.raises(InputError, match=r"record [0-3] is corrupt or truncated"):
            list(read_records(file, compression))
        data[place] ^= 16


def test_a_compressed_file_that_is_invalid_or_truncated(tmp_path: Path) -> None:
    whole = gzip.compress(length_of(3) + b"one" + struct.pack("<I", masked(b"one")))
    for data in (b"no gzip", whole[: len(whole) // 2], whole[:-4], whole[:12] + b"?" + whole[13:]):
        (tmp_path / "file").write_bytes(data)
        with pytest.raises(InputError, match=r"record \d is corrupt or truncated"):
            check_records(tmp_path / "file", "GZIP")
    with pytest.raises(FileNotFoundError):
        check_records(tmp_path / "missing")


INDEX = [0, *itertools.accumulate(map(record_bytes, RECORDS))][:-1:2]


@pytest.mark.parametrize("index", [(), INDEX[:1], INDEX], ids=["none", "short", "whole"])
def test_runs_of_records_from_anywhere(
    file: Path, compression: str, index: Sequence[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tfrecords, "INDEX_RECORDS", 2)
    runs = [(first, last) for first in range(4) for last in range(first, 5)]
    opened = RecordFile(file, compression, index)
    for first, last in [*runs, *reversed(runs)]:
        assert opened.read(first, last - first) == RECORDS[first:last]
    opened.close()


def test_a_run_past_the_end(file: Path, compression: str) -> None:
    opened = RecordFile(file, compression)
    for first, count in ((0, 5), (4, 1), (9, 1)):
        with pytest.raises(InputError, match="file: record 4 is corrupt or truncated"):
            opened.read(first, count)
    assert opened.read(3, 1) == RECORDS[3:]  # and it still can be read
    opened.close()


def test_an_index_of_another_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tfrecords, "INDEX_RECORDS", 2)
    if file.read_bytes()[:2] != b"\x1f\x8b":  # offsets of a compressed file are not used
        for offset in (1, 5000, 1 << 60):
            with pytest.raises(InputError, match="file: record 2 is corrupt or truncated"):
                RecordFile(file, "", (0, offset)).read(2, 1)
