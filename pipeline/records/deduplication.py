"""What a job finds out about documents by comparing them, as marks next to them in their shards.

A mark is a `Document` without pieces. It goes through the same grouping as the documents, so that
it meets the one that it is about: that with the mark's key and fingerprint.
"""

import hashlib
from collections.abc import Iterable

import numpy as np

from pipeline.records.document import Document

FINGERPRINT_BYTES = 8

SPAN = np.dtype("<i4")
"""First and last (exclusive) index of sentences to remove."""


def node_of(document: Document) -> bytes:
    """Return what stands for a document: its key, and a hash of its pieces, 24 bytes in all.

    The hash tells documents apart that have the same id but different texts.
    """
    key, ids, *_ = document
    return key + hashlib.blake2b(ids, digest_size=FINGERPRINT_BYTES).digest()


def mark(node: bytes, sentences: bytes = b"") -> Document:
    """Return a mark about a document; `sentences`: `SPAN` [M, 2], the sentences to remove."""
    return node[:-FINGERPRINT_BYTES], b"", node[-FINGERPRINT_BYTES:] + sentences, b""


def separated(
    documents: Iterable[Document],
) -> tuple[list[Document], dict[bytes, list[bytes]]]:
    """Return the documents, and the sentences to remove of each mark by node."""
    kept = []
    marks: dict[bytes, list[bytes]] = {}
    for document in documents:
        key, ids, rest, _ = document
        if ids:
            kept.append(document)
        else:
            node = key + rest[:FINGERPRINT_BYTES]
            marks.setdefault(node, []).append(rest[FINGERPRINT_BYTES:])
    return kept, marks
