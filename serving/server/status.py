"""The one exception that requests fail with, and its code in gRPC and in HTTP."""

import re

import tensorflow as tf
from grpc import StatusCode

HTTP_STATUS = {
    StatusCode.OK: 200,
    StatusCode.CANCELLED: 499,
    StatusCode.UNKNOWN: 500,
    StatusCode.INVALID_ARGUMENT: 400,
    StatusCode.DEADLINE_EXCEEDED: 504,
    StatusCode.NOT_FOUND: 404,
    StatusCode.ALREADY_EXISTS: 409,
    StatusCode.PERMISSION_DENIED: 403,
    StatusCode.RESOURCE_EXHAUSTED: 429,
    StatusCode.FAILED_PRECONDITION: 400,
    StatusCode.ABORTED: 409,
    StatusCode.OUT_OF_RANGE: 400,
    StatusCode.UNIMPLEMENTED: 501,
    StatusCode.INTERNAL: 500,
    StatusCode.UNAVAILABLE: 503,
    StatusCode.DATA_LOSS: 500,
    StatusCode.UNAUTHENTICATED: 401,
}

_QUOTED_BYTES = 256
_GRAPH_MESSAGE_CHARS = 4096  # failed assertions quote strings of the request in full
_BY_NUMBER = {code.value[0]: code for code in StatusCode}


class ServingError(Exception):
    """A request, or the load of a model, cannot be done."""

    def __init__(self, code: StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}"


def invalid(message: str) -> ServingError:
    """Return the error for a request that does not fit the model."""
    return ServingError(StatusCode.INVALID_ARGUMENT, message)


def shortened(text: str) -> str:
    """Return text that a client sent as a message quotes it: its first 256 bytes."""
    encoded = text[: _QUOTED_BYTES + 1].encode("utf-8", "surrogateescape")
    if len(encoded) <= _QUOTED_BYTES:
        return text
    return encoded[:_QUOTED_BYTES].decode("utf-8", "ignore") + "..."


def from_tensorflow(error: Exception) -> ServingError:
    """Return TensorFlow's error as the model server's: same code, without Python's decoration."""
    if isinstance(error, tf.errors.OpError):
        code = _BY_NUMBER.get(error.error_code, StatusCode.UNKNOWN)
        return ServingError(code, _undecorated(error.message)[:_GRAPH_MESSAGE_CHARS])
    if isinstance(error, FileNotFoundError):
        return ServingError(StatusCode.NOT_FOUND, str(error))
    if isinstance(error, UnicodeDecodeError):  # TensorFlow quotes bytes that it was asked about
        return invalid(_undecorated(error.object.decode("utf-8", "replace"))[:_GRAPH_MESSAGE_CHARS])
    return ServingError(StatusCode.UNKNOWN, str(error) or type(error).__name__)


def _undecorated(message: str) -> str:
    """Return the statement of an error without the Python stack and the eager op's name."""
    statement = message.rpartition("<stack traces unavailable>\n")[2]
    # Graphs of TensorFlow 1 come with the stack, and so the paths, of the server that loaded them.
    statement = re.sub(r'\AGraph execution error:.*\n  File "[^\n]*\s+', "", statement, flags=re.S)
    statement = re.sub(r"\A\{\{function_node __wrapped__\S*\}\} ", "", statement)
    return re.sub(r" \[Op:[^\]]*\]\Z", "", statement)
