"""The encoder and heads for inference: fewer and larger matrix multiplications, no training ops.

In float32 and bfloat16 it uses the patterns that TensorFlow's graph optimizer fuses into oneDNN
kernels on a CPU: a matrix multiplication with bias and GELU, or residual in float32; a scaled and
masked matrix multiplication; and in bfloat16 layer normalization. One multiplication computes
queries, keys and values. On a GPU, XLA compiles the same graph.

Each layer is computed in a number of parts, which read the same input and whose outputs are added
(tensor parallelism, https://arxiv.org/abs/1909.08053). Between the products, each part adds and
normalizes a share of the rows (sequence parallelism, https://arxiv.org/abs/2205.05198). The
server's inter-op threads run the parts at the same time: two cores hardly share an operation on a
short text, but each computes a part alone.

Residuals are added and normalized in float32 in every precision. In int8, the products with weights
are `int8_products`; attention's products and the small heads are bfloat16.

Shapes: B texts, L positions, R = B·L rows, P masked positions, H hidden size, N heads, D = H / N,
V vocabulary size, C outputs of the task head.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from model.bert.config import BertConfig
from pipeline import schema
from serving.export.choices import ServingPrecision
from serving.export.dense import Dense, FloatDense, gathered
from serving.export.int8_products import (
    CalibratedDense,
    DynamicDense,
    Int8Embedding,
    Int8Matrix,
    check_cpu,
    layer_norm,
)
from serving.export.quantization import Plan, Range, by_column, by_row

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
        *,
        tensor_parallel: int = 1,
    ) -> None:
        """Create the network's variables from the weights of the Keras model.

        Args:
            config: config of the model.
            weights: float32 weights by name, see `model.bert.network.weights_by_name`.
            precision: dtype of the stored weights and of matrix multiplications.
            heads: names of the heads: masked_lm, next_sentence, task.
            plan: how the products of an int8 model are computed; None = by the largest number of
                each row.
            tensor_parallel: number of parts of a layer, a divisor of the number of heads and of the
                intermediate size.
        """
        super().__init__(name="network")
        weights, plan = _with_divided_values(weights, plan or Plan(), config)
        of = _Weights(weights, precision, plan)
        self._is_int8 = of.is_int8
        self._config = config
        self._dtype = of.dtype
        self._parts = tensor_parallel
        self.token_embedding = of.embedding("token_embedding/embeddings")  # [V, H]
        self.position_embedding = of.variable("position_embedding/embeddings")
        self.segment_embedding = of.variable("segment_embedding/embeddings")
        self.embeddings_norm = _Norm(of, "embeddings_layer_norm", config)
        self.layers = [
            _Layer(of, index, config, tensor_parallel) for index in range(config.num_hidden_layers)
        ]
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
        x += tf.cast(gathered(self.segment_embedding, segment_ids), tf.float32)
        # Rows instead of texts: products with weights do not need to know which text a row is of.
        x = self.embeddings_norm(tf.reshape(x, [-1, self._config.hidden_size]))
        # Computed once: all layers divide the rows in the same way.
        sizes = _share_sizes(tf.shape(x)[0], self._parts)
        shares = tf.split(x, sizes, num=self._parts)
        hidden = (1.0 - tf.cast(input_mask, tf.float32)) * HIDDEN
        hidden = tf.cast(hidden, self._dtype)[:, tf.newaxis, tf.newaxis, :]  # [B, 1, 1, L]
        all_scores = []
        for layer in self.layers:
            shares, scores = layer(shares, sizes, hidden, shape)
            all_scores.append(scores)
        x = tf.reshape(tf.concat(shares, 0), [shape[0], shape[1], self._config.hidden_size])
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


def _with_divided_values(
    weights: Mapping[str, Any], plan: Plan, config: BertConfig
) -> tuple[Mapping[str, Any], Plan]:
    """Move the divisors of what attention returns into the weights of its values.

    Attention is linear in its values, so the product that reads it needs no division of its own.
    The inputs of the other products are also residuals, which must not be divided.

    Returns:
        The weights, and a plan without these divisors.
    """
    weights, ranges = dict(weights), dict(plan.ranges)
    for index in range(config.num_hidden_layers):
        _, name, _, _ = product_names(index)
        measured = ranges.get(name)
        if measured is None or measured.divisors is None or name in plan.kept:
            continue
        attention = f"transformer_layer_{index}/self_attention_layer"
        divisors = measured.divisors.reshape(config.num_attention_heads, -1)  # [N, D]
        for path, factors in (
            (f"{attention}/value/kernel", 1 / divisors),  # [H, N, D]
            (f"{attention}/value/bias", 1 / divisors),  # [N, D]
            (f"{attention}/attention_output/kernel", divisors[..., np.newaxis]),  # [N, D, H]
        ):
            weights[path] = np.asarray(weights[path]) * factors
        ranges[name] = replace(measured, divisors=None)
    return weights, replace(plan, ranges=ranges)


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
        return _stored(self.array(path), self.dtype)

    def embedding(self, path: str) -> "_Embedding | Int8Embedding":
        """Return a table of vectors."""
        if self.is_int8:
            return Int8Embedding(Int8Matrix(by_row(self.array(path))))
        return _Embedding(self.variable(path))

    def tied_dense(self, table: Any, bias: str) -> Dense:
        """Return a dense layer whose kernel is a table of vectors, transposed."""
        if self.is_int8:
            return DynamicDense(table.table, self.array(bias), transposed=True)
        return FloatDense(table.table, self.variable(bias), transposed=True)

    def small_dense(self, path: str) -> Dense:
        """Return a dense layer in `dtype`, for heads that read few positions."""
        return FloatDense(self.variable(f"{path}/kernel"), self.variable(f"{path}/bias"))

    def column_parallel(
        self, name: str, *paths: str, size: int, part: "_ParallelPart", next_name: str = ""
    ) -> Dense:
        """Return a dense layer that computes a part of the outputs of several.

        Args:
            name: name of the product in the plan.
            paths: paths of the layers.
            size: number of outputs of each.
            part: which outputs.
            next_name: name of the product that reads the activation; "" = no activation.
        """
        kernels = [self.array(f"{path}/kernel").reshape(-1, size) for path in paths]
        biases = [self.array(f"{path}/bias").reshape(size) for path in paths]
        # Side by side: one product instead of three reads the input once.
        kernel = np.concatenate([part.of(each, axis=1) for each in kernels], axis=1)
        bias = np.concatenate([part.of(each) for each in biases])
        # What is not activated here goes into attention, which is not in float32.
        dtype = tf.float32 if next_name else self.dtype
        return self._dense(name, kernel, bias, self._plan.ranges.get(name), next_name, dtype)

    def row_parallel(self, name: str, path: str, *, size: int, part: "_ParallelPart") -> Dense:
        """Return a dense layer that reads a part of the inputs; the parts' outputs are to be added.

        Args:
            name: name of the product in the plan.
            path: path of the layer.
            size: number of outputs.
            part: which inputs.
        """
        kernel = part.of(self.array(f"{path}/kernel").reshape(-1, size))
        bias = self.array(f"{path}/bias")
        inputs = self._plan.ranges.get(name)
        if inputs and inputs.divisors is not None:
            inputs = replace(inputs, divisors=part.of(inputs.divisors))
        # The sum of the parts has the bias once.
        bias = bias if part.index == 0 else np.zeros_like(bias)
        return self._dense(name, kernel, bias, inputs, "", tf.float32)

    def _dense(
        self,
        name: str,
        kernel: np.ndarray,
        bias: np.ndarray,
        inputs: Range | None,
        next_name: str,
        dtype: tf.DType,
    ) -> Dense:
        """Return a dense layer in the form that the plan has for it.

        Args:
            name: name of the product in the plan.
            kernel: float32 [K, N].
            bias: float32 [N].
            inputs: measured range of the input, if there is one.
            next_name: as in `column_parallel`.
            dtype: dtype of the output of a product with a measured range.
        """
        if not self.is_int8 or name in self._plan.kept:
            return FloatDense(_stored(kernel, self.dtype), _stored(bias, self.dtype))
        if inputs is None:
            return DynamicDense(Int8Matrix(by_column(kernel)), bias)
        return CalibratedDense(kernel, bias, inputs, self._plan.ranges.get(next_name), dtype)

    def array(self, path: str) -> np.ndarray:
        """Return a weight of the Keras model, float32."""
        return np.asarray(self._by_path[path])


@dataclass(frozen=True)
class _ParallelPart:
    """One of `count` equal parts of a layer.

    Attributes:
        index: 0 to count - 1.
        count: number of parts.
    """

    index: int
    count: int

    def of(self, array: np.ndarray, axis: int = 0) -> np.ndarray:
        """Return this part of an array that is divided along an axis."""
        return np.split(array, self.count, axis)[self.index]


def _stored(array: np.ndarray, dtype: tf.DType) -> tf.Variable:
    return tf.Variable(tf.cast(array, dtype), trainable=False)


class _Embedding(tf.Module):
    """A table of vectors, float [V, H]."""

    def __init__(self, table: tf.Variable) -> None:
        super().__init__(name="embedding")
        self.table = table

    def __call__(self, ids: Any) -> Any:
        """Return the vectors of ids, int32 [...]: float [..., H]."""
        return gathered(self.table, ids)


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
        self.gamma, self.beta = of.array(f"{path}/gamma"), of.array(f"{path}/beta")
        self._epsilon = config.layer_norm_eps
        self._normalize = plain_layer_norm
        if of.is_int8:
            self._normalize = layer_norm
            return
        # Variables, because TensorFlow's optimizer moves constants, and then fuses nothing.
        self.gamma, self.beta = (_stored(each, tf.float32) for each in (self.gamma, self.beta))
        # Without oneDNN the fused form is slower, and float32 is what CPUs without it are given.
        if is_fused and of.dtype == tf.bfloat16:
            self._normalize = fused_layer_norm

    def __call__(self, x: Any) -> Any:
        """Return x normalized, float32."""
        return self._normalize(tf.cast(x, tf.float32), self.gamma, self.beta, self._epsilon)


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
"""Products with weights in a layer; names of the attributes of its parts."""


def product_names(index: int) -> tuple[str, ...]:
    """Return the names of a layer's products in a `Plan`, in the order of `PRODUCTS`."""
    return tuple(f"{index}/{name}" for name in PRODUCTS)


class _Layer(tf.Module):
    """A Transformer layer: `model.bert.layers.EncoderLayer` without dropout."""

    def __init__(self, of: _Weights, index: int, config: BertConfig, tensor_parallel: int) -> None:
        super().__init__(name="layer")
        path = f"transformer_layer_{index}"
        self.parts = [
            _LayerPart(of, index, config, _ParallelPart(number, tensor_parallel))
            for number in range(tensor_parallel)
        ]
        self.attention_norm = _Norm(of, f"{path}/self_attention_layer_norm", config, is_fused=True)
        self.output_norm = _Norm(of, f"{path}/feedforward_layer_norm", config, is_fused=True)
        # Operations in int8 quantize float32.
        self._input_dtype = tf.float32 if of.is_int8 else of.dtype
        self._activation = config.hidden_act

    def __call__(
        self, shares: Sequence[Any], sizes: Any, hidden: Any, shape: Any
    ) -> tuple[list[Any], Any]:
        """Return the layer's output, in shares, and its attention scores [B, N, L, L].

        Args:
            shares: float32 [R, H], divided into shares of rows, one for each part.
            sizes: int32 [parts]. Number of rows of each share.
            hidden: float [B, 1, 1, L]. Added to the attention scores: `HIDDEN` for padding, else 0.
            shape: int32 [2]. B and L.
        """
        rows = self._prepared(self.parts[0].qkv, shares)
        attended, scores = zip(
            *[part.attend(rows, hidden, shape) for part in self.parts], strict=True
        )
        outputs = [part.attention_output for part in self.parts]
        sums = _added(outputs, attended, shares, sizes)
        shares = [self.attention_norm(each) for each in sums]
        rows = self._prepared(self.parts[0].intermediate, shares)
        inner = [part.intermediate.activated(rows, self._activation) for part in self.parts]
        sums = _added([part.output for part in self.parts], inner, shares, sizes)
        return [self.output_norm(each) for each in sums], tf.concat(scores, axis=1)

    def _prepared(self, dense: Dense, shares: Sequence[Any]) -> Any:
        """Return all rows in the form that a product reads, [R, H]."""
        # Prepared before they are joined: the shares at the same time, and fewer bytes to copy.
        return tf.concat(
            [dense.prepared(tf.cast(each, self._input_dtype)) for each in shares], axis=0
        )


def _share_sizes(rows: Any, count: int) -> Any:
    """Return how many rows each of `count` shares has, int32 [count], which differ by few rows."""
    size = rows // count
    return tf.stack([size] * (count - 1) + [rows - size * (count - 1)])


def _added(
    denses: Sequence[Dense], inputs: Sequence[Any], shares: Sequence[Any], sizes: Any
) -> list[Any]:
    """Return x plus each dense layer's output for its input, in shares of rows.

    Args:
        denses: the layer of each part.
        inputs: input of each, float [R, K].
        shares: x, float32 [R, N], divided into shares of rows.
        sizes: int32 [parts]. Number of rows of each share.
    """
    if len(denses) == 1:  # one operation multiplies and adds
        return [denses[0].plus(inputs[0], shares[0])]
    outputs = [
        tf.split(tf.cast(dense(each), tf.float32), sizes, num=len(shares))
        for dense, each in zip(denses, inputs, strict=True)
    ]
    return [tf.add_n([x, *of_parts]) for x, *of_parts in zip(shares, *outputs, strict=True)]


class _LayerPart(tf.Module):
    """A part of a layer's attention heads, and of its intermediate units.

    Shapes: N heads, S hidden size and I intermediate size of the part.
    """

    def __init__(self, of: _Weights, index: int, config: BertConfig, part: _ParallelPart) -> None:
        super().__init__(name="layer_part")
        path = f"transformer_layer_{index}"
        attention, feedforward = f"{path}/self_attention_layer", f"{path}/feedforward"
        size = config.hidden_size
        vectors = [f"{attention}/{name}" for name in ("query", "key", "value")]
        qkv, attention_output, intermediate, output = product_names(index)
        self.qkv = of.column_parallel(qkv, *vectors, size=size, part=part)
        self.attention_output = of.row_parallel(
            attention_output, f"{attention}/attention_output", size=size, part=part
        )
        self.intermediate = of.column_parallel(
            intermediate,
            f"{feedforward}_intermediate_dense",
            size=config.intermediate_size,
            part=part,
            next_name=output,
        )
        self.output = of.row_parallel(output, f"{feedforward}_output_dense", size=size, part=part)
        self._dtype = of.dtype
        self._heads = config.num_attention_heads // part.count
        self._head_size = size // config.num_attention_heads

    def attend(self, rows: Any, hidden: Any, shape: Any) -> tuple[Any, Any]:
        """Return the vectors that the heads read, [R, S], and their attention scores [B, N, L, L].

        Args:
            rows: input of the layer, prepared for `qkv`: [R, H].
            hidden: as in `_Layer`.
            shape: as in `_Layer`.
        """
        heads, size = self._heads, self._head_size
        qkv = tf.cast(self.qkv(rows), self._dtype)  # [R, 3 S]
        # The inverse of the kernels' order in `column_parallel`: queries, keys, values, then heads.
        qkv = tf.reshape(qkv, [shape[0], shape[1], 3, heads, size])
        queries, keys, values = tf.unstack(tf.transpose(qkv, [2, 0, 3, 1, 4]), 3)  # [B, N, L, D]
        scale = tf.constant(size**-0.5, self._dtype)
        scores = tf.nn.softmax(tf.matmul(queries, keys, transpose_b=True) * scale + hidden)
        attended = tf.transpose(tf.matmul(scores, values), [0, 2, 1, 3])  # [B, L, N, D]
        return tf.reshape(attended, [-1, heads * size]), scores
