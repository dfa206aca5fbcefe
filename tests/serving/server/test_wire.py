"""Messages of many tiny elements, which are refused before they are parsed."""

import struct

import pytest
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st
from tensorflow.core.example import example_pb2
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow_serving.apis import classification_pb2, predict_pb2

from serving.server import wire
from serving.server.status import ServingError
from serving.server.wire import check_elements

PREDICT = predict_pb2.PredictRequest.DESCRIPTOR
CLASSIFY = classification_pb2.ClassificationRequest.DESCRIPTOR


def predict(**tensor):
    request = predict_pb2.PredictRequest()
    request.inputs["x"].CopyFrom(tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, **tensor))
    return request.SerializeToString()


def passes(packed, message=PREDICT, **limits):
    """Return the message of the refusal; None if there is none."""
    try:
        check_elements(packed, message, **limits)
    except ServingError as error:
        return error.message if error.code is StatusCode.INVALID_ARGUMENT else str(error)
    return None


def tiny(number, count):
    """Return `count` empty texts or messages in a field."""
    return bytes([number << 3 | 2, 0]) * count


def inside(packed, *numbers):
    """Wrap a message in fields of these numbers, the innermost first."""
    for number in numbers:
        packed = bytes([number << 3 | 2]) + varint(len(packed)) + packed
    return packed


def varint(value):
    digits = bytearray()
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])


MANY = wire.MAX_ELEMENTS + 1
TOO_MANY = {
    "strings": inside(tiny(8, MANY), 2, 2),
    "numbers, each with a tag": inside(b"\x38\1" * MANY, 2, 2),
    "dimensions": inside(tiny(2, MANY), 2, 2, 2),
    "variants": inside(tiny(15, MANY), 2, 2),
    "outputs": tiny(3, MANY),
    "unknown numbers": b"\x78\1" * MANY,
    "unknown texts": tiny(15, MANY),
    "groups": b"\x7b\x7c" * MANY,
    "fixed sizes": (b"\x7d" + struct.pack("<f", 1)) * MANY,
    "fixed sizes of 8": (b"\x79" + struct.pack("<d", 1)) * MANY,
    "strings in a tensor in a variant": inside(tiny(8, MANY), 3, 15, 2, 2),
}


@pytest.mark.parametrize("name", TOO_MANY)
def test_too_many_elements(name):
    assert passes(TOO_MANY[name]) == "The request message has more than 262144 elements"


@pytest.mark.parametrize("levels", [(1,), (1, 1), (1, 2, 1, 1, 1, 1)])
def test_too_many_examples_or_values_of_a_feature(levels):
    assert "more than 262144 elements" in passes(inside(tiny(1, MANY), *levels, 2), CLASSIFY)


def test_the_limits_are_exact():
    packed = inside(tiny(8, 1000) + b"\x08\x07", 2, 2)  # an entry, its tensor, its dtype, 1000
    assert passes(packed, max_elements=1003, max_entries=1) is None
    assert passes(packed, max_elements=1002, max_entries=1).endswith("more than 1002 elements")
    entries = inside(b"", 2) * 300
    assert passes(entries, max_entries=300) is None
    assert passes(entries, max_entries=299) == "PredictRequest: a map has more than 299 entries"


def test_a_map_of_features_and_one_of_inputs():
    example = example_pb2.Example()
    for number in range(wire.MAX_ENTRIES + 1):
        example.features.feature[str(number)].int64_list.value.append(1)
    request = classification_pb2.ClassificationRequest()
    request.input.example_list.examples.append(example)
    packed = request.SerializeToString()
    assert passes(packed, CLASSIFY) == "Features: a map has more than 16384 entries"
    request = predict_pb2.PredictRequest()
    for number in range(wire.MAX_ENTRIES + 1):
        request.inputs[str(number)].dtype = 1
    assert passes(request.SerializeToString()).startswith("PredictRequest: a map has more than")


def test_messages_of_real_clients_pass():
    packed_numbers = predict(float_val=[1.5] * 1_000_000)
    assert passes(packed_numbers) is None
    assert passes(predict(tensor_content=b"\n\0" * 1_000_000)) is None  # bytes are not looked into
    assert passes(predict(string_val=[b"\n\0" * 2000] * 1000)) is None
    assert passes(predict(string_val=[b"a text of 16 B.."] * 200_000)) is None


@pytest.mark.parametrize(
    ("field", "bytes_per_byte"), [("int64_val", 8), ("int_val", 4), ("bool_val", 1)]
)
def test_the_memory_of_packed_numbers(field, bytes_per_byte):
    values = [1] * 100_000  # a byte each
    memory = check_elements(predict(**{field: values}), PREDICT)
    assert memory == pytest.approx(100_000 * bytes_per_byte, abs=1000)


@given(st.binary(max_size=60))
def test_invalid_bytes_end_the_count(packed):
    for message in (PREDICT, CLASSIFY):
        assert passes(packed, message, max_elements=30, max_entries=30) is None


@pytest.mark.parametrize("end", [b"\xff" * 20, b"\x0a", b"\x0a\xff", b"\x80"])
def test_a_message_that_is_cut_off_is_left_to_the_parser(end):
    assert passes(tiny(3, 40_000) + end) is None
