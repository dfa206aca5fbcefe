"""Measure the embedded server's availability, memory and latency under attack by hostile clients.

`python -m benchmarks.hostile MODELS/NAME` starts the embedded server, runs every attack of
`benchmarks.hostile_attacks` on loopback, and concurrently sends valid REST, gRPC and status
requests. It prints a table, and exits with 1 if a limit of `Bounds` is violated. If the server's
memory exceeds the limit, the server is killed and the attack stops.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import tensorflow as tf
import urllib3
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from benchmarks.faults import Good, decoded, differences, good_requests
from benchmarks.hostile_attacks import ATTACKS, HOST
from serving.client import Client

_MB = 1_000_000
_PAUSE_SECS = 0.1  # between two requests of a kind
_START_SECS = 240
_RECOVERY_SECS = 15.0
_STOP_TIMEOUT_SECS = 5.0


@dataclass(frozen=True)
class Bounds:
    """Limits that must hold during every attack."""

    good_rate: float = 0.99
    good_secs: float = 2.0
    status_secs: float = 0.5
    peak_bytes: int = 1000 * _MB  # above rest
    rest_bytes: int = 100 * _MB  # above rest, afterwards
    kill_bytes: int = 2000 * _MB  # above rest: the server is killed
    log_lines: int = 10
    stop_secs: float = 2.0  # after the stop timeout


@dataclass
class Seen:
    """Observations during one attack.

    Attributes:
        attack: name of the attack.
        slow_or_wrong: reasons why valid requests failed or were too slow, by kind of request.
        sent: number of valid requests, by kind.
        slowest_secs: latency of the slowest valid request, by kind.
        before_bytes: the server's resident memory before the attack.
        peak_bytes: its peak resident memory during the attack.
        after_bytes: its resident memory after recovery.
        log_lines: number of lines that the server logged.
        is_alive: whether the server is still running.
    """

    attack: str
    slow_or_wrong: dict[str, list[str]] = field(default_factory=dict)
    sent: dict[str, int] = field(default_factory=dict)
    slowest_secs: dict[str, float] = field(default_factory=dict)
    before_bytes: int = 0
    peak_bytes: int = 0
    after_bytes: int = 0
    log_lines: int = 0
    is_alive: bool = True

    def failures(self, bounds: Bounds, rest_bytes: int) -> list[str]:
        """Return the violated limits, one line each."""
        failed = [] if self.is_alive else ["the server ended"]
        for kind, sent in self.sent.items():
            wrong = self.slow_or_wrong.get(kind, [])
            if not sent or len(wrong) / sent > 1 - bounds.good_rate:
                failed.append(f"{kind}: {len(wrong)} of {sent} failed: {wrong[:1]}")
        if self.peak_bytes - rest_bytes > bounds.peak_bytes:
            failed.append(f"peak memory {(self.peak_bytes - rest_bytes) / _MB:.0f} MB above rest")
        if self.after_bytes - rest_bytes > bounds.rest_bytes:
            failed.append(f"memory after {(self.after_bytes - rest_bytes) / _MB:.0f} MB above rest")
        if self.log_lines > bounds.log_lines:
            failed.append(f"{self.log_lines} log lines")
        return failed


class Server:
    """The embedded server in a child process, with its log."""

    def __init__(
        self, models: Path, name: str, files: int | None = None, flags: tuple[str, ...] = ()
    ) -> None:
        self._log = Path(tempfile.mkdtemp(prefix="hostile-")) / "log"
        serve = [sys.executable, "-m", "clozeline", "serve", "--embedded", "--models", str(models)]
        serve += ["--rest-port", "0", "--grpc-port", "0", "--stop-timeout-secs",
                  str(_STOP_TIMEOUT_SECS)]  # fmt: skip
        limit = ["prlimit", f"--nofile={files}:{files}"] if files else []
        with self._log.open("wb") as log:
            self.process = subprocess.Popen([*limit, *serve, *flags], stderr=log)
        self.name = name
        self.rest_port = int(self._said(r"REST at http://.*:(\d+)\n"))
        self.grpc_port = int(self._said(r"gRPC at .*:(\d+)\n"))
        Client(f"http://{HOST}:{self.rest_port}").wait_until_ready(name, _START_SECS)

    def _said(self, pattern: str) -> str:
        deadline = time.monotonic() + _START_SECS
        while not (found := re.search(pattern, self._log.read_text())):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the server does not start:\n{self._log.read_text()[-2000:]}")
            time.sleep(0.1)
        return found[1]

    @property
    def is_alive(self) -> bool:
        """Return whether the process runs."""
        return self.process.poll() is None

    def resident_bytes(self) -> int:
        """Return its resident memory; 0 after it has exited."""
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return 0
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        return int(found[1]) * 1024 if found else 0

    def log_lines(self) -> list[str]:
        """Return the lines that it has logged."""
        return self._log.read_text(errors="replace").splitlines()

    def stop(self) -> float:
        """Send SIGTERM and wait; return how long the shutdown took, in seconds."""
        started = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(_STOP_TIMEOUT_SECS + 30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        return time.monotonic() - started

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self.process.kill()
        self.process.wait()


class _Probes:
    """Sends three kinds of valid requests, each in a thread, and records the responses."""

    def __init__(self, server: Server, good: list[Good], bounds: Bounds, seen: Seen) -> None:
        self._server = server
        self._good = good
        self._bounds = bounds
        self._seen = seen
        self._stop = threading.Event()
        kinds: dict[str, Callable[[Good], str]] = {
            "REST": self._rest,
            "gRPC": self._grpc,
            "status": self._status,
        }
        self._channel = grpc.insecure_channel(f"{HOST}:{server.grpc_port}")
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._threads = [
            threading.Thread(target=self._work, args=each, daemon=True) for each in kinds.items()
        ]

    def __enter__(self) -> "_Probes":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._channel.close()

    def wait_for_first(self) -> None:
        """Wait until a request of each kind has been answered."""
        deadline = time.monotonic() + _RECOVERY_SECS
        while len(self._seen.sent) < len(self._threads) and time.monotonic() < deadline:
            time.sleep(0.01)

    def _work(self, kind: str, send: Callable[[Good], str]) -> None:
        limit_secs = self._bounds.status_secs if kind == "status" else self._bounds.good_secs
        wrong = self._seen.slow_or_wrong.setdefault(kind, [])
        for number in range(10**6):
            if self._stop.wait(_PAUSE_SECS):
                return
            started = time.monotonic()
            try:
                reason = send(self._good[number % len(self._good)])
            except (grpc.RpcError, urllib3.exceptions.HTTPError) as error:
                reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            secs = time.monotonic() - started
            self._seen.sent[kind] = number + 1
            slowest = self._seen.slowest_secs.get(kind, 0.0)
            self._seen.slowest_secs[kind] = max(slowest, secs)
            if reason or secs > limit_secs:
                wrong.append(reason or f"took {secs:.2f} s")

    def _rest(self, good: Good) -> str:
        body = json.dumps({"signature_name": good.signature, "instances": [good.inputs]})
        answer = self._ask("POST", f"/v1/models/{self._server.name}:predict", body)
        if answer.status != 200:
            return f"{answer.status} {answer.data[:100]!r}"
        return " ".join(differences(good, json.loads(answer.data)["predictions"][0]))

    def _status(self, _good: Good) -> str:
        answer = self._ask("GET", f"/v1/models/{self._server.name}")
        return "" if answer.status == 200 and b"AVAILABLE" in answer.data else f"{answer.status}"

    def _ask(self, method: str, path: str, body: str | None = None) -> Any:
        """Send a request over a new connection, like a new client."""
        headers = {"Connection": "close"}
        url = f"http://{HOST}:{self._server.rest_port}{path}"
        timeout = urllib3.Timeout(10 * self._bounds.good_secs)
        with urllib3.PoolManager(retries=False, timeout=timeout, headers=headers) as pool:
            return pool.request(method, url, body=body)

    def _grpc(self, good: Good) -> str:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = self._server.name
        request.model_spec.signature_name = good.signature
        for name, text in good.inputs.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto([text]))
        answer = self._stub.Predict(request, timeout=10 * self._bounds.good_secs)
        arrays = {name: tf.make_ndarray(proto)[0] for name, proto in answer.outputs.items()}
        return " ".join(differences(good, {name: decoded(each) for name, each in arrays.items()}))


class Memory:
    """Watches the server's memory, and kills the server before the machine runs out of memory."""

    def __init__(self, server: Server, most_bytes: int) -> None:
        self._server = server
        self._most_bytes = most_bytes
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self.peak_bytes = 0

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._stop.wait(0.02):
            self.peak_bytes = max(self.peak_bytes, self._server.resident_bytes())
            if self.peak_bytes > self._most_bytes:
                self._server.kill()
                return


def attack_command(attack: str, server: Server, secs: float) -> list[str]:
    """Return the command that attacks a server."""
    ports = [str(server.rest_port), str(server.grpc_port)]
    module = [sys.executable, "-m", "benchmarks.hostile_attacks"]
    return [*module, attack, server.name, *ports, str(secs)]


def attacked(
    server: Server, attack: str, secs: float, good: list[Good], bounds: Bounds, rest_bytes: int
) -> Seen:
    """Attack a server for `secs` seconds, and return the observations."""
    seen = Seen(attack, before_bytes=server.resident_bytes())
    lines_before = len(server.log_lines())
    with Memory(server, rest_bytes + bounds.kill_bytes) as memory:
        with _Probes(server, good, bounds, seen) as probes:
            probes.wait_for_first()  # so that the gRPC probe is connected before the attack
            subprocess.run(attack_command(attack, server, secs), timeout=secs + 120, check=True)
        deadline = time.monotonic() + _RECOVERY_SECS
        while server.is_alive and time.monotonic() < deadline:
            seen.after_bytes = server.resident_bytes()
            if seen.after_bytes - rest_bytes <= bounds.rest_bytes:
                break
            time.sleep(0.2)
    seen.peak_bytes = memory.peak_bytes
    seen.is_alive = server.is_alive
    seen.log_lines = len(server.log_lines()) - lines_before
    return seen


def run(
    models: Path, name: str, secs: float, attacks: Iterable[str], bounds: Bounds,
    tell: Callable[[str], None] = print,
) -> list[str]:  # fmt: skip
    """Run attacks one after the other, print a table; return the violated limits.

    Args:
        models: the served folder; version 1 of `name` in it computes the expected responses.
        name: name of the model.
        secs: duration of each attack.
        attacks: names in `ATTACKS`.
        bounds: limits that must hold.
        tell: function that prints a line of the table.
    """
    good = good_requests(models / name / "1", 12, seed=5)
    server = Server(models, name, files=1024)
    failed = []
    rest_bytes = _warm(server, good, bounds, secs, tell)
    tell(_ROW.format("attack", "REST", "gRPC", "status", "before", "peak", "after", "log"))
    for attack in attacks:
        seen = attacked(server, attack, secs, good, bounds, rest_bytes)
        failures = seen.failures(bounds, rest_bytes)
        tell(_row(seen))
        for failure in failures:
            tell(f"    FAILED {failure}")
        failed += [f"{attack}: {failure}" for failure in failures]
        if not server.is_alive:
            server = Server(models, name, files=1024)
            rest_bytes = _warm(server, good, bounds, secs, tell)
    failed += _stopped_in_time(server, bounds, tell)
    return failed


_ROW = "{:36} {:>15} {:>15} {:>15} {:>7} {:>7} {:>7} {:>4}"


def _row(seen: Seen) -> str:
    def kind(name: str) -> str:
        sent, wrong = seen.sent.get(name, 0), len(seen.slow_or_wrong.get(name, []))
        return f"{sent - wrong}/{sent} {seen.slowest_secs.get(name, 0):.2f} s"

    sizes = (f"{size / _MB:.0f}" for size in (seen.before_bytes, seen.peak_bytes, seen.after_bytes))
    kinds = (kind(name) for name in ("REST", "gRPC", "status"))
    return _ROW.format(seen.attack, *kinds, *sizes, seen.log_lines)


def _warm(
    server: Server, good: list[Good], bounds: Bounds, secs: float, tell: Callable[[str], None]
) -> int:
    """Send valid requests without an attack; return the server's memory at rest, in bytes."""
    seen = Seen("none: good requests alone")
    with _Probes(server, good, bounds, seen):
        time.sleep(max(3.0, secs))
    seen.before_bytes = seen.peak_bytes = seen.after_bytes = server.resident_bytes()
    tell(_row(seen))
    return seen.after_bytes


def _stopped_in_time(server: Server, bounds: Bounds, tell: Callable[[str], None]) -> list[str]:
    """Stop the server during an attack; return a failure if it takes too long."""
    attack = subprocess.Popen(attack_command("attention of long texts", server, 20))
    try:
        time.sleep(3)
        secs = server.stop()
    finally:
        attack.kill()
        attack.wait()
    tell(f"ended {secs:.1f} s after SIGTERM, with a stop timeout of {_STOP_TIMEOUT_SECS:g} s")
    limit_secs = _STOP_TIMEOUT_SECS + bounds.stop_secs
    return [] if secs <= limit_secs else [f"SIGTERM: ended after {secs:.1f} s"]


def main() -> None:
    """Run the attacks and print the table; exit with 1 if a limit was violated."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="MODELS/NAME, with version 1 in it")
    parser.add_argument("--secs", type=float, default=6.0, help="duration of each attack")
    parser.add_argument("--only", nargs="*", choices=ATTACKS, default=list(ATTACKS))
    options = parser.parse_args()
    models, name = options.model.parent, options.model.name
    print(f"{os.cpu_count()} cores, {options.secs:g} s per attack; memory in MB")
    failed = run(models, name, options.secs, options.only, Bounds())
    print(f"{len(failed)} failures")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
