"""Measure the embedded server under load, compared with the in-process model, and its batching.

`python -m benchmarks.serving_load` measures BERT-base with random weights, in bfloat16: start
and memory of the server, then its answers. Server and clients share the machine's cores. With
TF_ONEDNN_ASSUME_FROZEN_WEIGHTS=1 in the environment, both server and in-process model use frozen
weights.
"""

import argparse
import concurrent.futures
import contextlib
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import get_args

import grpc
import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401  (registers the ops of the model)
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from benchmarks.commands import BUILD
from benchmarks.models import export_random, words
from serving.client import Client
from serving.export.choices import ServingPrecision

SIGNATURE = "embed"
BATCH = 8
LONG_WORDS, SHORT_WORDS = 126, 14  # [CLS] and [SEP] make it 128 and 16 positions
CLIENTS = 32
_REST_PORT, _GRPC_PORT = 18601, 18600


@dataclass(frozen=True)
class Load:
    """Throughput and latency that many clients observed.

    Attributes:
        per_sec: responses per second, over all clients.
        p50_ms: median latency.
        p99_ms: 99th percentile of the latency.
    """

    per_sec: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        port: its gRPC port.
        pid: its process.
        ready_secs: time from the start of its process until the model was available.
    """

    port: int
    pid: int
    ready_secs: float

    def cpu_secs(self) -> float:
        """Return the CPU time of its process so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_mb(self) -> float:
        """Return the memory of its process that is no part of a file."""
        rollup = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        found = re.search(r"^Anonymous: +(\d+) kB", rollup, re.M)
        assert found
        return int(found[1]) / 1024


def texts(count: int, length: int, seed: int) -> list[str]:
    """Return `count` texts of `length` words; each word is one piece."""
    rng, known = Random(seed), words(5000)
    return [" ".join(rng.choices(known, k=length)) for _ in range(count)]


def request_for(model: str, batch: Sequence[str]) -> predict_pb2.PredictRequest:
    """Return the request message for the embeddings of texts."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = SIGNATURE
    request.inputs["text"].CopyFrom(tf.make_tensor_proto(list(batch), tf.string))
    return request


@contextlib.contextmanager
def serving(models: Path, *flags: str, offset: int = 0) -> Iterator[Server]:
    """Run the server on a folder of models."""
    rest_port, grpc_port = _REST_PORT + offset, _GRPC_PORT + offset
    ports = ["--rest-port", str(rest_port), "--grpc-port", str(grpc_port)]
    command = [sys.executable, "-m", "clozeline", "serve", "--embedded", "--models", str(models)]
    began = time.perf_counter()
    server = subprocess.Popen([*command, *ports, *flags], stderr=subprocess.DEVNULL)
    try:
        for model in models.iterdir():
            Client(f"http://127.0.0.1:{rest_port}").wait_until_ready(model.name, 300)
        yield Server(grpc_port, server.pid, time.perf_counter() - began)
    finally:
        server.terminate()
        server.wait()


def stub_for(port: int) -> prediction_service_pb2_grpc.PredictionServiceStub:
    """Return a stub with a separate connection."""
    options = [("grpc.use_local_subchannel_pool", 1)]  # by default channels share one connection
    channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=options)
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


def in_process_against_server(version_dir: Path, rounds: int) -> tuple[float, float]:
    """Return sequences per second of the model in this process and of the server, interleaved."""
    loaded = tf.saved_model.load(str(version_dir))
    function = loaded.signatures[SIGNATURE]
    batch = texts(BATCH, LONG_WORDS, seed=3)
    name = version_dir.parent.name
    direct, served = [], []
    with serving(version_dir.parent.parent) as server:
        print(
            f"ready after {server.ready_secs:.1f} s, {server.cpu_secs():.1f} s of CPU time; "
            f"{server.memory_mb():,.0f} MiB of memory"
        )
        stub, request = stub_for(server.port), request_for(name, batch)
        expected = function(text=tf.constant(batch))["mean"].numpy()
        answer = tf.make_ndarray(stub.Predict(request, timeout=60).outputs["mean"])
        # A fast wrong answer counts for nothing; the tolerance is bfloat16's.
        np.testing.assert_allclose(answer, expected, atol=0.05)
        for _ in range(rounds):
            began = time.perf_counter()
            function(text=tf.constant(batch))["mean"].numpy()
            middle = time.perf_counter()
            stub.Predict(request, timeout=60)
            served.append(time.perf_counter() - middle)
            direct.append(middle - began)
    return BATCH / statistics.median(direct), BATCH / statistics.median(served)


def load(port: int, model: str, seconds: float) -> Load:
    """Let many clients send one short text after another."""
    requests = [request_for(model, [text]) for text in texts(64, SHORT_WORDS, seed=4)]
    stop = threading.Event()

    def client(number: int) -> list[float]:
        stub, taken = stub_for(port), []
        for index in range(10**9):
            if stop.is_set():
                break
            began = time.perf_counter()
            stub.Predict(requests[(number + index) % len(requests)], timeout=60)
            taken.append(time.perf_counter() - began)
        return taken

    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        began = time.perf_counter()
        futures = [pool.submit(client, number) for number in range(CLIENTS)]
        time.sleep(seconds)
        stop.set()
        taken_ms = [1e3 * secs for future in futures for secs in future.result()]
        elapsed_secs = time.perf_counter() - began
    p50, p99 = np.percentile(taken_ms, [50, 99])
    return Load(len(taken_ms) / elapsed_secs, float(p50), float(p99))


def with_batching_against_without(
    version_dir: Path, rounds: int, seconds: float
) -> list[tuple[Load, Load]]:
    """Return the load measurements of a server with batching and of one without, interleaved."""
    models, name = version_dir.parent.parent, version_dir.parent.name
    with serving(models) as batching, serving(models, "--no-batching", offset=10) as plain:
        for server in (batching, plain):
            # Warm up: the first batches of each size are slow.
            load(server.port, name, 1.0)
        return [
            (load(batching.port, name, seconds), load(plain.port, name, seconds))
            for _ in range(rounds)
        ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="base")
    parser.add_argument("--precision", default="bfloat16", choices=get_args(ServingPrecision))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=4.0)
    options = parser.parse_args()
    folder = BUILD / "serving-load" / options.precision
    version_dir = export_random(folder, options.size, options.precision)
    direct, served = in_process_against_server(version_dir, options.rounds)
    print(
        f"{options.size} {options.precision}, batch {BATCH} of 128: in process {direct:.1f} "
        f"sequences/s, server over gRPC {served:.1f}: {served / direct:.2f} ×"
    )
    pairs = with_batching_against_without(version_dir, 3, options.seconds)
    for batching, plain in pairs:
        print(
            f"{CLIENTS} clients, one text of 16: with batching {batching.per_sec:.1f}/s "
            f"(p50 {batching.p50_ms:.0f} ms, p99 {batching.p99_ms:.0f} ms), without "
            f"{plain.per_sec:.1f}/s (p50 {plain.p50_ms:.0f} ms, p99 {plain.p99_ms:.0f} ms): "
            f"{batching.per_sec / plain.per_sec:.2f} ×"
        )


if __name__ == "__main__":
    main()
