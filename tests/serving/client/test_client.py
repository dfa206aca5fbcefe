"""Both clients against the embedded server: one result, whatever the transport."""

import concurrent.futures
import contextlib
import functools
import http.server
import json
import socket
import threading
import time
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf.any_pb2 import Any
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from clozeline.main import main
from pipeline.errors import InputError
from serving.client import Client, GrpcClient, RequestError, ServerError
from serving.server.main import ModelServer
from tests.conftest import http_server


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
    with pytest.raises(ServerError, match=r"model nope is not ready after 0 s: Could not find any"):
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
def test_refused_requests(client, arguments, message):
    with pytest.raises(RequestError, match=message) as caught:
        client.predict(**{"model": "a b", "inputs": {"text": ["a"]}, **arguments})
    assert "\n" not in str(caught.value)


def test_inputs_that_are_not_a_tensor(client):
    with pytest.raises(InputError):
        client.predict("a b", {"text": ["a", ["b"]]})
    with pytest.raises(InputError):
        client.predict("a b", {"text": [object()]})


@pytest.mark.parametrize("kind", ["rest", "grpc"])
def test_nothing_listens(kind, refusing_port):
    where = f"127.0.0.1:{refusing_port}"
    client = Client(f"http://{where}") if kind == "rest" else GrpcClient(where)
    expected = f"nothing answers at {where}; start one with clozeline serve `models` DIR"
    with pytest.raises(ServerError) as caught:
        client.predict("m", {"text": ["a"]})
    assert str(caught.value) == expected
    with pytest.raises(ServerError, match="model m is not ready after 0 s: nothing answers at"):
        client.wait_until_ready("m", timeout_secs=0)


@pytest.mark.parametrize("kind", ["rest", "grpc"])
def test_a_timeout(kind):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = f"127.0.0.1:{silent.getsockname()[1]}"
        client = (
            Client(f"http://{where}", timeout_secs=0.2)
            if kind == "rest"
            else GrpcClient(where, timeout_secs=0.2)
        )
        with pytest.raises(ServerError, match=f"{where} did not answer within 0.2 s"):
            client.status("m")


class Scripted(http.server.BaseHTTPRequestHandler):
    """Sends the responses that the test put in `script`, one after another."""

    script: list

    def do_GET(self):
        self.answer(*self.script.pop(0))

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def answer(self, status, body, **headers):
        self.send_response(status)
        for name, value in ({"Content-Length": len(body)} | headers).items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def scripted():
    with http_server(Scripted) as other:
        yield Client(f"http://127.0.0.1:{other.server_port}")


READY = {"model_version_status": [{"version": "2", "state": "AVAILABLE"}]}


def test_a_busy_server_is_asked_again(scripted):
    busy = b'{"error": "later"}'
    Scripted.script = [(503, busy), (429, busy), (200, json.dumps(READY).encode())]
    assert scripted.status("m") == {2: "AVAILABLE"}
    Scripted.script = [(503, busy)] * 4
    with pytest.raises(ServerError, match=r"^later$"):
        scripted.status("m")
    assert Scripted.script == []


def test_a_servers_retry_after_header_is_ignored(scripted, monkeypatch):
    slept = []
    monkeypatch.setattr(
        "urllib3.util.retry.time", SimpleNamespace(sleep=slept.append, time=time.time)
    )
    monkeypatch.setattr(
        Scripted, "answer", functools.partialmethod(Scripted.answer, Retry_After=60 * 60 * 24)
    )
    Scripted.script = [(503, b"{}"), (503, b"{}"), (200, json.dumps(READY).encode())]
    assert scripted.status("m") == {2: "AVAILABLE"}
    assert 0 < sum(slept) < 10


def described(**dtypes):
    """Return metadata of a signature with one input and these outputs."""
    definition = {
        "inputs": {"text": {"dtype": "DT_STRING"}},
        "outputs": {name: {"dtype": dtype} for name, dtype in dtypes.items()},
    }
    signatures = {"serving_default": definition}
    return {"metadata": {"signature_def": {"signature_def": signatures}}}


NOT_STATUS = [
    *(None, [], 3, "text", {}, {"model_version_status": None}),
    {"model_version_status": [{"version": "2"}]},
    {"model_version_status": [{"version": "two", "state": "END"}]},
    {"model_version_status": [{"version": "2", "state": 5}]},
]
NOT_METADATA = [
    *(None, [], {}, {"metadata": None}, {"metadata": {"signature_def": []}}),
    {"metadata": {"signature_def": {"signature_def": [1]}}},
    *(described(y=None), described(y=7)),
]
ONE, TWO = described(y="DT_FLOAT"), described(y="DT_FLOAT", s="DT_STRING")
NOT_OUTPUTS = [
    *((ONE, answer) for answer in (None, [], 3, {}, {"outputs": [[1.0], [1.0, 2.0]]})),
    *((ONE, {"outputs": value}) for value in (["1.5"], [None], {"y": [1.0]}, [True], "text")),
    *((TWO, {"outputs": value}) for value in ([1.0], {"y": [1.0]}, None)),
    *((TWO, {"outputs": {"y": [1.0], "s": value}}) for value in ([5], [["a"], ["b", "c"]])),
    *((described(n="DT_INT8"), {"outputs": value}) for value in ([128], [1.5], [2**70])),
    *((described(b="DT_BOOL"), {"outputs": value}) for value in ([1], ["true"])),
    *((described(r_bytes="DT_STRING"), {"outputs": value}) for value in (["a"], [{"b64": "?"}])),
]
JSON_OF_OTHER_FORMS = [
    *([["status", answer]] for answer in NOT_STATUS),
    *([["signatures", answer]] for answer in NOT_METADATA),
    *([["predict", metadata], [answer]] for metadata, answer in NOT_OUTPUTS),
]


@pytest.mark.parametrize("said", JSON_OF_OTHER_FORMS, ids=lambda said: json.dumps(said)[:80])
def test_json_that_is_not_a_response(scripted, said):
    Scripted.script = [(200, json.dumps(one[-1]).encode()) for one in said]
    arguments = [{"text": ["a"]}] if said[0][0] == "predict" else []
    with pytest.raises(ServerError, match=r"malformed (status|metadata|outputs) in its") as caught:
        getattr(scripted, said[0][0])("m", *arguments)
    assert_of_the_server(caught.value)
    assert Scripted.script == []


def assert_of_the_server(error):
    """One line, and exit code 1."""
    assert not isinstance(error, InputError)
    assert str(error).isprintable()


BAD_BODIES = [b"", b"<html>", b'{"model_version_status": [', b"\xff\xfe", b"[" * 100_000]


@pytest.mark.parametrize("body", BAD_BODIES, ids=lambda body: repr(body)[:20])
@pytest.mark.parametrize("status", [200, 400, 404, 500])
def test_not_json(scripted, status, body):
    Scripted.script = [(status, body)]
    with pytest.raises(ServerError, match=f"HTTP {status} .*, not JSON; is it a model") as caught:
        scripted.status("m")
    assert_of_the_server(caught.value)


@pytest.mark.parametrize("body", [{}, [], None, {"message": "no"}, {"error": {"message": "no"}}])
def test_an_error_without_a_message(scripted, body):
    Scripted.script = [(404, json.dumps(body).encode())]
    with pytest.raises(ServerError, match="HTTP 404 Not Found, without an error mess") as caught:
        scripted.status("m")
    assert_of_the_server(caught.value)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, RequestError), (404, RequestError), (413, RequestError), (403, RequestError),
     (408, ServerError), (500, ServerError), (501, ServerError), (504, ServerError)],
)  # fmt: skip
def test_status_codes_become_classes_of_errors(scripted, status, kind):
    Scripted.script = [(status, b'{"error": "one\\ntwo \\u001b[2Jthree"}')]
    with pytest.raises(ServerError) as caught:
        scripted.status("m")
    assert type(caught.value) is kind
    assert str(caught.value) == "one two �[2Jthree"


# Messages of TensorFlow 2.21, from a graph with the assertion.
OTHER = "slice index 0 of dimension 1 out of bounds. [[{{node strided_slice}}]]"
ASSERTIONS = {
    "assertion failed: [x is above] [100]\n\t [[{{node Assert/Assert}}]]": "x is above 100",
    "assertion failed: [x differs] [Condition x == y did not hold element-wise:] [x (x:0) = ] "
    "[200 300] [y (a/y:0) = ] [100]\n\t [[{{node a/Assert/Assert}}]]": "x differs",
    "assertion failed: no brackets": "assertion failed: no brackets",
    OTHER: OTHER,
}


@pytest.mark.parametrize("sent", ASSERTIONS)
def test_the_words_of_an_assertion_are_shown_without_the_graph(scripted, sent):
    Scripted.script = [(400, json.dumps({"error": sent}).encode())]
    with pytest.raises(RequestError) as caught:
        scripted.status("m")
    assert str(caught.value) == ASSERTIONS[sent]


BROKEN_HTTP = {
    "nothing": b"",
    "no status line": b"\x00\x01garbage\r\n\r\n",
    "a body cut short": b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"a"',
    "no gzip": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd",
    "no chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc",
    "a circle": b"HTTP/1.1 302 Found\r\nLocation: /v1/models/m\r\nContent-Length: 0\r\n\r\n",
    "no URL": b"HTTP/1.1 302 Found\r\nLocation: http://[\r\nContent-Length: 0\r\n\r\n",
    "a long header": b"HTTP/1.1 200 OK\r\na: " + b"b" * 70_000 + b"\r\n\r\n",
}


@pytest.mark.parametrize("data", BROKEN_HTTP.values(), ids=BROKEN_HTTP)
def test_invalid_http(data):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer_all():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        connection.recv(1 << 16)
                        connection.sendall(data)

        threading.Thread(target=answer_all, daemon=True).start()
        client = Client(f"http://127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(ServerError, match=r"no valid HTTP answer \(.+\); is it a") as caught:
            client.status("m")
        server.shutdown(socket.SHUT_RDWR)
    assert_of_the_server(caught.value)


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8501", "ftp://127.0.0.1", "http://", "http://a..b:80", "http://[:::]:80",
            f"http://{'x' * 70}:80", "http://a:99999", "http://a:0", "http://a b", ""],
)  # fmt: skip
def test_invalid_server_urls(url):
    with pytest.raises(InputError, match="expected a URL such as http://127"):
        Client(url)


@pytest.mark.parametrize(
    ("script", "code", "message"),
    [
        ([(500, b'{"error": "out of memory"}')], 1, "out of memory"),
        ([(200, b"<html>")], 1, "not JSON"),
        ([(404, b'{"error": "Servable not found for request: Latest(m)"}')], 2, "--model m: not"),
        ([(400, b'{"error": "Unrecognized servable version label: x"}')], 2, "label: x"),
        ([(200, json.dumps(ONE).encode()), (200, b"{}")], 1, "malformed outputs"),
    ],
)
def test_exit_codes_of_query(scripted, capsys, script, code, message):
    Scripted.script = script
    where = ["--server", scripted._address, "--model", "m", "--signature", "serving_default"]
    assert main(["query", *where, "text"]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.parametrize(
    ("version", "status", "message", "advice"),
    [
        ("canary", 400, "Unrecognized servable version label: canary", "models.config"),
        ("3", 404, "Servable not found for request: Specific(m, 3)", "the version that of a"),
    ],
)
def test_query_names_a_version_that_is_not_served(
    scripted, capsys, version, status, message, advice
):
    Scripted.script = [(status, json.dumps({"error": message}).encode())]
    where = ["--server", scripted._address, "--model", "m", "--version", version]
    assert main(["query", *where, "text"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--model m --version {version}: not served at {scripted._address} ({message})" in line
    assert advice in line


@pytest.mark.parametrize("flags", [[], ["--grpc"]])
def test_exit_code_of_query_where_nothing_answers(capsys, flags, refusing_port):
    where = ["--server", f"127.0.0.1:{refusing_port}", "--model", "m"]
    assert main(["query", *where, *flags, "text"]) == 1
    assert "nothing answers at" in capsys.readouterr().err


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
def test_safe_grpc_calls_are_retried(codes, asked):
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


class Malformed(
    prediction_service_pb2_grpc.PredictionServiceServicer,
    model_service_pb2_grpc.ModelServiceServicer,
):
    """Sends the responses of the test, whatever the request."""

    def __init__(self, metadata=None, outputs=None, state=30):
        self.metadata, self.outputs, self.state = metadata, outputs, state

    def GetModelStatus(self, request, context):  # noqa: N802
        response = get_model_status_pb2.GetModelStatusResponse()
        response.model_version_status.add(version=3, state=self.state)
        return response

    def GetModelMetadata(self, request, context):  # noqa: N802
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        if self.metadata is not None:
            response.metadata["signature_def"].CopyFrom(self.metadata)
        return response

    def Predict(self, request, context):  # noqa: N802
        response = predict_pb2.PredictResponse()
        for name, tensor in (self.outputs or {}).items():
            response.outputs[name].CopyFrom(tensor)
        return response


def packed_signature(dtype):
    """Return metadata of a signature with an output `y`."""
    known, metadata = get_model_metadata_pb2.SignatureDefMap(), Any()
    known.signature_def["serving_default"].outputs["y"].dtype = dtype
    metadata.Pack(known)
    return metadata


FLOATS = tf.make_tensor_proto([1.0, 2.0])
CUT_SHORT = tf.make_tensor_proto(np.ones([4], np.float32))
CUT_SHORT.tensor_content = CUT_SHORT.tensor_content[:-1]
CUT_METADATA = packed_signature(1)
CUT_METADATA.value = CUT_METADATA.value[:-1]


@pytest.mark.parametrize(
    ("method", "answers"),
    [
        ("status", {"state": 77}),
        ("signatures", {}),
        ("signatures", {"metadata": Any()}),
        ("signatures", {"metadata": CUT_METADATA}),
        ("signatures", {"metadata": packed_signature(999)}),
        ("predict", {"metadata": packed_signature(1)}),
        ("predict", {"metadata": packed_signature(1), "outputs": {"z": FLOATS}}),
        ("predict", {"metadata": packed_signature(7), "outputs": {"y": FLOATS}}),
        ("predict", {"metadata": packed_signature(1), "outputs": {"y": CUT_SHORT}}),
    ],
)
def test_malformed_responses(method, answers):
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(1))
    malformed = Malformed(**answers)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(malformed, server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(malformed, server)
    client = GrpcClient(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
    server.start()
    arguments = [{"text": ["a"]}] if method == "predict" else []
    with pytest.raises(ServerError, match=r"malformed (status|metadata|outputs) in its") as caught:
        getattr(client, method)("m", *arguments)
    server.stop(None)
    assert_of_the_server(caught.value)
