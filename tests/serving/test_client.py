"""Both clients against the embedded server: one result, whatever the transport."""

import concurrent.futures
import http.server
import json
import socket
import threading

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import get_model_status_pb2, model_service_pb2_grpc

from pipeline.errors import InputError
from serving.client import Client, GrpcClient, ServerError
from serving.server.main import ModelServer


class Many(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
    def one(self, text):
        return {"pooled": tf.stack([tf.cast(tf.strings.length(text), tf.float32) * 0.1] * 2, 1)}

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 2], tf.float32, "f"),
            tf.TensorSpec([None], tf.int64, "i"),
            tf.TensorSpec([None], tf.string, "s"),
        ]
    )
    def many(self, f, i, s):
        return {
            "sum": tf.reduce_sum(f, 1) + tf.cast(i, tf.float32),
            "double": tf.cast(f, tf.float64) * 0.7,
            "positive": i > 0,
            "label": s + "é",
            "raw_bytes": tf.expand_dims(s, 1) + b"\xff",
            "count": tf.size(i),
        }


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    base = tmp_path_factory.mktemp("models")
    module = Many()
    signatures = {"serving_default": module.one, "many": module.many}
    tf.saved_model.save(module, str(base / "a b" / "6"), signatures=signatures)
    config = base / "models.config"
    config.write_text(
        f'model_config_list {{ config {{ name: "a b" base_path: "{base / "a b"}" '
        'version_labels { key: "canary" value: 6 } } }'
    )
    started = ModelServer(config, "127.0.0.1", 0, 0)
    started.start()
    yield started
    started.stop()


@pytest.fixture(params=["rest", "grpc"])
def client(request, server):
    if request.param == "rest":
        return Client(f"http://127.0.0.1:{server.rest_port}")
    return GrpcClient(f"127.0.0.1:{server.grpc_port}")


def test_one_output(client):
    outputs = client.predict("a b", {"text": ["one", "three", b"\xff\xfe"]})
    assert set(outputs) == {"pooled"}
    assert outputs["pooled"].dtype == np.float32
    tenths = np.array([3, 5, 2], dtype=np.float32) * np.float32(0.1)
    np.testing.assert_array_equal(outputs["pooled"], np.stack([tenths, tenths], axis=1))


def test_many_outputs_of_many_kinds(client):
    inputs = {"f": [[1, 2.5], [3, 4]], "i": [-5, 2**31], "s": ["ü", "v"]}
    outputs = client.predict("a b", inputs, signature="many", version=6)
    assert list(outputs) == ["count", "double", "label", "positive", "raw_bytes", "sum"]
    assert outputs["sum"].tolist() == [-1.5, float(np.float32(2**31 + 7))]
    np.testing.assert_array_equal(outputs["double"], np.array([[1, 2.5], [3, 4]]) * 0.7)
    assert outputs["positive"].tolist() == [False, True]
    assert outputs["label"].tolist() == ["üé", "vé"]
    assert outputs["raw_bytes"].tolist() == [[b"\xc3\xbc\xff"], [b"v\xff"]]
    assert outputs["count"].shape == ()
    assert outputs["count"] == 2
    kinds = {name: array.dtype for name, array in outputs.items()}
    assert kinds == {
        "count": np.int32,
        "double": np.float64,
        "label": np.object_,
        "positive": np.bool_,
        "raw_bytes": np.object_,
        "sum": np.float32,
    }


def test_a_version_by_its_label(client):
    outputs = client.predict("a b", {"text": ["one"]}, version="canary")
    assert outputs["pooled"].shape == (1, 2)
    with pytest.raises(ServerError, match="Unrecognized servable version label: stable"):
        client.predict("a b", {"text": ["one"]}, version="stable")


def test_signatures(client):
    known = client.signatures("a b")
    assert sorted(known) == ["many", "serving_default"]
    assert known["many"].inputs == {"f": "DT_FLOAT", "i": "DT_INT64", "s": "DT_STRING"}
    assert known["many"].outputs["raw_bytes"] == "DT_STRING"


def test_batches(client, monkeypatch):
    asked = []
    predict = client.predict

    def counting(model, inputs, *which):
        asked.append(len(inputs["text"]))
        return predict(model, inputs, *which)

    monkeypatch.setattr(client, "predict", counting)
    texts = ["a" * length for length in range(1, 8)]
    batches = list(client.predict_batches("a b", {"text": texts}, 3, version=6))
    assert asked == [3, 3, 1]
    pooled = np.concatenate([batch["pooled"] for batch in batches])
    expected = client.predict("a b", {"text": texts})["pooled"]
    np.testing.assert_array_equal(pooled, expected)
    assert list(client.predict_batches("a b", {"text": []}, 3)) == []


def test_batches_of_unequal_inputs(client):
    for inputs, size in (({"f": [1], "i": [1, 2]}, 3), ({"f": [1]}, 0)):
        with pytest.raises(
            InputError, match="expected equally many rows in each, and batches of 1"
        ):
            next(client.predict_batches("a b", inputs, size))


def test_arrays_are_inputs_too(client):
    inputs = {"f": np.ones([1, 2]), "i": np.array([3]), "s": np.array(["w"], dtype=object)}
    assert client.predict("a b", inputs, signature="many")["sum"].tolist() == [5.0]


def test_status_and_waiting(client):
    assert client.status("a b") == {6: "AVAILABLE"}
    assert client.wait_until_ready("a b", timeout_secs=30) == 6
    with pytest.raises(InputError, match=r"model nope is not ready after 0 s: Could not find any"):
        client.wait_until_ready("nope", timeout_secs=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "nope"}, r"Servable not found for request: Latest\(nope\)"),
        ({"version": 8}, r"Servable not found for request: Specific\(a b, 8\)"),
        ({"signature": "no"}, r"model a b has no signature 'no', only .*many, serving_default"),
        ({"inputs": {"txt": ["a"]}}, "text"),
    ],
)
def test_server_error(client, arguments, message):
    with pytest.raises(ServerError, match=message) as caught:
        client.predict(**{"model": "a b", "inputs": {"text": ["a"]}, **arguments})
    assert "\n" not in str(caught.value)


def test_inputs_that_make_no_tensor(client):
    with pytest.raises(InputError):
        client.predict("a b", {"text": ["a", ["b"]]})
    with pytest.raises(InputError):
        client.predict("a b", {"text": [object()]})


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as bound:
        return bound.getsockname()[1]


@pytest.mark.parametrize("kind", ["rest", "grpc"])
def test_nothing_answers(kind):
    where = f"127.0.0.1:{free_port()}"
    client = Client(f"http://{where}") if kind == "rest" else GrpcClient(where)
    expected = f"nothing answers at {where}; start one with clozeline serve --models DIR"
    with pytest.raises(InputError) as caught:
        client.predict("m", {"text": ["a"]})
    assert str(caught.value) == expected
    with pytest.raises(InputError, match="model m is not ready after 0 s: nothing answers at"):
        client.wait_until_ready("m", timeout_secs=0)


@pytest.mark.parametrize("kind", ["rest", "grpc"])
def test_no_answer_in_time(kind):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = f"127.0.0.1:{silent.getsockname()[1]}"
        client = (
            Client(f"http://{where}", timeout_secs=0.2)
            if kind == "rest"
            else GrpcClient(where, timeout_secs=0.2)
        )
        with pytest.raises(InputError, match=f"{where} did not answer within 0.2 s"):
            client.status("m")


class Scripted(http.server.BaseHTTPRequestHandler):
    """Answers with what the test has put in `script`, one after another."""

    script: list

    def do_GET(self):
        status, body = self.script.pop(0)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def scripted():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Scripted) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        yield Client(f"http://127.0.0.1:{other.server_port}")
        other.shutdown()


READY = {"model_version_status": [{"version": "2", "state": "AVAILABLE"}]}


def test_busy_is_tried_again(scripted):
    busy = b'{"error": "later"}'
    Scripted.script = [(503, busy), (429, busy), (200, json.dumps(READY).encode())]
    assert scripted.status("m") == {2: "AVAILABLE"}
    Scripted.script = [(503, busy)] * 4
    with pytest.raises(ServerError, match=r"^later$"):
        scripted.status("m")
    assert Scripted.script == []


def test_not_a_model_server(scripted):
    Scripted.script = [(200, b"<html>")]
    with pytest.raises(ServerError, match="HTTP 200 OK, not JSON; is it a model server"):
        scripted.status("m")


class Busy(model_service_pb2_grpc.ModelServiceServicer):
    """Refuses with the next of `codes`, then tells a status."""

    def __init__(self, *codes):
        self.codes, self.asked = list(codes), 0

    def GetModelStatus(self, request, context):  # noqa: N802
        self.asked += 1
        if self.codes:
            context.abort(self.codes.pop(0), "no")
        response = get_model_status_pb2.GetModelStatusResponse()
        response.model_version_status.add(version=3, state=30)
        return response


@pytest.mark.parametrize(
    ("codes", "asked"),
    [
        ([grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED], 3),
        ([grpc.StatusCode.UNAVAILABLE] * 4, 4),
        ([grpc.StatusCode.INTERNAL], 1),
    ],
)
def test_what_is_safe_is_tried_again_over_grpc(codes, asked):
    busy = Busy(*codes)
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(1))
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(busy, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    client = GrpcClient(f"127.0.0.1:{port}")
    if len(codes) < asked:
        assert client.status("m") == {3: "AVAILABLE"}
    else:
        with pytest.raises(ServerError, match=r"^no$"):
            client.status("m")
    server.stop(None)
    assert busy.asked == asked
