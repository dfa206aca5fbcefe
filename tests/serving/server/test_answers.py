"""Answers of bounded size: refused, or written in chunks."""

import json

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from serving.server import json_answer
from serving.server.answer_size import check_before_run
from serving.server.json_answer import predict_chunks
from serving.server.json_request import Layout
from serving.server.signature_spec import ServableSignature, TensorInfo
from serving.server.status import ServingError

DTYPES = [np.float32, np.float64, np.int32, np.uint8, np.bool_]
SHAPES = arrays_of.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5)
NUMBERS = st.sampled_from(DTYPES).flatmap(lambda dtype: arrays_of.arrays(dtype, SHAPES))


def texts(array):
    values = [value.tobytes() for value in np.ascontiguousarray(array).ravel()]
    made = np.empty(len(values), dtype=object)
    made[:] = values
    return made.reshape(array.shape)


ARRAYS = NUMBERS | arrays_of.arrays(np.uint16, SHAPES).map(texts)


@given(st.lists(ARRAYS, min_size=1, max_size=3), st.sampled_from(Layout), st.integers(1, 9))
@settings(max_examples=300, deadline=None)
def test_blocks_of_any_size_produce_the_same_text_within_the_estimate(values, layout, nodes):
    outputs = {f"x{number}_bytes"[: 2 + 6 * number]: array for number, array in enumerate(values)}
    if layout is Layout.ROW:
        rows = min(map(len, values))
        outputs = {name: array[:rows] for name, array in outputs.items()}
    whole = b"".join(predict_chunks(outputs, layout))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_answer, "_BLOCK_NODES", nodes)
        patch.setattr(json_answer, "_CHUNK_CHARS", 10)
        assert b"".join(predict_chunks(outputs, layout)) == whole
    read = json.loads(whole.decode("utf-8", "surrogateescape"))
    assert len(read) == 1
    estimate = sum(json_answer._most_bytes(name, array, layout) for name, array in outputs.items())
    assert len(whole) <= estimate + 100


def test_a_large_answer_comes_in_chunks():
    outputs = {"y": np.random.default_rng(5).normal(size=[3, 100_000]).astype(np.float32)}
    for layout in Layout:
        chunks = list(predict_chunks(outputs, layout))
        assert max(map(len, chunks)) < 1_000_000
        read = json.loads(b"".join(chunks))
        np.testing.assert_array_equal(np.float32(next(iter(read.values()))), outputs["y"])


@pytest.mark.parametrize(
    "array",
    [
        np.zeros([100_000], np.float32),
        np.zeros([1_000_000, 0], np.float32),  # no values, but a million lists
        np.array([b"a" * 1_000_000], dtype=object),
        np.array([b"\x01" * 200_000], dtype=object),  # six bytes each
        np.full([100_000], 10**9),
    ],
    ids=["floats", "empty lists", "text", "escapes", "integers"],
)
def test_an_answer_that_is_too_large_is_refused_before_it_is_written(array):
    with pytest.raises(ServingError, match=r"could take \d+ bytes as JSON, and 1000000 are allow"):
        predict_chunks({"y": array}, Layout.COLUMN, 1_000_000)
    predict_chunks({"y": array[: len(array) // 200]}, Layout.COLUMN, 1_000_000)


def signature(inputs, outputs):
    infos = [
        {name: TensorInfo(dtype, shape, f"{name}:0") for name, (dtype, shape) in table.items()}
        for table in (inputs, outputs)
    ]
    return ServableSignature("s", *infos, dict)


IDS = {"ids": (tf.int32, (None, None)), "at": (tf.int32, (None, None))}
LOGITS = {"logits": (tf.float32, (None, None, 30_522))}
TEXT = {"text": (tf.string, (None,))}
SCORES = {"scores": (tf.float32, (None, 6, 12, None, None))}
VECTORS = {"y": (tf.float64, (None, 1000))}
MEBIBYTE = 1024 * 1024


def ids(rows, length, positions):
    return {"ids": np.zeros([rows, length], np.int32), "at": np.zeros([rows, positions], np.int32)}


def strings(*values):
    return {"text": np.array(values, dtype=object)}


@pytest.mark.parametrize(
    ("described", "inputs", "size_bytes", "limit_bytes"),
    [
        ((IDS, LOGITS), ids(1, 8, 1_000_000), 122_088_000_000, 512 * MEBIBYTE),
        ((IDS, LOGITS), ids(32, 128, 20), None, 0),
        ((IDS, LOGITS), ids(32, 512, 20), None, 0),
        ((TEXT, SCORES), strings(b"a" * 100_000), None, 0),  # how many pieces, no shape tells
        ((TEXT, VECTORS), strings(*[b""] * 8388), None, 0),
        ((TEXT, VECTORS), strings(*[b""] * 8389), 67_112_000, 64 * MEBIBYTE),
        ((IDS, {"y": (tf.float32, None)}), ids(1, 8, 1_000_000), None, 0),
        (({"k": (tf.int32, ())}, {"y": (tf.float32, (2**25,))}), {"k": np.int32(1)},
         2**27, 64 * MEBIBYTE),
    ],
)  # fmt: skip
def test_a_response_that_is_too_large_by_its_shapes_is_refused_before_the_run(
    described, inputs, size_bytes, limit_bytes
):
    inputs = {name: np.asarray(value) for name, value in inputs.items()}
    if size_bytes is None:
        check_before_run(signature(*described), inputs, 64 * MEBIBYTE)
        return
    message = f"The answer takes {size_bytes} bytes, and {limit_bytes} are allowed"
    with pytest.raises(ServingError, match=message):
        check_before_run(signature(*described), inputs, 64 * MEBIBYTE)
