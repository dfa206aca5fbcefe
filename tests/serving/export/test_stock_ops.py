"""A model with an operation that TensorFlow Serving 2.20 lacks is refused by its name."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tensorflow.core.framework import graph_pb2
from tensorflow.core.protobuf import saved_model_pb2

from pipeline.errors import InputError
from serving.export.stock_ops import StockOps, check_ops


def test_the_list_has_operations_for_cpus_with_their_attributes() -> None:
    stock = StockOps.of("2.20")
    assert {"MatMul", "NormalizeUTF8", "FastWordpieceTokenizeWithOffsets", "NoOp"} <= set(
        stock.attributes
    )
    assert "transpose_b" in stock.attributes["MatMul"]
    # Registered in TensorFlow, but without a kernel for a CPU.
    assert "TPUReplicate" not in stock.attributes
    # Put in by the graph optimizer; an int8 export holds it from the start.
    assert {"fused_ops", "input_quant_mode", "is_weight_const"} <= stock.attributes[
        "_QuantizedMatMul"
    ]
    # Its kernels have labels, which only the graph optimizer selects.
    assert "_MklQuantizeV2" not in stock.attributes


def test_our_name_is_accepted(exported: Path) -> None:
    check_ops(exported, "2.20")


def _operation(graph: graph_pb2.GraphDef) -> None:
    function = next(f for f in graph.library.function if f.node_def)
    function.node_def[0].op = "TPUReplicate"
    function.node_def[0].name = "here"


def _attribute(graph: graph_pb2.GraphDef) -> None:
    node = next(n for f in graph.library.function for n in f.node_def if n.op == "MatMul")
    node.attr["grad_c"].b = True
    node.attr["_internal"].b = True


def _version(graph: graph_pb2.GraphDef) -> None:
    graph.versions.min_consumer = 99999


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_operation, "it lacks the operation TPUReplicate \\(node here\\)"),
        (_attribute, "its operation MatMul has no attribute grad_c"),
        (_version, "its graph is of version .* for readers of 99999 and newer"),
    ],
)
def test_operations_that_the_server_lacks_are_refused(
    change: Callable[[graph_pb2.GraphDef], None], message: str, exported: Path, tmp_path: Path
) -> None:
    saved = saved_model_pb2.SavedModel.FromString((exported / "saved_model.pb").read_bytes())
    change(saved.meta_graphs[0].graph_def)
    (tmp_path / "saved_model.pb").write_bytes(saved.SerializeToString())
    with pytest.raises(
        InputError, match=f"TensorFlow Serving 2.20 cannot run this model: {message}"
    ):
        check_ops(tmp_path, "2.20")
