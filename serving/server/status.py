"""The exception for failed requests, and its status codes in gRPC and HTTP."""

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
    """A request, or the loading of a model, failed."""

    def __init__(self, code: StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}"


def invalid(message: str) -> ServingError:
    """Return the error for an invalid request (INVALID_ARGUMENT)."""
    return ServingError(StatusCode.INVALID_ARGUMENT, message)


def shortened(text: str) -> str:
    """Truncate a client's text to its first 256 bytes, for a message."""
    encoded = text[: _QUOTED_BYTES + 1].encode("utf-8", "surrogateescape")
    if len(encoded) <= _QUOTED_BYTES:
        return text
    return encoded[:_QUOTED_BYTES].decode("utf-8", "ignore") + "..."


def from_tensorflow(error: Exception) -> ServingError:
    """Convert TensorFlow's error to a ServingError: same code, without Python's additions."""
    if isinstance(error, tf.errors.OpError):
        code = _BY_NUMBER.get(error.error_code, StatusCode.UNKNOWN)
        return ServingError(code, _undecorated(error.message)[:_GRAPH_MESSAGE_CHARS])
    if isinstance(error, FileNotFoundError):
        return ServingError(StatusCode.NOT_FOUND, str(error))
    if isinstance(error, UnicodeDecodeError):  # TensorFlow's message quotes the request's bytes
        return invalid(_undecorated(error.object.decode("utf-8", "replace"))[:_GRAPH_MESSAGE_CHARS])
    return ServingError(StatusCode.UNKNOWN, str(error) or type(error).__name__)


def _undecorated(message: str) -> str:
    """Return an error message without Python stack and eager op name."""
    statement = message.rpartition("<stack traces unavailable>\n")[2]
    # Graphs of TensorFlow 1 add the Python stack, which contains paths of this server.
    statement = re.sub(r'\AGraph execution error:.*\n  File "[^\n]*\s+', "", statement, flags=re.S)
    statement = re.sub(r"\A\{\{function_node __wrapped__\S*\}\} ", "", statement)
    return re.sub(r" \[Op:[^\]]*\]\Z", "", statement)
