"""Results of comparing documents in a job, as marks next to the documents in their shards.

A mark is a `Document` without pieces. It goes through the same grouping as the documents, so that
it meets the one that it is about. It says that the document with its key and fingerprint is a
near-duplicate, or which units of text (paragraphs or lines) of the document with its key are
repeated.

The first of several equal units is kept: that of the document with the smallest key,
and there the first. Only the first one of each shard is compared with those of other shards, so no
unit has more rows in a partition than there are shards.

A document may be too short without its repeated units, and is then left out. The units that it was
to keep for others would be lost, so units are compared twice. First, as if all documents were used;
documents that would be too short are set aside. Then, a unit is kept in a document that is not set
aside if there is one. The others only gain units thereby, so none of them becomes too short. A
document set aside is used after all if it has enough units that no other document keeps, and as
these may be shared by documents set aside, such documents are decided one after another.

A shard with too few documents is left out, too, with all units that these were to keep. So shards
whose documents are all set aside are decided one after another, each as a whole, after the others.
"""

import hashlib
import itertools
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.records.document import LENGTH, UNIT, Document
from pipeline.records.pairs import parts_of

KEY_BYTES, FINGERPRINT_BYTES = 16, 8

ROW = np.dtype(
    [
        ("hash", "<u8"), ("aside", "?"), ("key", "S16"), ("number", "<i4"), ("pieces", "<i4"),
        ("sentences", "<i4"),
    ]
)  # fmt: skip
"""A unit of text: hash of its words, whether its document is set aside, key of the document, its
number there, number of its pieces, and of its sentences after long ones are split."""

_NUMBER = np.dtype("<i4")


@dataclass(frozen=True)
class Fewest:
    """Minimum sizes of a document and a shard.

    Attributes:
        pieces: minimum number of pieces of a document.
        sentences: minimum number of sentences of a document, after long ones are split.
        documents: minimum number of documents of a shard.
    """

    pieces: int
    sentences: int
    documents: int

    def has(self, pieces: np.ndarray, sentences: np.ndarray) -> np.ndarray:
        """Return whether documents of so many pieces and sentences have enough text."""
        return (pieces >= self.pieces) & (sentences >= self.sentences)


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
    for key, of_document in by_document(rows):
        yield key, b"", b"", b"", of_document["number"].astype(_NUMBER).tobytes()


def by_document(rows: np.ndarray) -> Iterator[tuple[bytes, np.ndarray]]:
    """Yield the key of each document with its units in order, `ROW`."""
    rows = rows[np.lexsort((rows["number"], rows["key"]))]
    for start, end in _documents(rows):
        # The array's bytes, since NumPy's scalars lose zeros at the end.
        yield rows["key"][start : start + 1].tobytes(), rows[start:end]


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


def unit_rows(documents: Iterable[Document], longest_sentence: int) -> np.ndarray:
    """Return the units of documents with different keys: `ROW` [units], none of them set aside.

    Args:
        documents: documents with units.
        longest_sentence: longer sentences are split.
    """
    parts = [np.empty(0, ROW)]
    for key, _, lengths, _, units in documents:
        of_document, sentences = np.frombuffer(units, UNIT), np.frombuffer(lengths, LENGTH)
        starts = np.cumsum(of_document["sentences"]) - of_document["sentences"]
        rows = np.zeros(len(of_document), ROW)
        rows["hash"], rows["key"] = of_document["hash"], key
        rows["number"] = np.arange(len(rows))
        # Every unit has a sentence. For an empty one, `reduceat` would return an element instead of
        # 0.
        rows["pieces"] = np.add.reduceat(sentences, starts)
        rows["sentences"] = np.add.reduceat(parts_of(sentences, longest_sentence), starts)
        parts.append(rows)
    return np.concatenate(parts)


def first_rows(rows: np.ndarray) -> np.ndarray:
    """Return the first of each unit, of documents not set aside if there are: `ROW` [units]."""
    return rows[_are_first(rows)]


def lost_rows(rows: np.ndarray) -> np.ndarray:
    """Return all but the first of each unit: `ROW`; `aside` is that of the first one."""
    order, number = _ordered(rows)
    is_first = np.diff(number, prepend=-1) > 0
    lost = rows[order]
    lost["aside"] = lost["aside"][is_first][number]
    return lost[~is_first]


def set_aside(rows: np.ndarray, lost: np.ndarray, fewest: Fewest) -> np.ndarray:
    """Return the units of a shard, with documents set aside that would be left out.

    Args:
        rows: `ROW` [units]. All units of the shard's documents.
        lost: `ROW`. Units of theirs that another shard keeps.
        fewest: minimum sizes of a document and the shard.
    """
    is_kept = _are_first(rows) & ~np.isin(rows["hash"], lost["hash"])
    rows = rows.copy()
    rows["aside"] = ~_have_enough(rows, is_kept, fewest)
    if len(np.unique(rows["key"][~rows["aside"]])) < fewest.documents:
        rows["aside"] = True
    return rows


def settled(
    rows: np.ndarray, lost: np.ndarray, fewest: Fewest
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the repeated units of a shard, and those of documents that may be used after all.

    Args:
        rows: `ROW` [units]. What `set_aside` returned.
        lost: `ROW`. Units of theirs that another shard keeps, as by `lost_rows`.
        fewest: minimum sizes of a document and the shard.

    Returns:
        `ROW`: units to remove. `ROW`: units of documents set aside that no other document keeps;
        only of documents that have enough of them. `ROW`: the same, if the shard is used only if
        enough of these documents are; one of the two is empty.
    """
    aside = rows["aside"]
    kept_elsewhere = np.isin(rows["hash"], lost["hash"][~lost["aside"]])
    kept_here = np.isin(rows["hash"], rows["hash"][~aside])
    _, of_document = np.unique(rows["key"], return_inverse=True)
    is_first = np.where(aside, ~kept_here & _are_first(rows, of_document), _are_first(rows))
    is_repeated = ~is_first | kept_elsewhere
    is_open = aside & ~is_repeated
    is_open &= _have_enough(rows, is_open, fewest)
    if len(np.unique(rows["key"][~aside | is_open])) < fewest.documents:
        is_open[:] = False
    rest = rows[is_open]
    if aside.all() and fewest.documents > 1:
        return rows[is_repeated], rest[:0], rest
    return rows[is_repeated], rest, rest[:0]


def repeated_in_order(rows: np.ndarray, shards: Iterable[np.ndarray], fewest: Fewest) -> np.ndarray:
    """Return the units to remove from documents that are used if they have enough others: `ROW`.

    Args:
        rows: `ROW` [units]. Distinct units of each document, in shards that are used anyway.
        shards: `ROW` [units] each. The same of a shard that is used if enough of its documents are.
        fewest: minimum sizes of a document and a shard. A document that is smaller, without the
            units of documents decided before, is not used.
    """
    removed, kept, _ = _in_order(rows, set(), fewest)
    repeated = [removed]
    waiting = sorted(shards, key=lambda shard: min(shard["key"].tolist()))
    before = None
    # Again, as long as a shard is used: another one may be used only without what that one keeps.
    while len(waiting) != before:
        before, unused = len(waiting), []
        for shard in waiting:
            removed, units, documents = _in_order(shard, kept, fewest)
            if documents < fewest.documents:
                unused.append(shard)
            else:
                kept |= units
                repeated.append(removed)
        waiting = unused
    # Without these, documents of a shard that is not used might seem to be enough.
    repeated += [_in_order(shard, kept, fewest)[0] for shard in waiting]
    return np.concatenate(repeated)


def _in_order(
    rows: np.ndarray, kept: Container[int], fewest: Fewest
) -> tuple[np.ndarray, set[int], int]:
    """Decide documents in the order of their keys.

    Args:
        rows: `ROW` [units].
        kept: hashes of the units that other documents keep.
        fewest: minimum sizes; that of a shard is ignored.

    Returns:
        `ROW`: the repeated units. The hashes of the units that the used documents keep, and the
        number of these documents.
    """
    rows = rows[np.lexsort((rows["number"], rows["key"]))]
    is_repeated = np.zeros(len(rows), bool)
    own: set[int] = set()
    used = 0
    for start, end in _documents(rows):
        hashes = rows["hash"][start:end].tolist()
        is_repeated[start:end] = [each in kept or each in own for each in hashes]
        rest = rows[start:end][~is_repeated[start:end]]
        if fewest.has(rest["pieces"].sum(), rest["sentences"].sum()):
            own.update(rest["hash"].tolist())
            used += 1
    return rows[is_repeated], own, used


def _ordered(rows: np.ndarray, *more: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the order of units, and the number of each distinct one in that order.

    Args:
        rows: `ROW` [units].
        more: arrays [units] of further keys that equal units must share.
    """
    keys = (*more, rows["hash"])
    order = np.lexsort((rows["number"], rows["key"], rows["aside"], *keys))
    is_new = np.zeros(len(rows), bool)
    for each in keys:
        # Compared for equality only, so a hash above 2^63 may wrap around.
        is_new |= np.diff(each[order].astype(np.int64), prepend=0) != 0
    is_new[:1] = True  # the first key may be equal to the 0 that is prepended
    return order, np.cumsum(is_new) - 1


def _are_first(rows: np.ndarray, *more: np.ndarray) -> np.ndarray:
    """Return whether each unit is the first of equal ones, bool [units]; as `_ordered`."""
    order, number = _ordered(rows, *more)
    is_first = np.zeros(len(rows), bool)
    is_first[order] = np.diff(number, prepend=-1) > 0
    return is_first


def _have_enough(rows: np.ndarray, is_kept: np.ndarray, fewest: Fewest) -> np.ndarray:
    """Return whether the document of each unit has enough with some of its units, bool [units]."""
    _, document = np.unique(rows["key"], return_inverse=True)
    pieces, sentences = (
        np.bincount(document, np.where(is_kept, rows[name], 0)) for name in ("pieces", "sentences")
    )
    return fewest.has(pieces, sentences)[document]


def _documents(rows: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield where the units of each document start and end among units in order of their keys."""
    # Cut to the length: of no rows, none is the first.
    is_first = np.append(True, rows["key"][1:] != rows["key"][:-1])[: len(rows)]
    yield from itertools.pairwise([*np.flatnonzero(is_first).tolist(), len(rows)])


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
