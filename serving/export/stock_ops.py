"""Whether a stock TensorFlow Serving knows every operation of a SavedModel.

One that does not still announces the model, and fails every request.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tensorflow.core.framework import graph_pb2, node_def_pb2
from tensorflow.core.protobuf import saved_model_pb2

from pipeline.errors import InputError
from serving.export.choices import ServerVersion
from serving.tf_serving import SAVED_MODEL

_LISTS = Path(__file__).parent / "op_lists"


@dataclass(frozen=True)
class StockOps:
    """What a release runs on a CPU.

    Attributes:
        attributes: names of each operation's attributes.
        oldest, newest: versions of graphs that it reads.
    """

    attributes: dict[str, frozenset[str]]
    oldest: int
    newest: int

    @classmethod
    def of(cls, server: ServerVersion) -> "StockOps":
        """Return what `op_lists/list_ops.py` found of a release."""
        lines = (_LISTS / f"{server}.txt").read_text(encoding="utf-8").splitlines()
        oldest, _, newest = lines[1].split()[-3:]
        words = [line.split() for line in lines if not line.startswith("#")]
        return cls({op: frozenset(rest) for op, *rest in words}, int(oldest), int(newest))


def check_ops(saved_model: Path, server: ServerVersion) -> None:
    """Compare a saved model with what a release of TensorFlow Serving knows.

    Args:
        saved_model: the directory.
        server: the release.

    Raises:
        InputError: an operation, an attribute of one, or the graph's version is unknown to it.
    """
    stock = StockOps.of(server)
    data = (saved_model / SAVED_MODEL).read_bytes()
    refused = f"TensorFlow Serving {server} cannot run this model: "
    for meta_graph in saved_model_pb2.SavedModel.FromString(data).meta_graphs:
        graph = meta_graph.graph_def
        needed, written = graph.versions.min_consumer, graph.versions.producer
        if needed > stock.newest or written < stock.oldest:
            raise InputError(
                f"{refused}its graph is of version {written} for readers of {needed} and newer; "
                f"the server reads {stock.oldest} to {stock.newest}"
            )
        functions = {function.signature.name for function in graph.library.function}
        for node in _nodes(graph):
            if node.op in functions:
                continue
            if node.op not in stock.attributes:
                raise InputError(f"{refused}it lacks the operation {node.op} (node {node.name})")
            public = {name for name in node.attr if not name.startswith("_")}
            for name in sorted(public - stock.attributes[node.op]):
                raise InputError(
                    f"{refused}its operation {node.op} has no attribute {name} (node {node.name})"
                )


def _nodes(graph: graph_pb2.GraphDef) -> Iterator[node_def_pb2.NodeDef]:
    yield from graph.node
    for function in graph.library.function:
        yield from function.node_def
