"""The list of operations that a stock server runs, made from the installed TensorFlow."""

import re

import pytest
import tensorflow as tf

from serving.export.op_lists.list_ops import main


def test_operations_with_a_kernel_for_cpus_are_listed_with_their_attributes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main()
    versions, graph, *lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"# TensorFlow {re.escape(tf.__version__)}, TF Text [\d.]+", versions)
    assert re.fullmatch(r"# graph versions \d+ to \d+", graph)
    listed = {name: attributes for name, *attributes in map(str.split, lines)}
    assert list(listed) == sorted(listed)
    # As their documentation names them: of TensorFlow, of TF Text, and of a saved graph's inputs.
    assert {"T", "transpose_a", "transpose_b"} <= {*listed["MatMul"]}
    assert "FastWordpieceTokenizeWithOffsets" in listed
    assert {"dtype", "shape"} <= {*listed["Placeholder"]}
    # Operations without a kernel for CPUs: all-reduce of GPUs, and cores of a TPU.
    assert "NcclAllReduce" not in listed
    assert "TPUPartitionedCall" not in listed
