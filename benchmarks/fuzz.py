"""Fuzz the embedded server: is every answer well-formed, and does the server stay correct?

`python -m benchmarks.fuzz MODELS --minutes 10` serves a folder of models and sends it random and
mutated requests (`benchmarks.fuzz_inputs`): REST and gRPC requests from several clients, then
ReloadConfig requests from one client. Another process reads random warm-up and configuration files.
It prints a table, and exits with 1 if one of these conditions is violated:

- the server does not crash, and its memory stays below a bound;
- no status is 500, INTERNAL or UNKNOWN, and no response exceeds the timeout;
- each response has the format of the API;
- valid requests in between get the same response as at the start.

Inputs that caused a violation are saved to files; `tests/serving/hostile_corpus` has earlier ones.
"""

import argparse
import concurrent.futures
import functools
import http.client
import io
import json
import math
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import grpc
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    predict_pb2,
    regression_pb2,
)

from benchmarks.fuzz_inputs import FILES, GRPC, HOST, REST, Api, Call
from benchmarks.hostile import Bounds, Memory, Server

_SERVICE = "/tensorflow.serving."
_RELOAD = "ModelService/HandleReloadConfigRequest"
_RELOAD_KIND = "gRPC HandleReloadConfigRequest"
_HANG_SECS = 20.0
_LOAD_SECS = 120.0  # for all models, on a busy machine
_GOOD_EVERY = 25  # each client sends a valid request after this many
_CLIENTS = 3
_TOLERANCE = 1e-4  # the rounding errors of a row depend on the batch it is in
_MB = 1_000_000

_RESPONSES: dict[str, Any] = {
    "PredictionService/Predict": predict_pb2.PredictResponse,
    "PredictionService/Classify": classification_pb2.ClassificationResponse,
    "PredictionService/Regress": regression_pb2.RegressionResponse,
    "PredictionService/MultiInference": inference_pb2.MultiInferenceResponse,
    "PredictionService/GetModelMetadata": get_model_metadata_pb2.GetModelMetadataResponse,
    "ModelService/GetModelStatus": get_model_status_pb2.GetModelStatusResponse,
    _RELOAD: model_management_pb2.ReloadConfigResponse,
}

# ---- one exchange


@dataclass(frozen=True)
class Answer:
    """The first response on an HTTP connection; status 0: it was closed without a response."""

    status: int
    media_type: str = ""
    body: bytes = b""


class HangError(Exception):
    """The server did not respond before the timeout."""


def exchange(port: int, request: bytes, timeout_secs: float = _HANG_SECS) -> Answer:
    """Send bytes to a REST port, shut down the sending side, and return the first response.

    Raises:
        HangError: the server neither responds nor closes the connection.
    """
    received = bytearray()
    deadline = time.monotonic() + timeout_secs
    with socket.create_connection((HOST, port), timeout=timeout_secs) as client:
        try:
            client.sendall(request)
            client.shutdown(socket.SHUT_WR)
        except (ConnectionError, OSError):
            pass  # the server has responded, or closed the connection, before it read everything
        try:
            while part := client.recv(1 << 20):
                received += part
                client.settimeout(max(0.01, deadline - time.monotonic()))
        except ConnectionError:
            pass
        except TimeoutError as error:
            raise HangError(f"no answer within {timeout_secs:g} s") from error
    return _parsed(bytes(received), request.partition(b" ")[0].decode("latin-1"))


def _parsed(received: bytes, method: str) -> Answer:
    if not received:
        return Answer(0)

    class Received:
        def makefile(self, *_: object) -> io.BytesIO:
            return io.BytesIO(received)

    response = http.client.HTTPResponse(Received(), method=method)  # type: ignore[arg-type]
    try:
        response.begin()
    except http.client.RemoteDisconnected:  # after `100 Continue`, when no body followed
        return Answer(0)
    body = response.read()
    return Answer(response.status, response.headers.get_content_type(), body)


_STATUSES = (0, 200, 400, 403, 404, 405, 413, 415, 429, 499, 501, 503, 504)
_RESULTS = {"predictions", "outputs", "results", "model_version_status", "live", "ready"}
_BARE = {
    ("text/plain", 200),
    ("text/plain", 400),
    ("text/plain", 405),
}  # metrics; bad; methods
_LARGE_VERSION = re.compile(rb"/versions/\d{19,}", re.I)


def rest_fault(request: bytes, answer: Answer) -> str:
    """Return a description of what is wrong with a response, or an empty string."""
    if answer.status not in _STATUSES:
        return f"status {answer.status}: {answer.body[:200]!r}"
    if not answer.body or answer.media_type != "application/json":
        is_page = answer.media_type in ("text/html", "text/javascript", "text/css")
        is_known = (answer.media_type, answer.status) in _BARE or is_page or not answer.status
        is_empty = not answer.body and request.startswith((b"HEAD", b"OPTIONS"))
        if is_known or is_empty or (answer.status == 400 and _LARGE_VERSION.search(request)):
            return ""
        return f"status {answer.status}, {answer.media_type}: {answer.body[:200]!r}"
    try:
        document = json.loads(answer.body.decode("utf-8", "surrogateescape"))
    except ValueError as error:
        return f"no JSON ({error}): {answer.body[:200]!r}"
    if answer.status != 200 and isinstance(document.get("error"), str) and len(document) == 1:
        return ""
    if answer.status in (200, 503) and len(document) == 1 and set(document) <= _RESULTS:
        return ""
    if answer.status == 200 and set(document) == {"model_spec", "metadata"}:
        return ""
    return f"status {answer.status} in another form: {answer.body[:200]!r}"


def call(channel: grpc.Channel, request: Call, timeout_secs: float = _HANG_SECS) -> tuple[str, str]:
    """Send a gRPC message; return the status code, and what is wrong with the response, or "".

    Raises:
        HangError: the server does not respond.
    """
    method = channel.unary_unary(
        _SERVICE + request.method,
        response_deserializer=_RESPONSES[request.method].FromString,
    )
    try:
        method(request.message, timeout=timeout_secs)
    except grpc.RpcError as error:
        code, details = error.code(), error.details() or ""
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            raise HangError(f"no answer within {timeout_secs:g} s") from error
        is_busy = code is grpc.StatusCode.UNAVAILABLE and "busy" in details
        forbidden = ("INTERNAL", "UNKNOWN", "DATA_LOSS", "UNAVAILABLE", "CANCELLED")
        if code.name in forbidden and not is_busy:
            return code.name, f"{code.name}: {details[:200]}"
        return code.name, ""
    return "OK", ""


# ---- figures


@dataclass
class Figures:
    """Results for the inputs of one kind.

    Attributes:
        codes: number of responses by HTTP status or gRPC code; `none` = no response.
        faults: number of violations by message, with numbers and quoted text replaced by N.
        slowest_secs: duration of the slowest request.
    """

    codes: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    slowest_secs: float = 0.0


class Report:
    """Figures by kind, and the inputs that caused a violation; thread-safe."""

    def __init__(self, kept: Path) -> None:
        self.kinds: dict[str, Figures] = {}
        self._kept = kept
        self._lock = threading.Lock()

    def add(self, kind: str, code: str, fault: str, secs: float, data: bytes) -> None:
        """Add one response; save its input if it is the first with this kind of violation."""
        with self._lock:
            figures = self.kinds.setdefault(kind, Figures())
            figures.codes[code] += 1
            figures.slowest_secs = max(figures.slowest_secs, secs)
            if not fault:
                return
            same = re.sub(r"\d+|'.*'|\".*\"", "N", fault)[:80]
            figures.faults[same] += 1
            if figures.faults[same] == 1:
                number = sum(len(each.faults) for each in self.kinds.values())
                name = f"{re.sub(r'[^A-Za-z]+', '-', kind)}-{number}"
                (self._kept / name).write_bytes(data)
                print(f"  {kind}: {fault[:300]}\n    input: {self._kept / name}", flush=True)

    def lines(self) -> Iterator[str]:
        """Yield the table."""
        yield f"{'kind':32} {'requests':>9} {'faults':>7} {'slowest':>8}  answers"
        for kind, figures in sorted(self.kinds.items()):
            codes = ", ".join(f"{code} {count}" for code, count in figures.codes.most_common())
            total, faults = sum(figures.codes.values()), sum(figures.faults.values())
            yield f"{kind:32} {total:9} {faults:7} {figures.slowest_secs:6.2f} s  {codes}"

    @property
    def fault_count(self) -> int:
        """Number of violations."""
        return sum(sum(figures.faults.values()) for figures in self.kinds.values())


# ---- valid requests


def api_of(rest_port: int, models: Path) -> Api:
    """Return the signatures of all served models, from the server's metadata."""
    names = sorted(path.parent.name for path in models.glob("*/1"))
    signatures = {name: _signatures(rest_port, name) for name in names}
    return Api(signatures, {name: str(models.resolve() / name) for name in names})


def _signatures(rest_port: int, name: str) -> dict[str, Any]:
    answer = exchange(rest_port, _get(f"/v1/models/{name}/metadata"))
    found = json.loads(answer.body)["metadata"]["signature_def"]["signature_def"]
    return {
        signature: {
            key: (info["dtype"], _shape(info["tensor_shape"]))
            for key, info in sorted(definition["inputs"].items())
        }
        for signature, definition in found.items()
        if definition["inputs"] and not signature.startswith("__")
    }


def _shape(shape: dict[str, Any]) -> tuple[int | None, ...]:
    sizes = (int(dim["size"]) for dim in shape["dim"])
    return tuple(None if size < 0 else size for size in sizes)


def _get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode()


def _good(api: Api) -> Iterator[bytes]:
    """Yield valid requests, whose response must always be the same."""
    for model, signatures in api.models.items():
        yield _get(f"/v1/models/{model}")
        for signature, inputs in signatures.items():
            values = {name: _ones(dtype, shape) for name, (dtype, shape) in inputs.items()}
            body = json.dumps({"signature_name": signature, "inputs": values}).encode()
            head = f"POST /v1/models/{model}:predict HTTP/1.1\r\nHost: {HOST}\r\n"
            yield f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def _ones(dtype: str, shape: tuple[int | None, ...]) -> Any:
    if not shape:
        return {"DT_STRING": "The [MASK] barked.", "DT_BOOL": True}.get(dtype, 1)
    return [_ones(dtype, shape[1:])] * (shape[0] or 1)


def _difference(one: Any, other: Any) -> str:
    """Return the first difference of two JSON values, ignoring the effects of batching.

    The other rows of a batch change rounding errors, and its longest row sets the output length.
    """
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        found = ((key, _difference(one[key], other[key])) for key in one)
        return next((f"{key}: {text}" for key, text in found if text), "")
    if isinstance(one, list) and isinstance(other, list) and bool(one) == bool(other):
        return next(filter(None, map(_difference, one, other)), "")
    if isinstance(one, float) and isinstance(other, float):
        alike = math.isclose(one, other, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
        return "" if alike else f"{one} and {other}"
    return "" if one == other else f"{one!r:.200} and {other!r:.200}"


class Goods:
    """Valid requests with their expected responses."""

    def __init__(self, port: int, api: Api) -> None:
        self._port = port
        self._answers = {request: exchange(port, request) for request in _good(api)}
        if not any(request.startswith(b"POST") for request, _ in self._right()):
            raise SystemExit("the server answers none of the valid requests")

    def _right(self) -> list[tuple[bytes, Answer]]:
        return [pair for pair in self._answers.items() if pair[1].status == 200]

    def choose(self, rng: Random) -> tuple[bytes, Answer]:
        """Return a request and its expected response."""
        return rng.choice(self._right())

    def send(self, request: bytes, right: Answer) -> tuple[str, str]:
        """Send a request; return the status, and what is wrong with the response, or ""."""
        answer = exchange(self._port, request)
        if answer.status != 200:
            return str(answer.status), f"a valid request got {answer.status} {answer.body[:200]!r}"
        difference = _difference(json.loads(answer.body), json.loads(right.body))
        return "200", f"a valid request got another response: {difference}" if difference else ""


# ---- clients


class Fuzzer:
    """Sends requests to one server, and adds the responses to a report."""

    def __init__(self, server: Server, api: Api, report: Report, *, may_reload: bool) -> None:
        self._server = server
        self._may_reload = may_reload
        self._api = api
        self._report = report
        self._goods = Goods(server.rest_port, api)
        self._channel = grpc.insecure_channel(f"{HOST}:{server.grpc_port}")

    def run(self, seed: str, deadline: float, kinds: list[str]) -> None:
        """Send requests, cycling through the kinds, until the deadline."""
        for number in range(sys.maxsize):
            if time.monotonic() > deadline or not self._server.is_alive:
                return
            rng = Random(f"{seed}-{number}")
            self._send(kinds[number % len(kinds)], rng)
            if number % _GOOD_EVERY == 0:
                request, right = self._goods.choose(rng)
                self._noted("good", request, functools.partial(self._goods.send, request, right))

    def _send(self, kind: str, rng: Random) -> None:
        if kind in REST:
            request = REST[kind](rng, self._api)
            self._noted(kind, request, lambda: self._rest(request))
            return
        made = GRPC[kind](rng, self._api)
        secs = _LOAD_SECS if kind == _RELOAD_KIND else _HANG_SECS
        self._noted(kind, made.message, lambda: call(self._channel, made, secs))
        if kind == _RELOAD_KIND and self._may_reload:
            self._restore()

    def _rest(self, request: bytes) -> tuple[str, str]:
        answer = exchange(self._server.rest_port, request)
        return str(answer.status or "closed"), rest_fault(request, answer)

    def _restore(self) -> None:
        """Reload the original models; later valid requests check that they are served again."""
        request = model_management_pb2.ReloadConfigRequest()
        for name, path in self._api.paths.items():
            request.config.model_config_list.config.add(
                name=name, base_path=path, model_platform="tensorflow"
            )
        again = Call(_RELOAD, request.SerializeToString())
        restore = functools.partial(call, self._channel, again, _LOAD_SECS)
        self._noted("gRPC reload of the models", again.message, restore)

    def _noted(self, kind: str, data: bytes, send: Callable[[], tuple[str, str]]) -> None:
        """Call `send`, and report the status code, the violation, and the duration."""
        started = time.monotonic()
        try:
            code, fault = send()
        except HangError as error:
            code, fault = "none", str(error)
        except (OSError, http.client.HTTPException) as error:
            code, fault = "none", f"{type(error).__name__}: {error}"
        self._report.add(kind, code, fault, time.monotonic() - started, data)


def fuzz_server(
    models: Path, seed: str, secs: float, kinds: list[str], report: Report, clients: int,
    flags: tuple[str, ...] = (),
) -> list[str]:  # fmt: skip
    """Send requests of these kinds to a new server, from several clients in parallel.

    Returns:
        Violations of the server as a whole, one line each.
    """
    name = min(path.parent.name for path in models.glob("*/1"))
    server = Server(models, name, flags=flags)
    rest_bytes = server.resident_bytes()
    with Memory(server, rest_bytes + Bounds.kill_bytes) as memory:
        api = api_of(server.rest_port, models)
        deadline = time.monotonic() + secs
        fuzzer = Fuzzer(server, api, report, may_reload=bool(flags))
        with concurrent.futures.ThreadPoolExecutor(clients) as pool:
            seeds = [f"{seed}-{number}" for number in range(clients)]
            list(pool.map(lambda each: fuzzer.run(each, deadline, kinds), seeds))
    failed = [] if server.is_alive else ["CRASH: the server process ended"]
    sizes = (rest_bytes, memory.peak_bytes, server.resident_bytes())
    print(
        "memory at the start, at the peak, at the end: {:.0f}, {:.0f}, {:.0f} MB".format(
            *(s / _MB for s in sizes)
        )
    )
    if sizes[1] - sizes[0] > Bounds.peak_bytes:
        failed.append(f"peak memory {(sizes[1] - sizes[0]) / _MB:.0f} MB above the start")
    logged = [line for line in server.log_lines() if "failed" in line or "Traceback" in line]
    failed += [f"log: {line}" for line in logged[:5]]
    server.stop()
    if server.process.returncode == -signal.SIGKILL:  # of `stop`, which waited long enough
        failed.append("the server did not stop before the timeout")
    return failed


# ---- files


def read_files(models: Path, seed: str, secs: float, case: Path) -> Report:
    """Read random files in this process; each is first written to `case`, in case of a crash."""
    from serving.server.limits import Limits
    from serving.server.loading import saved_model_loader
    from serving.server.runner import Runner

    runner = Runner(Limits())
    load = saved_model_loader(runner)
    served = {path.parent.name: load(path.parent.name, 1, path) for path in models.glob("*/1")}
    shapes = {
        name: {
            key: {
                tensor: (types_pb2.DataType.Name(info.dtype.as_datatype_enum), info.shape or ())
                for tensor, info in signature.inputs.items()
            }
            for key, signature in servable.signatures.items()
        }
        for name, servable in served.items()
    }
    api = Api(shapes, {name: str(models.resolve() / name) for name in served})
    report, deadline = Report(case.parent), time.monotonic() + secs
    kinds = sorted(FILES)
    for number in range(sys.maxsize):
        if time.monotonic() > deadline:
            return report
        rng, kind = Random(f"{seed}-{number}"), kinds[number % len(kinds)]
        data = FILES[kind](rng, api)
        case.write_bytes(data)
        started = time.monotonic()
        signatures = served[rng.choice(sorted(served))].signatures
        code, fault = _read_one(kind, case, signatures, runner)
        report.add(kind, code, fault, time.monotonic() - started, data)
    return report


def _read_one(kind: str, case: Path, signatures: Any, runner: Any) -> tuple[str, str]:
    """Read one file; return the result's code, and the violation, or ""."""
    from pipeline.errors import InputError
    from serving.server.config_files import read_batching_parameters, read_models_config
    from serving.server.status import ServingError
    from serving.server.warmup_replay import warm_up
    from serving.tf_serving import WARM_UP_FILE

    try:
        if kind == "warm-up file":
            folder = case.parent / "version"
            (folder / WARM_UP_FILE).parent.mkdir(parents=True, exist_ok=True)
            (folder / WARM_UP_FILE).write_bytes(case.read_bytes())
            warm_up(folder, signatures, runner)
        else:
            read = (
                read_models_config
                if b"model_config" in case.read_bytes()
                else read_batching_parameters
            )
            read(case)
    except ServingError as error:
        is_bad = error.code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
        return error.code.name, str(error) if is_bad else ""
    except InputError as error:
        return "InputError", "" if "\n" not in str(error) else f"lines: {error}"
    except Exception as error:  # no file may cause any other exception
        return "exception", f"{type(error).__name__}: {error}"
    return "OK", ""


def fuzz_files(models: Path, seed: str, secs: float, report: Report, kept: Path) -> list[str]:
    """Read random files in another process; return a line if it crashed."""
    module = [sys.executable, "-m", "benchmarks.fuzz", str(models), "--files", str(kept)]
    command = [*module, "--seed", seed, "--minutes", str(secs / 60)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        said = process.communicate(timeout=secs + 600)[0]
    if process.returncode:
        return [f"CRASH: reading {kept / 'case'} ended the process ({process.returncode})"]
    for kind, figures in json.loads(said.splitlines()[-1]).items():
        codes, faults = Counter(figures["codes"]), Counter(figures["faults"])
        report.kinds[kind] = Figures(codes, faults, figures["slowest_secs"])
    print("".join(f"{line}\n" for line in said.splitlines()[:-1]), end="")
    return []


def run(models: Path, seed: str, secs: float, kept: Path) -> list[str]:
    """Fuzz for `secs` seconds in total and print the table; return violations, one per line."""
    report = Report(kept)
    kinds = [*REST, *GRPC]
    failed = fuzz_server(models, seed, 0.7 * secs, kinds, report, _CLIENTS)
    kinds = [_RELOAD_KIND, "gRPC GetModelStatus", "REST path"]
    flags = ("--allow-reload",)
    failed += fuzz_server(models, f"{seed}-r", 0.15 * secs, kinds, report, 1, flags)
    failed += fuzz_files(models, seed, 0.15 * secs, report, kept)
    for line in report.lines():
        print(line)
    if report.fault_count:
        failed.append(f"{report.fault_count} invalid responses")
    return failed


def main() -> None:
    """Fuzz and print the table; exit with 1 if a condition is violated."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=Path, help="directory of models: MODELS/NAME/1")
    parser.add_argument("--minutes", type=float, default=10.0, help="total duration")
    parser.add_argument("--seed", default="1", help="the same seed makes the same requests")
    parser.add_argument("--keep", type=Path, help="directory for inputs that caused a violation")
    parser.add_argument("--files", type=Path, help=argparse.SUPPRESS)  # the reading process
    options = parser.parse_args()
    if options.files:
        report = read_files(
            options.models, options.seed, options.minutes * 60, options.files / "case"
        )
        print(json.dumps({kind: vars(figures) for kind, figures in report.kinds.items()}))
        return
    kept = options.keep or Path(tempfile.mkdtemp(prefix="fuzz-"))
    kept.mkdir(parents=True, exist_ok=True)
    failed = run(options.models, options.seed, options.minutes * 60, kept)
    print("\n".join(failed) if failed else "no violations")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
