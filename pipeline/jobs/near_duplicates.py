"""Find the near-duplicates of a corpus: all documents but one of each cluster.

    bands of signatures → group by band → edges → star operations → marks for the shards

If documents have ids, those whose id another document has are left out first: a shard does not use
them, so none of them may be the one that is kept of a cluster.

The rows of every step are packed into bytes and partitioned by a hash, so that elements are few and
large and go through the same grouping as documents, in bounded memory. Star operations are
unrolled, since a pipeline has no loops. A cluster that `ROUNDS` of them do not change into a star,
a long chain of documents, is finished by one worker, which gets no other edges.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np

from pipeline.corpus.clusters import (
    NODE,
    all_but_smallest,
    beaten,
    both_ways,
    bucket_edges,
    large_star,
    small_star,
)
from pipeline.corpus.minhash import Bands, band_hashes
from pipeline.jobs.shuffle import Group, GroupByShard, Part, Place, partitioned, rows_of
from pipeline.records.deduplication import KEY_BYTES, near_mark, node_of
from pipeline.records.document import Document
from pipeline.records.shard import Settings, by_shard

BANDED = np.dtype([("band", "<u8"), ("node", NODE)])
"""A document and the hash of one of its bands."""

ROUNDS = 4
"""Star operations of each kind: enough for all clusters but long chains."""

BANDS, OPEN = "bands", "open"  # tags of side outputs


def signed(bands: Bands) -> np.dtype:
    """Return the dtype of a document with all of its bands, and whether it has a word."""
    return np.dtype([("node", NODE), ("bands", "<u8", bands.count), ("has_word", "?")])


def banded(
    documents: Sequence[Document],
    texts: Sequence[str],
    bands: Bands,
    parts: int,
    *,
    shared_ids: bool = False,
) -> Iterator[Part]:
    """Yield the bands of some documents.

    Args:
        documents: tokenized documents.
        texts: the text of each.
        bands: how signatures are cut.
        parts: number of partitions.
        shared_ids: whether documents of different texts may have the same key.

    Returns:
        `BANDED` by band, or `signed(bands)` by key if keys may be shared.
    """
    rows = np.empty(len(documents), signed(bands))
    rows["node"] = np.frombuffer(b"".join(map(node_of, documents)), NODE)
    rows["bands"], rows["has_word"] = band_hashes(texts, bands)
    if shared_ids:
        yield from partitioned(rows, _first_bytes(rows["node"]), parts)
    else:
        yield from _by_band(rows, parts)


class NearDuplicates(beam.PTransform):
    """Output of `banded` → near-duplicates of documents that are kept: bytes of `NODE` [N].

    A node may be in several elements.
    """

    def __init__(
        self, group: GroupByShard, bands: Bands, parts: int, *, shared_ids: bool = False
    ) -> None:
        """Find near-duplicates.

        Args:
            group: how elements of the same name are grouped.
            bands: how signatures are cut.
            parts: number of partitions.
            shared_ids: as in `banded`.
        """
        super().__init__()
        self._group = group
        self._signed = signed(bands)
        self._parts = parts
        self._shared_ids = shared_ids

    def expand(self, rows: beam.PCollection) -> beam.PCollection:
        """Return the PCollection of nodes."""
        if self._shared_ids:
            rows = self._grouped("Ids", rows) | "Ids" >> beam.FlatMap(
                _first_of_ids, self._signed, self._parts
            )
        edges = self._apply("Bands", rows, _edges_of_bands)
        for number in range(1, ROUNDS + 1):
            edges = self._apply(f"Large stars {number}", edges, _large_stars)
            edges = self._apply(f"Small stars {number}", edges, _small_stars)
        clusters = self._grouped("Clusters", edges) | "Clusters" >> beam.FlatMap(
            _beaten
        ).with_outputs(OPEN, main="beaten")
        last = self._grouped("Chains", clusters[OPEN]) | "Chains" >> beam.FlatMap(_last)
        return (clusters.beaten, last) | beam.Flatten()

    def _grouped(self, label: str, rows: beam.PCollection) -> beam.PCollection:
        return rows | f"Group {label}" >> self._group

    def _apply(self, label: str, rows: beam.PCollection, step: Callable[..., Any]) -> Any:
        """Group rows and pass each group to a function, with the number of partitions."""
        return self._grouped(label, rows) | label >> beam.FlatMap(step, self._parts)


def marks(nodes: bytes, settings: Settings) -> Iterator[tuple[str, list[Document]]]:
    """Yield marks on documents, given as bytes of `NODE` [N], by their shard."""
    size = NODE.itemsize
    each = (near_mark(nodes[start : start + size]) for start in range(0, len(nodes), size))
    yield from by_shard(each, settings).items()


def _edges(groups: Iterable[Group | Place]) -> np.ndarray:
    return rows_of(groups, NODE).reshape(-1, 2)


def _by_first_node(edges: np.ndarray, parts: int) -> Iterator[Part]:
    yield from partitioned(edges, _first_bytes(edges[:, 0]), parts)


def _first_bytes(nodes: np.ndarray) -> np.ndarray:
    """Return the first 8 bytes of nodes, which are a part of the hash in their keys: uint64 [N]."""
    characters = np.ascontiguousarray(nodes).view(np.uint8).reshape(-1, NODE.itemsize)
    return np.ascontiguousarray(characters[:, :8]).view("<u8").ravel()


def _by_band(rows: np.ndarray, parts: int) -> Iterator[Part]:
    """Yield the bands of documents, `signed` [D], as `BANDED`, partitioned by band."""
    # Texts without a word have the same signature, and are no duplicates of each other for that.
    rows = rows[rows["has_word"]]
    banded_rows = np.empty(rows["bands"].shape, BANDED)
    banded_rows["band"] = rows["bands"]
    banded_rows["node"] = rows["node"][:, None]
    flat = banded_rows.ravel()
    yield from partitioned(flat, flat["band"] >> np.uint64(32), parts)


def _first_of_ids(
    element: tuple[str, Iterable[Group | Place]], kind: np.dtype, parts: int
) -> Iterator[Part]:
    """Yield as `_by_band`, of the documents with the smallest node of each key."""
    rows = rows_of(element[1], kind)
    rows = rows[np.argsort(rows["node"], kind="stable")]
    # A node begins with the document's key, and the type cuts off the rest.
    keys = np.ascontiguousarray(rows["node"]).astype(f"S{KEY_BYTES}")
    is_first = np.append(True, keys[1:] != keys[:-1])[: len(rows)]
    smallest = rows["node"][is_first][np.cumsum(is_first) - 1]
    yield from _by_band(rows[rows["node"] == smallest], parts)


def _edges_of_bands(element: tuple[str, Iterable[Group | Place]], parts: int) -> Iterator[Part]:
    rows = rows_of(element[1], BANDED)
    yield from _by_first_node(both_ways(bucket_edges(rows["band"], rows["node"])), parts)


def _large_stars(element: tuple[str, Iterable[Group | Place]], parts: int) -> Iterator[Part]:
    # From the larger node to the smaller one only, as a small star takes edges.
    yield from _by_first_node(large_star(_edges(element[1])), parts)


def _small_stars(element: tuple[str, Iterable[Group | Place]], parts: int) -> Iterator[Part]:
    # In both directions, as a large star and `beaten` take edges.
    yield from _by_first_node(both_ways(small_star(_edges(element[1]))), parts)


def _beaten(element: tuple[str, Iterable[Group | Place]]) -> Iterator[Any]:
    nodes, rest = beaten(_edges(element[1]))
    yield nodes.tobytes()
    if len(rest):
        # One name: only a worker that has all edges of a chain can finish it.
        yield beam.pvalue.TaggedOutput(OPEN, ("rest", [(rest.tobytes(),)]))


def _last(element: tuple[str, Iterable[Group | Place]]) -> Iterator[bytes]:
    yield all_but_smallest(_edges(element[1])).tobytes()
