"""The contract: the real writer against protobuf's own parser and against our parser."""

import numpy as np
import pytest
import tensorflow as tf

from pipeline.records.serialization import encode_examples, parse_examples
from pipeline.schema import Feature, record_features

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


def test_numbers_of_any_size() -> None:
    """Varints of 1 to 10 bytes, and messages longer than 127 and 16,383 bytes."""
    edges = [0, *(sign << shift for shift in range(0, 63, 7) for sign in (1, -1)), -(1 << 63)]
    features = [
        Feature("few", "int64", len(edges)),
        Feature("many", "int64", 5000),
        Feature("floats", "float32", 3),
    ]
    rng = np.random.default_rng(1)
    arrays = {
        "few": np.stack([edges, np.roll(edges, 3), np.zeros(len(edges), np.int64)]),
        "many": rng.integers(0, 1 << rng.integers(1, 62, (3, 1)), (3, 5000)),
        "floats": np.array([[0, -1.5, np.inf], [1e-40, 2, 3], [0, 0, 0]], np.float32),
    }
    for row, record in enumerate(encode_examples(arrays, features)):
        example = tf.train.Example.FromString(record)
        # Protobuf's own bytes of it, in the shortest form and with sorted names.
        assert len(record) == example.ByteSize()
        for name in ("few", "many"):
            stored = example.features.feature[name].int64_list.value
            assert list(stored) == arrays[name][row].tolist()
        stored = example.features.feature["floats"].float_list.value
        assert list(stored) == arrays["floats"][row].tolist()


def test_the_fields_own_names_in_order() -> None:
    assert [feature.name for feature in FEATURES] == [
        "input_ids", "input_mask", "segment_ids", "masked_lm_positions", "masked_lm_ids",
        "masked_lm_weights", "next_sentence_labels",
    ]  # fmt: skip


def test_wrong_length_is_refused(arrays: dict[str, np.ndarray]) -> None:
    wrong = as_integers(arrays) | {"segment_ids": np.zeros((3, 5), np.int64)}
    with pytest.raises(ValueError, match=r"segment_ids: expected \[N, 6\], got \(3, 5\)"):
        encode_examples(wrong, FEATURES)
