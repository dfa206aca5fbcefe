"""What a job finds out about documents by comparing them, as marks next to them in their shards.

A mark is a `Document` without pieces. It goes through the same grouping as the documents, so that
it meets the one that it is about. It says that the document with its key and fingerprint is a
near-duplicate, or which units of text (paragraphs or lines) of the document with its key are
repeated.

Of a unit that occurs several times, the first is kept: that of the document with the smallest key,
and there the first. A shard's own repeats need no mark. Only the first one of each shard is
compared with those of other shards, so no unit has more rows in a partition than there are shards.
"""

import hashlib
import itertools
from collections.abc import Iterable, Iterator

import numpy as np

from pipeline.records.document import LENGTH, UNIT, Document

KEY_BYTES, FINGERPRINT_BYTES = 16, 8

ROW = np.dtype([("hash", "<u8"), ("key", "S16"), ("number", "<i4")])
"""A unit of text: hash of its words, key of its document, its number there."""

_NUMBER = np.dtype("<i4")


def node_of(document: Document) -> bytes:
    """Return the identifier of a document: its key, and a hash of its pieces, 24 bytes in all.

    The hash tells documents apart that have the same id but different texts.
    """
    key, ids, *_ = document
    return key + hashlib.blake2b(ids, digest_size=FINGERPRINT_BYTES).digest()


def near_mark(node: bytes) -> Document:
    """Return the mark on a near-duplicate, named as by `node_of`."""
    return node[:-FINGERPRINT_BYTES], b"", node[-FINGERPRINT_BYTES:], b"", b""


def repeat_marks(rows: np.ndarray) -> Iterator[Document]:
    """Yield a mark for each document that has some repeated units, `ROW` [N]."""
    rows = rows[np.lexsort((rows["number"], rows["key"]))]
    is_first = np.append(True, rows["key"][1:] != rows["key"][:-1])[: len(rows)]
    starts = np.flatnonzero(is_first)
    keys = np.ascontiguousarray(rows["key"][starts]).tobytes()
    size = rows.dtype["key"].itemsize
    for index, (start, end) in enumerate(itertools.pairwise([*starts, len(rows)])):
        numbers = rows["number"][start:end].astype(_NUMBER).tobytes()
        yield keys[index * size : (index + 1) * size], b"", b"", b"", numbers


def separated(
    documents: Iterable[Document],
) -> tuple[list[Document], set[bytes], dict[bytes, list[bytes]]]:
    """Return the documents, the nodes of near-duplicates, the repeated units by key."""
    kept = []
    near: set[bytes] = set()
    repeated: dict[bytes, list[bytes]] = {}
    for document in documents:
        key, ids, fingerprint, _, numbers = document
        if ids:
            kept.append(document)
        elif fingerprint:
            near.add(key + fingerprint)
        else:
            repeated.setdefault(key, []).append(numbers)
    return kept, near, repeated


def unit_rows(documents: Iterable[Document]) -> np.ndarray:
    """Return the units of documents with different keys: `ROW` [units]."""
    parts = [np.empty(0, ROW)]
    for key, _, _, _, units in documents:
        of_document = np.frombuffer(units, UNIT)
        rows = np.empty(len(of_document), ROW)
        rows["hash"], rows["key"] = of_document["hash"], key
        rows["number"] = np.arange(len(rows))
        parts.append(rows)
    return np.concatenate(parts)


def first_and_repeated(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first of each unit in the order of keys and numbers, and all others: `ROW`."""
    rows = rows[np.lexsort((rows["number"], rows["key"], rows["hash"]))]
    is_first = np.append(True, rows["hash"][1:] != rows["hash"][:-1])[: len(rows)]
    return rows[is_first], rows[~is_first]


def without_units(
    document: Document, numbers: Iterable[bytes], piece: np.dtype
) -> tuple[Document, int]:
    """Return a document without some of its units, and how many these are.

    Args:
        document: a document with units.
        numbers: numbers of units, as marks have them.
        piece: dtype of the piece ids.
    """
    key, ids, lengths, label, packed = document
    units, sentences = np.frombuffer(packed, UNIT), np.frombuffer(lengths, LENGTH)
    is_kept = np.ones(len(units), bool)
    is_kept[np.frombuffer(b"".join(numbers), _NUMBER)] = False
    has_sentence = np.repeat(is_kept, units["sentences"])
    pieces = np.frombuffer(ids, piece)[np.repeat(has_sentence, sentences)]
    rest = pieces.tobytes(), sentences[has_sentence].tobytes(), label, units[is_kept].tobytes()
    return (key, *rest), int(len(units) - is_kept.sum())
