"""Layers that replace those of KerasHub and Keras where these lack something.

A token embedding and a masked-LM head with dense gradients, and a Transformer layer with two
dropout rates. All keep float32 weights and do matrix multiplications in the compute dtype of
Keras's policy; Keras itself would also cast biases and LayerNorm's weights.

Weights have KerasHub's names and shapes, so its checkpoints can be loaded.

Shapes: B batch, L positions, P masked positions, H hidden size, V vocabulary size, N heads,
D = H / N.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import keras
import keras_hub
import tensorflow as tf
from keras import ops

from model.bert import kernels as functions
from pipeline.storage.strict_json import JsonObject


@keras.saving.register_keras_serializable(package="clozeline")
def gelu_tanh(x: Any) -> Any:
    """Return the tanh approximation of GELU (https://arxiv.org/abs/1606.08415, section 2)."""
    return keras.activations.gelu(x, approximate=True)


def policy_dtype() -> str:
    """Return the compute dtype of the current Keras policy: float32, bfloat16 or float16."""
    return keras.config.dtype_policy().compute_dtype


def product(x: tf.Tensor, kernel: Any) -> tf.Tensor:
    """Return the matrix product of x [..., H] and a kernel [H, K], in the dtype of x."""
    return tf.tensordot(x, tf.cast(kernel, x.dtype), axes=1)


def rows_of(positions: Any, x: tf.Tensor) -> tf.Tensor:
    """Return one-hot rows [B, P, L] that select positions int32 [B, P] of x [B, L, H] by matmul.

    A matrix product is fast in both directions on every device; a gather's gradient is a scatter.
    """
    return ops.one_hot(positions, ops.shape(x)[1], dtype=x.dtype)


def attention_mask(input_mask: Any, position_ids: Any, positions: Any = None) -> Any:
    """Return which positions of packed records see each other: those of the same pair.

    Krell et al. 2021, https://arxiv.org/abs/2107.02027, section 3.2.2.

    Args:
        input_mask: int32 [B, L]. 1 = real piece, 0 = padding.
        position_ids: int32 [B, L]. Position of each piece in its pair, from 0.
        positions: int32 [B, P]. Positions that see others; None = all.

    Returns:
        int32 [B, L, L], or [B, P, L]. 1 = the position of the second axis sees that of the third.
    """
    # A pair begins at each position 0. Padding has this position, too: pairs that the mask hides.
    pair = ops.cumsum(ops.cast(ops.equal(position_ids, 0), "int32"), axis=1)
    asking = pair if positions is None else ops.take_along_axis(pair, positions, axis=1)
    is_same = ops.equal(asking[:, :, None], pair[:, None, :])
    return ops.cast(is_same, "int32") * input_mask[:, None, :]


@tf.custom_gradient
def dense_lookup(table: tf.Tensor, ids: tf.Tensor) -> tuple[tf.Tensor, Any]:
    """Look up rows of a table; the gradient is a dense tensor instead of `tf.IndexedSlices`.

    The table is also the masked-LM head's output matrix, whose gradient is dense. To add the two,
    TensorFlow would convert the dense one to slices, a scatter of V + B·L rows.

    Args:
        table: float [V, H].
        ids: int32 [B, L].
    """

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, None]:
        rows = tf.reshape(upstream, [-1, table.shape[-1]])  # [B·L, H]
        summed = tf.math.unsorted_segment_sum(rows, tf.reshape(ids, [-1]), table.shape[0])
        return summed, None

    return tf.gather(table, ids), gradient


@keras.saving.register_keras_serializable(package="clozeline")
class TokenEmbedding(keras.layers.ReversibleEmbedding):
    """Token embedding, tied to the masked-LM head's output matrix, with a dense gradient."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, autocast=False)

    def call(self, inputs: Any, reverse: bool = False) -> Any:
        """Return vectors [B, L, H] for ids int32 [B, L]; if reversed, logits [B, P, V]."""
        table = ops.convert_to_tensor(self.embeddings)
        if not reverse:
            # A tensor: eagerly, `tf.custom_gradient` would ask for the gradient of a variable, too.
            return dense_lookup(tf.identity(table), ops.cast(inputs, "int32"))
        rows = tf.reshape(inputs, [-1, table.shape[-1]])
        logits = tf.matmul(rows, tf.cast(table, inputs.dtype), transpose_b=True)
        return tf.reshape(logits, tf.concat([tf.shape(inputs)[:-1], [table.shape[0]]], 0))


@keras.saving.register_keras_serializable(package="clozeline")
class LayerNorm(keras.layers.LayerNormalization):
    """Keras's layer normalization, computed by `functions.layer_norm`."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs, autocast=False)

    def call(self, inputs: Any) -> Any:
        """Return the normalized inputs, float [..., H]."""
        gamma, beta = ops.convert_to_tensor(self.gamma), ops.convert_to_tensor(self.beta)
        return functions.layer_norm(inputs, gamma, beta, epsilon=self.epsilon)


@keras.saving.register_keras_serializable(package="clozeline")
class Dropout(keras.layers.Dropout):
    """Keras's dropout, computed by `functions.dropout`."""

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Return the inputs, after dropout if training."""
        state, rate = self.draw(training)
        return functions.dropout(inputs, state, rate=rate)

    def draw(self, training: bool) -> tuple[Any, float]:
        """Return the next state of a kernel, int64 [2], and its rate, which is 0 outside training.

        See `functions.dropout`.
        """
        if training and self.rate > 0:
            return self.seed_generator.next(), self.rate
        return _no_state(), 0.0


def _no_state() -> tf.Tensor:
    """Return a dropout state for the rate 0, which does not read it."""
    return tf.zeros([2], tf.int64)


@keras.saving.register_keras_serializable(package="clozeline")
class EncoderLayer(keras.layers.Layer):
    """A Transformer layer: self-attention and a feed-forward block, with residuals and LayerNorm.

    Devlin et al. 2018, https://arxiv.org/abs/1810.04805; Vaswani et al. 2017,
    https://arxiv.org/abs/1706.03762. The computation between matrix products is in
    `model.bert.kernels`. The sublayers are never called: they only hold the weights, under the
    names of KerasHub's TransformerEncoder.

    Attributes:
        recompute: whether to use gradient checkpointing: keep only the layer's inputs for the
            backward pass (Chen et al. 2016, https://arxiv.org/abs/1604.06174).
    """

    def __init__(
        self,
        *,
        intermediate_dim: int,
        num_heads: int,
        dropout: float,
        attention_dropout: float,
        activation: Any,
        layer_norm_epsilon: float,
        kernel_initializer: Any,
        product_dtype: str | None = None,
        **kwargs: Any,
    ) -> None:
        # Weights stay float32; `product` casts kernels where they are multiplied.
        super().__init__(**{**kwargs, "dtype": "float32", "autocast": False})
        self.product_dtype = product_dtype or policy_dtype()
        self.recompute = False
        self.intermediate_dim = intermediate_dim
        self.num_heads = num_heads
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.activation = keras.activations.get(activation)
        self.layer_norm_epsilon = layer_norm_epsilon
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape: tuple[Any, ...]) -> None:
        """Create the weights for inputs [B, L, H]."""
        hidden_size = input_shape[-1]
        self._attention = keras.layers.MultiHeadAttention(
            self.num_heads,
            hidden_size // self.num_heads,
            kernel_initializer=self._fresh_initializer(),
            dtype="float32",
            name="self_attention_layer",
        )
        # Never called, so Keras would not build it by itself.
        self._attention.build(input_shape, input_shape)
        self._attention_norm = self._norm("self_attention_layer_norm", input_shape)
        self._intermediate = self._dense(self.intermediate_dim, "feedforward_intermediate_dense")
        self._intermediate.build(input_shape)
        self._output = self._dense(hidden_size, "feedforward_output_dense")
        self._output.build((*input_shape[:-1], self.intermediate_dim))
        self._output_norm = self._norm("feedforward_layer_norm", input_shape)
        self._weights_dropout = Dropout(self.attention_dropout, name="attention_weights_dropout")
        self._attention_dropout = Dropout(self.dropout, name="self_attention_dropout")
        self._output_dropout = Dropout(self.dropout, name="feedforward_dropout")

    @property
    def query_and_key_kernels(self) -> tuple[keras.Variable, keras.Variable]:
        """The kernels of the queries and keys, [H, N, D] each; only after `build`."""
        return self._attention.query_dense.kernel, self._attention.key_dense.kernel

    @property
    def query_bias(self) -> keras.Variable:
        """The bias of the queries, [N, D]; only after `build`."""
        return self._attention.query_dense.bias

    def _norm(self, name: str, shape: tuple[Any, ...]) -> LayerNorm:
        norm = LayerNorm(epsilon=self.layer_norm_epsilon, dtype="float32", name=name)
        norm.build(shape)
        return norm

    def _dense(self, units: int, name: str) -> keras.layers.Dense:
        initializer = self._fresh_initializer()
        return keras.layers.Dense(units, kernel_initializer=initializer, dtype="float32", name=name)

    def _fresh_initializer(self) -> keras.initializers.Initializer:
        """Return a copy with its own seed: weights sharing an initializer would start equal."""
        return self.kernel_initializer.clone()

    def call(
        self,
        inputs: Any,
        padding_mask: Any,
        positions: Any = None,
        training: bool = False,
        return_attention_scores: bool = False,
    ) -> Any:
        """Return the outputs [B, L, H] and, if requested, the attention weights [B, N, L, L].

        Args:
            inputs: float [B, L, H].
            padding_mask: int32 [B, L]. 1 = real piece, 0 = padding. For packed records that of
                `attention_mask`, at the same positions.
            positions: int32 [B, P]. Positions to compute, outputs are [B, P, H]; None = all.
            training: whether to apply dropout.
            return_attention_scores: whether to return the attention weights, before dropout, too.
        """
        inputs = tf.cast(inputs, self.product_dtype)
        chosen = None if positions is None else rows_of(positions, inputs)
        dropouts = (self._weights_dropout, self._attention_dropout, self._output_dropout)
        # Draw the states outside `_compute`: gradient checkpointing runs it a second time, which
        # must drop the same elements.
        states, rates = zip(*(dropout.draw(training) for dropout in dropouts), strict=True)
        compute = partial(self._compute, rates=rates, chosen=chosen)
        if self.recompute and training:
            compute = tf.recompute_grad(compute)
        x, scores = compute(inputs, padding_mask, *states)
        if not return_attention_scores:
            return x
        return x, functions.attention_weights(scores, padding_mask, _no_state(), rate=0.0)

    def compute_output_spec(
        self,
        inputs: Any,
        padding_mask: Any,
        positions: Any = None,
        training: bool = False,
        return_attention_scores: bool = False,
    ) -> Any:
        """Return the symbolic outputs of `call`. Keras would trace it, 0.1 s for each layer."""
        del training
        batch, length, hidden_size = inputs.shape
        rows = length if positions is None else positions.shape[1]
        x = keras.KerasTensor((batch, rows, hidden_size), dtype=self.product_dtype)
        if not return_attention_scores:
            return x
        shape = (batch, self.num_heads, rows, padding_mask.shape[-1])
        return x, keras.KerasTensor(shape, dtype=self.product_dtype)

    def projections(self, inputs: Any) -> dict[str, tf.Tensor]:
        """Return the queries, keys and values of all heads, joined, float [B, L, H] each.

        Queries are not scaled.

        Args:
            inputs: float [B, L, H]. Inputs of the layer.
        """
        x = tf.cast(inputs, self.product_dtype)
        dense = {
            "queries": self._attention.query_dense,
            "keys": self._attention.key_dense,
            "values": self._attention.value_dense,
        }
        return {
            name: functions.add_bias(
                product(x, tf.reshape(each.kernel, [x.shape[-1], -1])), tf.reshape(each.bias, [-1])
            )
            for name, each in dense.items()
        }

    def inside(self, inputs: Any, padding_mask: Any) -> dict[str, tf.Tensor]:
        """Return the layer's intermediate results and its output, without dropout.

        Args:
            inputs: float [B, L, H].
            padding_mask: int32 [B, L]. 1 = real piece, 0 = padding.

        Returns:
            queries: float [B, N, L, D], already scaled by 1/√D.
            keys: float [B, N, L, D].
            values: float [B, N, L, D].
            scores: float [B, N, L, L]. Products of queries and keys.
            weights: float [B, N, L, L]. Attention weights; the last axis is the keys' position.
            gathered: float [B, N, L, D]. Weighted sums of the values, by head.
            concatenated: float [B, L, H]. The weighted sums of all heads, concatenated.
            attended: float [B, L, H]. Output of the attention block after residual and LayerNorm.
            intermediate: float [B, L, I]. Activations inside the feed-forward block.
            output: float [B, L, H]. Output of the layer.
        """
        seen: dict[str, tf.Tensor] = {}
        inputs = tf.cast(inputs, self.product_dtype)
        nothing_dropped = [_no_state()] * 3
        self._compute(inputs, padding_mask, *nothing_dropped, rates=[0.0] * 3, seen=seen)
        return seen

    def _compute(
        self,
        inputs: tf.Tensor,
        padding_mask: tf.Tensor,
        *states: tf.Tensor,
        rates: Sequence[float],
        chosen: tf.Tensor | None = None,
        seen: dict[str, tf.Tensor] | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the layer's output [B, L, H] and the attention scores [B, N, L, L].

        Args:
            inputs: float [B, L, H].
            padding_mask: int32 [B, L]. 1 = real piece, 0 = padding.
            states: dropout states, int64 [2] each: for the attention weights, for the attention
                block's output, for the feed-forward block's output.
            rates: dropout rates, in the order of `states`.
            chosen: float [B, P, L]. One-hot rows of the positions to compute; the results then
                have P instead of L positions, except on the last axis of the scores.
            seen: dictionary to add the results of `inside` to; None = do not record them.
        """
        # Only queries and everything after them shrink to P positions: every position is attended.
        asking = inputs if chosen is None else tf.matmul(chosen, inputs)
        concatenated, scores = self._attend(asking, inputs, padding_mask, states[0], rates[0], seen)
        dense = self._attention.output_dense
        kernel = tf.reshape(dense.kernel, [-1, inputs.shape[-1]])
        x = self._close(
            product(concatenated, kernel),
            dense.bias,
            asking,
            self._attention_norm,
            states[1],
            rates[1],
        )
        inner = functions.activated(
            product(x, self._intermediate.kernel),
            tf.convert_to_tensor(self._intermediate.bias),
            activation=self.activation,
        )
        narrow = product(inner, self._output.kernel)
        output = self._close(narrow, self._output.bias, x, self._output_norm, states[2], rates[2])
        if seen is not None:
            seen.update(attended=x, intermediate=inner, output=output)
        return output, scores

    def _attend(
        self,
        asking: tf.Tensor,
        inputs: tf.Tensor,
        padding_mask: tf.Tensor,
        state: tf.Tensor,
        rate: float,
        seen: dict[str, tf.Tensor] | None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Compute multi-head attention, without the output projection.

        Args:
            asking: float [B, P, H]. Inputs of the queries.
            inputs: float [B, L, H]. Inputs of the keys and values.
            padding_mask: int32 [B, L]. 1 = real piece, 0 = padding.
            state: int64 [2]. Dropout state for the attention weights.
            rate: dropout rate of the attention weights.
            seen: dictionary to add the intermediate results to; None = do not record them.

        Returns:
            The concatenated heads, float [B, P, H], and the attention scores, float [B, N, P, L].
        """
        attention = self._attention
        size = attention.query_dense.kernel.shape[-1]
        # Scale the queries, not the scores: L · D numbers per head instead of L · L.
        queries = self._heads(attention.query_dense, asking, size**-0.5)
        keys = self._heads(attention.key_dense, inputs)
        values = self._heads(attention.value_dense, inputs)
        scores = tf.matmul(queries, keys, transpose_b=True)
        weights = functions.attention_weights(scores, padding_mask, state, rate=rate)
        gathered = tf.matmul(weights, values)  # [B, N, P, D]
        concatenated = functions.merge_heads(gathered)
        if seen is not None:
            seen.update(queries=queries, keys=keys, values=values, scores=scores)
            seen.update(weights=weights, gathered=gathered, concatenated=concatenated)
        return concatenated, scores

    def _heads(self, dense: Any, x: tf.Tensor, scale: float = 1.0) -> tf.Tensor:
        """Apply a query, key or value projection to [B, L, H] and scale it: [B, N, L, D]."""
        kernel = tf.reshape(dense.kernel, [x.shape[-1], -1])
        bias = tf.reshape(dense.bias, [-1])
        return functions.split_heads(product(x, kernel), bias, heads=self.num_heads, scale=scale)

    def _close(
        self,
        x: tf.Tensor,
        bias: Any,
        residual: tf.Tensor,
        norm: LayerNorm,
        state: tf.Tensor,
        rate: float,
    ) -> tf.Tensor:
        inputs = (x, bias, residual, norm.gamma, norm.beta, state)
        return functions.add_and_norm(
            *map(tf.convert_to_tensor, inputs), rate=rate, epsilon=self.layer_norm_epsilon
        )

    def get_config(self) -> JsonObject:
        """Return the constructor's arguments, for serialization."""
        return {
            **super().get_config(),
            "product_dtype": self.product_dtype,
            "intermediate_dim": self.intermediate_dim,
            "num_heads": self.num_heads,
            "dropout": self.dropout,
            "attention_dropout": self.attention_dropout,
            "activation": keras.activations.serialize(self.activation),
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }


@keras.saving.register_keras_serializable(package="clozeline")
class SplitPositions(keras.layers.Layer):
    """Split vectors at the number of columns of another tensor, which differs between datasets."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs, autocast=False)

    def call(self, inputs: Any, first: Any) -> tuple[Any, Any]:
        """Return the first K of float [B, K + P, H], and the others; `first`: int32 [B, K]."""
        count = ops.shape(first)[1]
        return inputs[:, :count], inputs[:, count:]

    def compute_output_spec(self, inputs: Any, first: Any) -> tuple[Any, Any]:
        """Return two symbolic outputs, float [B, K, H] and [B, P, H]."""
        batch, _, size = inputs.shape
        return (
            keras.KerasTensor((batch, first.shape[1], size), dtype=inputs.dtype),
            keras.KerasTensor((batch, None, size), dtype=inputs.dtype),
        )


@keras.saving.register_keras_serializable(package="clozeline")
class WithAttentionScores(keras.layers.Layer):
    """An encoder layer with its attention weights as a second output.

    It wraps the layer, because Keras assumes that all calls of a layer have the same number of
    outputs as the first call.
    """

    def __init__(self, layer: EncoderLayer, **kwargs: Any) -> None:
        super().__init__(**kwargs, autocast=False)
        self.layer = layer
        self.built = True

    def call(self, inputs: Any, padding_mask: Any) -> tuple[Any, Any]:
        """Return the layer's output [B, L, H] and its attention weights [B, N, L, L]."""
        return self.layer(inputs, padding_mask=padding_mask, return_attention_scores=True)

    def get_config(self) -> JsonObject:
        """Return the arguments that create the same layer."""
        return {**super().get_config(), "layer": keras.saving.serialize_keras_object(self.layer)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "WithAttentionScores":
        """Create the layer from the arguments that `get_config` returns."""
        layer = keras.saving.deserialize_keras_object(config["layer"])
        return cls(**{**config, "layer": layer})


@keras.saving.register_keras_serializable(package="clozeline")
class MaskedLMHead(keras_hub.layers.MaskedLMHead):
    """KerasHub's masked-LM head, but it selects the masked positions by a matrix product.

    KerasHub gathers B·P·H single elements; the gradient is a scatter of the same size.
    """

    def __init__(self, product_dtype: str | None = None, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.product_dtype = product_dtype or policy_dtype()

    def call(self, inputs: Any, mask_positions: Any = None) -> Any:
        """Return logits [B, P, V] for the encoder's output [B, L, H] at positions int32 [B, P].

        Without positions, return logits [..., V] for all vectors [..., H] of the inputs.
        """
        x = tf.cast(inputs, self.product_dtype)
        if mask_positions is not None:
            x = tf.matmul(rows_of(mask_positions, x), x)
        x = functions.activated(
            product(x, self._intermediate_dense.kernel),
            tf.convert_to_tensor(self._intermediate_dense.bias),
            activation=self.intermediate_activation,
        )
        norm = self._intermediate_layer_norm
        gamma, beta = tf.convert_to_tensor(norm.gamma), tf.convert_to_tensor(norm.beta)
        x = functions.layer_norm(x, gamma, beta, epsilon=self.layer_norm_epsilon)
        logits = self.token_embedding(x, reverse=True)
        return functions.add_bias(logits, tf.convert_to_tensor(self._bias))

    def compute_output_shape(
        self, inputs_shape: tuple[Any, ...], mask_positions_shape: Any = None
    ) -> tuple[Any, ...]:
        """Return [B, P, V]."""
        at = inputs_shape[:-1] if mask_positions_shape is None else mask_positions_shape
        return (*at, self.vocabulary_size)

    def compute_output_spec(self, inputs: Any, mask_positions: Any = None) -> Any:
        """Return the symbolic logits: Keras would take them to be in the dtype of the weights."""
        positions_shape = None if mask_positions is None else mask_positions.shape
        shape = self.compute_output_shape(inputs.shape, positions_shape)
        return keras.KerasTensor(shape, dtype=self.product_dtype)

    def get_config(self) -> JsonObject:
        """Return the constructor's arguments, for serialization."""
        return {**super().get_config(), "product_dtype": self.product_dtype}
