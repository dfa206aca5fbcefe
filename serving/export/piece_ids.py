"""Check the piece ids that a client sends to `predict_ids`, and find the filler of a model server.

A server that batches requests of different lengths pads each tensor with the tensor's own first
element, so it pads the ids with [CLS]. [CLS] at the end of a row is therefore filler.

Shapes: B rows, L positions (of the longest row), P masked positions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from model.bert.config import BertConfig
from pipeline import schema
from serving.export.text_graph import FEWEST_POSITIONS


@dataclass(frozen=True)
class CheckedIds:
    """Inputs of the encoder.

    Attributes:
        features: int32 [B, L] by name; 0 at positions of filler.
        is_filler: bool [B, L].
        positions: int32 [B, P]. Masked positions to predict; None = the model has no such head.
    """

    features: dict[str, Any]
    is_filler: Any
    positions: Any

    def without_filler(self, values: Any) -> Any:
        """Return float32 [B, L, K] with 0 at positions of filler."""
        return tf.where(self.is_filler[:, :, tf.newaxis], 0.0, values)


def checked_ids(
    values: Mapping[str, Any], positions: Any, config: BertConfig, cls_id: int
) -> CheckedIds:
    """Return the inputs, whose ops fail in a request that is invalid.

    Args:
        values: int32 [B, L] by name of the encoder's inputs.
        positions: int32 [B, P]. Masked positions; None = the model has no such head.
        config: the limits of the values.
        cls_id: id of [CLS].

    Raises:
        InvalidArgumentError: the inputs differ in shape, or a value is out of range.
    """
    # On a GPU, `tf.gather` gives zeros for an id that is out of range, without an error.
    ids_by_name = {name: _rows_of_ids(ids) for name, ids in values.items()}
    lengths = _lengths_without_filler(ids_by_name[schema.INPUT_IDS], cls_id)
    checks = _checks(ids_by_name, config)
    if positions is not None:
        positions = _rows_of_ids(positions)
        checks.append(_check_positions(positions, lengths))
    with tf.control_dependencies(checks):
        features = {name: _with_columns(ids) for name, ids in ids_by_name.items()}
    is_filler = tf.range(tf.shape(features[schema.INPUT_IDS])[1]) >= lengths[:, tf.newaxis]
    # A filled position is masked like padding, so neighbours do not attend to it.
    features = {name: tf.where(is_filler, 0, ids) for name, ids in features.items()}
    return CheckedIds(features, is_filler, positions)


def _checks(ids_by_name: Mapping[str, Any], config: BertConfig) -> list[Any]:
    """Return ops that fail unless the inputs, int32 [B, L] each, are valid."""
    limits = {
        schema.INPUT_IDS: config.vocab_size,
        schema.INPUT_MASK: 2,
        schema.SEGMENT_IDS: config.type_vocab_size,
    }
    shape = tf.shape(ids_by_name[schema.INPUT_IDS])
    return [
        tf.debugging.assert_less_equal(
            shape[1],
            config.max_position_embeddings,
            "input_ids are longer than the model takes",
        ),
        tf.debugging.Assert((shape[0] == 0) | (shape[1] > 0), ["input_ids have no columns"]),
        *(
            tf.debugging.assert_equal(
                tf.shape(ids_by_name[name]), shape, f"{name} and input_ids differ in shape"
            )
            for name in ids_by_name
        ),
        *(_check_range(name, ids_by_name[name], limit) for name, limit in limits.items()),
    ]


def _rows_of_ids(ids: Any) -> Any:
    """Return the ids, or fail unless they are int32 [B, L].

    TensorFlow Serving does not compare ranks with the signature.
    """
    return tf.ensure_shape(ids, [None, None])


def _check_range(name: str, values: Any, limit: Any) -> Any:
    """Return an op that fails unless all values are at least 0 and below the limit."""
    are_known = tf.reduce_all((values >= 0) & (values < limit))
    return tf.debugging.Assert(are_known, [f"{name} must be at least 0 and below", limit])


def _check_positions(positions: Any, lengths: Any) -> Any:
    """Return an op that fails unless positions, int32 [B, P], are below lengths, [B]."""
    has_rows = tf.debugging.assert_equal(
        tf.shape(positions)[0], tf.size(lengths), "masked_lm_positions and input_ids differ in rows"
    )
    with tf.control_dependencies([has_rows]):
        limits = lengths[:, tf.newaxis]
    return _check_range(schema.MASKED_LM_POSITIONS, positions, limits)


def _lengths_without_filler(input_ids: Any, cls_id: int) -> Any:
    """Return the length of each row of int32 [B, L] without [CLS] at its end: int32 [B]."""
    ends = tf.range(1, tf.shape(input_ids)[1] + 1)
    # The end of the last piece that is not [CLS]; at least 1, for the [CLS] at the start.
    return tf.reduce_max(tf.where(input_ids == cls_id, 1, ends), axis=1)


def _with_columns(ids: Any) -> Any:
    """Return int32 [B, L], with columns added if it is an empty batch without columns."""
    shape = tf.shape(ids)
    # An empty batch may have no columns, and the products need some.
    missing = tf.where(shape[0] == 0, tf.maximum(FEWEST_POSITIONS - shape[1], 0), 0)
    return tf.pad(ids, [[0, 0], [0, missing]])
