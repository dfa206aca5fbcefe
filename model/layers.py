"""The layers where KerasHub's lack something.

A token embedding and a masked-LM head with dense gradients, and a Transformer layer with two
dropout rates and a random generator that is fast under XLA.

Weights, their names and shapes are KerasHub's, so its checkpoints fit.

Shapes: B batch, L positions, P masked positions, H hidden size, V vocabulary size, N heads,
D = H / N.
"""

import math
from typing import Any

import keras
import keras_hub
import tensorflow as tf
from keras import ops

PHILOX, PHILOX_BLOCK = 1, 4
"""TensorFlow's number for the generator, and how many float32s share a counter of its."""

FIRST_EXAMPLE = 1 << 32
"""See `random_dropout`."""


@keras.saving.register_keras_serializable(package="clozeline")
def gelu_tanh(x: Any) -> Any:
    """Return the tanh approximation of GELU (https://arxiv.org/abs/1606.08415, section 2)."""
    return keras.activations.gelu(x, approximate=True)


@tf.custom_gradient
def dense_lookup(table: tf.Tensor, ids: tf.Tensor) -> tuple[tf.Tensor, Any]:
    """Return the rows of a table; the gradient is one dense tensor instead of `tf.IndexedSlices`.

    The table is also the masked-LM head's matrix, whose gradient is dense. TensorFlow would add
    the two by turning the dense one into V more slices, a scatter of V + B·L rows.

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
    """Piece vectors, tied to the masked-LM head, with a dense gradient."""

    def call(self, inputs: Any, reverse: bool = False) -> Any:
        """Return vectors [B, L, H] of ids int32 [B, L], or in reverse logits [B, P, V]."""
        if reverse:
            return super().call(inputs, reverse=True)
        table = ops.convert_to_tensor(self.embeddings)
        return dense_lookup(ops.cast(table, self.compute_dtype), ops.cast(inputs, "int32"))


def random_dropout(x: tf.Tensor, rate: float, seeds: keras.random.SeedGenerator) -> tf.Tensor:
    """Return x with a share `rate` of its numbers set to 0 and the others scaled up to make up.

    Srivastava et al. 2014, https://jmlr.org/papers/v15/srivastava14a.html. Philox is named because
    XLA would otherwise choose Threefry, which takes more than twice the time on a CPU. It counts
    its blocks of four numbers (Salmon et al. 2011, https://doi.org/10.1145/2063384.2063405), so a
    part of a batch can have those that it would have in the whole: a step drops the same on any
    number of devices. XLA's numbers are not those of TensorFlow's own kernel.

    Args:
        x: float [B, ...].
        rate: 0 to 1.
        seeds: its state, int64 [2], is a seed, and the number in the whole batch of the first
            example here times `FIRST_EXAMPLE`, plus another seed below that.
    """
    seed, first_and_seed = tf.unstack(seeds.next())
    first, other_seed = first_and_seed // FIRST_EXAMPLE, first_and_seed % FIRST_EXAMPLE
    key, counter = tf.raw_ops.StatelessRandomGetKeyCounter(seed=tf.stack([seed, other_seed]))
    numbers = math.prod(x.shape[1:])
    blocks = -(-numbers // PHILOX_BLOCK)
    skipped = tf.stack([tf.cast(first * blocks, tf.uint64), tf.zeros([], tf.uint64)])
    uniform = tf.raw_ops.StatelessRandomUniformV2(
        shape=[tf.shape(x)[0], blocks * PHILOX_BLOCK],
        key=key,
        counter=counter + skipped,
        alg=PHILOX,
    )
    uniform = tf.reshape(uniform[:, :numbers], tf.shape(x))
    return tf.where(uniform >= rate, x * (1.0 / (1.0 - rate)), tf.zeros([], x.dtype))


@keras.saving.register_keras_serializable(package="clozeline")
class Dropout(keras.layers.Dropout):
    """Keras's dropout with a random generator that is fast under XLA."""

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Return the inputs, in training with a share of `rate` dropped."""
        if training and self.rate > 0:
            return random_dropout(inputs, self.rate, self.seed_generator)
        return inputs


@keras.saving.register_keras_serializable(package="clozeline")
class SelfAttention(keras.layers.MultiHeadAttention):
    """Keras's attention with the same random generator for its dropout.

    Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3.2.
    """

    def _compute_attention(
        self,
        query: Any,
        key: Any,
        value: Any,
        attention_mask: Any = None,
        training: bool | None = None,
        _return_attention_scores: bool = False,
    ) -> tuple[Any, Any]:
        """Return the attended values [B, L, N, D] and the attention weights [B, N, L, L].

        Args:
            query: float [B, L, N, D].
            key: float [B, L, N, D].
            value: float [B, L, N, D].
            attention_mask: bool, broadcast to [B, L, L]. True = may be attended to.
            training: whether weights are dropped.
        """
        scores = ops.einsum("bqnd,bknd->bnqk", query * self._inverse_sqrt_key_dim, key)
        weights = self._masked_softmax(scores, attention_mask)  # [B, N, L, L]
        kept = weights
        if training and self._dropout > 0:
            kept = random_dropout(weights, self._dropout, self._dropout_layer.seed_generator)
        return ops.einsum("bnqk,bknd->bqnd", kept, value), weights


@keras.saving.register_keras_serializable(package="clozeline")
class EncoderLayer(keras_hub.layers.TransformerEncoder):
    """KerasHub's Transformer layer with a dropout rate of its own for the attention weights.

    KerasHub uses one rate for both; BERT's config has two. The computation is KerasHub's `call`;
    what it is made of is built here.
    """

    def __init__(self, *, attention_dropout: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.attention_dropout = attention_dropout

    def build(self, inputs_shape: tuple[Any, ...]) -> None:
        """Create the parts under KerasHub's names, for inputs [B, L, H]."""
        hidden_size = inputs_shape[-1]
        self._self_attention_layer = SelfAttention(
            self.num_heads,
            hidden_size // self.num_heads,
            dropout=self.attention_dropout,
            kernel_initializer=self._fresh_initializer(),
            dtype=self.dtype_policy,
            name="self_attention_layer",
        )
        self._self_attention_layer.build(inputs_shape, inputs_shape)
        self._feedforward_intermediate_dense = self._dense(
            self.intermediate_dim, "feedforward_intermediate_dense", self.activation
        )
        self._feedforward_intermediate_dense.build(inputs_shape)
        self._feedforward_output_dense = self._dense(hidden_size, "feedforward_output_dense")
        self._feedforward_output_dense.build((*inputs_shape[:-1], self.intermediate_dim))
        for block in ("self_attention", "feedforward"):
            norm = keras.layers.LayerNormalization(
                epsilon=self.layer_norm_epsilon, dtype=self.dtype_policy, name=f"{block}_layer_norm"
            )
            norm.build(inputs_shape)
            setattr(self, f"_{block}_layer_norm", norm)
            dropout = Dropout(self.dropout, dtype=self.dtype_policy, name=f"{block}_dropout")
            setattr(self, f"_{block}_dropout", dropout)
        self.built = True

    def _dense(self, units: int, name: str, activation: Any = None) -> keras.layers.Dense:
        return keras.layers.Dense(
            units,
            activation,
            kernel_initializer=self._fresh_initializer(),
            dtype=self.dtype_policy,
            name=name,
        )

    def _fresh_initializer(self) -> keras.initializers.Initializer:
        """Return a copy with a seed of its own, so that no two weights start from equal numbers."""
        return self.kernel_initializer.clone()

    def get_config(self) -> dict[str, Any]:
        """Return what makes the same layer again."""
        return {**super().get_config(), "attention_dropout": self.attention_dropout}


@keras.saving.register_keras_serializable(package="clozeline")
class WithAttentionScores(keras.layers.Layer):
    """An encoder layer, with its attention scores as a second output.

    A layer around it, because Keras takes every call of one layer to have as many outputs as its
    first.
    """

    def __init__(self, layer: EncoderLayer, **kwargs: Any) -> None:
        super().__init__(dtype=layer.dtype_policy, **kwargs)
        self.layer = layer
        self.built = True

    def call(self, inputs: Any, padding_mask: Any) -> tuple[Any, Any]:
        """Return what the layer makes of [B, L, H], and the scores [B, N, L, L]."""
        return self.layer(inputs, padding_mask=padding_mask, return_attention_scores=True)


@keras.saving.register_keras_serializable(package="clozeline")
class MaskedLMHead(keras_hub.layers.MaskedLMHead):
    """KerasHub's masked-LM head, with the masked positions gathered by a matrix product.

    KerasHub gathers number by number (B·P·H of them), whose gradient is as large a scatter; a
    product with one-hot rows is fast on every device, forward and back.
    """

    def call(self, inputs: Any, mask_positions: Any) -> Any:
        """Return logits [B, P, V] of the encoder's output [B, L, H] at positions int32 [B, P]."""
        length = ops.shape(inputs)[1]
        chosen = ops.one_hot(mask_positions, length, dtype=inputs.dtype)  # [B, P, L]
        x = ops.matmul(chosen, inputs)  # [B, P, H]
        x = self._intermediate_layer_norm(self._intermediate_dense(x))
        logits = self.token_embedding(x, reverse=True)  # [B, P, V]
        return ops.cast(logits, self.compute_dtype) + ops.cast(self._bias, self.compute_dtype)
