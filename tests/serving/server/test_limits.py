"""Limits on clients that send too much, too slowly or nothing, or that do not read."""

import concurrent.futures
import contextlib
import gc
import gzip
import io
import json
import logging
import re
import resource
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
import weakref
from pathlib import Path
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
import requests
import tensorflow as tf
from grpc import StatusCode
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from clozeline.show.terminal import printed_notes
from serving.server import connections, log_limits
from serving.server.backend import Work
from serving.server.budget import SMALL_BYTES, Budget
from serving.server.connections import BoundedProtocol, connection_limit, raise_file_limit
from serving.server.limits import Limits
from serving.server.main import ModelServer
from serving.server.memory import Trimmer, collect_all, set_aside, trim
from serving.server.signature_spec import size_bytes
from serving.server.status import ServingError

HOST = "127.0.0.1"
DEADLINE_SECS = 60
PREDICT = "/tensorflow.serving.PredictionService/Predict"


class Models(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def plus(self, x):
        return {"y": x + 10.0}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, "n")])
    def many(self, n):
        return {"y": tf.zeros([tf.size(n), n[0]], tf.float32)}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    base = tmp_path_factory.mktemp("models")
    module = Models()
    signatures = {"serving_default": module.plus, "many": module.many}
    tf.saved_model.save(module, str(base / "plus" / "7"), signatures=signatures)
    return base


@pytest.fixture
def server(models):
    made = []

    def start(**limits):
        made.append(ModelServer(models, HOST, 0, 0, Limits(**limits)))
        made[-1].start()
        return made[-1]

    yield start
    for each in made:
        each.stop()


def url_of(server):
    return f"http://{HOST}:{server.rest_port}/v1/models/plus"


def is_good(server):
    answer = requests.post(url_of(server) + ":predict", json={"instances": [1.0]}, timeout=30)
    return answer.status_code == 200 and answer.json() == {"predictions": [11.0]}


def is_good_in_time(server):
    """Like `is_good`, of a server with a limit that a request on a busy machine exceeds."""
    with contextlib.suppress(requests.ConnectionError):
        return is_good(server)
    return False


def is_good_grpc(server):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "plus"
    request.inputs["x"].CopyFrom(tf.make_tensor_proto([1.0]))
    with grpc.insecure_channel(f"{HOST}:{server.grpc_port}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        return list(stub.Predict(request, timeout=30).outputs["y"].float_val) == [11.0]


def code_of(server, message, **options):
    """Send bytes to Predict and return the status code of the error."""
    with grpc.insecure_channel(f"{HOST}:{server.grpc_port}") as channel:
        send = channel.unary_unary(PREDICT)
        with pytest.raises(grpc.RpcError) as caught:
            send(message, timeout=30, **options)
    return caught.value.code()


def connect(server):
    return socket.create_connection((HOST, server.rest_port), timeout=DEADLINE_SECS)


def is_closed(client):
    """Wait until the server has closed the connection."""
    client.settimeout(DEADLINE_SECS)
    try:
        while client.recv(65536):
            pass
    except ConnectionResetError:
        pass
    return True


def until(condition):
    deadline = time.monotonic() + DEADLINE_SECS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# ---- the budget


def test_places_are_shared():
    budget = Budget(max_places=16, max_bytes=0)
    shares = [budget.request("a") for _ in range(14)]
    for share in shares:
        share.take_place()
    greedy, other = budget.request("a"), budget.request("b")
    with pytest.raises(ServingError, match="UNAVAILABLE: The server is busy: 14 predictions"):
        greedy.take_place()  # what is left is for others
    other.take_place()
    shares[0].retain()
    shares[0].release()
    with pytest.raises(ServingError, match="15 predictions"):
        budget.request("a").take_place()
    shares[0].release()
    shares[1].give_place()
    shares[1].give_place()
    shares[1].release()
    greedy.take_place()
    assert budget._places.total == 14


def test_bytes_are_shared():
    budget = Budget(max_places=0, max_bytes=8_000)
    first, second, other = (budget.request(address) for address in ("a", "a", "b"))
    first.hold(SMALL_BYTES)
    assert budget.bytes_in_flight == 0
    first.hold(SMALL_BYTES + 6_000)
    with pytest.raises(ServingError, match="UNAVAILABLE: The server is busy: 6000 bytes in fl"):
        second.hold(SMALL_BYTES + 1_001)
    second.hold(SMALL_BYTES + 1_000)
    with pytest.raises(ServingError, match="7000 bytes"):
        second.hold(SMALL_BYTES + 1_001)
    other.hold(SMALL_BYTES + 1_000)
    with pytest.raises(ServingError, match="8000 bytes"):
        budget.request("c").hold(SMALL_BYTES + 1)
    first.hold(0)
    assert budget.bytes_in_flight == 2_000
    second.release()
    other.release()
    first.release()
    assert budget.bytes_in_flight == 0


def test_the_collector_is_off_during_large_turns_only():
    budget = Budget(1, 1)
    with budget.turn(10**6):
        assert not gc.isenabled()
    with budget.turn(100):
        assert gc.isenabled()
    with pytest.raises(ValueError, match="parse"), budget.turn(10**6):
        raise ValueError("parse")
    assert gc.isenabled()


def test_one_large_piece_of_work_has_its_turn_at_a_time():
    budget, running, go = Budget(1, 1), threading.Semaphore(0), threading.Event()

    def work():
        with budget.turn(SMALL_BYTES + 1):
            running.release()
            assert go.wait(DEADLINE_SECS)

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        done = [pool.submit(work) for _ in range(3)]
        assert running.acquire(timeout=DEADLINE_SECS)
        assert not running.acquire(timeout=0.2)
        with budget.turn(SMALL_BYTES):  # small work passes
            pass
        go.set()
        for future in done:
            future.result()


def test_the_memory_of_arrays():
    arrays = {"x": np.zeros([2, 3], np.int64), "s": np.array([b"abc", b""], np.object_)}
    assert size_bytes(arrays) == 2 * 3 * 8 + 2 * 8 + 3
    many = np.full([3, 50_000], b"abc", np.object_)  # more than are counted in one call
    assert size_bytes({"s": many}) == 150_000 * (8 + 3)


# ---- bodies


def test_a_body_with_a_suspicious_compression_ratio_is_refused(server):
    started = server()
    zipped = {"Content-Encoding": "gzip"}
    zeros = gzip.compress(b"[" + b" " * 3_000_000 + b"]")
    answer = requests.post(url_of(started) + ":predict", zeros, headers=zipped, timeout=30)
    message = "Request body unpacks to more than 200 times its size"
    assert (answer.status_code, answer.json()) == (413, {"error": message})
    bomb = gzip.compress(b"[" + b"[]," * 2_000_000 + b"[]]")
    answer = requests.post(url_of(started) + ":predict", bomb, headers=zipped, timeout=30)
    assert answer.status_code == 413
    rng = np.random.default_rng(1)
    text = json.dumps({"instances": rng.integers(0, 9, 300_000).tolist()}).encode()
    packed = gzip.compress(text)
    answer = requests.post(url_of(started) + ":predict", packed, headers=zipped, timeout=30)
    assert len(answer.json()["predictions"]) == 300_000


def test_a_body_in_many_small_chunks_is_refused_unread(server):
    """Reading them takes the event loop's time: a million of a byte each took it 12 s."""
    server = server()
    head = "POST /v1/models/plus:predict HTTP/1.1\r\nHost: localhost\r\n"
    chunked = head + "Transfer-Encoding: chunked\r\n\r\n"
    body = b'{"instances": [1.0]}'

    def in_bytes(size):
        return b"".join(b"1\r\n%c\r\n" % byte for byte in body.ljust(size)) + b"0\r\n\r\n"

    with requests.Session() as session:
        for _ in range(3):  # they are counted for each request
            parts = (bytes([byte]) for byte in body.ljust(4000))
            assert session.post(url_of(server) + ":predict", data=parts, timeout=30).ok
    large = body.ljust(100) + b"\r\n"
    many = b"64\r\n" + large + (b"64\r\n" + b" " * 100 + b"\r\n") * 10_000
    with connect(server) as client:
        client.sendall(chunked.encode() + many + b"0\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
    with connect(server) as client:
        client.sendall(chunked.encode() + in_bytes(10_000))
        with contextlib.suppress(ConnectionResetError):  # it closes with bytes unread
            assert client.recv(4096)[:13] in (b"HTTP/1.1 400 ", b"")
    assert is_good(server)


def test_connections_wait_in_the_kernel_while_the_event_loop_is_busy(server, monkeypatch):
    """A queue of 128 overflowed: the kernel drops SYNs, and clients repeat them after a second."""
    server, accepted, go = server(), threading.Event(), threading.Event()
    take = BoundedProtocol.connection_made

    def wait_and_take(self, transport):
        accepted.set()
        assert go.wait(DEADLINE_SECS)
        take(self, transport)

    monkeypatch.setattr(BoundedProtocol, "connection_made", wait_and_take)
    with contextlib.ExitStack() as clients:
        clients.enter_context(connect(server))
        assert accepted.wait(DEADLINE_SECS)
        address = (HOST, server.rest_port)
        try:
            for _ in range(300):
                clients.enter_context(socket.create_connection(address, timeout=0.9))
        finally:
            go.set()
        assert is_good(server)


@pytest.mark.slow
def test_a_large_answer_is_not_joined_before_it_is_sent(server):
    # Memory is traced, which takes time.
    url, numbers = url_of(server(rest_timeout_secs=600)) + ":predict", 2_000_000
    body = {"signature_name": "many", "instances": [numbers]}
    requests.post(url, json=body | {"instances": [1]}, timeout=60)  # so that the graph is traced
    tracemalloc.start()
    try:
        with requests.post(url, json=body, timeout=600, stream=True) as answer:
            length = int(answer.headers["Content-Length"])
            received = sum(map(len, answer.iter_content(1 << 16)))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert received == length > 5 * numbers
    assert peak_bytes < 1.5 * length  # in TensorFlow's memory, which is not traced, it is once more


def test_the_largest_answer_is_a_limit_of_its_own(server):
    server = server(max_answer_bytes=100_000)
    body = {"signature_name": "many", "instances": [30_000]}
    answer = requests.post(url_of(server) + ":predict", json=body, timeout=30)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(
        "The answer takes 120000 bytes, and 100000 are allowed"
    )
    body["instances"] = [20_000]
    answer = requests.post(url_of(server) + ":predict", json=body, timeout=30)
    assert "bytes as JSON, and 100000 are allowed" in answer.json()["error"]
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "plus", "many"
    request.inputs["n"].CopyFrom(tf.make_tensor_proto([30_000]))
    assert code_of(server, request.SerializeToString()) is StatusCode.INVALID_ARGUMENT
    texts = json.dumps({"instances": [1.0] * 20_000})  # of which the answer is too large, not they
    answer = requests.post(url_of(server) + ":predict", texts, timeout=30)
    assert "bytes as JSON, and 100000 are allowed" in answer.json()["error"]


def half_closed(server, request):
    """Send bytes, end the sending side, and return all that the server answers."""
    with connect(server) as client:
        client.sendall(request)
        client.shutdown(socket.SHUT_WR)
        with client.makefile("rb") as answers:
            return answers.read()


def post(body):
    lines = ["POST /v1/models/plus:predict HTTP/1.1", "Host: localhost"]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", body]).encode()


def test_a_half_closed_connection_gets_its_responses(server):
    server = server()
    one, two = post('{"instances": [1.0]}'), post('{"instances": [2.0]}')
    head, body = half_closed(server, one).split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert json.loads(body) == {"predictions": [11.0]}
    answers = half_closed(server, one + two + one)
    assert answers.count(b"HTTP/1.1 200 OK\r\n") == 3
    assert re.findall(rb"(\d+)\.0", answers) == [b"11", b"12", b"11"]
    old = half_closed(server, one.replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert old.startswith(b"HTTP/1.1 200 OK\r\n")
    for unfinished in (one[:-1], one[:40], b""):
        assert half_closed(server, unfinished) == b""
        assert half_closed(server, one + unfinished).count(b"HTTP/1.1 200 OK") == 1
    assert half_closed(server, one + b"no HTTP\r\n\r\n").count(b"HTTP/1.1 400 ") == 1


def test_a_body_that_becomes_malformed_after_its_response_closes_the_connection(server, caplog):
    server = server()
    head = (
        "POST /v1/models/plus:predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n"
    )
    with connect(server) as client:
        client.sendall(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 415 ")
        client.sendall(b"no chunk\r\n")
        assert is_closed(client)
    assert "data_received" not in caplog.text


def test_the_largest_request_is_a_limit_of_both_apis(server):
    started = server(max_body_bytes=2000)
    answer = requests.post(url_of(started) + ":predict", " " * 2001, timeout=30)
    assert answer.json() == {"error": "Request body is larger than 2000 bytes"}
    assert code_of(started, b"x" * 2000) is StatusCode.INVALID_ARGUMENT
    assert code_of(started, b"x" * 2001) is StatusCode.RESOURCE_EXHAUSTED
    assert is_good(started)
    assert is_good_grpc(started)


def test_compressed_grpc_messages_are_refused(server, caplog):
    started = server()
    code = code_of(started, b"x" * 10_000, compression=grpc.Compression.Gzip)
    assert code is StatusCode.UNIMPLEMENTED
    assert is_good_grpc(started)
    until(lambda: "A gRPC call ended before its request was read" in caplog.text)


def test_a_message_that_is_not_a_request(server):
    started = server()
    with grpc.insecure_channel(f"{HOST}:{started.grpc_port}") as channel:
        with pytest.raises(grpc.RpcError, match="The request message cannot be parsed") as caught:
            channel.unary_unary(PREDICT)(b"\xff" * 100, timeout=30)
        assert caught.value.code() is StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.RpcError) as caught:
            channel.stream_unary(PREDICT)(iter(()), timeout=30)
        assert caught.value.code() is StatusCode.UNIMPLEMENTED


def test_bytes_in_flight_are_bounded_and_released(server):
    started = server(max_bytes_in_flight=2_000_000)
    budget = started._backend.budget
    body = {"signature_name": "many", "instances": [500_000]}
    answer = requests.post(url_of(started) + ":predict", json=body, timeout=30)
    assert answer.status_code == 503
    assert "bytes in flight; try again later" in answer.json()["error"]
    body["instances"] = [100_000]
    assert requests.post(url_of(started) + ":predict", json=body, timeout=30).ok
    until(lambda: budget.bytes_in_flight == 0)
    assert budget._places.total == 0
    assert is_good(started)
    assert is_good_grpc(started)
    until(lambda: budget._places.total == 0)


def test_a_client_cannot_claim_another_address(server, monkeypatch):
    started = server()
    budget, addresses = started._backend.budget, []

    def request(address):
        addresses.append(address)
        return Budget.request(budget, address)

    monkeypatch.setattr(budget, "request", request)
    forged = {"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https"}
    answer = requests.post(
        url_of(started) + ":predict", json={"instances": [1.0]}, headers=forged, timeout=30
    )
    assert answer.json() == {"predictions": [11.0]}
    assert addresses == [HOST]


# ---- slow clients


def test_slow_bodies_take_no_places(server):
    started = server(max_accepted_requests=2)
    head = (
        b"POST /v1/models/plus:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{"
    )
    clients = [connect(started) for _ in range(10)]
    for client in clients:
        client.sendall(head)
    assert is_good(started)
    assert is_good_grpc(started)
    for client in clients:
        client.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /v1/models/plus HTTP/1.1\r\nHo",
        b"GET /v1/models/plus HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{",
        b"GET /v1/models/plus HTTP/1.1\r\nHost: localhost\r\n\r\nGET /v1",
    ],
    ids=["nothing", "part of a head", "part of a body that is not read", "part of a second head"],
)
def test_a_connection_that_sends_no_request_is_closed(server, sent, monkeypatch):
    monkeypatch.setattr(connections, "_TICK_SECS", 0.05)
    started = server(transfer_timeout_secs=0.2)
    with connect(started) as client:
        client.sendall(sent)
        assert is_closed(client)
    until(lambda: is_good_in_time(started))


def test_a_client_that_reads_nothing_is_cut_off(server):
    started = server(transfer_timeout_secs=2)
    budget = started._backend.budget
    body = json.dumps({"signature_name": "many", "instances": [3_000_000]}).encode()
    head = "POST /v1/models/plus:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: "
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((HOST, started.rest_port))
        client.sendall(f"{head}{len(body)}\r\n\r\n".encode() + body)
        until(lambda: budget.bytes_in_flight > 10_000_000)
        until(lambda: budget.bytes_in_flight == 0)
    until(lambda: budget._places.total == 0)


def test_one_connection_too_many_closes_the_one_that_waited_longest(server):
    started = server(max_connections=4, transfer_timeout_secs=10 * DEADLINE_SECS)
    clients = []
    for _ in range(4):
        clients.append(connect(started))
        time.sleep(0.05)
    until(lambda: len(started._rest.server_state.connections) == 4)
    assert is_good(started)
    assert is_closed(clients[0])
    for client in clients:
        client.close()


def test_more_open_grpc_streams_than_there_are_places(server):
    started = server(max_accepted_requests=8, transfer_timeout_secs=5)
    stop = threading.Event()

    def nothing():
        stop.wait(DEADLINE_SECS)
        yield from ()

    def streams(channel, count):
        return [channel.stream_unary(PREDICT).future(nothing()) for _ in range(count)]

    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.insecure_channel(f"{HOST}:{started.grpc_port}", options) for _ in range(4)]
    calls = [call for channel in channels for call in streams(channel, 8)]
    until(lambda: len(started._grpc._state.rpc_states) >= 32)
    assert is_good_grpc(started)
    assert is_good(started)
    codes = {call.exception(timeout=DEADLINE_SECS).code() for call in calls}
    stop.set()
    for channel in channels:
        channel.close()
    assert codes == {StatusCode.CANCELLED}
    until(lambda: not started._grpc._state.rpc_states)


def test_status_is_answered_while_every_place_is_taken(server, monkeypatch):
    from serving.server.runner import Runner

    go, run = threading.Event(), Runner.run

    def waiting(self, signature, inputs):
        assert go.wait(DEADLINE_SECS)
        return run(self, signature, inputs)

    monkeypatch.setattr(Runner, "run", waiting)
    started = server(max_accepted_requests=1)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        held = pool.submit(is_good, started)
        until(lambda: started._backend.budget._places.total == 1)
        assert requests.get(url_of(started), timeout=30).ok
        with grpc.insecure_channel(f"{HOST}:{started.grpc_port}") as channel:
            request = get_model_status_pb2.GetModelStatusRequest()
            request.model_spec.name = "plus"
            stub = model_service_pb2_grpc.ModelServiceStub(channel)
            assert stub.GetModelStatus(request, timeout=30).model_version_status
        with pytest.raises(grpc.RpcError, match="The server is busy: 1 predictions") as caught:
            is_good_grpc(started)
        assert caught.value.code() is StatusCode.UNAVAILABLE
        go.set()
        assert held.result()


# ---- memory, files and logs


def resident_bytes():
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize()


def test_memory_is_returned_to_the_system_after_work():
    work, before = Work(), resident_bytes()
    with work:  # small blocks, which the C library keeps unless the last of them is free
        blocks = [bytes(2000) for _ in range(100_000)]
        kept = blocks[-1]
        del blocks
    assert resident_bytes() - before > 100_000_000
    trimmer = Trimmer(lambda: work.ended, interval_secs=0.05)
    trimmer.start()
    until(lambda: resident_bytes() - before < 50_000_000)
    trimmer.stop()
    assert len(kept) == 2000


def test_memory_of_every_heap_is_returned_to_the_system():
    """In a process of its own, since the number and sizes of glibc's heaps hold for good."""
    code = """
import resource, sys, threading
from serving.server.memory import share_heaps, trim

def resident_bytes():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

def work():
    blocks = [bytes(1_000_000) for _ in range(30)]
    all_alive.wait()
    del blocks

share_heaps()
before = resident_bytes()
all_alive = threading.Barrier(10)
threads = [threading.Thread(target=work) for _ in range(10)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
kept = resident_bytes() - before
trim()
print(kept // 10**6, (resident_bytes() - before) // 10**6)
"""
    said = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True)
    kept_mb, left_mb = map(int, said.stdout.split())
    assert (kept_mb > 100, left_mb < 20) == (True, True), said.stdout


class Circle:
    """An object that only a garbage collection removes."""

    def __init__(self):
        self.self = self


@pytest.fixture
def no_frozen_objects():
    """Objects are frozen, and collected, only where a test does it."""
    had_frozen = gc.get_freeze_count() > 0
    was_enabled = gc.isenabled()
    gc.unfreeze()
    gc.disable()
    yield
    gc.unfreeze()
    if was_enabled:
        gc.enable()
    if had_frozen:
        gc.freeze()


@pytest.mark.usefixtures("no_frozen_objects")
def test_frozen_objects_are_collected_together():
    before, after = Circle(), Circle()
    seen = [weakref.ref(before), weakref.ref(after)]
    del after
    with set_aside():
        assert [each() is None for each in seen] == [False, True]
        later = Circle()
        seen.append(weakref.ref(later))
        del before, later
        trim()
        assert [each() is None for each in seen] == [False, True, True]
        collect_all()
        assert [each() is None for each in seen] == [True, True, True]
        assert gc.get_freeze_count() > 0
    assert gc.get_freeze_count() == 0


@pytest.mark.usefixtures("no_frozen_objects")
def test_objects_that_others_froze_stay_frozen():
    """As those of a program that starts a server in a notebook, or forks."""
    frozen = Circle()
    seen = weakref.ref(frozen)
    gc.freeze()
    del frozen
    later = weakref.ref(Circle())
    trim()
    assert later() is not None  # it is the program's to collect
    collect_all()
    assert (seen() is None, later()) == (False, None)
    with set_aside():
        pass
    assert gc.get_freeze_count() > 0


def test_connections_stay_below_the_limit_of_open_files(monkeypatch):
    limits = {"now": (1024, 4096)}
    changed = {
        "getrlimit": lambda _: limits["now"],
        "setrlimit": lambda _, both: limits.update(now=both),
    }
    monkeypatch.setattr(connections, "resource", SimpleNamespace(**vars(resource) | changed))
    assert connection_limit(Limits()) == (1024 - 256) // 2
    raise_file_limit()
    assert limits["now"] == (4096, 4096)
    assert connection_limit(Limits()) == 1024
    limits["now"] = (64, 64)
    assert connection_limit(Limits()) == 16
    assert connection_limit(Limits(max_connections=4)) == 4


def test_each_kind_of_line_is_logged_once_per_minute(monkeypatch):
    now_secs = 5.0
    monkeypatch.setattr(log_limits, "time", SimpleNamespace(monotonic=lambda: now_secs))
    stream, log = io.StringIO(), logging.getLogger("uvicorn.test_limits")
    handler = logging.StreamHandler(stream)
    limit = log_limits.OncePerMinute()
    handler.addFilter(limit)
    log.addHandler(handler)
    log.setLevel(logging.WARNING)
    log.propagate = False

    def fail(number):
        try:
            raise ValueError(f"number {number}")
        except ValueError:
            log.exception("request %s failed\n", number)

    for number in range(100):
        fail(number)
    log.warning("something else")
    now_secs += 59
    fail(100)
    now_secs += 2
    fail(101)
    lines = stream.getvalue().splitlines()
    assert lines == [
        "request 0 failed: ValueError('number 0')",
        "something else",
        "request 101 failed (100 more like it before): ValueError('number 101')",
    ]


def test_the_notes_that_a_command_prints_are_limited_too(monkeypatch, capsys) -> None:
    logger = logging.getLogger("serving.server.somewhere")
    monkeypatch.setattr(logging.root, "handlers", [])  # pytest's must keep all lines
    with printed_notes(lambda message: message):
        log_limits.limit_log_lines()
        for number in range(3):
            logger.warning(f"a client did it, {number}")
            logger.info(f"version {number} is served now")
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if "client" in line] == ["warning: a client did it, 0"]
    assert sum("is served now" in line for line in said) == 3
