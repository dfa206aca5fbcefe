"""The encoder and heads for inference: fewer and larger matrix multiplications, no training ops.

In float32 and bfloat16 it uses the patterns that TensorFlow's graph optimizer fuses into oneDNN
kernels on a CPU: a matrix multiplication with bias and GELU, or residual in float32; a scaled and
masked matrix multiplication; and in bfloat16 layer normalization. One multiplication computes
queries, keys and values. On a GPU, XLA compiles the same graph.

Residuals are added and normalized in float32 in every precision. In int8, the products with weights
are `int8_products`; attention's products and the small heads are bfloat16.

Shapes: B texts, L positions, R = B·L rows, P masked positions, H hidden size, N heads, D = H / N,
V vocabulary size, C outputs of the task head.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from model.bert.config import BertConfig
from pipeline import schema
from serving.export.choices import ServingPrecision
from serving.export.dense import Dense, FloatDense
from serving.export.int8_products import (
    CalibratedDense,
    DynamicDense,
    Int8Embedding,
    Int8Matrix,
    check_cpu,
    layer_norm,
)
from serving.export.quantization import Plan, by_column, by_row

HIDDEN = -1e9
"""Added to the attention scores of padding, so that softmax gives it no weight."""


@dataclass(frozen=True)
class EncoderOutputs:
    """Outputs of the encoder.

    Attributes:
        sequence_output: float32 [B, L, H].
        pooled_output: float32 [B, H].
        attention_scores: float32 [B, layers, N, L, L]; None unless requested.
    """

    sequence_output: Any
    pooled_output: Any
    attention_scores: Any = None


class Network(tf.Module):
    """An encoder and its heads."""

    def __init__(
        self,
        config: BertConfig,
        weights: Mapping[str, Any],
        precision: ServingPrecision,
        heads: Collection[str],
        plan: Plan | None = None,
    ) -> None:
        """Create the network's variables from the weights of the Keras model.

        Args:
            config: config of the model.
            weights: float32 weights by name, see `model.bert.network.weights_by_name`.
            precision: dtype of the stored weights and of matrix multiplications.
            heads: names of the heads: masked_lm, next_sentence, task.
            plan: how the products of an int8 model are computed; None = by the largest number of
                each row.
        """
        super().__init__(name="network")
        of = _Weights(weights, precision, plan or Plan())
        self._is_int8 = of.is_int8
        self._config = config
        self._dtype = of.dtype
        self.token_embedding = of.embedding("token_embedding/embeddings")  # [V, H]
        self.position_embedding = of.variable("position_embedding/embeddings")
        self.segment_embedding = of.variable("segment_embedding/embeddings")
        self.embeddings_norm = _Norm(of, "embeddings_layer_norm", config)
        self.layers = [_Layer(of, index, config) for index in range(config.num_hidden_layers)]
        self.pooled = of.small_dense("pooled_dense")
        if "masked_lm" in heads:
            self.masked_lm_dense = of.small_dense("masked_lm/intermediate_dense")
            self.masked_lm_norm = _Norm(of, "masked_lm/intermediate_layer_norm", config)
            self.masked_lm_output = of.tied_dense(self.token_embedding, "masked_lm/output_bias")
        if "next_sentence" in heads:
            self.next_sentence_dense = of.small_dense("next_sentence")
        if "task" in heads:
            self.task_dense = of.small_dense("task")
        # All signatures call these functions, so that the encoder is traced, saved and loaded once.
        ids = [tf.TensorSpec([None, None], tf.int32)] * 3
        self.encoded = tf.function(self._encode, input_signature=ids, autograph=False)
        self.encoded_with_scores = tf.function(
            partial(self._encode, with_scores=True), input_signature=ids, autograph=False
        )

    def encode(self, features: Mapping[str, Any], *, with_scores: bool = False) -> EncoderOutputs:
        """Return the outputs of the encoder.

        Args:
            features: input_ids, input_mask, segment_ids: int32 [B, L].
            with_scores: whether to return attention scores.
        """
        encode = self.encoded_with_scores if with_scores else self.encoded
        return EncoderOutputs(*encode(*[features[name] for name in schema.ENCODER_INPUTS]))

    def run(self, features: Mapping[str, Any]) -> None:
        """Run the encoder outside of a graph, for layers that record their inputs."""
        self._encode(*[features[name] for name in schema.ENCODER_INPUTS])

    def _encode(
        self, input_ids: Any, input_mask: Any, segment_ids: Any, *, with_scores: bool = False
    ) -> tuple[Any, ...]:
        """Return the fields of `EncoderOutputs`; the arguments are int32 [B, L]."""
        shape = tf.shape(input_ids)
        if self._is_int8:
            with tf.control_dependencies([check_cpu()]):
                input_ids = tf.identity(input_ids)
        # The sum is computed in float32, as in Keras, and rounded once, after the normalization.
        x = tf.cast(self.token_embedding(input_ids), tf.float32)
        x += tf.cast(self.position_embedding[: shape[1]], tf.float32)
        x += tf.cast(tf.gather(self.segment_embedding, segment_ids), tf.float32)
        # Rows instead of texts: products with weights do not need to know which text a row is of.
        x = self.embeddings_norm(tf.reshape(x, [-1, self._config.hidden_size]))
        hidden = (1.0 - tf.cast(input_mask, tf.float32)) * HIDDEN
        hidden = tf.cast(hidden, self._dtype)[:, tf.newaxis, tf.newaxis, :]  # [B, 1, 1, L]
        all_scores = []
        for layer in self.layers:
            x, scores = layer(x, hidden, shape)
            all_scores.append(scores)
        x = tf.reshape(x, [shape[0], shape[1], self._config.hidden_size])
        pooled = tf.tanh(self._head(self.pooled, x[:, 0, :]))
        outputs = (x, pooled)
        if not with_scores:
            return outputs
        return (*outputs, tf.cast(tf.stack(all_scores, axis=1), tf.float32))

    def masked_lm(self, sequence_output: Any, positions: Any) -> Any:
        """Return the logits of all pieces at the given positions: float32 [B, P, V].

        Args:
            sequence_output: float32 [B, L, H].
            positions: int32 [B, P]. Positions to predict.
        """
        x = tf.gather(sequence_output, positions, batch_dims=1)
        x = tf.cast(tf.reshape(x, [-1, self._config.hidden_size]), self._dtype)
        x = self.masked_lm_norm(self.masked_lm_dense.activated(x, self._config.hidden_act))
        logits = tf.cast(self.masked_lm_output(tf.cast(x, self._dtype)), tf.float32)
        count = tf.shape(positions)
        return tf.reshape(logits, [count[0], count[1], self._config.vocab_size])

    def next_sentence(self, pooled_output: Any) -> Any:
        """Return logits of 0 = next sentence and 1 = not: float32 [B, 2], from float32 [B, H]."""
        return self._head(self.next_sentence_dense, pooled_output)

    def task(self, vectors: Any) -> Any:
        """Return the outputs of the task head: float32 [..., C], from float32 [..., H]."""
        rows = self._head(self.task_dense, tf.reshape(vectors, [-1, self._config.hidden_size]))
        return tf.reshape(rows, tf.concat([tf.shape(vectors)[:-1], tf.shape(rows)[1:]], 0))

    def _head(self, dense: Dense, x: Any) -> Any:
        return tf.cast(dense(tf.cast(x, self._dtype)), tf.float32)


class _Weights:
    """Creates variables, in another layout and dtype, from the weights of the Keras model.

    Attributes:
        is_int8: whether products with weights are int8.
        dtype: dtype of attention and of the small heads, and of products that are not int8.
    """

    def __init__(self, by_path: Mapping[str, Any], precision: ServingPrecision, plan: Plan) -> None:
        self._by_path = by_path
        self._plan = plan
        self.is_int8 = precision == "int8"
        self.dtype = tf.bfloat16 if self.is_int8 else tf.dtypes.as_dtype(precision)

    def variable(self, path: str) -> tf.Variable:
        """Return a variable in `dtype`."""
        return _stored(self._array(path), self.dtype)

    def float32(self, path: str) -> tf.Variable:
        """Return a variable in float32 for any precision, for layer normalization."""
        return _stored(self._array(path), tf.float32)

    def embedding(self, path: str) -> "_Embedding | Int8Embedding":
        """Return a table of vectors."""
        if self.is_int8:
            return Int8Embedding(Int8Matrix(by_row(self._array(path))))
        return _Embedding(self.variable(path))

    def tied_dense(self, table: Any, bias: str) -> Dense:
        """Return a dense layer whose kernel is a table of vectors, transposed."""
        if self.is_int8:
            return DynamicDense(table.table, self.float32(bias), transposed=True)
        return FloatDense(table.table, self.variable(bias), transposed=True)

    def small_dense(self, path: str) -> Dense:
        """Return a dense layer in `dtype`, for heads that read few positions."""
        return FloatDense(self.variable(f"{path}/kernel"), self.variable(f"{path}/bias"))

    def dense(
        self, name: str, *paths: str, size: int, next_name: str = "", is_residual: bool = True
    ) -> Dense:
        """Return a dense layer that computes several at once.

        Args:
            name: name of the product in the plan.
            paths: paths of the layers.
            size: number of outputs of each.
            next_name: name of the product that reads the activation; "" = no activation.
            is_residual: whether the output of an int8 product is float32, not `dtype`.
        """
        kernels = [self._array(f"{path}/kernel") for path in paths]
        # Side by side: one product instead of three reads the input once.
        kernel = np.concatenate([each.reshape(-1, size) for each in kernels], axis=-1)
        bias = np.concatenate([self._array(f"{path}/bias").reshape(size) for path in paths])
        if not self.is_int8 or name in self._plan.kept:
            return FloatDense(_stored(kernel, self.dtype), _stored(bias, self.dtype))
        if name not in self._plan.ranges:
            return DynamicDense(Int8Matrix(by_column(kernel)), _stored(bias, tf.float32))
        return CalibratedDense(
            kernel,
            bias,
            self._plan.ranges[name],
            self._plan.ranges.get(next_name),
            tf.float32 if is_residual else self.dtype,
        )

    def _array(self, path: str) -> np.ndarray:
        return np.asarray(self._by_path[path])


def _stored(array: np.ndarray, dtype: tf.DType) -> tf.Variable:
    return tf.Variable(tf.cast(array, dtype), trainable=False)


class _Embedding(tf.Module):
    """A table of vectors, float [V, H]."""

    def __init__(self, table: tf.Variable) -> None:
        super().__init__(name="embedding")
        self.table = table

    def __call__(self, ids: Any) -> Any:
        """Return the vectors of ids, int32 [...]: float [..., H]."""
        return tf.gather(self.table, ids)


class _Norm(tf.Module):
    """Layer normalization in float32, over the last axis of [R, H]."""

    def __init__(
        self, of: _Weights, path: str, config: BertConfig, *, is_fused: bool = False
    ) -> None:
        """Create the variables.

        Args:
            of: source of the weights.
            path: path of the layer.
            config: config of the model.
            is_fused: whether the operation may have the form of `fused_layer_norm`.
        """
        super().__init__(name="norm")
        self.gamma, self.beta = of.float32(f"{path}/gamma"), of.float32(f"{path}/beta")
        self._epsilon = config.layer_norm_eps
        self._normalize = plain_layer_norm
        if of.is_int8:
            self._normalize = layer_norm
        # Without oneDNN the fused form is slower, and float32 is what CPUs without it are given.
        elif is_fused and of.dtype == tf.bfloat16:
            self._normalize = fused_layer_norm

    def __call__(self, x: Any) -> Any:
        """Return x normalized, float32."""
        gamma, beta = tf.convert_to_tensor(self.gamma), tf.convert_to_tensor(self.beta)
        return self._normalize(tf.cast(x, tf.float32), gamma, beta, self._epsilon)


def plain_layer_norm(x: Any, gamma: Any, beta: Any, epsilon: float) -> Any:
    """Return the layer normalization over the last axis of float32 [R, H]."""
    centred = x - tf.reduce_mean(x, -1, keepdims=True)
    variance = tf.reduce_mean(tf.square(centred), -1, keepdims=True)
    return centred * tf.math.rsqrt(variance + epsilon) * gamma + beta


def fused_layer_norm(x: Any, gamma: Any, beta: Any, epsilon: float) -> Any:
    """Return the layer normalization over the last axis, in the form that TensorFlow fuses.

    It is the form of Keras 2: batch normalization in training mode, where each row is a channel.
    The graph optimizer replaces it by one operation of oneDNN (`FindMklLayerNorm` in
    tensorflow/core/grappler/optimizers/remapper.cc), unless x is the result of a cast, which the
    optimizer moves past the reshape.

    Args:
        x: float32 [R, H].
        gamma: float32 [H].
        beta: float32 [H].
        epsilon: added to the variance.
    """
    shape = tf.shape(x)
    empty = tf.zeros([0])
    normalized, *_ = tf.raw_ops.FusedBatchNormV3(
        x=tf.reshape(x, [1, shape[0], shape[1], 1]),
        scale=tf.fill(shape[:1], 1.0),
        offset=tf.fill(shape[:1], 0.0),
        mean=empty,
        variance=empty,
        epsilon=epsilon,
        data_format="NCHW",
        is_training=True,
    )
    return beta + tf.reshape(normalized, shape) * gamma


PRODUCTS = ("qkv", "attention_output", "intermediate", "output")
"""Products with weights in a layer; names of the layer's attributes."""


def product_names(index: int) -> tuple[str, ...]:
    """Return the names of a layer's products in a `Plan`, in the order of `PRODUCTS`."""
    return tuple(f"{index}/{name}" for name in PRODUCTS)


class _Layer(tf.Module):
    """A Transformer layer: `model.bert.layers.EncoderLayer` without dropout."""

    def __init__(self, of: _Weights, index: int, config: BertConfig) -> None:
        super().__init__(name="layer")
        path = f"transformer_layer_{index}"
        attention = f"{path}/self_attention_layer"
        size = config.hidden_size
        parts = [f"{attention}/{part}" for part in ("query", "key", "value")]
        feedforward = f"{path}/feedforward"
        qkv, attention_output, intermediate, output = product_names(index)
        self.qkv = of.dense(qkv, *parts, size=size, is_residual=False)
        self.attention_output = of.dense(
            attention_output, f"{attention}/attention_output", size=size
        )
        self.attention_norm = _Norm(of, f"{path}/self_attention_layer_norm", config, is_fused=True)
        self.intermediate = of.dense(
            intermediate,
            f"{feedforward}_intermediate_dense",
            size=config.intermediate_size,
            next_name=output,
        )
        self.output = of.dense(output, f"{feedforward}_output_dense", size=size)
        self.output_norm = _Norm(of, f"{path}/feedforward_layer_norm", config, is_fused=True)
        self._dtype = of.dtype
        # Operations in int8 quantize float32.
        self._input_dtype = tf.float32 if of.is_int8 else of.dtype
        self._config = config

    def __call__(self, x: Any, hidden: Any, shape: Any) -> tuple[Any, Any]:
        """Return the layer's output [R, H] and its attention scores [B, N, L, L].

        Args:
            x: float32 [R, H].
            hidden: float [B, 1, 1, L]. Added to the attention scores: `HIDDEN` for padding, else 0.
            shape: int32 [2]. B and L.
        """
        attended, scores = self._attend(tf.cast(x, self._input_dtype), hidden, shape)
        x = self.attention_norm(self.attention_output.plus(attended, x))
        narrow = tf.cast(x, self._input_dtype)
        inner = self.intermediate.activated(narrow, self._config.hidden_act)
        return self.output_norm(self.output.plus(inner, x)), scores

    def _attend(self, x: Any, hidden: Any, shape: Any) -> tuple[Any, Any]:
        heads = self._config.num_attention_heads
        size = self._config.hidden_size // heads
        qkv = tf.cast(self.qkv(x), self._dtype)  # [R, 3 H]
        # The inverse of the kernels' order in `_Weights.dense`: queries, keys, values, then heads.
        qkv = tf.reshape(qkv, [shape[0], shape[1], 3, heads, size])
        queries, keys, values = tf.unstack(tf.transpose(qkv, [2, 0, 3, 1, 4]), 3)  # [B, N, L, D]
        scale = tf.constant(size**-0.5, self._dtype)
        scores = tf.nn.softmax(tf.matmul(queries, keys, transpose_b=True) * scale + hidden)
        attended = tf.transpose(tf.matmul(scores, values), [0, 2, 1, 3])  # [B, L, N, D]
        return tf.reshape(attended, [-1, self._config.hidden_size]), scores
