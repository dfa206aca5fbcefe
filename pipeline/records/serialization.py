"""Serialize and parse `tf.train.Example`s, a batch at a time, with TensorFlow's C++ kernels."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.schema import Feature, Tensors

_LISTS = {"int64": ("Int64List", "int64_list"), "float32": ("FloatList", "float_list")}


def encode_examples(arrays: Mapping[str, np.ndarray], features: Sequence[Feature]) -> list[bytes]:
    """Serialize a batch of records.

    Args:
        arrays: values of every feature, [N, feature.length].
        features: schema; its order is the order of the features in the serialized bytes.

    Returns:
        N serialized `tf.train.Example`s.
    """
    import tensorflow as tf

    # A map field of a message is a list of entries, in the order in which they are written.
    entries = [_encode_entry(feature, arrays[feature.name]) for feature in features]
    merged = _message("Features", feature=tf.stack(entries, axis=1))
    return list(_message("Example", features=merged[:, None]).numpy())


def _encode_entry(feature: Feature, values: np.ndarray) -> Any:
    """Return the serialized map entry of one feature for each record: string [N]."""
    import tensorflow as tf

    if values.shape[1:] != (feature.length,):
        raise ValueError(f"{feature.name}: expected [N, {feature.length}], got {values.shape}")
    list_type, list_field = _LISTS[feature.kind]
    value_list = _message(list_type, value=tf.constant(values, feature.kind))
    # `encode_proto` takes nested messages as serialized strings.
    wrapped = _message("Feature", **{list_field: value_list[:, None]})
    name = tf.fill((len(values), 1), feature.name)
    return _message("Features.FeatureEntry", key=name, value=wrapped[:, None])


def _message(message_type: str, **fields: Any) -> Any:
    """Serialize one message per row from its fields, [N, repeats]: string [N]."""
    import tensorflow as tf

    rows = next(iter(fields.values())).shape[0]
    sizes = [[value.shape[1] for value in fields.values()]] * rows
    return tf.io.encode_proto(
        tf.constant(sizes, tf.int32, shape=(rows, len(fields))),
        list(fields.values()),
        list(fields),
        f"tensorflow.{message_type}",
        descriptor_source="local://",
    )


def parse_examples(serialized: Any, features: Sequence[Feature]) -> Tensors:
    """Parse serialized records, string [N], into tensors [N, feature.length] by feature name.

    Works in eager mode and in a `tf.data` pipeline.
    """
    import tensorflow as tf

    return tf.io.parse_example(
        serialized,
        {
            feature.name: tf.io.FixedLenFeature([feature.length], tf.as_dtype(feature.kind))
            for feature in features
        },
    )
