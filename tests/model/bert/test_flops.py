"""FLOPs of a step."""

import math

import pytest
import tensorflow as tf

from model.bert.config import SIZES, BertConfig
from model.bert.flops import muon_flops, step_flops
from model.bert.network import build_pretraining_model
from model.training.optimizer import is_layer_matrix, orthogonalized


def flops_of_products(graph: tf.Graph) -> int:
    """Return the operations of a graph's matrix products, from the shapes."""
    total = 0
    for op in graph.get_operations():
        if "MatMul" in op.type:
            a, out = op.inputs[0].shape, op.outputs[0].shape
            inner = (
                a[-2] if op.get_attr("adj_x" if "Batch" in op.type else "transpose_a") else a[-1]
            )
            total += 2 * out.num_elements() * inner
    return total


def test_muon_flops_are_those_of_the_graph_of_its_steps(small_config: BertConfig) -> None:
    weights = build_pretraining_model(small_config).trainable_variables
    total = 0
    for weight in weights:
        if is_layer_matrix(weight.path):
            joins_heads = weight.path.endswith("attention_output/kernel")
            inputs = math.prod(weight.shape[: 2 if joins_heads else 1])
            matrix = tf.TensorSpec([inputs, math.prod(weight.shape) // inputs])
            total += flops_of_products(
                tf.function(orthogonalized).get_concrete_function(matrix).graph
            )
    assert total > 0
    assert muon_flops(small_config) == total


@pytest.mark.parametrize("pairs", [1, 4])
def test_step_flops_are_those_that_tensorflow_counts(small_config: BertConfig, pairs: int) -> None:
    model = build_pretraining_model(small_config, packed=True)
    model = (model.variants if pairs == 1 else model.packed_variants).whole
    batch, length, predictions = 3, 16, 2
    inputs = {name: tf.zeros([batch, length], tf.int32) for name in model.input}
    inputs["masked_lm_positions"] = tf.zeros([batch, predictions], tf.int32)
    if pairs > 1:
        inputs["next_sentence_positions"] = tf.zeros([batch, pairs], tf.int32)
    graph = tf.function(lambda x: model(x)).get_concrete_function(inputs).graph
    total = flops_of_products(graph)
    assert total > 0
    # Pairs have a bias-free product each; nothing else multiplies matrices.
    assert step_flops(small_config, batch, length, predictions, pairs) == pytest.approx(3 * total)


def test_step_flops_are_about_six_per_parameter_and_token() -> None:
    config = SIZES["base"].config(30522)
    parameters = 12 * (4 * 768**2 + 2 * 768 * 3072)
    per_token = step_flops(config, 8, 128, 20) / (8 * 128)
    assert per_token == pytest.approx(6 * parameters, rel=0.15)
