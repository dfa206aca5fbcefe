"""JSON in and out, without a server."""

import math

import numpy as np
import pytest
import tensorflow as tf

from serving.server.json_answer import error_answer, predict_chunks
from serving.server.json_request import Layout, parse_document, read_inputs
from serving.server.json_values import quoted
from serving.server.signature_spec import ServableSignature, TensorInfo
from serving.server.status import ServingError


def signature(**dtypes):
    inputs = {name: TensorInfo(dtype, None, f"{name}:0") for name, dtype in sorted(dtypes.items())}
    return ServableSignature("serving_default", inputs, {}, dict)


def answered(layout, **outputs):
    return b"".join(predict_chunks(outputs, layout)).decode()


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.0, "0.0"),
        (-0.0, "-0.0"),
        (2.0, "2.0"),
        (0.1, "0.1"),
        (-6e-07, "-6e-07"),
        (1e6, "1e+06"),
        (2e20, "2e+20"),
        (123456.0, "123456.0"),
        (1234567.0, "1234567.0"),
        (2 / 3, "0.666666687"),
        (33554432.0, "33554432.0"),
        (-0.0365304947, "-0.0365304947"),
        (3.4028234663852886e38, "3.40282347e+38"),
        (math.nan, "NaN"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
    ],
)
def test_float32(number, text):
    values = np.array([number], dtype=np.float32)
    assert answered(Layout.ROW, y=values) == f'{{\n    "predictions": [{text}\n    ]\n}}'
    if not math.isnan(number):
        assert np.float32(text) == values[0]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1.0, "1.0"),
        (0.1, "0.1"),
        (1 / 3, "0.33333333333333331"),
        (4 / 3, "1.3333333333333333"),
        (1e300, "1e+300"),
    ],
)
def test_float64(number, text):
    assert answered(Layout.COLUMN, y=np.array(number)) == f'{{\n    "outputs": {text}\n}}'


def test_half_integers_and_booleans():
    outputs = {
        "h": np.array([0.1], dtype=np.float16),
        "i": np.array([-(2**63)], dtype=np.int64),
        "u": np.array([255], dtype=np.uint8),
        "b": np.array([True]),
    }
    assert answered(Layout.ROW, **outputs) == (
        '{\n    "predictions": [\n        {\n            "h": 0.0999755859,\n'
        '            "i": -9223372036854775808,\n            "u": 255,\n            "b": true\n'
        "        }\n    ]\n}"
    )


def test_a_dtype_that_json_cannot_represent():
    with pytest.raises(ServingError, match="Failed to write JSON value for tensor type: complex64"):
        answered(Layout.ROW, y=np.array([1j], dtype=np.complex64))


def test_layout_of_columns_and_rows():
    matrix = np.array([[1, 2], [3, 4]])
    assert answered(Layout.ROW, y=matrix) == '{\n    "predictions": [[1, 2], [3, 4]\n    ]\n}'
    assert answered(Layout.COLUMN, y=matrix, n=np.array(5)) == (
        '{\n    "outputs": {\n        "y": [\n            [\n                1,\n'
        "                2\n            ],\n            [\n                3,\n"
        '                4\n            ]\n        ],\n        "n": 5\n    }\n}'
    )


def test_rows_need_one_batch_size():
    with pytest.raises(
        ServingError, match="Tensor name: b has inconsistent batch size: 3 expecting: 2"
    ):
        answered(Layout.ROW, a=np.zeros(2), b=np.zeros(3))


def test_strings_are_text_and_names_in_bytes_are_base64():
    value = np.array([b'\x00"\xff\xe4\xb8\xad'], dtype=object)
    assert b"".join(predict_chunks({"s": value}, Layout.COLUMN)) == (
        b'{\n    "outputs": [\n        "\\u0000\\"\xff\xe4\xb8\xad"\n    ]\n}'
    )
    assert '{"b64": "ACL/5Lit"}' in answered(Layout.COLUMN, s_bytes=value)


def test_error_answer_quotes_the_message():
    assert error_answer('say "ü"\n') == '{\n    "error": "say \\"ü\\"\\n"\n}'.encode()


def test_a_long_value_is_quoted_in_part():
    document = {"foo": [123456] * 200, "instances": "x"}
    assert quoted(document) == '{\n    "foo": [' + ", ".join(["123456"] * 31)
    assert len(quoted("a" * 100_000)) < 1000


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b" \n", "JSON Parse error: The document is empty"),
        (
            b"{'instances':['a']}",
            "JSON Parse error: Expecting property name enclosed in double quotes at offset: 1",
        ),
        (b'  {"a":}', "JSON Parse error: Expecting value at offset: 7"),
        (
            b'{"a":"\\udc00"}',
            "JSON Parse error: The surrogate pair in string is invalid. at offset: 6",
        ),
        (b'{"a":' + b"[" * 100_000, "JSON Parse error: nested too deeply or a number too long"),
        (b'{"a":' + b"9" * 5000 + b"}", "JSON Parse error: nested too deeply or a number too long"),
        (b"[" * 300 + b"]" * 300, "JSON Value: " + "[" * 256 + " Is not object"),
    ],
)
def test_parse_error(body, message):
    with pytest.raises(ServingError) as caught:
        parse_document(body)
    assert caught.value.message == message


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (tf.int8, 128),
        (tf.uint8, -1),
        (tf.uint32, 2**32),
        (tf.int64, 2**63),
        (tf.int32, True),
        (tf.bool, 1),
        (tf.string, 5),
    ],
)
def test_a_value_of_another_type(dtype, value):
    document = {"inputs": {"x": [[value]]}}
    with pytest.raises(ServingError, match=f"is not of expected type: {dtype.name}"):
        read_inputs(document, signature(x=dtype))


def test_values_at_the_edges_of_their_types():
    for dtype, low, high in (
        (tf.int8, -128, 127),
        (tf.int64, -(2**63), 2**63 - 1),
        (tf.uint64, 0, 2**64 - 1),
    ):
        layout, inputs = read_inputs({"instances": [low, high]}, signature(x=dtype))
        assert layout is Layout.ROW
        assert inputs["x"].tolist() == [low, high]
        assert inputs["x"].dtype == dtype.as_numpy_dtype


def test_float_out_of_range_is_refused_but_infinity_is_a_number():
    with pytest.raises(ServingError, match=r"Cannot convert JSON value: 1e\+39 to float without"):
        read_inputs({"inputs": [1e39]}, signature(x=tf.float32))
    _, inputs = read_inputs({"inputs": [math.inf, 10**30]}, signature(x=tf.float32))
    assert inputs["x"].tolist() == [math.inf, np.float32(1e30)]


def test_shape_that_differs_with_equal_size():
    document = {"instances": [[[1, 2]], [[1], [2]]]}
    with pytest.raises(ServingError, match=r"Expecting shape \[1,2\] but got: \[2,1\]"):
        read_inputs(document, signature(x=tf.int32))


def test_too_many_dimensions():
    nested: list = []
    for _ in range(300):
        nested = [nested]
    with pytest.raises(ServingError, match="at most 64 nested lists but got: 301"):
        read_inputs({"inputs": nested}, signature(x=tf.int32))


def test_binary_rows_where_several_inputs_are_expected():
    with pytest.raises(ServingError, match="instances is a plain list, but expecting list of obj"):
        read_inputs({"instances": [{"b64": "YQ"}]}, signature(x=tf.string, y=tf.string))


def test_base64_with_and_without_padding():
    document = {"instances": [{"b64": "YQ=="}, {"b64": "YQ"}, {"b64": "AGE="}]}
    _, inputs = read_inputs(document, signature(x=tf.string))
    assert inputs["x"].tolist() == [b"a", b"a", b"\0a"]


def test_a_signature_without_inputs():
    with pytest.raises(ServingError, match="Failed to get input map for signature: serving_def"):
        read_inputs({"inputs": {}}, signature())
