"""Tensors in protocol buffers: parsed as TensorFlow does, in bounded time and memory."""

import numpy as np
import pytest
import tensorflow as tf
from grpc import StatusCode
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tensorflow.core.framework import tensor_pb2, types_pb2

from serving.server import tensors
from serving.server.signature_spec import ServableSignature, TensorInfo
from serving.server.status import ServingError
from serving.server.tensors import arrays_from_protos, message_bytes, write_array

MAX_BYTES = 4096
CARRIED = [
    tf.float16, tf.bfloat16, tf.float32, tf.float64, tf.complex64, tf.complex128, tf.bool,
    tf.int8, tf.int16, tf.int32, tf.int64, tf.uint8, tf.uint16, tf.uint32, tf.uint64, tf.string,
]  # fmt: skip
I32 = st.integers(-(2**31), 2**31 - 1)
FIELDS = {
    "tensor_content": st.binary(max_size=40),
    "half_val": st.lists(I32, max_size=5),
    "float_val": st.lists(st.floats(width=32), max_size=5),
    "double_val": st.lists(st.floats(), max_size=5),
    "int_val": st.lists(I32, max_size=5),
    "int64_val": st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5),
    "uint32_val": st.lists(st.integers(0, 2**32 - 1), max_size=5),
    "uint64_val": st.lists(st.integers(0, 2**64 - 1), max_size=5),
    "bool_val": st.lists(st.booleans(), max_size=5),
    "string_val": st.lists(st.binary(max_size=30), max_size=5),
    "scomplex_val": st.lists(st.floats(width=32), max_size=5),
    "dcomplex_val": st.lists(st.floats(), max_size=5),
    "version_number": I32,
}
SIZES = st.integers(0, 4) | st.sampled_from([-1, 40, 5000, 2**31, 2**62, 2**63 - 1])
DTYPES = st.sampled_from(types_pb2.DataType.values()) | st.integers(-(2**31), 2**31 - 1)


@st.composite
def protos(draw, dtypes):
    proto = tensor_pb2.TensorProto(**draw(st.fixed_dictionaries({}, optional=FIELDS)))
    proto.dtype = draw(dtypes)
    for size in draw(st.lists(SIZES, max_size=3) | st.just([1] * 70)):
        proto.tensor_shape.dim.add(size=size)
    proto.tensor_shape.unknown_rank = draw(st.sampled_from([False] * 9 + [True]))
    return proto


def signature(**dtypes):
    inputs = {name: TensorInfo(dtype, None, f"{name}:0") for name, dtype in sorted(dtypes.items())}
    return ServableSignature("s", inputs, {}, dict)


def read(proto, dtype, max_bytes=MAX_BYTES):
    return arrays_from_protos(signature(x=dtype), {"x": proto}, max_bytes)["x"]


def refusal(proto, dtype, max_bytes=MAX_BYTES):
    with pytest.raises(ServingError) as caught:
        read(proto, dtype, max_bytes)
    return caught.value


def read_or_refused(proto, dtype):
    """Return the array or the error."""
    try:
        return read(proto, dtype)
    except ServingError as error:
        return error


def equal(left, right):
    if left.dtype != right.dtype:
        return False
    if left.dtype == np.object_:
        return np.array_equal(left, right)
    if left.dtype == tf.bfloat16.as_numpy_dtype:  # NumPy does not know its NaN
        left, right = left.astype(np.float32), right.astype(np.float32)
    np.testing.assert_array_equal(left, right)
    return True


@given(st.sampled_from(CARRIED).flatmap(
    lambda dtype: protos(st.just(dtype.as_datatype_enum))
))  # fmt: skip
@settings(max_examples=1000, deadline=None)
@example(tensor_pb2.TensorProto(dtype=types_pb2.DT_BFLOAT16, tensor_shape={}, half_val=[-1]))  # NaN
def test_parsed_values_equal_those_of_tensorflow(proto):
    dtype = tf.dtypes.as_dtype(proto.dtype)
    array = read_or_refused(proto, dtype)
    if isinstance(array, ServingError):
        assert array.code is StatusCode.INVALID_ARGUMENT
        if "tensor parsing error" in array.message:
            with pytest.raises(tf.errors.InvalidArgumentError):
                tf.io.parse_tensor(proto.SerializeToString(), dtype)
        return
    assert array.nbytes <= MAX_BYTES
    expected = tf.io.parse_tensor(proto.SerializeToString(), dtype).numpy()
    assert equal(array, np.asarray(expected, dtype.as_numpy_dtype))


@given(protos(DTYPES), st.sampled_from(CARRIED))
@settings(max_examples=1000, deadline=None)
def test_any_tensor_is_read_or_refused(proto, dtype):
    array = read_or_refused(proto, dtype)
    if isinstance(array, ServingError):
        assert array.code is StatusCode.INVALID_ARGUMENT
        assert len(array.message) < 3000
    else:
        assert proto.dtype == dtype.as_datatype_enum
        assert array.nbytes <= MAX_BYTES


@pytest.mark.parametrize("dtype", CARRIED, ids=lambda dtype: dtype.name)
def test_an_array_is_written_as_it_is_read(dtype):
    values = [b"a", b"", b"\xff"] if dtype == tf.string else [0, 1, 1]
    array = np.array([values], dtype.as_numpy_dtype)
    proto = tensor_pb2.TensorProto()
    write_array(proto, array, dtype)
    assert equal(read(proto, dtype), array)
    assert equal(np.asarray(tf.io.parse_tensor(proto.SerializeToString(), dtype)), array)
    assert len(proto.SerializeToString()) <= message_bytes(array) + 20


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=9))
def test_the_size_of_integers_in_a_message(values):
    proto = tensor_pb2.TensorProto()
    write_array(proto, np.array(values), tf.int64)
    assert len(proto.SerializeToString()) <= message_bytes(np.array(values)) + 20


def test_more_values_than_are_copied_at_a_time():
    array = np.arange(150_000, dtype=np.int32).reshape(3, -1)
    proto = tensor_pb2.TensorProto()
    write_array(proto, array, tf.int32)
    assert equal(read(proto, tf.int32, 600_000), array)


@pytest.mark.parametrize("dtype", CARRIED, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("count", [4, 5, 9])
def test_values_are_read_in_chunks(dtype, count, monkeypatch):
    monkeypatch.setattr(tensors, "CHUNK_VALUES", 2)
    values = [b"a", b"", b"\xff", b"bc", b"d"] if dtype == tf.string else [0, 1, 1, 0, 1]
    proto = tensor_pb2.TensorProto()
    write_array(proto, np.array(values, dtype.as_numpy_dtype), dtype)
    proto.tensor_shape.dim[0].size = count
    expected = tf.io.parse_tensor(proto.SerializeToString(), dtype).numpy()
    assert equal(read(proto, dtype), expected)


def test_too_many_rows_are_refused_before_their_values_are_read():
    proto = tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, tensor_content=b"no floats")
    proto.tensor_shape.dim.add(size=9)
    for most_rows, message in ((8, "Task size 9 is larger than maximum input batch size 8"),
                               (9, "tensor parsing error: x")):  # fmt: skip
        with pytest.raises(ServingError, match=message):
            arrays_from_protos(signature(x=tf.float32), {"x": proto}, MAX_BYTES, most_rows)


def test_a_dtype_that_messages_cannot_carry():
    proto = tensor_pb2.TensorProto(dtype=types_pb2.DT_RESOURCE)
    error = refusal(proto, tf.resource)
    assert error.code is StatusCode.UNIMPLEMENTED
    assert error.message == "Tensors of type resource cannot be sent in a message"
    with pytest.raises(ServingError, match="qint8 cannot be sent"):
        write_array(proto, np.zeros(1), tf.qint8)


@pytest.mark.parametrize(
    ("dtype", "shape", "limit_bytes", "message"),
    [
        (tf.float64, [512], 4096, None),
        (tf.float64, [513], 4096, "Input x: all inputs together take more than 4096 bytes"),
        (tf.string, [100], 2400 + 3 + 99 * 4, None),  # 24 bytes each, and the texts
        (tf.string, [100], 2400 + 2 + 99 * 4, "Input x: all inputs together take more than 2798 b"),
        (tf.float32, [5000, 0], 4096, "Input x: shape [5000, 0] takes more than 4096 bytes"),
        (tf.float32, [2, -3], 4096, "Input x: expected no negative size, got shape [2, -3]"),
        (tf.float32, [1] * 65, 4096, "Input x: expected at most 64 dimensions, got 65"),
    ],
)
def test_sizes_are_bounded(dtype, shape, limit_bytes, message):
    proto = tensor_pb2.TensorProto(dtype=dtype.as_datatype_enum, string_val=[b"abc", b"four"])
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    if message is None:
        assert read(proto, dtype, limit_bytes).shape == tuple(shape)
    else:
        assert refusal(proto, dtype, limit_bytes).message.startswith(message)


def test_the_limit_is_for_all_inputs_together():
    proto = tf.make_tensor_proto(np.zeros(100, np.float32))
    both = signature(x=tf.float32, y=tf.float32)
    assert len(arrays_from_protos(both, {"x": proto, "y": proto}, 800)) == 2
    with pytest.raises(ServingError, match="Input y: all inputs together take more than 799 bytes"):
        arrays_from_protos(both, {"x": proto, "y": proto}, 799)


def test_a_million_names_are_not_all_quoted():
    protos = dict.fromkeys((f"{number}{'n' * 1000}" for number in range(1000)), None)
    with pytest.raises(ServingError, match="input size does not match") as caught:
        arrays_from_protos(signature(x=tf.float32), protos, MAX_BYTES)
    assert len(caught.value.message) < 1000
