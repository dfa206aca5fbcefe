"""The contract: the real writer against protobuf's own parser and against our parser."""

import numpy as np
import pytest
import tensorflow as tf

from pipeline.records.serialization import encode_examples, parse_examples
from pipeline.schema import record_features

FEATURES = record_features(max_seq_length=6, max_predictions=2)


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    """Three records in which no value occurs twice."""
    counter = iter(range(1, 10_000))
    return {
        feature.name: np.array(
            [[next(counter) * 37 for _ in range(feature.length)] for _ in range(3)],
            np.dtype(feature.kind),
        )
        / (8 if feature.kind == "float32" else 1)
        for feature in FEATURES
    }


def as_integers(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {feature.name: arrays[feature.name].astype(feature.kind) for feature in FEATURES}


def test_protobuf_reads_what_we_write(arrays: dict[str, np.ndarray]) -> None:
    arrays = as_integers(arrays)
    for row, record in enumerate(encode_examples(arrays, FEATURES)):
        example = tf.train.Example.FromString(record)
        assert set(example.features.feature) == {feature.name for feature in FEATURES}
        for feature in FEATURES:
            stored = example.features.feature[feature.name]
            values = stored.float_list if feature.kind == "float32" else stored.int64_list
            assert list(values.value) == arrays[feature.name][row].tolist(), feature.name


def test_we_read_what_we_write(arrays: dict[str, np.ndarray]) -> None:
    arrays = as_integers(arrays)
    parsed = parse_examples(tf.constant(encode_examples(arrays, FEATURES)), FEATURES)
    for feature in FEATURES:
        np.testing.assert_array_equal(parsed[feature.name], arrays[feature.name])
        assert parsed[feature.name].dtype == tf.as_dtype(feature.kind)


def test_the_fields_own_names_in_order() -> None:
    assert [feature.name for feature in FEATURES] == [
        "input_ids", "input_mask", "segment_ids", "masked_lm_positions", "masked_lm_ids",
        "masked_lm_weights", "next_sentence_labels",
    ]  # fmt: skip


def test_wrong_length_is_refused(arrays: dict[str, np.ndarray]) -> None:
    wrong = as_integers(arrays) | {"segment_ids": np.zeros((3, 5), np.int64)}
    with pytest.raises(ValueError, match=r"segment_ids: expected \[N, 6\], got \(3, 5\)"):
        encode_examples(wrong, FEATURES)
