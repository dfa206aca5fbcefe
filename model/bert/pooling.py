"""The vector of a text from the vectors of its positions.

Shapes: B batch, L positions, H hidden size.

Source: Reimers & Gurevych 2019, https://arxiv.org/abs/1908.10084, section 3.
"""

from typing import Any

import keras
import tensorflow as tf

from model.bert.kernels import HIDDEN
from model.bert.network import TASK_HEAD
from model.tasks.vectors import Pooling
from pipeline.storage.strict_json import JsonObject

SHORTEST = 1e-12
"""Smallest length that a vector is divided by; sentence-transformers has the same."""


def pooled(sequence_output: Any, input_mask: Any, pooling: Pooling) -> Any:
    """Return the mean or maximum over the real positions, or the vector of [CLS]: float32 [B, H].

    Args:
        sequence_output: float [B, L, H].
        input_mask: int32 [B, L]. 1 = real piece, 0 = padding.
        pooling: how the positions become one.
    """
    if pooling == "cls":
        return tf.cast(sequence_output[:, 0], tf.float32)
    vectors = tf.cast(sequence_output, tf.float32)
    is_real = tf.cast(input_mask, tf.float32)[:, :, tf.newaxis]
    if pooling == "max":
        return tf.reduce_max(vectors * is_real + (1.0 - is_real) * HIDDEN, axis=1)
    return tf.math.divide_no_nan(
        tf.reduce_sum(vectors * is_real, axis=1), tf.reduce_sum(is_real, axis=1)
    )


def normalized(vectors: Any) -> Any:
    """Return vectors float32 [..., H] divided by their lengths."""
    return tf.math.l2_normalize(vectors, axis=-1, epsilon=SHORTEST**2)


@keras.saving.register_keras_serializable(package="clozeline")
class TextVector(keras.layers.Layer):
    """The head of a model that turns a text into a vector; it has no weights.

    Attributes:
        pooling: how the positions become one.
        normalize: whether the vector is divided by its length.
    """

    def __init__(self, pooling: Pooling, *, normalize: bool, **kwargs: Any) -> None:
        super().__init__(**{"name": TASK_HEAD, "dtype": "float32", **kwargs}, autocast=False)
        self.pooling = pooling
        self.normalize = normalize

    def call(self, sequence_output: Any, input_mask: Any) -> Any:
        """Return float32 [B, H] from float [B, L, H] and int32 [B, L]."""
        vectors = pooled(sequence_output, input_mask, self.pooling)
        return normalized(vectors) if self.normalize else vectors

    def compute_output_shape(self, sequence_output_shape: Any, input_mask_shape: Any) -> Any:
        """Return [B, H]."""
        del input_mask_shape
        return (sequence_output_shape[0], sequence_output_shape[2])

    def get_config(self) -> JsonObject:
        """Return the layer's config, for serialization."""
        return {
            **super().get_config(),
            "pooling": self.pooling,
            "normalize": self.normalize,
        }
