"""A stopping server exits in time, whatever still runs, and reports what it abandoned."""

import concurrent.futures
import contextlib
import gc
import os
import re
import signal
import subprocess
import sys
import threading
import time
import types
import weakref
from pathlib import Path

import grpc
import numpy as np
import pytest
import requests
import tensorflow as tf
from grpc import StatusCode
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from serving.server.batching import Batcher
from serving.server.batching_options import BatchingOptions
from serving.server.callers import Caller, current_caller
from serving.server.limits import Limits
from serving.server.main import ModelServer, _end_process
from serving.server.metrics import Metrics
from serving.server.signature_spec import ServableSignature
from serving.server.status import ServingError
from tests.fork_server import FORKS
from tests.serving.server.conftest import is_refused

HOST = "127.0.0.1"
DEADLINE_SECS = 60

ENDLESS = Path(__file__).parent / "endless.py"


def ask(port):
    url = f"http://{HOST}:{port}/v1/models/plus:predict"
    with contextlib.suppress(requests.ConnectionError):
        requests.post(url, json={"instances": [1.0]}, timeout=DEADLINE_SECS)


def ask_grpc(port, timeout_secs=DEADLINE_SECS):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "plus"
    request.inputs["x"].CopyFrom(tf.make_tensor_proto([1.0]))
    with grpc.insecure_channel(f"{HOST}:{port}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        try:
            stub.Predict(request, timeout=timeout_secs)
        except grpc.RpcError as error:
            return error.code()
    return StatusCode.OK


@pytest.fixture
def endless(models):
    """Start a server whose work never ends, and some of it; return the process and REST's port."""
    processes = []

    def start(stop_timeout_secs, *work):
        command = [sys.executable, str(ENDLESS), str(models), str(stop_timeout_secs), *work]
        process = FORKS.popen(command, stderr=subprocess.PIPE, text=True)
        processes.append(process)
        clients, ports, running = {"REST": ask, "gRPC": ask_grpc}, {}, 0
        while len(ports) < 2 or running < len(work):  # a load may begin before the ports are told
            line = process.stderr.readline()
            assert line, "the server ended"
            running += line.count("running")
            if found := re.search(r"(REST|gRPC) at .*:(\d+)", line):
                ports[found[1]] = int(found[2])
                if found[1] in work:
                    threading.Thread(
                        target=clients[found[1]], args=(ports[found[1]],), daemon=True
                    ).start()
        return process, ports["REST"]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_endless_work_is_abandoned_after_the_stop_timeout(endless):
    process, _ = endless(1, "REST", "gRPC", "load")
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE_SECS) == 1
    assert time.monotonic() - started < Limits().stop_timeout_secs  # the default
    given_up = "2 running requests and the load of a version"
    assert f"stopped after 1 s; gave up {given_up}\n" in process.stderr.read()


def test_a_closed_pipe_does_not_keep_a_process_that_gave_up_work(monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    closed = os.fdopen(writer, "w")
    closed.write("a part of a line")
    exits = []
    streams = types.SimpleNamespace(stdout=closed, stderr=closed)
    monkeypatch.setattr("serving.server.main.sys", streams)
    monkeypatch.setattr("serving.server.main.os", types.SimpleNamespace(_exit=exits.append))
    _end_process()
    assert exits == [1]
    with contextlib.suppress(BrokenPipeError):
        closed.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_exits_immediately(endless, number):
    process, port = endless(3600, "REST")
    process.send_signal(signal.SIGTERM)
    until(lambda: is_refused(port))  # else the two would be one for a busy process
    assert process.poll() is None
    process.send_signal(number)
    assert process.wait(DEADLINE_SECS) == 128 + number


# ---- callers that leave


def test_a_disconnected_client_cancels_its_work():
    caller, calls = Caller(), []
    caller.check()
    with caller.served(), caller.on_leaving(lambda: calls.append("told")):
        assert current_caller() is caller
        caller.leave()
        caller.leave()
    assert current_caller() is not caller
    with caller.on_leaving(lambda: calls.append("late")), pytest.raises(ServingError, match="away"):
        caller.check()
    assert calls == ["told", "late"]


def test_an_error_does_not_keep_the_request_in_memory():
    class Document(list):
        """A list that can be referred to weakly."""

    def fail():
        document = Document()
        seen.append(weakref.ref(document))
        try:
            raise KeyError
        except KeyError as error:
            reason = ServingError(StatusCode.INVALID_ARGUMENT, "no")
            raise reason from error

    seen = []
    gc.disable()
    try:
        with pytest.raises(ServingError) as caught, Caller().served():
            fail()
        assert caught.value.message == "no"
        assert seen[0]() is None
    finally:
        gc.enable()


def test_queued_work_of_a_disconnected_caller_is_not_run():
    runs, running, go = [], threading.Semaphore(0), threading.Event()

    def run(_, inputs):
        runs.append(inputs["x"].tolist())
        running.release()
        assert go.wait(DEADLINE_SECS)
        return inputs

    batcher = Batcher(run, BatchingOptions(num_batch_threads=1), Metrics())
    signature = ServableSignature("s", {}, {}, run)
    caller = Caller()

    def leaving():
        with caller.served():
            return batcher.run(signature, {"x": np.array([2.0, 3.0])})

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        first = pool.submit(batcher.run, signature, {"x": np.array([1.0])})
        assert running.acquire(timeout=DEADLINE_SECS)
        left = pool.submit(leaving)
        until(lambda: rows_queued(batcher) == 2)
        third = pool.submit(batcher.run, signature, {"x": np.array([4.0])})
        until(lambda: rows_queued(batcher) == 3)
        caller.leave()
        assert rows_queued(batcher) == 1
        go.set()
        with pytest.raises(ServingError, match="CANCELLED: The client went away"):
            left.result(DEADLINE_SECS)
        answers = [future.result()["x"].tolist() for future in (first, third)]
    batcher.close()
    assert answers == [[1.0], [4.0]]
    assert runs == [[1.0], [4.0]]


def rows_queued(batcher):
    return sum(batch.rows for queue in list(batcher._queues.values()) for batch in queue.batches)


def until(condition):
    deadline = time.monotonic() + DEADLINE_SECS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("how", ["rest timeout", "rest disconnect", "grpc deadline"])
def test_a_request_whose_client_left_leaves_the_queue(models, how):
    waits_for_others = BatchingOptions(batch_timeout_micros=DEADLINE_SECS * 10**6)
    limits = Limits(rest_timeout_secs=0.5 if how == "rest timeout" else DEADLINE_SECS)
    server = ModelServer(models, HOST, 0, 0, limits, waits_for_others)
    server.start()
    batcher, work = server._runner._batcher, server._backend.work
    if how == "grpc deadline":
        assert ask_grpc(server.grpc_port, timeout_secs=0.5) is StatusCode.DEADLINE_EXCEEDED
    else:
        timeout_secs = 0.5 if how == "rest disconnect" else DEADLINE_SECS
        url = f"http://{HOST}:{server.rest_port}/v1/models/plus:predict"
        try:
            answer = requests.post(url, json={"instances": [1.0]}, timeout=timeout_secs)
        except requests.ReadTimeout:
            assert how == "rest disconnect"
        else:
            assert answer.status_code == 504
    until(lambda: not batcher._queues and not work.running)
    assert server.stop() == []
