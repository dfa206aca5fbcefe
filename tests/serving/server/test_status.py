"""TensorFlow's errors as status codes and messages of TensorFlow Serving."""

import pytest
import tensorflow as tf
from grpc import StatusCode

from serving.server.status import from_tensorflow


@pytest.mark.parametrize("serialized", [b"\xff\xfe", b"text"])
def test_bytes_that_are_not_an_example_are_an_invalid_argument(serialized: bytes) -> None:
    features = {"x": tf.io.FixedLenFeature([], tf.float32)}
    function = tf.function(lambda examples: tf.io.parse_example(examples, features))
    with pytest.raises((tf.errors.OpError, UnicodeDecodeError)) as caught:
        function(tf.constant([serialized]))
    error = from_tensorflow(caught.value)
    assert error.code == StatusCode.INVALID_ARGUMENT
    assert "parse example" in error.message
