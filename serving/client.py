"""Asking a model server, over REST or gRPC: this one or TensorFlow Serving itself."""

import base64
import json
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import numpy as np
import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from pipeline.errors import InputError

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
_DEFAULT_SIGNATURE = "serving_default"
_INIT_OP = "__saved_model_init_op"  # stands among the signatures, and is none
_BYTES_SUFFIX = "_bytes"  # string outputs with such a name are bytes, not text
_TRIES = 4
_MAX_MESSAGE_BYTES = 64 * 1024 * 1024
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


class ServerError(InputError):
    """The server refused the request or failed; the message is the server's, in one line."""


class _NothingAnswersError(InputError):
    """No server at the address."""


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
            ServerError: the server refused the request or failed.
            InputError: nothing answers, or not in time.
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
            ServerError: the server refused the request or failed.
            InputError: nothing answers, or not in time.
        """
        name = signature or _DEFAULT_SIGNATURE
        known = self.signatures(model, version)
        if name not in known:
            only = ", ".join(sorted(known))
            raise ServerError(f"model {model} has no signature {name!r}, only {only}")
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

        Args and Raises are those of `predict`; the inputs must have equally many rows.

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
            InputError: there was none within `timeout_secs`.
        """
        deadline = time.monotonic() + timeout_secs
        while True:
            try:
                states = self.status(model)
                ready = [version for version, state in states.items() if state == "AVAILABLE"]
                if ready:
                    return max(ready)
                last = f"its versions are {states}"
            except InputError as error:
                last = str(error)
            if time.monotonic() >= deadline:
                raise InputError(f"model {model} is not ready after {timeout_secs:g} s: {last}")
            time.sleep(_POLL_SECS)

    def _nothing_answers(self) -> InputError:
        return _NothingAnswersError(
            f"nothing answers at {self._address}; start one with clozeline serve --models DIR"
        )

    def _too_slow(self) -> InputError:
        return InputError(f"{self._address} did not answer within {self._timeout_secs:g} s")


class Client(_BaseClient):
    """A client of the REST API.

    Refused connections, and answers that the server is busy (429, 503), are tried again a few times
    with growing pauses.
    """

    def __init__(self, rest: str = "http://127.0.0.1:8501", timeout_secs: float = 60.0) -> None:
        super().__init__(urlsplit(rest).netloc or rest, timeout_secs)
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
        )
        self._session.mount(rest, HTTPAdapter(max_retries=retry))

    def status(self, model: str) -> dict[int, str]:
        """Return the state of each version of a model, such as {2: "AVAILABLE", 1: "END"}."""
        answer = self._ask("GET", quote(model, safe=""))
        return {int(one["version"]): one["state"] for one in answer["model_version_status"]}

    def _fetch_signatures(self, model: str, version: Version) -> dict[str, Signature]:
        answer = self._ask("GET", _path(model, version) + "/metadata")
        found = answer["metadata"]["signature_def"]["signature_def"]
        return {
            name: Signature(_dtypes(definition["inputs"]), _dtypes(definition["outputs"]))
            for name, definition in found.items()
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
        outputs = self._ask("POST", _path(model, version) + ":predict", request)["outputs"]
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
        except requests.ConnectionError as error:
            raise self._nothing_answers() from error
        text = answer.content.decode("utf-8", "surrogateescape")
        try:
            read = json.loads(text)
        except ValueError as error:
            reason = f"HTTP {answer.status_code} {answer.reason}, not JSON"
            raise ServerError(f"{self._address}: {reason}; is it a model server?") from error
        if not answer.ok:
            raise ServerError(_one_line(read["error"]))
        return read


class GrpcClient(_BaseClient):
    """A client of the gRPC API. Connections that fail are tried again a few times."""

    def __init__(self, target: str = "127.0.0.1:8500", timeout_secs: float = 60.0) -> None:
        # Imported here: TensorFlow takes seconds, and the REST client does without it.
        import grpc
        from tensorflow_serving.apis import (
            model_service_pb2_grpc,
            prediction_service_pb2_grpc,
        )

        super().__init__(target, timeout_secs)
        options = [
            ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
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
        return {one.version: states.Name(one.state) for one in answer.model_version_status}

    def _fetch_signatures(self, model: str, version: Version) -> dict[str, Signature]:
        from tensorflow_serving.apis import get_model_metadata_pb2

        request = get_model_metadata_pb2.GetModelMetadataRequest()
        _name_model(request.model_spec, model, version)
        request.metadata_field.append("signature_def")
        answer = self._ask(self._prediction.GetModelMetadata, request)
        known = get_model_metadata_pb2.SignatureDefMap()
        answer.metadata["signature_def"].Unpack(known)
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
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2

        request = predict_pb2.PredictRequest()
        _name_model(request.model_spec, model, version)
        request.model_spec.signature_name = name
        for given, values in inputs.items():
            proto = _tensor_proto(given, values, signature.inputs.get(given))
            request.inputs[given].CopyFrom(proto)
        answer = self._ask(self._prediction.Predict, request)
        return {
            output: _text_or_bytes(output, tf.make_ndarray(answer.outputs[output]))
            for output in sorted(answer.outputs)
        }

    def _ask(self, method: Any, request: Any) -> Any:
        import grpc

        try:
            return method(request, timeout=self._timeout_secs)
        except grpc.RpcError as error:
            raise self._explained(error) from error

    def _explained(self, error: "grpc.RpcError") -> InputError:
        import grpc

        if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
            return self._too_slow()
        if error.code() == grpc.StatusCode.UNAVAILABLE and "connect" in error.details():
            return self._nothing_answers()
        return ServerError(_one_line(error.details()))


def _one_line(message: str) -> str:
    return " ".join(message.split())


def _path(model: str, version: Version) -> str:
    path = quote(model, safe="")
    if isinstance(version, str):
        return f"{path}/labels/{quote(version, safe='')}"
    return path if version is None else f"{path}/versions/{version}"


def _dtypes(side: dict[str, Any]) -> dict[str, str]:
    return {name: info["dtype"] for name, info in side.items()}


def _dtype_names(side: Mapping[str, Any]) -> dict[str, str]:
    from tensorflow.core.framework import types_pb2

    return {name: types_pb2.DataType.Name(info.dtype) for name, info in side.items()}


def _jsonable(value: Any) -> Any:
    """Return what the JSON writer does not know as something it does."""
    if isinstance(value, bytes):
        return {"b64": base64.b64encode(value).decode("ascii")}
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise InputError(f"inputs: expected lists, numbers and text, received {type(value).__name__}")


def _array_from_json(name: str, dtype: str, values: Any) -> np.ndarray:
    array = np.array(values, dtype=_DTYPES.get(dtype))
    if dtype == "DT_STRING" and name.endswith(_BYTES_SUFFIX):
        return _each(lambda value: base64.b64decode(value["b64"]), array)
    return array


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
