"""Layer normalization of the inference graph: its values, and what TensorFlow fuses it into."""

import os
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import kernels

from model.bert.config import BertConfig
from model.bert.network import build_pretraining_model, weights_by_name
from serving.export.inference_graph import Network, fused_layer_norm, plain_layer_norm

SIZE = 24
GAMMA, BETA = np.linspace(0.5, 2, SIZE), np.linspace(-1, 1, SIZE)
RNG = np.random.default_rng(4)


@pytest.mark.parametrize("epsilon", [1e-12, 1e-5, 0.1])
@pytest.mark.parametrize("count", [0, 1, 5])
@pytest.mark.parametrize("spread", [1e-3, 1.0, 100.0])
@pytest.mark.parametrize("form", [plain_layer_norm, fused_layer_norm])
def test_values(form: Callable[..., Any], epsilon: float, count: int, spread: float) -> None:
    rows = spread * RNG.normal(1, 1, (count, SIZE))
    function = tf.function(
        lambda x: form(x, np.float32(GAMMA), np.float32(BETA), epsilon),
        input_signature=[tf.TensorSpec([None, SIZE], tf.float32)],
        autograph=False,
    )
    centred = rows - rows.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1, keepdims=True)
    right = centred / np.sqrt(variance + epsilon) * GAMMA + BETA
    np.testing.assert_allclose(
        function(tf.constant(rows, tf.float32)).numpy(), right, rtol=1e-4, atol=1e-4
    )


@pytest.mark.skipif(
    not kernels.get_registered_kernels_for_op("_MklLayerNorm").kernel
    or os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "0",
    reason="this build of TensorFlow fuses no layer normalization",
)
def test_layer_normalizations_in_bfloat16_are_fused() -> None:
    config = BertConfig(
        vocab_size=50, hidden_size=SIZE, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=48, max_position_embeddings=16,
    )  # fmt: skip
    weights = {
        k: np.asarray(v) for k, v in weights_by_name(build_pretraining_model(config)).items()
    }
    compat = tf.compat.v1  # its sessions return the optimized graph
    with tf.Graph().as_default(), compat.Session() as session:
        inputs = [compat.placeholder(tf.int32, [None, None]) for _ in range(3)]
        outputs = Network(config, weights, "bfloat16", ()).encoded(*inputs)
        session.run(compat.global_variables_initializer())
        ids = np.ones([2, 7], np.int32)
        ran = compat.RunMetadata()
        session.run(
            outputs[1],
            dict.fromkeys(inputs, ids) | {inputs[2]: 0 * ids},
            compat.RunOptions(output_partition_graphs=True),
            ran,
        )
    ops = Counter(node.op for graph in ran.partition_graphs for node in graph.node)
    assert ops["_MklLayerNorm"] == 2 * config.num_hidden_layers
    assert not any("BatchNorm" in op for op in ops)
