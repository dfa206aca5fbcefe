"""Clients for model servers over REST and gRPC: the embedded server or TensorFlow Serving."""

import json
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import numpy as np
import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, MaxRetryError, NewConnectionError
from urllib3.util import Retry

from model import served
from pipeline.errors import InputError, JobError
from pipeline.storage.strict_json import JsonObject
from serving.addresses import is_host
from serving.client.messages import assertion_words, one_line
from serving.client.tensors import (
    array_from_json,
    array_from_proto,
    dtypes_from_json,
    dtypes_from_proto,
    jsonable,
    string_from_json,
    tensor_proto,
)
from serving.tf_serving import DEFAULT_SIGNATURE, GRPC_PORT, MAX_MESSAGE_BYTES, REST_PORT

if TYPE_CHECKING:
    import grpc
    from tensorflow_serving.apis import model_pb2

# Status codes that mean an invalid request; others are server errors or temporary ones.
_REFUSED_STATUS = set(range(400, 500)) - {408, 409, 429, 499}
_REFUSED_CODES = {
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
    "FAILED_PRECONDITION",
    "OUT_OF_RANGE",
}
CLASSIFY = "classify"
COMPARING = (served.RERANK, served.SIMILARITY, served.SCORE, CLASSIFY)
"""Signatures that compare two texts, the one that is preferred first."""

_INIT_OP = "__saved_model_init_op"  # listed with the signatures, but is not one
_TRIES = 4
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
    """The server cannot be reached, failed, or sent an unusable response. Exit code 1."""


class RequestError(ServerError, InputError):
    """The server refused the request as invalid; the message is the server's. Exit code 2."""


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs of a signature: TensorFlow dtype names such as "DT_STRING", by name."""

    inputs: dict[str, str]
    outputs: dict[str, str]


Version = int | str | None
"""A version's number, or a label such as "canary"; None = the newest version."""


class _BaseClient(ABC):
    """Base class of both transports: typed results, and waiting for a model.

    Signatures are fetched once and cached, so create a new client after a model's inputs or
    outputs have changed.
    """

    def __init__(self, address: str, timeout_secs: float) -> None:
        self._address = address  # HOST:PORT, for messages
        self._timeout_secs = timeout_secs
        self._signatures: dict[tuple[str, Version], dict[str, Signature]] = {}

    def signatures(self, model: str, version: Version = None) -> dict[str, Signature]:
        """Return the signatures of a model by name.

        Raises:
            RequestError: the server refused the request as invalid.
            ServerError: the server cannot be reached, failed, or sent an unusable response.
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
            model: name of the model.
            inputs: the batch of each input by name, as nested lists or arrays; text as str or
                bytes.
            signature: name of the signature; "" = serving_default.
            version: number or label of the version; None = the newest.

        Returns:
            All outputs by name, in the signature's dtypes. Strings are object arrays of str, or of
            bytes if the output's name ends in `_bytes`.

        Raises:
            RequestError: the server refused the request as invalid.
            ServerError: the server cannot be reached, failed, or sent an unusable response.
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
        """Run one signature on any number of rows, `batch_size` rows per request.

        Args and Raises are those of `predict`; also InputError if the inputs have different numbers
        of rows.

        Yields:
            The outputs of each batch, in order. Inner shapes may differ between batches: they
            depend on the longest text of the batch.
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

    def vectors(
        self,
        model: str,
        texts: Sequence[str],
        dimension: int | None = None,
        *,
        batch_size: int = 32,
        version: Version = None,
    ) -> np.ndarray:
        """Return the vectors of texts, from a model that was tuned for vectors.

        Args:
            model: name of the model.
            texts: any number of texts; they are sent in batches.
            dimension: number of components; None = all.
            batch_size: texts per request.
            version: number or label of the version; None = the newest.

        Returns:
            float32 [N, dimension].

        Raises:
            InputError: there are no texts.
            RequestError, ServerError: as `predict`.
        """
        if not texts:
            raise InputError("texts: expected at least one")
        inputs: JsonObject = {served.TEXT: list(texts)}
        if dimension is not None:
            inputs[served.DIMENSION] = [dimension] * len(texts)
        signature = served.EMBED if dimension is None else served.EMBED_DIMENSION
        answers = self.predict_batches(model, inputs, batch_size, signature, version)
        return np.concatenate([answer[served.VECTOR] for answer in answers])

    def comparing_signature(
        self, model: str, version: Version = None, label: str | None = None
    ) -> str:
        """Return the name of the signature that compares two texts; a label needs classes.

        Raises:
            InputError: the model has none.
            RequestError, ServerError: as `predict`.
        """
        known = self.signatures(model, version)
        usable = COMPARING if label is None else (CLASSIFY,)
        for name in usable:
            if _compares(known.get(name)):
                return name
        raise InputError(
            f"model {model}: none of {', '.join(usable)} takes two texts; ranking needs one"
        )

    def ranked(
        self,
        model: str,
        query: str,
        passages: Sequence[str],
        *,
        label: str | None = None,
        batch_size: int = 32,
        version: Version = None,
    ) -> list[tuple[int, float]]:
        """Rank passages by their relevance to a query, with a model that was tuned on pairs.

        A model of vectors ranks by the cosine, one of numbers by its number, and a classifier by
        the probability of a class.

        Args:
            model: name of the model.
            query: the first text of each pair.
            passages: the second texts; they are sent in batches.
            label: class that ranks a passage high, for classifiers; None = their last class.
            batch_size: pairs per request, 1 to `model.served.MAX_PASSAGES`.
            version: number or label of the version; None = the newest.

        Returns:
            Index and score of each passage, best first; of equal scores, in the given order.

        Raises:
            InputError: the model has no signature that compares two texts, or no such class, or
                `batch_size` is not positive.
            RequestError, ServerError: as `predict`.
        """
        if batch_size < 1:
            raise InputError(f"batch_size: expected at least 1, received {batch_size}")
        name = self.comparing_signature(model, version, label)
        scores: list[float] = []
        for start in range(0, len(passages), batch_size):
            some = list(passages[start : start + batch_size])
            pairs = {served.TEXT: [query] * len(some), served.TEXT_PAIR: some}
            together = {served.TEXT: [query], served.PASSAGES: [some]}
            inputs = together if name == served.RERANK else pairs
            answer = self.predict(model, inputs, name, version)
            # Another request in the same batch may have had more passages.
            scores += map(float, _relevance(model, answer, label)[: len(some)])
        return sorted(enumerate(scores), key=lambda each: -each[1])

    @abstractmethod
    def status(self, model: str) -> dict[int, str]:
        """Return the state of each version of a model, such as {2: "AVAILABLE", 1: "END"}."""

    @abstractmethod
    def _fetch_signatures(self, model: str, version: Version) -> dict[str, Signature]:
        """Fetch the signatures of a model from the server."""

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

    def wait_until_ready(
        self, model: str, timeout_secs: float, is_running: Callable[[], bool] = lambda: True
    ) -> int:
        """Wait until a version of a model is available, and return the newest one.

        Args:
            model: name of the model.
            timeout_secs: how long to wait.
            is_running: whether the server's process still runs, if the caller knows it.

        Raises:
            ServerError: no version was available within `timeout_secs`, or the server has ended.
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
            if not is_running():
                raise ServerError(f"the server has ended: {last}")
            if time.monotonic() >= deadline:
                raise ServerError(f"model {model} is not ready after {timeout_secs:g} s: {last}")
            time.sleep(_POLL_SECS)

    def _nothing_answers(self) -> ServerError:
        return ServerError(
            f"nothing answers at {self._address}; start one with clozeline serve `models` DIR"
        )

    def _too_slow(self) -> ServerError:
        return ServerError(f"{self._address} did not answer within {self._timeout_secs:g} s")

    def _not_a_model_server(self, what: object) -> ServerError:
        return ServerError(f"{self._address}: {one_line(str(what))}; is it a model server?")

    @contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        """Convert errors while parsing a malformed response into a ServerError."""
        try:
            yield
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            cause = f"{type(error).__name__}: {error}"
            raise self._not_a_model_server(f"malformed {what} in its answer ({cause})") from error


class Client(_BaseClient):
    """A client of the REST API.

    Refused connections and "busy" responses (429, 503) are retried with exponential backoff.

    Raises:
        InputError: `rest` is not an HTTP URL.
    """

    def __init__(
        self, rest: str = f"http://127.0.0.1:{REST_PORT}", timeout_secs: float = 60.0
    ) -> None:
        super().__init__(_checked_netloc(rest), timeout_secs)
        self._base = rest.rstrip("/") + "/v1/models/"
        # urllib3 would log a warning per retry before our one-line error.
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
        self._session = requests.Session()
        retry = Retry(
            total=_TRIES - 1,
            read=False,  # do not repeat a prediction that timed out: the server still computes it
            backoff_factor=0.1,
            status_forcelist=(429, 503),
            allowed_methods=("GET", "POST"),
            raise_on_status=False,
            respect_retry_after_header=False,  # a server could make us wait for days
        )
        self._session.mount(rest, HTTPAdapter(max_retries=retry))

    def status(self, model: str) -> dict[int, str]:
        """Return the state of each version of a model, such as {2: "AVAILABLE", 1: "END"}."""
        answer = self._ask("GET", quote(model, safe=""))
        with self._reading("status"):
            states = answer["model_version_status"]
            return {int(one["version"]): string_from_json(one["state"]) for one in states}

    def _fetch_signatures(self, model: str, version: Version) -> dict[str, Signature]:
        answer = self._ask("GET", _path(model, version) + "/metadata")
        with self._reading("metadata"):
            definitions = answer["metadata"]["signature_def"]["signature_def"]
            return {
                name: Signature(
                    dtypes_from_json(definition["inputs"]), dtypes_from_json(definition["outputs"])
                )
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
            if len(signature.outputs) == 1:  # the REST API omits the name of a single output
                outputs = {next(iter(signature.outputs)): outputs}
            return {
                output: array_from_json(output, dtype, outputs[output])
                for output, dtype in sorted(signature.outputs.items())
            }

    def _ask(self, method: str, path: str, content: Any = None) -> Any:
        body = None if content is None else json.dumps(content, default=jsonable).encode()
        try:
            answer = self._session.request(
                method, self._base + path, data=body, timeout=self._timeout_secs
            )
        except requests.Timeout as error:
            raise self._too_slow() from error
        # A redirect to an invalid URL raises HTTPError or ValueError.
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
        said = one_line(assertion_words(message)) or status
        raise (RequestError if refused else ServerError)(said)

    def _unanswered(self, error: Exception) -> ServerError:
        """Return the error for a request without a valid HTTP response."""
        cause = error.args[0] if error.args else None
        if isinstance(cause, MaxRetryError) and isinstance(cause.reason, NewConnectionError):
            return self._nothing_answers()
        while error.args and isinstance(error.args[-1], Exception):
            error = error.args[-1]  # the innermost exception has the cause
        return self._not_a_model_server(f"no valid HTTP answer ({error})")


class GrpcClient(_BaseClient):
    """A client of the gRPC API. Failed connections are retried with exponential backoff."""

    def __init__(self, target: str = f"127.0.0.1:{GRPC_PORT}", timeout_secs: float = 60.0) -> None:
        # Imported here: TensorFlow takes seconds to import, and the REST client does not need it.
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
                name: Signature(
                    dtypes_from_proto(definition.inputs), dtypes_from_proto(definition.outputs)
                )
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
        for input_name, values in inputs.items():
            proto = tensor_proto(input_name, values, signature.inputs.get(input_name))
            request.inputs[input_name].CopyFrom(proto)
        answer = self._ask(self._prediction.Predict, request)
        with self._reading("outputs"):
            return {
                output: array_from_proto(output, dtype, answer.outputs)
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

        code, details = error.code(), one_line(assertion_words(error.details() or ""))
        if code == grpc.StatusCode.DEADLINE_EXCEEDED:
            return self._too_slow()
        if code == grpc.StatusCode.UNAVAILABLE and "connect" in details:
            return self._nothing_answers()
        refused = code.name in _REFUSED_CODES
        return (RequestError if refused else ServerError)(details or code.name)


def _checked_netloc(rest: str) -> str:
    """Return HOST:PORT of a URL.

    Raises:
        InputError: the URL is not an HTTP URL.
    """
    try:
        requests.Request("GET", rest).prepare()
        parts = urlsplit(rest)
        if parts.scheme in ("http", "https") and is_host(parts.hostname or "") and parts.port != 0:
            return parts.netloc
    except ValueError:  # most URL errors of requests are subclasses of it
        pass
    raise InputError(f"server {rest!r}: expected a URL such as http://127.0.0.1:{REST_PORT}")


def _path(model: str, version: Version) -> str:
    path = quote(model, safe="")
    if isinstance(version, str):
        return f"{path}/labels/{quote(version, safe='')}"
    return path if version is None else f"{path}/versions/{version}"


def _unpack(packed: Any, message: Any) -> None:
    """Unpack a protocol buffers `Any` into a message.

    Raises:
        ValueError: it contains a message of another type, or is malformed.
    """
    from google.protobuf.message import DecodeError

    try:
        is_unpacked = packed.Unpack(message)
    except DecodeError as error:
        raise ValueError(str(error)) from error
    if not is_unpacked:
        raise ValueError(f"no {message.DESCRIPTOR.name}")


def _compares(signature: Signature | None) -> bool:
    inputs = {*signature.inputs} if signature else set()
    return inputs in ({served.TEXT, served.TEXT_PAIR}, {served.TEXT, served.PASSAGES})


def _relevance(model: str, answer: Mapping[str, np.ndarray], label: str | None) -> np.ndarray:
    """Return the relevance of each pair of a batch: float32 [B].

    Raises:
        InputError: the model has no such class.
    """
    if label is None:
        if served.SCORES in answer:  # of one query
            return answer[served.SCORES][0]
        if served.SCORE in answer:
            return answer[served.SCORE]
        return answer[served.PROBABILITIES][:, -1]
    labels = [str(name) for name in answer[served.LABELS][0]] if served.LABELS in answer else []
    if label not in labels:
        raise InputError(f"model {model}: no class {label!r}; it has {', '.join(labels) or 'none'}")
    return answer[served.PROBABILITIES][:, labels.index(label)]


def _name_model(spec: "model_pb2.ModelSpec", model: str, version: Version) -> None:
    spec.name = model
    if isinstance(version, str):
        spec.version_label = version
    elif version is not None:
        spec.version.value = version
