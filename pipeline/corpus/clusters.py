"""Connected components of a graph too large for one worker, by alternating star operations.

Documents that share an LSH band are joined by an edge; the components are clusters of
near-duplicates, and the smallest node of each is kept. `large_star` and `small_star` (Kiveris et
al. 2014, "Connected Components in MapReduce and Beyond", section 3) each look at the neighbors of
one node at a time, so that a worker needs only the edges of some nodes. Applied in turns, they
change every component into a star around its smallest node.

Nodes are bytes of a fixed length that are compared as bytes: dtype `NODE`.

Shapes: E edges, N nodes.
"""

import numpy as np

NODE = np.dtype("S24")
"""A document: its key of 16 bytes, and 8 bytes of a hash of its pieces."""


def bucket_edges(bands: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """Join all nodes that have the same band to the smallest of them.

    Args:
        bands: uint64 [N]. Hash of a band of each node; all nodes that have it must be there.
        nodes: `NODE` [N].

    Returns:
        `NODE` [E, 2]. Distinct edges: the larger node, the smaller one.
    """
    order = np.lexsort((nodes, bands))
    bands, nodes = bands[order], nodes[order]
    is_first = np.append(True, bands[1:] != bands[:-1])[: len(bands)]
    smallest = nodes[is_first][np.cumsum(is_first) - 1]
    return _distinct(nodes, smallest)


def both_ways(edges: np.ndarray) -> np.ndarray:
    """Return each edge in both directions: `NODE` [2 E, 2]."""
    return np.concatenate([edges, edges[:, ::-1]])


def large_star(edges: np.ndarray) -> np.ndarray:
    """Join the larger neighbors of each node to its smallest neighbor, or to itself if smaller.

    Args:
        edges: `NODE` [E, 2]. Nodes and their neighbors; all neighbors of a node must be there.

    Returns:
        `NODE` [E, 2]. Distinct edges: the larger node, the smaller one.
    """
    names, nodes, neighbors = _numbered(edges)
    smallest = _smallest(nodes, neighbors, len(names))
    is_larger = neighbors > nodes
    return _distinct(names[neighbors[is_larger]], names[smallest[nodes[is_larger]]])


def small_star(edges: np.ndarray) -> np.ndarray:
    """Join each node and its smaller neighbors to the smallest of them.

    Args:
        edges: `NODE` [E, 2]. Nodes and their smaller neighbors; all of a node must be there.

    Returns:
        `NODE` [E, 2]. Distinct edges: the larger node, the smaller one.
    """
    names, nodes, neighbors = _numbered(edges)
    smallest = names[_smallest(nodes, neighbors, len(names))[nodes]]
    ends = np.concatenate([names[nodes], names[neighbors]])
    return _distinct(ends, np.tile(smallest, 2))


def beaten(edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return nodes that are not the smallest of their component, and the edges not in a star.

    If every component is a star, these are all such nodes and there are no such edges. If not, the
    smallest nodes of different stars of a component are missing; the edges join them.

    Args:
        edges: `NODE` [E, 2]. Nodes and their neighbors; all neighbors of a node must be there.

    Returns:
        `NODE` [N]: nodes with a smaller neighbor. `NODE` [E, 2]: all edges of those of them that
        have other neighbors, too.
    """
    names, nodes, neighbors = _numbered(edges)
    has_smaller = np.zeros(len(names), bool)
    has_smaller[nodes[neighbors < nodes]] = True
    is_open = has_smaller & (np.bincount(nodes, minlength=len(names)) > 1)
    return names[has_smaller], edges[is_open[nodes]]


def all_but_smallest(edges: np.ndarray) -> np.ndarray:
    """Return all nodes but the smallest of each component of a graph: `NODE` [N].

    Args:
        edges: `NODE` [E, 2]. All edges of the graph, in any direction.
    """
    before = None
    while before is None or not np.array_equal(before, edges):
        before, edges = edges, small_star(large_star(np.unique(both_ways(edges), axis=0)))
    return beaten(both_ways(edges))[0]


def _numbered(edges: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the distinct nodes in order, and the numbers of both ends of the edges."""
    names, numbers = np.unique(edges.ravel(), return_inverse=True)
    nodes, neighbors = numbers.reshape(-1, 2).T
    return names, nodes, neighbors


def _smallest(nodes: np.ndarray, neighbors: np.ndarray, count: int) -> np.ndarray:
    """Return the smallest of each of `count` nodes and its neighbors: numbers, int [count]."""
    smallest = np.arange(count)
    np.minimum.at(smallest, nodes, neighbors)
    return smallest


def _distinct(larger: np.ndarray, smaller: np.ndarray) -> np.ndarray:
    """Return the distinct edges between different nodes, sorted: `NODE` [E, 2]."""
    pairs = np.stack([larger, smaller], axis=1)[larger != smaller]
    # As one value, since `np.unique` with an axis is slow for strings.
    joined = np.unique(np.ascontiguousarray(pairs).view(f"S{2 * NODE.itemsize}"))
    return joined.view(NODE).reshape(-1, 2)
