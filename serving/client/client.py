"""Asking a model server, over REST or gRPC: this one or TensorFlow Serving itself."""

import base64
import json
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import numpy as np
import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, MaxRetryError, NewConnectionError
from urllib3.util import Retry

from pipeline.errors import InputError, JobError
from serving.addresses import is_host
from serving.tf_serving import DEFAULT_SIGNATURE, GRPC_PORT, MAX_MESSAGE_BYTES, REST_PORT

if TYPE_CHECKING:
    import grpc
    from tensorflow_serving.apis import model_pb2

_DTYPES = {
    "DT_FLOAT": np.float32,
    "DT_DOUBLE": np.float64,
    "DT_HALF": np.float16,
    "DT_INT8": np.int8,
    "DT_INT16": np.int16,
    "DT_INT32": np.int32,
    "DT_INT64": np.int64,
    "DT_UINT8": np.uint8,
    "DT_UINT32": np.uint32,
    "DT_UINT64": np.uint64,
    "DT_BOOL": np.bool_,
    "DT_STRING": np.object_,
}
_KINDS = {"f": "fiu", "i": "iu", "u": "iu", "b": "b"}
"""NumPy's kinds of the JSON numbers that may stand for a kind of dtype."""

# What says that the request is wrong; other errors are the server's, or of this moment.
_REFUSED_STATUS = set(range(400, 500)) - {408, 409, 429, 499}
_REFUSED_CODES = {
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
    "FAILED_PRECONDITION",
    "OUT_OF_RANGE",
}
_INIT_OP = "__saved_model_init_op"  # stands among the signatures, and is none
_BYTES_SUFFIX = "_bytes"  # string outputs with such a name are bytes, not text
_TRIES = 4
_MAX_MESSAGE_CHARS = 2000
_POLL_SECS = 0.2
_GRPC_RETRIES = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": _TRIES,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
            },
        }
    ]
}


class ServerError(JobError):
    """The server cannot be reached, failed, or sent no usable answer. One line; exit code 1."""


class RequestError(ServerError, InputError):
    """The server refused the request as wrong. One line, the server's; exit code 2."""


@dataclass(frozen=True)
class Signature:
    """What a model takes and gives: names to TensorFlow dtype names such as "DT_STRING"."""

    inputs: dict[str, str]
    outputs: dict[str, str]


Version = int | str | None
"""A version's number, or a label such as "canary"; None is the newest."""


class _BaseClient(ABC):
    """What both transports share: results of one kind, and waiting for a model.

    Signatures are asked for once and kept, so make a new client for a model whose inputs or outputs
    have changed.
    """

    def __init__(self, address: str, timeout_secs: float) -> None:
        self._address = address  # HOST:PORT, for messages
        self._timeout_secs = timeout_secs
        self._signatures: dict[tuple[str, Version], dict[str, Signature]] = {}

    def signatures(self, model: str, version: Version = None) -> dict[str, Signature]:
        """Return what the signatures of a model take and give, by name.

        Raises:
            RequestError: the server refused the request as wrong.
            ServerError: the server cannot be reached, failed, or sent no usable answer.
        """
        key = (model, version)
        if key not in self._signatures:
            self._signatures[key] = self._fetch_signatures(model, version)
        return self._signatures[key]

    def predict(
        self,
        model: str,
        inputs: Mapping[str, Any],
        signature: str = "",
        version: Version = None,
    ) -> dict[str, np.ndarray]:
        """Run one signature on a batch.

        Args:
            model: the model's name.
            inputs: each input's batch by name, as (nested) lists or arrays; text as str or bytes.
            signature: the signature's name; "" is serving_default.
            version: the version to ask, by number or by label; None is the newest.

        Returns:
            Every output by name, in the dtype of the signature. Strings are object arrays of str,
            or of bytes where the output's name ends in `_bytes`.

        Raises:
            RequestError: the server refused the request as wrong.
            ServerError: the server cannot be reached, failed, or sent no usable answer.
        """
        name = signature or DEFAULT_SIGNATURE
        known = self.signatures(model, version)
        if name not in known:
            only = ", ".join(sorted(known))
            raise RequestError(f"model {model} has no signature {name!r}, only {only}")
        return self._predict(model, version, name, inputs, known[name])

    def predict_batches(
        self,
        model: str,
        inputs: Mapping[str, Any],
        batch_size: int,
        signature: str = "",
        version: Version = None,
    ) -> Iterator[dict[str, np.ndarray]]:
        """Run one signature on any number of rows, so many at a time.

        Args and Raises are those of `predict`; also InputError, for inputs with different numbers
        of rows.

        Yields:
            The outputs of each batch, in order. Those of different batches may differ in their
            inner shapes: the longest text of a batch decides.
        """
        lengths = {name: len(values) for name, values in inputs.items()}
        if len(set(lengths.values())) != 1 or batch_size < 1:
            raise InputError(
                f"inputs: expected equally many rows in each, and batches of 1 or more; received "
                f"{lengths} in batches of {batch_size}"
            )
        for start in range(0, max(lengths.values()), batch_size):
            rows = {name: values[start : start + batch_size] for name, values in inputs.items()}
            yield self.predict(model, rows, signature, version)

    @abstractmethod
    def status(self, model: str) -> dict[int, str]:
        """Return the state of each version of a model, such as {2: "AVAILABLE", 1: "END"}."""

    @abstractmethod
    def _fetch_signatures(self, model: str, version: Version) -> dict[str, Signature]:
        """Return what each signature takes and gives."""

    @abstractmethod
    def _predict(
        self,
        model: str,
        version: Version,
        name: str,
        inputs: Mapping[str, Any],
        signature: Signature,
    ) -> dict[str, np.ndarray]:
        """Run the signature of that name on the inputs."""

    def wait_until_ready(self, model: str, timeout_secs: float) -> int:
        """Return the newest version that is available, as soon as there is one.

        Raises:
            ServerError: there was none within `timeout_secs`.
        """
        deadline = time.monotonic() + timeout_secs
        while True:
            try:
                states = self.status(model)
                ready = [version for version, state in states.items() if state == "AVAILABLE"]
                if ready:
                    return max(ready)
                last = f"its versions are {states}"
            except ServerError as error:
                last = str(error)
            if time.monotonic() >= deadline:
                raise ServerError(f"model {model} is not ready after {timeout_secs:g} s: {last}")
            time.sleep(_POLL_SECS)

    def _nothing_answers(self) -> ServerError:
        return ServerError(
            f"nothing answers at {self._address}; start one with clozeline serve --models DIR"
        )

    def _too_slow(self) -> ServerError:
        return ServerError(f"{self._address} did not answer within {self._timeout_secs:g} s")

    def _not_a_model_server(self, what: object) -> ServerError:
        return ServerError(f"{self._address}: {_one_line(str(what))}; is it a model server?")

    @contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        """Turn the errors of reading an answer that is not of the API's form into a ServerError."""
        try:
            yield
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            cause = f"{type(error).__name__}: {error}"
            raise self._not_a_model_server(f"malformed {what} in its answer ({cause})") from error


class Client(_BaseClient):
    """A client of the REST API.

    Refused connections, and answers that the server is busy (429, 503), are tried again a few times
    with growing pauses.

    Raises:
        InputError: `rest` is not an HTTP URL.
    """

    def __init__(
        self, rest: str = f"http://127.0.0.1:{REST_PORT}", timeout_secs: float = 60.0
    ) -> None:
        super().__init__(_checked_netloc(rest), timeout_secs)
        self._base = rest.rstrip("/") + "/v1/models/"
        # Its warning at every further try would stand before our one line.
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
        self._session = requests.Session()
        retry = Retry(
            total=_TRIES - 1,
            read=False,  # a prediction that takes too long is not asked for again
            backoff_factor=0.1,
            status_forcelist=(429, 503),
            allowed_methods=("GET", "POST"),
            raise_on_status=False,
            respect_retry_after_header=False,  # a server could keep us waiting for days
        )
        self._session.mount(rest, HTTPAdapter(max_retries=retry))

    def status(self, model: str) -> dict[int, str]:
        """Return the state of each version of a model, such as {2: "AVAILABLE", 1: "END"}."""
        answer = self._ask("GET", quote(model, safe=""))
        with self._reading("status"):
            return {
                int(one["version"]): _string(one["state"]) for one in answer["model_version_status"]
            }

    def _fetch_signatures(self, model: str, version: Version) -> dict[str, Signature]:
        answer = self._ask("GET", _path(model, version) + "/metadata")
        with self._reading("metadata"):
            definitions = answer["metadata"]["signature_def"]["signature_def"]
            return {
                name: Signature(_dtypes(definition["inputs"]), _dtypes(definition["outputs"]))
                for name, definition in definitions.items()
                if name != _INIT_OP
            }

    def _predict(
        self,
        model: str,
        version: Version,
        name: str,
        inputs: Mapping[str, Any],
        signature: Signature,
    ) -> dict[str, np.ndarray]:
        request = {"signature_name": name, "inputs": inputs}
        answer = self._ask("POST", _path(model, version) + ":predict", request)
        with self._reading("outputs"):
            outputs = answer["outputs"]
            if len(signature.outputs) == 1:  # comes bare
                outputs = {next(iter(signature.outputs)): outputs}
            return {
                output: _array_from_json(output, dtype, outputs[output])
                for output, dtype in sorted(signature.outputs.items())
            }

    def _ask(self, method: str, path: str, content: Any = None) -> Any:
        body = None if content is None else json.dumps(content, default=_jsonable).encode()
        try:
            answer = self._session.request(
                method, self._base + path, data=body, timeout=self._timeout_secs
            )
        except requests.Timeout as error:
            raise self._too_slow() from error
        # A redirection to an invalid URL is one of the two others.
        except (requests.RequestException, HTTPError, ValueError) as error:
            raise self._unanswered(error) from error
        status = f"HTTP {answer.status_code} {answer.reason}"
        try:
            read = json.loads(answer.content.decode("utf-8", "surrogateescape"))
        except (ValueError, RecursionError) as error:
            raise self._not_a_model_server(f"{status}, not JSON") from error
        if answer.ok:
            return read
        message = read.get("error") if isinstance(read, dict) else None
        if not isinstance(message, str):
            raise self._not_a_model_server(f"{status}, without an error message")
        refused = answer.status_code in _REFUSED_STATUS
        raise (RequestError if refused else ServerError)(_one_line(message) or status)

    def _unanswered(self, error: Exception) -> ServerError:
        """Return the error for a request without a valid HTTP answer."""
        cause = error.args[0] if error.args else None
        if isinstance(cause, MaxRetryError) and isinstance(cause.reason, NewConnectionError):
            return self._nothing_answers()
        while error.args and isinstance(error.args[-1], Exception):
            error = error.args[-1]  # the one that says what happened
        return self._not_a_model_server(f"no valid HTTP answer ({error})")


class GrpcClient(_BaseClient):
    """A client of the gRPC API. Connections that fail are tried again a few times."""

    def __init__(self, target: str = f"127.0.0.1:{GRPC_PORT}", timeout_secs: float = 60.0) -> None:
        # Imported here: TensorFlow takes seconds, and the REST client does without it.
        import grpc
        from tensorflow_serving.apis import (
            model_service_pb2_grpc,
            prediction_service_pb2_grpc,
        )

        super().__init__(target, timeout_secs)
        options = [
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.service_config", json.dumps(_GRPC_RETRIES)),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
        ]
        channel = grpc.insecure_channel(target, options=options)
        self._prediction = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(channel)

    def status(self, model: str) -> dict[int, str]:
        """Return the state of each version of a model, such as {2: "AVAILABLE", 1: "END"}."""
        from tensorflow_serving.apis import get_model_status_pb2

        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = model
        answer = self._ask(self._models.GetModelStatus, request)
        states = get_model_status_pb2.ModelVersionStatus.State
        with self._reading("status"):
            return {one.version: states.Name(one.state) for one in answer.model_version_status}

    def _fetch_signatures(self, model: str, version: Version) -> dict[str, Signature]:
        from tensorflow_serving.apis import get_model_metadata_pb2

        request = get_model_metadata_pb2.GetModelMetadataRequest()
        _name_model(request.model_spec, model, version)
        request.metadata_field.append("signature_def")
        answer = self._ask(self._prediction.GetModelMetadata, request)
        known = get_model_metadata_pb2.SignatureDefMap()
        with self._reading("metadata"):
            _unpack(answer.metadata["signature_def"], known)
            return {
                name: Signature(_dtype_names(definition.inputs), _dtype_names(definition.outputs))
                for name, definition in known.signature_def.items()
                if name != _INIT_OP
            }

    def _predict(
        self,
        model: str,
        version: Version,
        name: str,
        inputs: Mapping[str, Any],
        signature: Signature,
    ) -> dict[str, np.ndarray]:
        from tensorflow_serving.apis import predict_pb2

        request = predict_pb2.PredictRequest()
        _name_model(request.model_spec, model, version)
        request.model_spec.signature_name = name
        for given, values in inputs.items():
            proto = _tensor_proto(given, values, signature.inputs.get(given))
            request.inputs[given].CopyFrom(proto)
        answer = self._ask(self._prediction.Predict, request)
        with self._reading("outputs"):
            return {
                output: _array_from_proto(output, dtype, answer.outputs)
                for output, dtype in sorted(signature.outputs.items())
            }

    def _ask(self, method: Any, request: Any) -> Any:
        import grpc

        try:
            return method(request, timeout=self._timeout_secs)
        except grpc.RpcError as error:
            raise self._explained(error) from error

    def _explained(self, error: "grpc.RpcError") -> ServerError:
        import grpc

        code, details = error.code(), _one_line(error.details() or "")
        if code == grpc.StatusCode.DEADLINE_EXCEEDED:
            return self._too_slow()
        if code == grpc.StatusCode.UNAVAILABLE and "connect" in details:
            return self._nothing_answers()
        refused = code.name in _REFUSED_CODES
        return (RequestError if refused else ServerError)(details or code.name)


def _one_line(message: str) -> str:
    """Return a message of somebody else's as one line that is safe to print."""
    words = " ".join(message[:_MAX_MESSAGE_CHARS].split())
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in words)


def _checked_netloc(rest: str) -> str:
    """Return HOST:PORT of a URL.

    Raises:
        InputError: it is not one of HTTP.
    """
    try:
        requests.Request("GET", rest).prepare()
        parts = urlsplit(rest)
        if parts.scheme in ("http", "https") and is_host(parts.hostname or "") and parts.port != 0:
            return parts.netloc
    except ValueError:  # most of the errors of requests about URLs are such
        pass
    raise InputError(f"server {rest!r}: expected a URL such as http://127.0.0.1:{REST_PORT}")


def _path(model: str, version: Version) -> str:
    path = quote(model, safe="")
    if isinstance(version, str):
        return f"{path}/labels/{quote(version, safe='')}"
    return path if version is None else f"{path}/versions/{version}"


def _dtypes(side: dict[str, Any]) -> dict[str, str]:
    return {name: _string(info["dtype"]) for name, info in side.items()}


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a string, received {value!r:.40}")
    return value


def _dtype_names(side: Mapping[str, Any]) -> dict[str, str]:
    return {name: _dtype_name(info.dtype) for name, info in side.items()}


def _dtype_name(number: int) -> str:
    from tensorflow.core.framework import types_pb2

    return types_pb2.DataType.Name(number)


def _unpack(packed: Any, message: Any) -> None:
    """Read an `Any` of protocol buffers into a message.

    Raises:
        ValueError: it holds none of that type.
    """
    from google.protobuf.message import DecodeError

    try:
        found = packed.Unpack(message)
    except DecodeError as error:
        raise ValueError(str(error)) from error
    if not found:
        raise ValueError(f"no {message.DESCRIPTOR.name}")


def _jsonable(value: Any) -> Any:
    """Return what the JSON writer does not know as something it does."""
    if isinstance(value, bytes):
        return {"b64": base64.b64encode(value).decode("ascii")}
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise InputError(f"inputs: expected lists, numbers and text, received {type(value).__name__}")


def _array_from_json(name: str, dtype: str, values: Any) -> np.ndarray:
    """Return an output as an array of the signature's dtype.

    Raises:
        LookupError, TypeError, ValueError, ArithmeticError: the values are not of that dtype.
    """
    if dtype == "DT_STRING":
        array = np.array(values, dtype=np.object_)
        if name.endswith(_BYTES_SUFFIX):
            return _each(lambda value: base64.b64decode(value["b64"], validate=True), array)
        return _each(_string, array)
    array = np.array(values)
    if dtype not in _DTYPES or not array.size:
        return array.astype(_DTYPES.get(dtype, array.dtype))
    wanted: Any = np.dtype(_DTYPES[dtype])
    if array.dtype.kind not in _KINDS[wanted.kind]:
        raise TypeError(f"output {name} is {array.dtype}, its signature says {dtype}")
    if wanted.kind in "iu" and not np.can_cast(array.dtype, wanted):
        limits = np.iinfo(wanted)
        if array.min() < limits.min or array.max() > limits.max:
            raise OverflowError(f"output {name} has a number that is not {dtype}")
    return array.astype(wanted)


def _array_from_proto(name: str, dtype: str, outputs: Mapping[str, Any]) -> np.ndarray:
    """Return an output as an array of the signature's dtype.

    Raises:
        LookupError, TypeError, ValueError: it is missing, or no such tensor.
    """
    import tensorflow as tf

    if name not in outputs:  # a map of protocol buffers would make an empty one
        raise KeyError(name)
    received = _dtype_name(outputs[name].dtype)
    if received != dtype:
        raise TypeError(f"output {name} is {received}, its signature says {dtype}")
    return _text_or_bytes(name, tf.make_ndarray(outputs[name]))


def _text_or_bytes(name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype != np.object_ or name.endswith(_BYTES_SUFFIX):
        return array
    return _each(lambda value: value.decode("utf-8", "surrogateescape"), array)


def _each(function: Callable[[Any], Any], array: np.ndarray) -> np.ndarray:
    made = np.empty(array.shape, dtype=np.object_)
    for index, value in np.ndenumerate(array):
        made[index] = function(value)
    return made


def _name_model(spec: "model_pb2.ModelSpec", model: str, version: Version) -> None:
    spec.name = model
    if isinstance(version, str):
        spec.version_label = version
    elif version is not None:
        spec.version.value = version


def _tensor_proto(name: str, values: Any, dtype: str | None) -> Any:
    """Return the values as a tensor; one that the model does not have keeps NumPy's dtype."""
    import tensorflow as tf
    from tensorflow.core.framework import types_pb2

    try:
        known = None if dtype is None else types_pb2.DataType.Value(dtype)
        if dtype == "DT_STRING":  # as an array: TensorFlow flattens a ragged list of strings
            values = np.array(values, dtype=np.object_)
        return tf.make_tensor_proto(values, dtype=known)
    except (TypeError, ValueError) as error:
        raise InputError(f"input {name}: {_one_line(str(error))}") from error
