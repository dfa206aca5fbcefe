"""Check that a stock TensorFlow Serving supports all ops of a SavedModel.

A server without one of the ops loads the model and reports it as available, but all its requests
fail.
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
    """CPU ops of a release.

    Attributes:
        attributes: names of the attributes of each op.
        oldest, newest: supported versions of graphs.
    """

    attributes: dict[str, frozenset[str]]
    oldest: int
    newest: int

    @classmethod
    def of(cls, server: ServerVersion) -> "StockOps":
        """Read the list that `op_lists/list_ops.py` wrote for a release."""
        lines = (_LISTS / f"{server}.txt").read_text(encoding="utf-8").splitlines()
        oldest, _, newest = lines[1].split()[-3:]
        words = [line.split() for line in lines if not line.startswith("#")]
        return cls({op: frozenset(rest) for op, *rest in words}, int(oldest), int(newest))


def check_ops(saved_model: Path, server: ServerVersion) -> None:
    """Check that a release of TensorFlow Serving can run a saved model.

    Args:
        saved_model: directory of the saved model.
        server: release of TensorFlow Serving.

    Raises:
        InputError: it does not support an op, an op's attribute, or the graph's version.
    """
    stock = StockOps.of(server)
    data = (saved_model / SAVED_MODEL).read_bytes()
    refused = f"TensorFlow Serving {server} cannot run this model: "
    for meta_graph in saved_model_pb2.SavedModel.FromString(data).meta_graphs:
        graph = meta_graph.graph_def
        needed, written = graph.versions.min_consumer, graph.versions.producer
        # TensorFlow's own rule of compatibility between releases.
        if needed > stock.newest or written < stock.oldest:
            raise InputError(
                f"{refused}its graph is of version {written} for readers of {needed} and newer; "
                f"the server reads {stock.oldest} to {stock.newest}"
            )
        functions = {function.signature.name for function in graph.library.function}
        for node in _nodes(graph):
            # A call of a function of the graph, whose nodes are checked as well.
            if node.op in functions:
                continue
            if node.op not in stock.attributes:
                raise InputError(f"{refused}it lacks the operation {node.op} (node {node.name})")
            # Attributes with an underscore are annotations, which servers ignore.
            public = {name for name in node.attr if not name.startswith("_")}
            for name in sorted(public - stock.attributes[node.op]):
                raise InputError(
                    f"{refused}its operation {node.op} has no attribute {name} (node {node.name})"
                )


def _nodes(graph: graph_pb2.GraphDef) -> Iterator[node_def_pb2.NodeDef]:
    # Signatures are functions: most nodes are in the library, not in the graph itself.
    yield from graph.node
    for function in graph.library.function:
        yield from function.node_def
