"""Measure the CPU time that the embedded server spends around a model, per request.

    python -m benchmarks.serving_path                     # a signature that returns its text
    python -m benchmarks.serving_path --against CHECKOUT  # interleaved with another version
    python -m benchmarks.serving_path --model MODELS/NAME  # a real model, and its own time

CPU time (user and system) of the server's process is measured, which other processes disturb least.
"""

import argparse
import concurrent.futures
import contextlib
import http.client
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import tensorflow as tf
import tensorflow_text  # noqa: F401  (registers the ops of the model)
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from benchmarks.commands import BUILD
from benchmarks.serving_load import SHORT_WORDS, texts
from serving.client import Client

HOST = "127.0.0.1"
_PORT = 18640
_TICKS_PER_SEC = os.sysconf("SC_CLK_TCK")


class Identity(tf.Module):
    """Returns its texts."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
    def run(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return the texts."""
        return {"same": tf.identity(text)}


@dataclass(frozen=True)
class Load:
    """Throughput of a server, and its CPU time.

    Attributes:
        per_sec: answered requests per second.
        cpu_us: CPU time of the server's process per request, in microseconds.
    """

    per_sec: float
    cpu_us: float


@dataclass(frozen=True)
class Server:
    """A running server."""

    process: subprocess.Popen
    name: str
    signature: str
    port: int

    def cpu_secs(self) -> float:
        """Return the process's CPU time."""
        # The process's name may have spaces in it, so fields are counted from its closing bracket.
        stat = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / _TICKS_PER_SEC


@contextlib.contextmanager
def serving(checkout: Path, version_dir: Path, signature: str, port: int) -> Iterator[Server]:
    """Run a checkout's server on one model."""
    models, name = version_dir.parent.parent.resolve(), version_dir.parent.name
    command = [sys.executable, "-m", "clozeline", "serve", "--embedded", "--models", str(models)]
    ports = ["--rest-port", str(port), "--grpc-port", str(port + 1)]
    process = subprocess.Popen([*command, *ports], cwd=checkout, stderr=subprocess.DEVNULL)
    try:
        Client(f"http://{HOST}:{port}").wait_until_ready(name, 120)
        yield Server(process, name, signature, port)
    finally:
        process.terminate()
        process.wait()


def rest_client(server: Server, text: str) -> Callable[[], object]:
    """Return a function that sends a request over a connection of its own."""
    body = json.dumps({"signature_name": server.signature, "instances": [text]})
    headers = {"Content-Type": "application/json"}
    connection = http.client.HTTPConnection(HOST, server.port)

    def ask() -> bytes:
        connection.request("POST", f"/v1/models/{server.name}:predict", body, headers)
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise RuntimeError(content[:200])
        return content

    return ask


def grpc_client(server: Server, text: str) -> Callable[[], object]:
    """Return a function that sends a request over a connection of its own."""
    # By default, channels to one address share a connection.
    options = [("grpc.use_local_subchannel_pool", 1)]
    channel = grpc.insecure_channel(f"{HOST}:{server.port + 1}", options=options)
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = server.name, server.signature
    request.inputs["text"].CopyFrom(tf.make_tensor_proto([text]))
    return lambda: stub.Predict(request, timeout=60)


CLIENTS = {"REST": rest_client, "gRPC": grpc_client}


def load(server: Server, api: str, clients: int, requests: int) -> Load:
    """Let clients send `requests` requests in total, each client one after another."""
    sent = texts(clients, SHORT_WORDS, seed=4)
    asks = [CLIENTS[api](server, text) for text in sent]
    for ask in asks:
        ask()  # connect

    def client(ask: Callable[[], object]) -> None:
        for _ in range(requests // clients):
            ask()

    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        cpu_secs, began = server.cpu_secs(), time.perf_counter()
        list(pool.map(client, asks))
        secs, cpu_secs = time.perf_counter() - began, server.cpu_secs() - cpu_secs
    count = requests // clients * clients
    return Load(count / secs, 1e6 * cpu_secs / count)


def model_cpu_us(version_dir: Path, signature: str, batch: int, runs: int) -> float:
    """Return the CPU time per text of the model alone, in this process, in microseconds."""
    function = tf.saved_model.load(str(version_dir)).signatures[signature]
    inputs = [tf.constant(texts(batch, SHORT_WORDS, seed)) for seed in range(runs)]
    for text in inputs[:3]:
        function(text=text)
    began = time.process_time()
    for text in inputs:
        function(text=text)
    return 1e6 * (time.process_time() - began) / batch / runs


def identity_model() -> Path:
    """Return the version directory of a model that returns its texts."""
    version_dir = BUILD / "serving-path" / "identity" / "1"
    if not version_dir.is_dir():
        module = Identity()
        signatures = {"serving_default": module.run}
        tf.saved_model.save(module, str(version_dir), signatures=signatures)
    return version_dir


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="MODELS/NAME, version 1 of it")
    parser.add_argument("--signature", default="embed", help="a signature of the model")
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, nargs="*", default=[32, 128])
    options = parser.parse_args()
    version_dir = options.model / "1" if options.model else identity_model()
    signature = options.signature if options.model else "serving_default"
    checkouts = {"this": Path.cwd()}
    if options.against:
        checkouts["other"] = options.against
    with contextlib.ExitStack() as stack:
        servers = {
            name: stack.enter_context(serving(path, version_dir, signature, _PORT + 10 * number))
            for number, (name, path) in enumerate(checkouts.items())
        }
        for api in CLIENTS:
            for clients in options.clients:
                loads: dict[str, list[Load]] = {name: [] for name in servers}
                for _ in range(options.rounds):
                    # In turns, since the machine's speed varies over time.
                    for name, server in servers.items():
                        loads[name].append(load(server, api, clients, options.requests))
                print(f"{api}, {clients} clients:", "; ".join(map(_shown, loads, loads.values())))
    if options.model:
        for batch in (1, 8, 16):
            cpu_us = model_cpu_us(version_dir, signature, batch, 20)
            print(f"the model alone, {batch} texts at a time: {cpu_us:,.0f} us per text")


def _shown(name: str, loads: list[Load]) -> str:
    per_sec = statistics.median(each.per_sec for each in loads)
    cpu_us = statistics.median(each.cpu_us for each in loads)
    return f"{name} {per_sec:,.0f} requests/s, {cpu_us:,.0f} us of CPU time per request"


if __name__ == "__main__":
    main()
