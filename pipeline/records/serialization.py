"""Serialize `tf.train.Example`s with NumPy and parse them with TensorFlow, a batch at a time.

The bytes are those of protobuf (https://protobuf.dev/programming-guides/encoding): fields in
ascending order, repeated numbers packed. TensorFlow's `encode_proto` writes the same ones if each
feature has a value.

Shapes: N records, W values or bytes of each.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pipeline.schema import Feature, Tensors

_LENGTH_DELIMITED = 2  # the wire type of messages, strings and packed numbers
_LISTS = {"float32": 2, "int64": 3}  # fields of the message `Feature`


class _RowBytes(NamedTuple):
    """Some bytes of each record.

    Attributes:
        data: uint8 [N, W].
        written: bool [N, W]. False for bytes that a record does not have.
        sizes: int64 [N]. Number of bytes that each record has.
    """

    data: np.ndarray
    written: np.ndarray
    sizes: np.ndarray


def encode_examples(arrays: Mapping[str, np.ndarray], features: Sequence[Feature]) -> list[bytes]:
    """Serialize a batch of records.

    Args:
        arrays: values of every feature, [N, feature.length].
        features: schema; its order is the order of the features in the serialized bytes.

    Returns:
        N serialized `tf.train.Example`s.
    """
    # A map field of a message is a list of entries, in the order in which they are written.
    entries = [_delimited(1, _entry(feature, arrays[feature.name])) for feature in features]
    parts = _delimited(1, [part for entry in entries for part in entry])
    written = np.concatenate([part.written for part in parts], axis=1)
    data = np.concatenate([part.data for part in parts], axis=1)
    # Indexing by booleans takes twice as long.
    together = np.compress(written.ravel(), data.ravel()).tobytes()
    ends = [0, *np.cumsum(np.sum([part.sizes for part in parts], axis=0)).tolist()]
    return [together[start:end] for start, end in itertools.pairwise(ends)]


def _entry(feature: Feature, values: np.ndarray) -> list[_RowBytes]:
    """Return the map entry of one feature for each record."""
    if values.shape[1:] != (feature.length,):
        raise ValueError(f"{feature.name}: expected [N, {feature.length}], got {values.shape}")
    # protobuf's floats are little-endian, and `view` below needs contiguous rows.
    values = values.astype(np.dtype(feature.kind).newbyteorder("<"), "C", "same_kind", copy=False)
    packed = _varints(values) if feature.kind == "int64" else _as_they_are(values.view(np.uint8))
    name = np.frombuffer(feature.name.encode(), np.uint8)
    key = _as_they_are(np.broadcast_to(name, (len(values), len(name))))
    number_list = _delimited(_LISTS[feature.kind], _delimited(1, [packed]))
    return [*_delimited(1, [key]), *_delimited(2, number_list)]


def _delimited(field: int, parts: Sequence[_RowBytes]) -> list[_RowBytes]:
    """Return a message or another value of variable length as a field: tag, length, bytes."""
    sizes = np.sum([part.sizes for part in parts], axis=0)
    tag = np.full((len(sizes), 1), field << 3 | _LENGTH_DELIMITED, np.uint8)
    return [_as_they_are(tag), _varints(sizes[:, np.newaxis]), *parts]


def _as_they_are(data: np.ndarray) -> _RowBytes:
    return _RowBytes(data, np.ones(data.shape, bool), np.full(len(data), data.shape[1]))


def _varints(values: np.ndarray) -> _RowBytes:
    """Return each row of integers, int64 [N, W], as varints: 7 bits a byte, the lowest first."""
    # A negative number has the bits of its two's complement.
    width = max(-(-int(values.view(np.uint64).max(initial=0)).bit_length() // 7), 1)
    if width == 1:
        return _as_they_are(values.astype(np.uint8))
    rest = values.astype(np.uint32 if width <= 4 else np.uint64)  # 4 bytes hold 28 bits
    data = np.empty((*rest.shape, width), np.uint8)
    written = np.ones(data.shape, bool)
    for index in range(width):
        # In an array of its own: NumPy is slow on bytes that are not next to each other.
        low = rest.astype(np.uint8)
        np.right_shift(rest, 7, out=rest)
        if index + 1 < width:
            more = np.greater(rest, 0)
            written[..., index + 1] = more
            # The highest bit says that another byte follows.
            low &= 0x7F
            low |= more.view(np.uint8) << np.uint8(7)
        data[..., index] = low
    rows = data.reshape(len(values), -1), written.reshape(len(values), -1)
    return _RowBytes(*rows, np.count_nonzero(rows[1], axis=1))


def parse_examples(serialized: Any, features: Sequence[Feature]) -> Tensors:
    """Parse serialized records, string [N], into tensors [N, feature.length] by feature name.

    Works in eager mode and in a `tf.data` pipeline.
    """
    import tensorflow as tf

    return tf.io.parse_example(
        serialized,
        {
            feature.name: tf.io.FixedLenFeature([feature.length], tf.as_dtype(feature.kind))
            for feature in features
        },
    )
