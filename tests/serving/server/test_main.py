"""Start and stop of the server, and requests that are running meanwhile."""

import concurrent.futures
import io
import os
import re
import signal
import socket
import threading
import time
from pathlib import Path

import grpc
import pytest
import requests
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from clozeline.commands.serve import Serve
from clozeline.show.terminal import printed_notes
from pipeline.errors import InputError
from serving.addresses import checked_address, joined
from serving.server.batching_options import BatchingOptions
from serving.server.limits import Limits
from serving.server.main import ModelServer, _bound_socket, serve
from serving.server.runner import Runner
from tests.serving.server.conftest import is_refused

HOST = "127.0.0.1"
DEADLINE_SECS = 60


@pytest.fixture
def held(monkeypatch):
    """Predictions wait: `held.running` tells that one has begun, `held.go` lets them end."""

    class Held:
        running, go = threading.Semaphore(0), threading.Event()

    run = Runner.run

    def waiting(self, signature, inputs):
        Held.running.release()
        assert Held.go.wait(DEADLINE_SECS)
        return run(self, signature, inputs)

    monkeypatch.setattr(Runner, "run", waiting)
    yield Held
    Held.go.set()


def until(condition):
    deadline = time.monotonic() + DEADLINE_SECS
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def ask(port, value):
    url = f"http://{HOST}:{port}/v1/models/plus:predict"
    return requests.post(url, json={"instances": [value]}, timeout=DEADLINE_SECS)


def ask_grpc(port, value):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "plus"
    request.inputs["x"].CopyFrom(tf.make_tensor_proto([value]))
    with grpc.insecure_channel(f"{HOST}:{port}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        return list(stub.Predict(request, timeout=DEADLINE_SECS).outputs["y"].float_val)


@pytest.mark.usefixtures("obeys_hang_up")
@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_lets_running_requests_finish(models, held, monkeypatch, signal_number):
    printed = io.StringIO()
    monkeypatch.setattr("sys.stderr", printed)  # where notes go

    def client():
        try:
            found = until(lambda: re.search(r"gRPC at .*:(\d+)\n", printed.getvalue()))
            rest_port = int(re.search(r"REST at http://.*:(\d+)\n", printed.getvalue())[1])
            with concurrent.futures.ThreadPoolExecutor(2) as pool:
                over_rest = pool.submit(ask, rest_port, 1.5)
                over_grpc = pool.submit(ask_grpc, int(found[1]), 2.5)
                for _ in range(2):
                    assert held.running.acquire(timeout=DEADLINE_SECS)
                # As the kernel may do with a signal to the process: it need not wake the main one.
                signal.pthread_kill(threading.get_ident(), signal_number)
                until(lambda: is_refused(rest_port))
                held.go.set()
                return over_rest.result().json(), over_grpc.result()
        except BaseException:
            os.kill(os.getpid(), signal_number)
            raise

    handler = signal.getsignal(signal_number)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        answers = pool.submit(client)
        with printed_notes(str):
            serve(models, HOST, 0, 0)
        assert answers.result() == ({"predictions": [11.5]}, [12.5])
    assert signal.getsignal(signal_number) is handler
    said = printed.getvalue()
    assert said.index("plus version 7\n") < said.index("REST at http://127.0.0.1:")


def test_a_stopped_server_leaves_no_thread_that_wakes(models):
    """One of each server that a process had would else run forever."""

    def ours():
        names = ("grpc-clocks", "rest", "trimmer", "model-poller", "batch-0", "batch-1")
        return {each for each in threading.enumerate() if each.name in names}

    before = ours()
    server = ModelServer(models, HOST, 0, 0, batching=BatchingOptions(num_batch_threads=2))
    server.start()
    assert len(ours() - before) == 6
    assert ask(server.rest_port, 1.0).ok
    server.stop()
    until(lambda: ours() <= before)


def test_a_busy_server_answers_unavailable(models, held):
    server = ModelServer(models, HOST, 0, 0, Limits(max_accepted_requests=1))
    server.start()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, server.rest_port, 1.0)
        assert held.running.acquire(timeout=DEADLINE_SECS)
        second = ask(server.rest_port, 2.0)
        held.go.set()
        assert first.result().json() == {"predictions": [11.0]}
    third = ask(server.rest_port, 3.0)
    server.stop()
    message = "The server is busy: 1 predictions accepted; try again later"
    assert (second.status_code, second.json()) == (503, {"error": message})
    assert third.json() == {"predictions": [13.0]}


def test_a_run_over_the_time_limit_is_answered_with_a_timeout(models, held):
    server = ModelServer(models, HOST, 0, 0, Limits(rest_timeout_secs=0.01))
    server.start()
    answer = ask(server.rest_port, 1.0)
    held.go.set()
    server.stop()
    expected = {"error": "Timed out waiting for notification"}
    assert (answer.status_code, answer.json()) == (504, expected)


def test_a_body_that_never_ends_does_not_hold_a_place(models):
    limits = Limits(max_accepted_requests=1, transfer_timeout_secs=0.5, rest_timeout_secs=3600)
    server = ModelServer(models, HOST, 0, 0, limits)
    server.start()
    with socket.create_connection((HOST, server.rest_port), timeout=DEADLINE_SECS) as stalled:
        stalled.sendall(
            b"POST /v1/models/plus:predict HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Length: 99\r\n\r\n{"
        )
        assert stalled.recv(100).startswith(b"HTTP/1.1 504 ")
    answer = until(lambda: (found := ask(server.rest_port, 4.0)).ok and found)
    server.stop()
    assert answer.json() == {"predictions": [14.0]}


def test_an_internal_error_is_answered_without_details(models, monkeypatch):
    def broken(self, signature, inputs):
        raise KeyError("a secret")

    monkeypatch.setattr(Runner, "run", broken)
    server = ModelServer(models, HOST, 0, 0)
    server.start()
    answer = ask(server.rest_port, 1.0)
    with pytest.raises(grpc.RpcError) as caught:
        ask_grpc(server.grpc_port, 1.0)
    server.stop()
    assert (answer.status_code, answer.json()) == (500, {"error": "KeyError"})
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.INTERNAL, "KeyError")


def test_ports_in_use(models):
    with socket.create_server((HOST, 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(InputError, match=f"`rest_port`: cannot listen at {HOST}:{port}; is it"):
            ModelServer(models, HOST, port, 0)
        with pytest.raises(InputError, match=f"`grpc_port`: cannot listen at {HOST}:{port}; is it"):
            ModelServer(models, HOST, 0, port)


def test_two_servers_do_not_share_a_grpc_port(models, capfd):
    first = ModelServer(models, HOST, 0, 0)
    first.start()
    with pytest.raises(InputError, match="`grpc_port`: cannot listen at"):
        ModelServer(models, HOST, 0, first.grpc_port)
    first.stop()
    assert f":{first.grpc_port}" not in capfd.readouterr().err  # in gRPC's own lines


def test_port_taken_while_the_models_load(models):
    server = ModelServer(models, HOST, 0, 0)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind((HOST, server.rest_port))
        other.listen()
        with pytest.raises(InputError, match="`rest_port`: cannot listen"):
            server.start()


def test_host_of_another_machine(models):
    with pytest.raises(InputError, match=r"`rest_port`: cannot listen at 192\.0\.2\.1:0"):
        ModelServer(models, "192.0.2.1", 0, 0)


def test_nothing_listens_before_the_models_are_loaded(models):
    server = ModelServer(models, HOST, 0, 0)
    assert is_refused(server.rest_port)
    server.start()
    assert not is_refused(server.rest_port)
    server.stop()
    assert is_refused(server.rest_port)
    assert is_refused(server.grpc_port)


def test_answers_do_not_wait_for_acknowledgements():
    # asyncio sets TCP_NODELAY only on sockets that name their protocol.
    with _bound_socket(HOST, 0, "--rest-port") as bound:
        assert bound.proto == socket.IPPROTO_TCP


def test_addresses():
    assert joined("::1", 80) == "[::1]:80"
    assert joined("localhost", 80) == "localhost:80"
    for good in ("localhost:1", "[::1]:80", "10.0.0.1:65535", "a-b.example:8500"):
        assert checked_address("`server`", good) == good


@pytest.mark.parametrize(
    "bad",
    ["", "h", ":80", "h:", "h:0", "h:65536", "http://h:80", "a b:80", "[::1", "::1:80", "h:8x"],
)
def test_malformed_addresses(bad):
    with pytest.raises(InputError, match=r"`server` '.*': expected HOST:PORT, such as"):
        checked_address("`server`", bad)


def test_listening_everywhere_needs_a_flag():
    options = Serve(models=Path("models"))
    assert options.host == HOST
    with pytest.raises(InputError, match=r"`host`: expected an address; 0\.0\.0\.0 means all"):
        Serve(models=Path("models"), host="")  # which sockets take for all addresses
    with pytest.raises(InputError, match="--no-batching and --batching-config contradict"):
        Serve(models=Path("models"), batching=False, batching_config=Path("b"))


def test_single_rows_of_several_clients_become_one_run(models):
    batching = BatchingOptions(
        max_batch_size=8, batch_timeout_micros=DEADLINE_SECS * 10**6, allowed_batch_sizes=(4, 8)
    )
    server = ModelServer(models, HOST, 0, 0, batching=batching)
    server.start()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        rest = [pool.submit(ask, server.rest_port, 0.5 + number) for number in range(4)]
        over_grpc = [pool.submit(ask_grpc, server.grpc_port, 4.5 + number) for number in range(4)]
        answers = [future.result().json()["predictions"] for future in rest]
        answers += [future.result() for future in over_grpc]
    url = f"http://{HOST}:{server.rest_port}"
    body = {"instances": [1.0] * 9}
    over = requests.post(f"{url}/v1/models/plus:predict", json=body, timeout=DEADLINE_SECS)
    metrics = requests.get(f"{url}/monitoring/prometheus/metrics", timeout=DEADLINE_SECS).text
    server.stop()
    assert answers == [[10.5 + number] for number in range(8)]
    message = "Task size 9 is larger than maximum input batch size 8"
    assert (over.status_code, over.json()) == (400, {"error": message})
    assert ":tensorflow:serving:batching_session:processed_batch_size_count 1.0\n" in metrics
    assert ":tensorflow:serving:batching_session:processed_batch_size_sum 8.0\n" in metrics
    assert ":tensorflow:serving:batching_session:padding_size_sum 0.0\n" in metrics
