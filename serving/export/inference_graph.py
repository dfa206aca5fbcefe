"""The encoder and heads for inference: fewer and larger matrix multiplications, no training ops.

It uses the patterns that TensorFlow's graph optimizer fuses into oneDNN kernels on a CPU: a matrix
multiplication with bias and GELU or residual; and a scaled and masked matrix multiplication. One
multiplication computes queries, keys and values. On a GPU, XLA compiles the same graph.

Shapes: B texts, L positions, R = B·L rows, P masked positions, H hidden size, N heads, D = H / N,
V vocabulary size, C outputs of the task head.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from model.bert.config import BertConfig
from pipeline import schema
from serving.export.choices import ServingPrecision

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
    ) -> None:
        """Create the network's variables from the weights of the Keras model.

        Args:
            config: config of the model.
            weights: float32 weights by name, see `model.bert.network.weights_by_name`.
            precision: dtype of the stored weights and of matrix multiplications.
            heads: names of the heads: masked_lm, next_sentence, task.
        """
        super().__init__(name="network")
        of = _Weights(weights, tf.dtypes.as_dtype(precision))
        self._config = config
        self._dtype = of.dtype
        self.token_embedding = of.variable("token_embedding/embeddings")  # [V, H]
        self.position_embedding = of.variable("position_embedding/embeddings")
        self.segment_embedding = of.variable("segment_embedding/embeddings")
        self.embeddings_norm = _Norm(of, "embeddings_layer_norm", config)
        self.layers = [_Layer(of, index, config) for index in range(config.num_hidden_layers)]
        self.pooled = _Dense(of, "pooled_dense")
        if "masked_lm" in heads:
            self.masked_lm_dense = _Dense(of, "masked_lm/intermediate_dense")
            self.masked_lm_norm = _Norm(of, "masked_lm/intermediate_layer_norm", config)
            self.masked_lm_bias = of.variable("masked_lm/output_bias")
        if "next_sentence" in heads:
            self.next_sentence_dense = _Dense(of, "next_sentence")
        if "task" in heads:
            self.task_dense = _Dense(of, "task")
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

    def _encode(
        self, input_ids: Any, input_mask: Any, segment_ids: Any, *, with_scores: bool = False
    ) -> tuple[Any, ...]:
        """Return the fields of `EncoderOutputs`; the arguments are int32 [B, L]."""
        shape = tf.shape(input_ids)
        # The sum is computed in float32, as in Keras, and rounded once, after the normalization.
        x = tf.cast(tf.gather(self.token_embedding, input_ids), tf.float32)
        x += tf.cast(self.position_embedding[: shape[1]], tf.float32)
        x += tf.cast(tf.gather(self.segment_embedding, segment_ids), tf.float32)
        x = self.embeddings_norm(tf.reshape(x, [-1, self._config.hidden_size]), self._dtype)
        hidden = (1.0 - tf.cast(input_mask, tf.float32)) * HIDDEN
        hidden = tf.cast(hidden, self._dtype)[:, tf.newaxis, tf.newaxis, :]  # [B, 1, 1, L]
        all_scores = []
        for layer in self.layers:
            x, scores = layer(x, hidden, shape)
            all_scores.append(scores)
        x = tf.reshape(x, [shape[0], shape[1], self._config.hidden_size])
        pooled = tf.tanh(tf.cast(self.pooled(x[:, 0, :]), tf.float32))
        outputs = (tf.cast(x, tf.float32), pooled)
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
        x = self.masked_lm_norm(_activated(self.masked_lm_dense(x), self._config), self._dtype)
        logits = tf.matmul(x, self.token_embedding, transpose_b=True)
        logits = tf.cast(tf.nn.bias_add(logits, self.masked_lm_bias), tf.float32)
        count = tf.shape(positions)
        return tf.reshape(logits, [count[0], count[1], self._config.vocab_size])

    def next_sentence(self, pooled_output: Any) -> Any:
        """Return logits of 0 = next sentence and 1 = not: float32 [B, 2], from float32 [B, H]."""
        return self._head(self.next_sentence_dense, pooled_output)

    def task(self, vectors: Any) -> Any:
        """Return the outputs of the task head: float32 [..., C], from float32 [..., H]."""
        rows = self._head(self.task_dense, tf.reshape(vectors, [-1, self._config.hidden_size]))
        return tf.reshape(rows, tf.concat([tf.shape(vectors)[:-1], tf.shape(rows)[1:]], 0))

    def _head(self, dense: "_Dense", x: Any) -> Any:
        return tf.cast(dense(tf.cast(x, self._dtype)), tf.float32)


class _Weights:
    """Creates variables, in another layout and dtype, from the weights of the Keras model."""

    def __init__(self, by_path: Mapping[str, Any], dtype: tf.DType) -> None:
        self._by_path = by_path
        self.dtype = dtype

    def variable(self, *paths: str, shape: tuple[int, ...] | None = None) -> tf.Variable:
        """Return one variable with the weights concatenated, each reshaped to `shape` first."""
        arrays = [np.asarray(self._by_path[path]) for path in paths]
        arrays = [array.reshape(shape) if shape else array for array in arrays]
        return self._stored(np.concatenate(arrays, axis=-1), self.dtype)

    def float32(self, path: str) -> tf.Variable:
        """Return a variable in float32 for any precision, for layer normalization."""
        return self._stored(np.asarray(self._by_path[path]), tf.float32)

    def _stored(self, array: np.ndarray, dtype: tf.DType) -> tf.Variable:
        return tf.Variable(tf.cast(array, dtype), trainable=False)


class _Dense(tf.Module):
    """A dense layer: float [R, H] → float [R, K]."""

    def __init__(self, of: _Weights, path: str) -> None:
        super().__init__(name="dense")
        self.kernel = of.variable(f"{path}/kernel")
        self.bias = of.variable(f"{path}/bias")

    def __call__(self, x: Any) -> Any:
        """Return x times the kernel plus the bias."""
        return tf.nn.bias_add(tf.matmul(x, self.kernel), self.bias)


class _Norm(tf.Module):
    """Layer normalization in float32, over the last axis of [R, H]."""

    def __init__(self, of: _Weights, path: str, config: BertConfig) -> None:
        super().__init__(name="norm")
        self.gamma, self.beta = of.float32(f"{path}/gamma"), of.float32(f"{path}/beta")
        self._epsilon = config.layer_norm_eps

    def __call__(self, x: Any, dtype: tf.DType) -> Any:
        """Return x normalized, cast to `dtype`."""
        x = tf.cast(x, tf.float32)
        centred = x - tf.reduce_mean(x, -1, keepdims=True)
        variance = tf.reduce_mean(tf.square(centred), -1, keepdims=True)
        scale = tf.math.rsqrt(variance + self._epsilon)
        return tf.cast(centred * scale * self.gamma + self.beta, dtype)


class _Layer(tf.Module):
    """A Transformer layer: `model.bert.layers.EncoderLayer` without dropout."""

    def __init__(self, of: _Weights, index: int, config: BertConfig) -> None:
        super().__init__(name="layer")
        path = f"transformer_layer_{index}"
        attention = f"{path}/self_attention_layer"
        size = config.hidden_size
        parts = [f"{attention}/{part}" for part in ("query", "key", "value")]
        self.qkv_kernel = of.variable(*[f"{part}/kernel" for part in parts], shape=(size, size))
        self.qkv_bias = of.variable(*[f"{part}/bias" for part in parts], shape=(size,))
        self.output_kernel = of.variable(f"{attention}/attention_output/kernel", shape=(size, size))
        self.output_bias = of.variable(f"{attention}/attention_output/bias")
        self.attention_norm = _Norm(of, f"{path}/self_attention_layer_norm", config)
        self.intermediate = _Dense(of, f"{path}/feedforward_intermediate_dense")
        self.output = _Dense(of, f"{path}/feedforward_output_dense")
        self.output_norm = _Norm(of, f"{path}/feedforward_layer_norm", config)
        self._config = config

    def __call__(self, x: Any, hidden: Any, shape: Any) -> tuple[Any, Any]:
        """Return the layer's output [R, H] and its attention scores [B, N, L, L].

        Args:
            x: float [R, H].
            hidden: float [B, 1, 1, L]. Added to the attention scores: `HIDDEN` for padding, else 0.
            shape: int32 [2]. B and L.
        """
        attended, scores = self._attend(x, hidden, shape)
        attended = tf.nn.bias_add(tf.matmul(attended, self.output_kernel), self.output_bias)
        x = self.attention_norm(attended + x, x.dtype)
        inner = _activated(self.intermediate(x), self._config)
        return self.output_norm(self.output(inner) + x, x.dtype), scores

    def _attend(self, x: Any, hidden: Any, shape: Any) -> tuple[Any, Any]:
        heads = self._config.num_attention_heads
        size = self._config.hidden_size // heads
        qkv = tf.nn.bias_add(tf.matmul(x, self.qkv_kernel), self.qkv_bias)  # [R, 3 H]
        qkv = tf.reshape(qkv, [shape[0], shape[1], 3, heads, size])
        queries, keys, values = tf.unstack(tf.transpose(qkv, [2, 0, 3, 1, 4]), 3)  # [B, N, L, D]
        scale = tf.constant(size**-0.5, x.dtype)
        scores = tf.nn.softmax(tf.matmul(queries, keys, transpose_b=True) * scale + hidden)
        attended = tf.transpose(tf.matmul(scores, values), [0, 2, 1, 3])  # [B, L, N, D]
        return tf.reshape(attended, [-1, self._config.hidden_size]), scores


_ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "gelu": tf.nn.gelu,  # exact by default
    "gelu_new": lambda x: tf.nn.gelu(x, approximate=True),
    "gelu_pytorch_tanh": lambda x: tf.nn.gelu(x, approximate=True),
    "relu": tf.nn.relu,
}


def _activated(x: Any, config: BertConfig) -> Any:
    return _ACTIVATIONS[config.hidden_act](x)
