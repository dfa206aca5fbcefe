"""Components by star operations, against SciPy's."""

from random import Random

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipeline.corpus.clusters import (
    NODE,
    all_but_smallest,
    beaten,
    both_ways,
    bucket_edges,
    large_star,
    small_star,
)


def names(count: int, seed: int = 0) -> np.ndarray:
    """Random nodes; some end in zero bytes, which NumPy's strings do not show."""
    rng = Random(seed)
    raw = [rng.randbytes(22) + rng.choice([b"\0\0", b"ab", b"\0b"]) for _ in range(count)]
    return np.frombuffer(b"".join(raw), NODE)


def path(count: int) -> np.ndarray:
    return np.stack([np.arange(count - 1), np.arange(1, count)], axis=1)


def random_graph(count: int, edges: int) -> np.ndarray:
    return np.random.default_rng(4).integers(0, count, (edges, 2))


def expected(graph: np.ndarray, nodes: np.ndarray) -> set[bytes]:
    """All nodes but the smallest of each of SciPy's components."""
    count = len(nodes)
    _, labels = connected_components(coo_array((np.ones(len(graph)), graph.T), (count, count)))
    order = np.argsort(nodes, kind="stable")
    _, first = np.unique(labels[order], return_index=True)
    return {*nodes.tolist()} - {*nodes[order][first].tolist()}


GRAPHS = {
    "path": path(300),
    "random": random_graph(500, 400),
    "dense": random_graph(40, 400),
    "star": np.stack([np.full(50, 17), np.arange(50)], axis=1),
    "loops": np.array([[0, 0], [1, 1], [2, 3]]),
    "none": np.empty((0, 2), np.int64),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_all_but_the_smallest_of_each_component(name: str) -> None:
    graph, nodes = GRAPHS[name], names(500)
    removed = all_but_smallest(nodes[graph])
    assert len(removed) == len({*removed.tolist()})
    assert {*removed.tolist()} == expected(graph, nodes)


def by_node(edges: np.ndarray, parts: int) -> list[np.ndarray]:
    """The edges of each part of the nodes, as workers get them, in an arbitrary order."""
    edges = np.random.default_rng(1).permutation(edges)
    number = np.array([node[0] if node else 0 for node in edges[:, 0].tolist()], int) % parts
    return [edges[number == part] for part in range(parts)]


@pytest.mark.parametrize("rounds", [0, 1, 3, 9])
@pytest.mark.parametrize("name", GRAPHS)
def test_workers_that_see_some_nodes_find_the_same(name: str, rounds: int) -> None:
    """After any number of rounds; the rest of the edges is then for one worker."""
    graph, nodes = GRAPHS[name], names(500)
    edges = nodes[graph[graph[:, 0] != graph[:, 1]]]
    for _ in range(rounds):
        starred = [large_star(part) for part in by_node(np.unique(both_ways(edges), axis=0), 3)]
        edges = np.concatenate([small_star(part) for part in by_node(np.concatenate(starred), 3)])
        edges = np.unique(edges, axis=0)
    parts = [beaten(part) for part in by_node(np.unique(both_ways(edges), axis=0), 3)]
    left = np.concatenate([edges for _, edges in parts])
    removed = {node for nodes, _ in parts for node in nodes.tolist()}
    assert removed | {*all_but_smallest(left).tolist()} == expected(graph, nodes)
    if rounds == 9:
        assert not len(left)


def test_nodes_with_a_common_band_are_joined() -> None:
    nodes = np.sort(names(5))
    bands = np.array([7, 3, 7, 3, 7, 9], np.uint64)
    edges = bucket_edges(bands, nodes[[4, 1, 2, 0, 2, 3]])
    assert edges.tolist() == nodes[[[1, 0], [4, 2]]].tolist()
    assert bucket_edges(bands[:0], nodes[:0]).shape == (0, 2)
