"""Send valid and malformed requests from many clients, and check every response.

`python -m benchmarks.faults MODELS/NAME` starts the embedded server on MODELS and sends it 10,000
requests from 64 clients, a quarter of them over gRPC.
"""

import argparse
import concurrent.futures
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import grpc
import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401  (registers the ops of the model)
import urllib3
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from serving.client import Client

BAD_RATE = 0.05
CLIENTS = 64
_TOLERANCE = 1e-4  # floating-point rounding depends on the batch that a row is in
_WORDS = ("the", "a", "fox", "owl", "[MASK]", "sees", "hears", ".", "中文", "élan", "😀", "oak" * 9)


@dataclass(frozen=True)
class Bad:
    """A REST request that must be refused with one of `statuses`."""

    body: bytes
    statuses: tuple[int, ...] = (400,)
    path: str = ":predict"


BAD = {
    "wrong type": Bad(b'{"instances": [1, 2]}'),
    "NaN for a text": Bad(b'{"instances": [NaN]}'),
    "missing field": Bad(b'{"texts": ["a"]}'),
    "missing input": Bad(b'{"instances": [{}]}'),
    "unknown input": Bad(b'{"instances": [{"text": "a", "x": 1}]}'),
    "1 MB string, not in a list": Bad(b'{"instances": "' + b"a" * 1_000_000 + b'"}'),
    "1 MB string without end": Bad(b'{"instances": ["' + b"a" * 1_000_000),
    "broken UTF-8 outside strings": Bad(b'{"instances": [\xff\xfe]}'),
    "lone surrogate": Bad(b'{"instances": ["\\ud800"]}'),
    "wrong signature": Bad(b'{"signature_name": "nope", "instances": ["a"]}'),
    "signature is no text": Bad(b'{"signature_name": [1], "instances": ["a"]}'),
    "empty batch": Bad(b'{"instances": []}'),
    "nested list": Bad(b'{"instances": [["a"], ["b"]]}'),
    "ragged list": Bad(b'{"instances": ["a", ["b", "c"]]}'),
    "nested 100,000 deep": Bad(b'{"instances": ' + b"[" * 100_000),
    "scalar": Bad(b'{"inputs": "a"}'),
    "bad base64": Bad(b'{"instances": [{"b64": "@@@"}]}'),
    "no JSON": Bad(b"instances=a"),
    "nothing": Bad(b""),
    "unknown version": Bad(b'{"instances": ["a"]}', (404,), "/versions/77:predict"),
    "unknown label": Bad(b'{"instances": ["a"]}', path="/labels/none:predict"),
    "unknown verb": Bad(b"{}", path=":explain"),
    "examples of no classifier": Bad(b'{"examples": [{"x": 1}]}', path=":classify"),
}


@dataclass
class Outcome:
    """Result of a benchmark run.

    Attributes:
        good: number of valid requests sent.
        bad: number of malformed requests sent, by kind.
        wrong: unexpected responses, one line each.
        start_bytes: the server's resident memory after a tenth of the requests.
        end_bytes: the server's resident memory after all requests.
        seconds: wall time.
    """

    good: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    start_bytes: int = 0
    end_bytes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Good:
    """A valid request with its expected response: `expected` holds the outputs of its one row."""

    signature: str
    inputs: dict[str, str]
    expected: dict[str, np.ndarray]


def good_requests(version_dir: Path, count: int, seed: int) -> list[Good]:
    """Return valid requests; the expected responses are computed by the model in this process."""
    loaded = tf.saved_model.load(str(version_dir))
    rng = Random(seed)
    requests = []
    names = sorted(name for name in loaded.signatures if name in ("fill_mask", "embed"))
    for number in range(count):
        name = names[number % len(names)]
        text = " ".join(rng.choices(_WORDS, k=rng.randrange(1, 12)))
        outputs = loaded.signatures[name](text=tf.constant([text]))
        expected = {key: value.numpy()[0] for key, value in outputs.items()}
        requests.append(Good(name, {"text": text}, expected))
    return requests


def differences(good: Good, row: dict[str, Any]) -> list[str]:
    """Return the names of outputs in a response row that differ from the expected ones.

    An axis may be longer than expected: it depends on the longest text of the server's batch.
    """
    if row.keys() != good.expected.keys():
        return [f"outputs {sorted(row)}"]
    return [name for name, value in row.items() if not _agrees(value, good.expected[name])]


def _agrees(received: Any, expected: np.ndarray) -> bool:
    if expected.dtype == np.object_:
        array = np.array(received, dtype=np.object_)
        expected = np.vectorize(lambda value: value.decode(), otypes=[object])(expected)
    else:
        array = np.array(received)
    if array.ndim != expected.ndim:
        return False
    cut = array[tuple(slice(size) for size in expected.shape)]
    if expected.dtype.kind == "f":
        return cut.shape == expected.shape and np.allclose(cut, expected, atol=_TOLERANCE)
    return bool(np.array_equal(cut, expected))


class _RestSender:
    """One client's connection to the REST API."""

    def __init__(self, port: int, model: str) -> None:
        self._pool = urllib3.HTTPConnectionPool("127.0.0.1", port, maxsize=1, timeout=120)
        self._base = f"/v1/models/{model}"

    def send_good(self, good: Good) -> str:
        """Send a valid request; return what is wrong with the response, or an empty string."""
        body = {"signature_name": good.signature, "instances": [good.inputs]}
        answer = self._pool.request("POST", self._base + ":predict", body=json.dumps(body))
        if answer.status != 200:
            return f"{good}: {answer.status} {answer.data[:200]!r}"
        (row,) = json.loads(answer.data)["predictions"]
        different = differences(good, row)
        return f"{good}: {different} of {row}" if different else ""

    def send_bad(self, kind: str) -> str:
        """Send a malformed request; return what is wrong with the response, or an empty string."""
        bad = BAD[kind]
        answer = self._pool.request("POST", self._base + bad.path, body=bad.body)
        try:
            explained = bool(json.loads(answer.data)["error"])
        except (ValueError, KeyError, TypeError):
            explained = False
        if answer.status in bad.statuses and explained:
            return ""
        return f"{kind}: {answer.status} {answer.data[:200]!r}"


class _GrpcSender:
    """One client's connection to the gRPC API."""

    BAD: ClassVar[dict[str, Callable[[predict_pb2.PredictRequest], Any]]] = {
        "gRPC: wrong signature": lambda r: setattr(r.model_spec, "signature_name", "nope"),
        "gRPC: wrong version": lambda r: setattr(r.model_spec.version, "value", 77),
        "gRPC: missing input": lambda r: r.inputs.clear(),
        "gRPC: wrong type": lambda r: r.inputs["text"].CopyFrom(tf.make_tensor_proto([1.5])),
        "gRPC: scalar": lambda r: r.inputs["text"].CopyFrom(tf.make_tensor_proto("a")),
        "gRPC: huge shape": lambda r: setattr(r.inputs["text"].tensor_shape.dim[0], "size", 2**40),
        "gRPC: nested": lambda r: r.inputs["text"].CopyFrom(tf.make_tensor_proto([["a"], ["b"]])),
    }
    _REFUSALS = ("INVALID_ARGUMENT", "FAILED_PRECONDITION", "NOT_FOUND")

    def __init__(self, port: int, model: str) -> None:
        channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        self._model = model

    def _request(self, good: Good) -> predict_pb2.PredictRequest:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = self._model
        request.model_spec.signature_name = good.signature
        for name, text in good.inputs.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto([text]))
        return request

    def send_good(self, good: Good) -> str:
        """Send a valid request; return what is wrong with the response, or an empty string."""
        try:
            answer = self._stub.Predict(self._request(good), timeout=120)
        except grpc.RpcError as error:
            return f"{good}: {error.code()} {error.details()}"
        arrays = {name: tf.make_ndarray(proto)[0] for name, proto in answer.outputs.items()}
        row = {name: decoded(array) for name, array in arrays.items()}
        different = differences(good, row)
        return f"{good}: {different} of {row}" if different else ""

    def send_bad(self, kind: str) -> str:
        """Send a malformed request; return what is wrong with the response, or an empty string."""
        request = self._request(Good("fill_mask", {"text": "a"}, {}))
        self.BAD[kind](request)
        try:
            self._stub.Predict(request, timeout=120)
        except grpc.RpcError as error:
            if error.code().name in self._REFUSALS and error.details():
                return ""
            return f"{kind}: {error.code()} {error.details()}"
        return f"{kind}: was answered"


def decoded(array: np.ndarray) -> Any:
    """Decode an array of strings; return other arrays unchanged."""
    if array.dtype != np.object_:
        return array
    return np.vectorize(lambda value: value.decode(), otypes=[object])(array)


def run(
    models: Path, name: str, requests: int, rest_port: int, grpc_port: int, clients: int = CLIENTS
) -> Outcome:
    """Send requests to a running server, and check every response.

    Args:
        models: the served folder; version 1 of `name` in it computes the expected responses.
        name: name of the model.
        requests: total number of requests.
        rest_port: REST port of the server on this machine.
        grpc_port: its gRPC port.
        clients: number of concurrent clients; every fourth uses gRPC.
    """
    good = good_requests(models / name / "1", 24, seed=5)
    outcome = Outcome()

    def work(client: int, share: int) -> tuple[int, Counter[str], list[str]]:
        over_grpc = client % 4 == 3
        sender: Any = (_GrpcSender if over_grpc else _RestSender)(
            grpc_port if over_grpc else rest_port, name
        )
        kinds = list(_GrpcSender.BAD if over_grpc else BAD)
        rng = Random(f"{client}/{share}")
        answered, bad, wrong = 0, Counter[str](), []
        for _ in range(share):
            if rng.random() < BAD_RATE:
                kind = rng.choice(kinds)
                bad[kind] += 1
                wrong.append(sender.send_bad(kind))
            else:
                answered += 1
                wrong.append(sender.send_good(rng.choice(good)))
        return answered, bad, [line for line in wrong if line]

    def part(share: int) -> int:
        """Let every client send `share` requests; return the server's memory afterwards."""
        with concurrent.futures.ThreadPoolExecutor(clients) as pool:
            for answered, bad, wrong in pool.map(work, range(clients), [share] * clients):
                outcome.good += answered
                outcome.bad += bad
                outcome.wrong += wrong
        return resident_bytes(rest_port)

    began = time.perf_counter()
    each = -(-requests // clients)
    outcome.start_bytes = part(each // 10)
    outcome.end_bytes = part(each - each // 10)
    outcome.seconds = time.perf_counter() - began
    return outcome


def resident_bytes(rest_port: int) -> int:
    """Return the server's resident memory, from its Prometheus metrics."""
    url = f"http://127.0.0.1:{rest_port}/monitoring/prometheus/metrics"
    page = urllib3.request("GET", url).data.decode()
    (line,) = [one for one in page.splitlines() if one.startswith("process_resident_memory_bytes")]
    return int(float(line.split()[1]))


def main() -> None:
    """Start the server, run the benchmark, report; exit code 1 after a wrong response."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="MODELS/NAME, with version 1 in it")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--rest-port", type=int, default=18501)
    parser.add_argument("--grpc-port", type=int, default=18500)
    options = parser.parse_args()
    models, name = options.model.parent, options.model.name
    ports = ["--rest-port", str(options.rest_port), "--grpc-port", str(options.grpc_port)]
    command = [sys.executable, "-m", "clozeline", "serve", "--embedded", "--models", str(models)]
    server = subprocess.Popen([*command, *ports])
    try:
        Client(f"http://127.0.0.1:{options.rest_port}").wait_until_ready(name, 120)
        outcome = run(models, name, options.requests, options.rest_port, options.grpc_port)
    finally:
        server.terminate()
        server.wait()
    bad = sum(outcome.bad.values())
    print(f"{outcome.good} good, {bad} bad of {len(outcome.bad)} kinds, {outcome.seconds:.1f} s")
    print(f"memory {outcome.start_bytes / 1e6:.0f} MB, then {outcome.end_bytes / 1e6:.0f} MB")
    for line in outcome.wrong[:20]:
        print(line[:500])
    print(f"{len(outcome.wrong)} unexpected responses")
    sys.exit(1 if outcome.wrong or server.returncode else 0)


if __name__ == "__main__":
    main()
