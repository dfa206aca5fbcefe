"""Read untrusted TensorFlow checkpoints: an index file and data files.

TensorFlow's own reader aborts the process on a malformed index. The index is a LevelDB table
(https://github.com/google/leveldb/blob/main/doc/table_format.md) of `BundleEntryProto`s by name;
since version 1.2 TensorFlow writes it without compression.
"""

import struct
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import tensor_bundle_pb2

from model.interchange.files import read_bytes, regular_file, shown
from model.interchange.foreign_checkpoint import WeightSource
from pipeline.errors import InputError
from pipeline.storage.tfrecords import masked_crc

_MAX_INDEX_BYTES = 16 * 2**20
"""Size limit of an index; that of BERT-large has 100 kB."""

_MOST_NAMES = 16
"""Limit on the total length of a block's names, in multiples of the block's size. Names share a
prefix with the previous name, and every 16th name is written in full."""

_FOOTER_BYTES = 48
_MAGIC = 0xDB4775248B80FB57


def open_bundle(prefix: Path) -> WeightSource:
    """Return the weights of a checkpoint.

    Args:
        prefix: common path prefix of its files.

    Raises:
        InputError: a file is missing or malformed, or the index declares more data than stored.
    """
    entries = dict(_read_index(prefix))
    files = _data_files(prefix, entries.pop(b"", b""))
    tensors: dict[str, tuple[Any, tf.DType]] = {}
    claimed = 0
    for key, value in entries.items():
        if key.startswith(b"\0"):  # a slice; the whole tensor has a separate entry
            continue
        try:
            name, entry = key.decode(), tensor_bundle_pb2.BundleEntryProto.FromString(value)
            dtype = tf.as_dtype(entry.dtype).base_dtype
        except (DecodeError, UnicodeDecodeError, TypeError) as error:
            raise _malformed(prefix, f"an entry of its index is malformed: {error}") from error
        if dtype.is_floating or dtype.is_integer or dtype.is_bool:
            _check_size(prefix, name, entry, dtype, files)
            # Entries may overlap: many names for the same bytes would be read many times over.
            claimed += entry.size
        tensors[name] = (entry, dtype)
    if claimed > sum(file.stat().st_size for file in files):
        raise _malformed(prefix, "its index claims more than its data files have")
    shapes = {name: _shape(entry) for name, (entry, _) in tensors.items()}

    def read(name: str) -> np.ndarray:
        entry, dtype = tensors[name]
        if not dtype.is_floating:
            raise InputError(f"{prefix}: {shown(name)} is {dtype.name}, not floating point")
        with files[entry.shard_id].open("rb") as file:
            file.seek(entry.offset)
            data = file.read(entry.size)
        # TensorFlow checks it too when it reads; a damaged weight must not become a run.
        if masked_crc(data) != entry.crc32c:
            raise _malformed(prefix, f"{shown(name)} is damaged: its checksum differs")
        return np.frombuffer(data, dtype.as_numpy_dtype).reshape(shapes[name])

    return WeightSource(prefix, shapes, read)


def _malformed(prefix: Path, why: str) -> InputError:
    return InputError(f"{prefix}: cannot be read as a checkpoint: {why}; copy its files again")


def _shape(entry: Any) -> tuple[int, ...]:
    return tuple(dimension.size for dimension in entry.shape.dim)


def _check_size(prefix: Path, name: str, entry: Any, dtype: tf.DType, files: list[Path]) -> None:
    """Raise `InputError` unless a tensor's size matches its shape and its data exist."""
    shape = _shape(entry)
    # Variables that parameter servers partitioned are stored in slices; BERT's checkpoints have
    # none.
    if entry.slices or len(shape) > 8:
        raise _malformed(prefix, f"{shown(name)} is stored in slices")
    if min(shape, default=0) < 0 or prod(shape) * dtype.size != entry.size:
        raise _malformed(prefix, f"{shown(name)} has {entry.size:,} bytes, not those of its shape")
    if not 0 <= entry.shard_id < len(files):
        raise _malformed(prefix, f"{shown(name)} is in a data file that it does not have")
    if not 0 <= entry.offset <= files[entry.shard_id].stat().st_size - entry.size:
        raise _malformed(prefix, f"{shown(name)} is not in its data file as a whole")


def _data_files(prefix: Path, header: bytes) -> list[Path]:
    """Return a checkpoint's data files, in order."""
    try:
        described = tensor_bundle_pb2.BundleHeaderProto.FromString(header)
    except DecodeError as error:
        raise _malformed(prefix, "the head of its index is malformed") from error
    if described.endianness != tensor_bundle_pb2.BundleHeaderProto.LITTLE:
        raise _malformed(prefix, "its numbers are not little-endian")
    files = []
    for shard in range(described.num_shards):
        name = f"{prefix.name}.data-{shard:05d}-of-{described.num_shards:05d}"
        file = regular_file(prefix.parent, name)
        if file is None:  # also ends the loop early if the number of shards is forged
            raise _malformed(prefix, f"no {name}")
        files.append(file)
    return files


def _read_index(prefix: Path) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of an index."""
    data = read_bytes(prefix.parent, f"{prefix.name}.index", _MAX_INDEX_BYTES) or b""
    # Two block handles of at most 20 bytes each, padded to 40, and the magic number.
    footer = data[-_FOOTER_BYTES:]
    try:
        if struct.unpack("<Q", footer[40:])[0] != _MAGIC:
            raise ValueError("not an index of a checkpoint")
        (_, _, begin, size), _ = _varints(footer, 0, 4)
        total_bytes = 0
        for _, handle in _block(data, begin, size):
            (begin, size), _ = _varints(handle, 0, 2)
            total_bytes += size
            # A forged index may list the same block any number of times.
            if total_bytes > len(data):
                raise ValueError("its blocks overlap")
            yield from _block(data, begin, size)
    except (ValueError, IndexError, struct.error) as error:
        raise _malformed(prefix, f"its index is malformed: {error}") from error


def _block(data: bytes, begin: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of a block of the LevelDB table."""
    block, trailer = data[begin : begin + size], data[begin + size : begin + size + 5]
    kind, checksum = struct.unpack("<BI", trailer)
    # The checksum covers the byte of the compression type, too.
    if checksum != masked_crc(data[begin : begin + size + 1]):
        raise ValueError("a checksum differs")
    if kind != 0:
        raise ValueError("compressed, as only TensorFlow 1.1 wrote it")
    # The block ends with its restart points (offsets of 4 bytes) and the number of them.
    end = size - 4 - 4 * struct.unpack("<I", block[-4:])[0]
    at, key, names_bytes = 0, b"", 0
    while at < end:
        (shared, added, length), at = _varints(block, at, 3)
        if at + added + length > end or shared > len(key):
            raise ValueError("an entry is longer than its block")
        names_bytes += shared + added
        if names_bytes > _MOST_NAMES * size:
            raise ValueError("its names are longer than its blocks")
        key = key[:shared] + block[at : at + added]
        at += added + length
        yield key, block[at - length : at]


def _varints(data: bytes, at: int, count: int) -> tuple[list[int], int]:
    """Decode `count` varints (7 bits per byte, low bits first); return them and their end."""
    numbers = []
    for _ in range(count):
        number = shift = 0
        # 10 bytes hold 64 bits; without this limit a forged varint is a number of any size.
        while data[at] >= 128 and shift < 63:
            number |= (data[at] & 127) << shift
            at, shift = at + 1, shift + 7
        numbers.append(number | data[at] << shift)
        at += 1
    return numbers, at
