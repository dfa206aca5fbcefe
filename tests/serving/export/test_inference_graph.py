"""The inference graph: the parts of a layer, and layer normalization."""

import os
from collections import Counter
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import kernels

from model import served
from model.bert.config import BertConfig
from model.bert.network import build_pretraining_model, weights_by_name, with_intermediates
from pipeline import schema
from serving.export.choices import ServingPrecision
from serving.export.inference_graph import (
    PRODUCTS,
    Network,
    fused_layer_norm,
    plain_layer_norm,
    product_names,
)
from serving.export.quantization import Plan, Range

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
@pytest.mark.parametrize("parts", [1, 2])
def test_layer_normalizations_in_bfloat16_are_fused(parts: int) -> None:
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
        network = Network(config, weights, "bfloat16", (), tensor_parallel=parts)
        outputs = network.encoded(*inputs)
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
    assert ops["_MklLayerNorm"] == 2 * config.num_hidden_layers * parts
    assert not any("BatchNorm" in op for op in ops)


FOUR_HEADS = BertConfig(
    vocab_size=50, hidden_size=SIZE, num_hidden_layers=2, num_attention_heads=4,
    intermediate_size=48, max_position_embeddings=16,
)  # fmt: skip


@pytest.fixture(scope="module")
def keras_model() -> keras.Model:
    """Return a model in which no two numbers are equal, and no bias is 0."""
    model = build_pretraining_model(FOUR_HEADS)
    rng = np.random.default_rng(6)
    model.set_weights([rng.normal(0, 0.3, weight.shape) for weight in model.weights])
    return model


def _plan() -> Plan:
    """Return ranges that hold all inputs of `keras_model`, with divisors that differ."""
    divisors = np.linspace(0.5, 2, SIZE).astype(np.float32)
    step = 0.04
    ranges = (
        Range(0.0, 4.0, divisors), Range(0.0, 4.0, divisors[::-1]), Range(0.0, 4.0, divisors),
        Range(-5 * step, 250 * step),
    )  # fmt: skip
    names = map(product_names, range(FOUR_HEADS.num_hidden_layers))
    return Plan({name: each for row in names for name, each in zip(row, ranges, strict=True)})


@pytest.mark.parametrize("parts", [1, 2, 4])
@pytest.mark.parametrize(
    ("precision", "plan", "tolerance"),
    [
        ("float32", None, 1e-5),
        ("bfloat16", None, 0.03),
        ("int8", None, 0.05),
        ("int8", _plan(), 0.1),
    ],
    ids=["float32", "bfloat16", "int8 by row", "int8 calibrated"],
)
def test_the_parts_of_a_layer_give_the_whole_layer(
    keras_model: keras.Model,
    precision: ServingPrecision,
    plan: Plan | None,
    tolerance: float,
    parts: int,
) -> None:
    ids = np.random.default_rng(7).integers(0, 50, (2, 7), np.int32)
    mask = np.array([[1] * 7, [1] * 5 + [0] * 2], np.int32)
    features = dict(zip(schema.ENCODER_INPUTS, (ids, mask, 1 - mask), strict=True))
    right = with_intermediates(keras_model.get_layer("encoder"))(features)
    weights = weights_by_name(keras_model)
    network = Network(FOUR_HEADS, weights, precision, (), plan, tensor_parallel=parts)
    found = network.encode(features, with_scores=True)
    is_real = mask[..., np.newaxis]
    for name, got, expected in (
        ("sequence", found.sequence_output * is_real, right[served.SEQUENCE_OUTPUT] * is_real),
        ("pooled", found.pooled_output, right[served.POOLED_OUTPUT]),
        ("scores", found.attention_scores, np.stack(right["attention_scores"], axis=1)),
    ):
        error = np.abs(np.asarray(got) - np.asarray(expected)).max() / np.abs(expected).max()
        assert error < tolerance, name


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.05), ("int8", 0.2)]
)
@pytest.mark.parametrize(("texts", "positions"), [(0, 5), (1, 1), (3, 1)])
def test_fewer_rows_than_parts(
    keras_model: keras.Model,
    precision: ServingPrecision,
    tolerance: float,
    texts: int,
    positions: int,
) -> None:
    ids = np.arange(texts * positions, dtype=np.int32).reshape(texts, positions) + 5
    features = dict(zip(schema.ENCODER_INPUTS, (ids, ids**0, 0 * ids), strict=True))
    weights = weights_by_name(keras_model)
    plan = _plan() if precision == "int8" else None
    whole, parts = (
        Network(FOUR_HEADS, weights, precision, (), plan, tensor_parallel=count).encode(features)
        for count in (1, 4)
    )
    assert parts.sequence_output.shape == (texts, positions, SIZE)
    np.testing.assert_allclose(parts.sequence_output, whole.sequence_output, atol=tolerance)


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_the_table_of_tokens_is_not_copied(
    keras_model: keras.Model, precision: ServingPrecision
) -> None:
    """A `ResourceGather` makes each later read of the variable a copy, also for the masked LM."""
    network = Network(FOUR_HEADS, weights_by_name(keras_model), precision, ("masked_lm",))
    ops = {each.type for each in network.encoded.get_concrete_function().graph.get_operations()}
    assert "GatherV2" in ops
    assert "ResourceGather" not in ops


def test_vectors_of_an_int8_encoder_are_constants(keras_model: keras.Model) -> None:
    network = Network(FOUR_HEADS, weights_by_name(keras_model), "int8", (), _plan())
    operations = network.encoded.get_concrete_function().graph.get_operations()
    read = [each.outputs[0].shape for each in operations if each.type == "ReadVariableOp"]
    products = len(PRODUCTS) * FOUR_HEADS.num_hidden_layers
    # Three tables, and the kernel of the pooled output.
    assert sum(shape.rank == 2 for shape in read) == products + 3 + 1
    assert sum(shape.rank == 1 for shape in read) == 1  # bias of the pooled output
