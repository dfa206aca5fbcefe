"""The whole server over real sockets, against recorded responses of TensorFlow Serving."""

import asyncio
import concurrent.futures
import gzip
import json
import math

import grpc
import pytest
import requests
import tensorflow as tf
from starlette.requests import Request
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving.server.limits import Limits
from serving.server.main import ModelServer
from serving.server.rest import _decoded

BODY_LIMIT = 10_000


def spec(shape, dtype, name):
    return tf.TensorSpec(shape, dtype, name)


class Text(tf.Module):
    """A string in, which is what a scalar must not reach; bytes out unchanged."""

    @tf.function(input_signature=[spec([None], tf.string, "text")])
    def echo(self, text):
        return {"pooled": tf.strings.join([text, "?"])}

    @tf.function(input_signature=[spec([None], tf.float32, "x")])
    def below_hundred(self, x):
        tf.debugging.assert_less(x, 100.0, message="too big")
        return {"y": tf.identity(x)}


@pytest.fixture(scope="module")
def server(tmp_path_factory, save_types):
    base = tmp_path_factory.mktemp("models")
    save_types(base / "types" / "1")
    text = Text()
    signatures = {"serving_default": text.echo, "fail": text.below_hundred}
    tf.saved_model.save(text, str(base / "m" / "1"), signatures=signatures)
    tf.saved_model.save(text, str(base / "m" / "3"), signatures=signatures)
    started = ModelServer(base, "127.0.0.1", 0, 0, Limits(max_message_bytes=BODY_LIMIT))
    started.start()
    yield started
    started.stop()


@pytest.fixture(scope="module")
def rest(server):
    with requests.Session() as session:

        def ask(method, path, body=None, **options):
            url = f"http://127.0.0.1:{server.rest_port}{path}"
            data = body.encode() if isinstance(body, str) else body
            return session.request(method, url, data=data, timeout=30, **options)

        yield ask


@pytest.fixture(scope="module")
def stubs(server):
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        yield (
            prediction_service_pb2_grpc.PredictionServiceStub(channel),
            model_service_pb2_grpc.ModelServiceStub(channel),
        )


def failed(where, why):
    """A row that does not convert."""
    return f"Failed to process element: {where} of 'instances' list. Error: INVALID_ARGUMENT: {why}"


M, T = "/v1/models/m", "/v1/models/types"
RUN = M + ":predict"
TYPES = T + ":predict"
FIELD = {  # signature "multi", one row
    "f": "[1,2]",
    "i": "3",
    "s": '"a"',
}


def multi(**changes):
    row = {**FIELD, **changes}
    members = ",".join(f'"{name}":{value}' for name, value in row.items() if value)
    return f'{{"signature_name":"multi","instances":[{{{members}}}]}}'


ERRORS = [
    # models, versions, labels, signatures
    ("GET", "/v1/models/nope", None, 404, "Could not find any versions of model nope"),
    (
        "GET",
        "/v1/models/nope/metadata",
        None,
        404,
        "Servable not found for request: Latest(nope)",
    ),
    (
        "POST",
        "/v1/models/nope:predict",
        '{"instances":["a"]}',
        404,
        "Servable not found for request: Latest(nope)",
    ),
    ("GET", M + "/versions/9", None, 404, "Could not find version 9 of model m"),
    (
        "GET",
        M + "/versions/9/metadata",
        None,
        404,
        "Servable not found for request: Specific(m, 9)",
    ),
    (
        "POST",
        M + "/versions/1:predict",
        '{"instances":["a"]}',
        404,
        "Servable not found for request: Specific(m, 1)",
    ),
    (
        "POST",
        M + "/versions/abc:predict",
        '{"instances":["a"]}',
        400,
        "Malformed request: POST /v1/models/m/versions/abc:predict",
    ),
    (
        "POST",
        M + "/labels/stable:predict",
        '{"instances":["a"]}',
        400,
        "Unrecognized servable version label: stable",
    ),
    (
        "POST",
        M + "/versions/1/labels/stable:predict",
        '{"instances":["a"]}',
        400,
        "Malformed request: POST /v1/models/m/versions/1/labels/stable:predict",
    ),
    (
        "POST",
        RUN,
        '{"signature_name":"nope","instances":["a"]}',
        400,
        'Serving signature name: "nope" not found in signature def',
    ),
    (
        "POST",
        RUN,
        '{"signature_name":3,"instances":["a"]}',
        400,
        'JSON Value: {\n    "signature_name": 3,\n    "instances": ["a"]\n} not formatted '
        "correctly. 'signature_name' key must be a string value.",
    ),
    # documents
    ("POST", RUN, "", 400, "JSON Parse error: The document is empty"),
    (
        "POST",
        RUN,
        '{"instances":["a"',
        400,
        "JSON Parse error: Expecting ',' delimiter at offset: 17",
    ),
    (
        "POST",
        RUN,
        '{"instances":["\\ud800"]}',
        400,
        "JSON Parse error: The surrogate pair in string is invalid. at offset: 15",
    ),
    ("POST", RUN, '["a"]', 400, 'JSON Value: ["a"] Is not object'),
    ("POST", RUN, "3", 400, "JSON Value: 3 Is not object"),
    ("POST", RUN, "{}", 400, "Missing 'inputs' or 'instances' key"),
    ("POST", RUN, '{"texts":["a"]}', 400, "Missing 'inputs' or 'instances' key"),
    (
        "POST",
        RUN,
        '{"instances":["a"],"inputs":["a"]}',
        400,
        'JSON Value: {\n    "instances": ["a"],\n    "inputs": ["a"]\n} Not formatted correctly '
        "expecting only one of 'inputs' or 'instances' keys to exist ",
    ),
    (
        "POST",
        RUN,
        '{"instances":{"text":"a"}}',
        400,
        'JSON Value: {\n    "instances": {\n        "text": "a"\n    }\n} '
        "Expecting 'instances' to be an list/array",
    ),
    (
        "POST",
        RUN,
        '{"instances":[]}',
        400,
        "JSON Value: {\n    \"instances\": []\n} No values in 'instances' array",
    ),
    # inputs by name
    (
        "POST",
        RUN,
        '{"inputs":null}',
        400,
        "JSON Value: null Type: Null is not of expected type: string",
    ),
    (
        "POST",
        RUN,
        '{"inputs":{"txt":["a"]}}',
        400,
        "Missing named input: text in 'inputs' object.",
    ),
    (
        "POST",
        RUN,
        '{"instances":[{"txt":"a"}]}',
        400,
        failed("0 key: txt", "JSON object: does not have named input: txt"),
    ),
    (
        "POST",
        RUN,
        '{"instances":[{"text":"a","x":1}]}',
        400,
        failed("0 key: x", "JSON object: does not have named input: x"),
    ),
    (
        "POST",
        RUN,
        '{"instances":[{}]}',
        400,
        "Failed to process element: 0 of 'instances' list. JSON object: {} keys must be equal to: "
        "text",
    ),
    (
        "POST",
        TYPES,
        multi(s=None),
        400,
        "Failed to process element: 0 of 'instances' list. JSON object: {\n    \"f\": [1, 2],\n"
        '    "i": 3\n} keys must be equal to: f,i,s',
    ),
    (
        "POST",
        TYPES,
        '{"signature_name":"multi","instances":[1,2]}',
        400,
        "instances is a plain list, but expecting list of objects as multiple input tensors "
        "required as per tensorinfo_map",
    ),
    (
        "POST",
        TYPES,
        '{"signature_name":"multi","inputs":[1,2]}',
        400,
        "inputs is a plain value/list, but expecting an object as multiple input tensors required "
        "as per tensorinfo_map",
    ),
    (
        "POST",
        RUN,
        '{"instances":["a",{"text":"b"}]}',
        400,
        "Expecting value/list but got object at item 1 of input list",
    ),
    (
        "POST",
        RUN,
        '{"instances":[{"text":"b"},"a"]}',
        400,
        "Expecting object but got list at item 1 of input list",
    ),
    # kinds of values
    (
        "POST",
        RUN,
        '{"instances":["a",1]}',
        400,
        failed("1", "JSON Value: 1 Type: Number is not of expected type: string"),
    ),
    (
        "POST",
        RUN,
        '{"instances":[true]}',
        400,
        failed("0", "JSON Value: true Type: True is not of expected type: string"),
    ),
    (
        "POST",
        RUN,
        '{"inputs":[1,2]}',
        400,
        "JSON Value: 1 Type: Number is not of expected type: string",
    ),
    (
        "POST",
        TYPES,
        '{"instances":["1"]}',
        400,
        failed("0", 'JSON Value: "1" Type: String is not of expected type: float'),
    ),
    (
        "POST",
        TYPES,
        '{"instances":[{"b64":"AA=="}]}',
        400,
        failed(
            "0",
            'JSON Value: {\n    "b64": "AA=="\n} Type: Object is not of expected type: float',
        ),
    ),
    (
        "POST",
        TYPES,
        multi(i="3.0"),
        400,
        failed("0 key: i", "JSON Value: 3.0 Type: Number is not of expected type: int32"),
    ),
    (
        "POST",
        TYPES,
        multi(i="3000000000"),
        400,
        failed("0 key: i", "JSON Value: 3000000000 Type: Number is not of expected type: int32"),
    ),
    (
        "POST",
        TYPES,
        '{"signature_name":"small","inputs":{"h":[1.5],"u":[255],"b":[true]}}',
        501,
        "Conversion of JSON Value: 1.5 to type: half",
    ),
    (
        "POST",
        RUN,
        '{"instances":[{"b64":"@@@"}]}',
        400,
        failed("0", "Unable to base64 decode"),
    ),
    (
        "POST",
        RUN,
        '{"instances":[{"b64":"YQ==","x":1}]}',
        400,
        failed("0 key: b64", "JSON object: does not have named input: b64"),
    ),
    (
        "POST",
        RUN,
        '{"instances":[{"text":{"x":"YQ=="}}]}',
        400,
        failed(
            "0 key: text",
            'JSON Value: {\n    "x": "YQ=="\n} not formatted correctly for base64 data',
        ),
    ),
    # shapes
    (
        "POST",
        RUN,
        '{"instances":["a",["b","c"]]}',
        400,
        failed("1", "Expecting tensor size: 1 but got: 2"),
    ),
    (
        "POST",
        RUN,
        '{"inputs":["a",["b"]]}',
        400,
        "Encountered list at unexpected level: 1 expected < 1",
    ),
    (
        "POST",
        RUN,
        '{"inputs":[["a"],["b","c"]]}',
        400,
        "Encountered list at unexpected size: 2 at level: 1 expected size: 1",
    ),
    (
        "POST",
        TYPES,
        '{"signature_name":"mixed","instances":[{"x":1,"k":3}]}',
        400,
        "Tensor name: n has no shape information ",
    ),
    # methods and paths
    ("GET", RUN, None, 400, "Malformed request: GET /v1/models/m:predict"),
    ("POST", M, "{}", 400, "Malformed request: POST /v1/models/m"),
    ("POST", M + "/metadata", "{}", 400, "Malformed request: POST /v1/models/m/metadata"),
    ("PUT", RUN, "{}", 400, "Malformed request: PUT /v1/models/m:predict"),
    ("DELETE", M, None, 400, "Malformed request: DELETE /v1/models/m"),
    ("PATCH", RUN, "{}", 400, "Malformed request: PATCH /v1/models/m:predict"),
    ("POST", M + ":explain", "{}", 400, "Malformed request: POST /v1/models/m:explain"),
    ("POST", M + ":PREDICT", "{}", 400, "Malformed request: POST /v1/models/m:PREDICT"),
    ("GET", "/v1/models", None, 400, "Missing model name in request."),
    ("GET", "/v1/models/", None, 400, "Malformed request: GET /v1/models/"),
    ("GET", "/v1/models/metadata", None, 404, "Could not find any versions of model metadata"),
    ("GET", "/v1/foo", None, 400, "Malformed request: GET /v1/foo"),
    ("GET", M + "/", None, 400, "Malformed request: GET /v1/models/m/"),
    ("GET", M + "?x=1", None, 404, "Could not find any versions of model m?x=1"),
    # not as recorded: the graph is never given a rank that is too low
    (
        "POST",
        RUN,
        '{"inputs":"a"}',
        400,
        "Input text: expected 1 dimensions as in signature serving_default, received shape []",
    ),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "message"), ERRORS)
def test_rest_error(rest, method, path, body, status, message):
    answer = rest(method, path, body)
    assert answer.headers["content-type"] == "application/json"
    assert (answer.status_code, answer.json()) == (status, {"error": message})


def test_failure_in_the_graph_is_told_with_its_node(rest):
    answer = rest("POST", RUN, '{"signature_name":"fail","instances":[200]}')
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(
        "assertion failed: [too big] [Condition x < y did not hold element-wise:] [x (x:0) = ] "
        "[200] [y (assert_less/y:0) = ] [100]\n\t [[{{node "
    )
    assert answer.json()["error"].endswith("Assert}}]]")
    assert rest("POST", RUN, '{"signature_name":"fail","instances":[20]}').status_code == 200


MULTI = {
    "fsum": [3.0, 0.3],
    "s": ["a!", "b!"],
    "i64": [30000000000, -30000000000],
    "raw_bytes": [{"b64": "YcO/"}, {"b64": "YsO/"}],
    "b": [True, False],
    "d": [
        [0.33333333333333331, 0.66666666666666663],
        [0.033333333830038704, 0.066666667660077408],
    ],
    "mat": [
        [[1.0, 2.0], [2.0, 4.0]],
        [[0.0100000007, 0.0200000014], [0.0200000014, 0.0400000028]],
    ],
}
MULTI_ROWS = [{name: column[row] for name, column in MULTI.items()} for row in (0, 1)]
ANSWERS = [
    (RUN, '{"instances":["I","hello"]}', {"predictions": ["I?", "hello?"]}),
    (RUN, '{"instances":[{"text":"I"},{"text":"me"}]}', {"predictions": ["I?", "me?"]}),
    (RUN, '{"instances":[{"b64":"SSBsb3Zl"}]}', {"predictions": ["I love?"]}),
    (RUN, '{"instances":[{"text":{"b64":"SSBsb3Zl"}}]}', {"predictions": ["I love?"]}),
    (RUN, '{"inputs":["I","hello"]}', {"outputs": ["I?", "hello?"]}),
    (RUN, '{"inputs":{"text":["I"],"x":[1]}}', {"outputs": ["I?"]}),
    (RUN, '{"inputs":[]}', {"outputs": []}),
    (RUN, '{"inputs":{"text":[]}}', {"outputs": []}),
    (RUN, '{"instances":[["a"],["b"]]}', {"predictions": [["a?"], ["b?"]]}),
    (RUN, '{"foo":1,"instances":["hello"]}', {"predictions": ["hello?"]}),
    (RUN, '{"instances":["hello"]} xyz', {"predictions": ["hello?"]}),
    (RUN, '{"signature_name":"","instances":["hello"]}', {"predictions": ["hello?"]}),
    (RUN, '{"instances":["héllo 中文"]}', {"predictions": ["héllo 中文?"]}),
    (RUN, '{"instances":["a\\u0000b",""]}', {"predictions": ["a\0b?", "?"]}),
    (RUN, '{"instances":["\\ud83d\\ude00 \\\\ud800"]}', {"predictions": ["😀 \\ud800?"]}),
    (M + "/versions/3:predict", '{"instances":["v"]}', {"predictions": ["v?"]}),
    ("/V1/MODELS/m:predict", '{"instances":["v"]}', {"predictions": ["v?"]}),
    ("/v1/models/%6d:predict", '{"instances":["%6d"]}', {"predictions": ["%6d?"]}),
    (TYPES, '{"instances":[1,2.5,-3e-7]}', {"predictions": [2.0, 5.0, -6e-07]}),
    (TYPES, '{"inputs":[1,2.5,-3e-7]}', {"outputs": [2.0, 5.0, -6e-07]}),
    (TYPES, '{"signature_name":"scalar","instances":[1]}', {"predictions": [2.0]}),
    (TYPES, '{"signature_name":"scalar","inputs":1}', {"outputs": 2.0}),
    (
        TYPES,
        '{"signature_name":"mixed","inputs":{"x":[1,2],"k":3}}',
        {"outputs": {"y": [3.0, 6.0], "n": 2}},
    ),
    (
        TYPES,
        '{"signature_name":"multi","instances":[{"f":[1,2],"i":3,"s":"a"},'
        '{"f":[0.1,0.2],"i":-3,"s":"b"}]}',
        {"predictions": MULTI_ROWS},
    ),
    (
        TYPES,
        '{"signature_name":"multi","inputs":{"f":[[1,2],[0.1,0.2]],"i":[3,-3],"s":["a","b"]}}',
        {"outputs": MULTI},
    ),
    (TYPES, multi(i='3,"i":4'), {"predictions": MULTI_ROWS[:1]}),  # of two keys the first counts
]


@pytest.mark.parametrize(("path", "body", "expected"), ANSWERS)
def test_rest_predict(rest, path, body, expected):
    answer = rest("POST", path, body)
    assert answer.headers["content-type"] == "application/json"
    assert (answer.status_code, answer.json()) == (200, expected)


def test_numbers_are_written_as_recorded(rest):
    body = '{"instances":[0.05,0.1,1000000,0.5e7,1e20,0.33333334,16777217,0]}'
    assert rest("POST", TYPES, body).text == (
        '{\n    "predictions": [0.1, 0.2, 2e+06, 1e+07, 2e+20, 0.666666687, 33554432.0, 0.0\n'
        "    ]\n}"
    )
    body = '{"signature_name":"special","instances":[0,-1,1,NaN,Infinity]}'
    assert rest("POST", TYPES, body).text == (
        '{\n    "predictions": [-Infinity, NaN, 0.0, NaN, Infinity\n    ]\n}'
    )


def test_invalid_utf_8_passes_through(rest):
    answer = rest("POST", RUN, b'{"instances":["\xff\xfe"]}')
    assert answer.status_code == 200
    assert b'"\xff\xfe?"' in answer.content


def test_unequal_batches(rest):
    body = '{"signature_name":"multi","instances":[{"f":[1,2,3],"i":3,"s":"a"}]}'
    (row,) = rest("POST", TYPES, body).json()["predictions"]
    assert row["mat"] == [[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [3.0, 6.0, 9.0]]
    body = '{"signature_name":"multi","inputs":{"f":[[1,2],[3,4]],"i":[3],"s":["a"]}}'
    outputs = rest("POST", TYPES, body).json()["outputs"]
    assert (outputs["fsum"], outputs["s"]) == ([3.0, 7.0], ["a!"])


def test_gzip_and_content_types(rest):
    body = b'{"instances":["zip"]}'
    packed = rest("POST", RUN, gzip.compress(body), headers={"Content-Encoding": "gzip"})
    assert packed.json() == {"predictions": ["zip?"]}
    broken = rest("POST", RUN, body, headers={"Content-Encoding": "gzip"})
    assert (broken.status_code, broken.json()) == (
        400,
        {"error": "JSON Parse error: The document is empty"},
    )
    form = rest("POST", RUN, body, headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert form.status_code == 200
    chunked = rest("POST", RUN, iter([body[:9], body[9:]]))
    assert chunked.json() == {"predictions": ["zip?"]}


def test_gzip_that_is_cut_off_or_damaged_behind_its_document_is_refused(rest):
    zipped = {"Content-Encoding": "gzip"}
    body = b'{"instances":["zip"]}'
    packed = gzip.compress(body + b" " * 5000, compresslevel=0)
    for cut in (1, 8, 9, 1000):
        answer = rest("POST", RUN, packed[:-cut], headers=zipped)
        expected = {"error": "Request body is gzip that is cut off"}
        assert (answer.status_code, answer.json()) == (400, expected)
    wrong_checksum = packed[:-8] + b"\x00" * 8
    answer = rest("POST", RUN, wrong_checksum, headers=zipped)
    assert (answer.status_code, "error" in answer.json()) == (400, True)
    in_parts = iter([packed[:100], packed[100:-8], b"\x00" * 8])
    answer = rest("POST", RUN, in_parts, headers=zipped)
    assert (answer.status_code, "error" in answer.json()) == (400, True)
    assert rest("POST", RUN, packed[:5], headers=zipped).status_code == 400
    assert rest("POST", RUN, packed, headers=zipped).status_code == 200


@pytest.mark.parametrize("coding", ["br", "deflate", "zstd", "gzip, gzip", "compress"])
def test_other_compression_is_refused(rest, coding):
    answer = rest("POST", RUN, b'{"instances":["a"]}', headers={"Content-Encoding": coding})
    message = f"Content-Encoding '{coding}': expected gzip, or none"
    assert (answer.status_code, answer.json()) == (415, {"error": message})


@pytest.mark.parametrize("coding", ["", "identity", "GZIP", "x-gzip"])
def test_known_compression_is_undone(rest, coding):
    body = b'{"instances":["a"]}'
    packed = gzip.compress(body) if "gzip" in coding.lower() else body
    answer = rest("POST", RUN, packed, headers={"Content-Encoding": coding})
    assert answer.json() == {"predictions": ["a?"]}


def test_body_over_the_limit_is_refused_in_every_disguise(rest):
    body = json.dumps({"instances": ["a" * BODY_LIMIT]}).encode()
    zipped = {"Content-Encoding": "gzip"}
    answers = [
        rest("POST", RUN, body),
        rest("POST", RUN, iter([body[:5000], body[5000:]])),
        rest("POST", RUN, gzip.compress(body), headers=zipped),
    ]
    expected = {"error": "Request body is larger than 10000 bytes"}
    assert [(answer.status_code, answer.json()) for answer in answers] == [(413, expected)] * 3


def test_a_gzip_bomb_is_decompressed_only_up_to_the_limit():
    packed = gzip.compress(bytes(1_000_000))

    async def receive():
        return {"type": "http.request", "body": packed, "more_body": False}

    async def sizes():
        scope = {"type": "http", "headers": [(b"content-encoding", b"gzip")]}
        return [len(chunk) async for chunk in _decoded(Request(scope, receive), limit=5000)]

    assert max(asyncio.run(sizes())) == 5001


def test_head_options_and_paths_outside(rest):
    assert rest("HEAD", M).status_code == 400
    assert rest("OPTIONS", RUN).status_code == 400
    options = rest("OPTIONS", RUN, headers={"Origin": "http://example.org"})
    assert (options.status_code, options.content) == (200, b"")
    outside = rest("GET", "/v2/models/m")
    assert (outside.status_code, "404 Not Found" in outside.text) == (404, True)
    huge = rest("POST", M + "/versions/99999999999999999999:predict", "{}")
    assert (huge.status_code, huge.content) == (400, b"")


def test_status_over_rest(rest):
    expected = {
        "model_version_status": [
            {
                "version": "3",
                "state": "AVAILABLE",
                "status": {"error_code": "OK", "error_message": ""},
            }
        ]
    }
    for path in (M, M + "/versions/3"):
        answer = rest("GET", path)
        assert (answer.status_code, answer.json()) == (200, expected)
    assert rest("GET", M).text.startswith('{\n "model_version_status": [\n  {\n   "version": "3",')


def test_metadata_over_rest(rest):
    answer = rest("GET", T + "/versions/1/metadata").json()
    assert answer["model_spec"] == {"name": "types", "version": "1", "signature_name": ""}
    signatures = answer["metadata"]["signature_def"]["signature_def"]
    assert signatures["__saved_model_init_op"] == {
        "inputs": {},
        "outputs": {
            "__saved_model_init_op": {
                "name": "NoOp",
                "dtype": "DT_INVALID",
                "tensor_shape": {"dim": [], "unknown_rank": True},
            }
        },
        "method_name": "",
        "defaults": {},
    }
    assert signatures["multi"]["inputs"]["f"] == {
        "name": "multi_f:0",
        "dtype": "DT_FLOAT",
        "tensor_shape": {
            "dim": [{"size": "-1", "name": ""}, {"size": "2", "name": ""}],
            "unknown_rank": False,
        },
    }
    assert signatures["multi"]["method_name"] == "tensorflow/serving/predict"
    assert set(signatures["multi"]["outputs"]) == set(MULTI)


def request_for(model="m", signature="", version=None, label=None, filters=(), **inputs):
    request = predict_pb2.PredictRequest(output_filter=filters)
    request.model_spec.SetInParent()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    if version is not None:
        request.model_spec.version.value = version
    if label is not None:
        request.model_spec.version_label = label
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return request


def test_grpc_predict(stubs):
    answer = stubs[0].Predict(request_for(version=3, text=["I", "hello"]))
    assert answer.model_spec.name == "m"
    assert answer.model_spec.version.value == 3
    assert answer.model_spec.signature_name == "serving_default"
    assert list(answer.outputs["pooled"].string_val) == [b"I?", b"hello?"]


def test_grpc_sends_every_dtype_in_its_field(stubs):
    request = request_for("types", "multi", f=[[1.0, 2.0]], i=[3], s=[b"\xff"])
    outputs = stubs[0].Predict(request).outputs
    assert list(outputs["mat"].float_val) == [1.0, 2.0, 2.0, 4.0]
    assert [dim.size for dim in outputs["mat"].tensor_shape.dim] == [1, 2, 2]
    assert list(outputs["d"].double_val) == [1.0 / 3.0, 2.0 / 3.0]
    assert list(outputs["i64"].int64_val) == [30_000_000_000]
    assert list(outputs["b"].bool_val) == [True]
    assert list(outputs["raw_bytes"].string_val) == [b"\xff\xc3\xbf"]
    half = tf.constant([1.5], tf.float16).numpy()
    small = request_for("types", "small", h=half, u=tf.constant([7], tf.uint8).numpy(), b=[False])
    outputs = stubs[0].Predict(small).outputs
    assert tf.make_ndarray(outputs["h"]).tolist() == [2.5]
    assert list(outputs["u"].int_val) == [7]


def test_grpc_fills_up_or_cuts_values_to_the_shape(stubs):
    request = request_for(text=["a", "b"])
    for size, expected in ((3, [b"a?", b"b?", b"b?"]), (1, [b"a?"])):
        request.inputs["text"].tensor_shape.dim[0].size = size
        assert list(stubs[0].Predict(request).outputs["pooled"].string_val) == expected


INVALID, MISSING = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
GRPC_ERRORS = [
    (
        request_for(text=["a"], filters=["nope"]),
        INVALID,
        "output tensor alias not found in signature: nope Outputs expected to be in the set "
        "{pooled}.",
    ),
    (
        request_for(text=["a"], filters=["pooled", "pooled"]),
        INVALID,
        "duplicate output tensor alias: pooled",
    ),
    (request_for("", text=["a"]), INVALID, "ModelSpec has no name specified."),
    (request_for("nope"), MISSING, "Servable not found for request: Latest(nope)"),
    (request_for(version=9), MISSING, "Servable not found for request: Specific(m, 9)"),
    (request_for(label="x"), INVALID, "Unrecognized servable version label: x"),
    (
        request_for(signature="nope"),
        grpc.StatusCode.FAILED_PRECONDITION,
        'Serving signature key "nope" not found.',
    ),
    (
        request_for(),
        INVALID,
        "input size does not match signature: 0!=1 len({}) != len({text}). Sent extra: {}. "
        "Missing but required: {text}.",
    ),
    (
        request_for(txt=["a"]),
        INVALID,
        "Signature input alias: text(feed name: serving_default_text:0) not found in request and "
        "no default value provided. Inputs expected to be in the request {txt}, or default input "
        "alias set: ",
    ),
    (
        request_for(text=["a"], x=[1]),
        INVALID,
        "input size does not match signature: 2!=1 len({text,x}) != len({text}). "
        "Sent extra: {x}. Missing but required: {}.",
    ),
    (request_for(text=[1, 2]), INVALID, "Expects arg[0] to be string but int32 is provided"),
    (
        request_for(text="a"),
        INVALID,
        "Input text: expected 1 dimensions as in signature serving_default, received shape []",
    ),
]


@pytest.mark.parametrize(("request_", "code", "message"), GRPC_ERRORS)
def test_grpc_error(stubs, request_, code, message):
    with pytest.raises(grpc.RpcError) as caught:
        stubs[0].Predict(request_)
    assert (caught.value.code(), caught.value.details()) == (code, message)


def test_grpc_shape_that_would_fill_the_memory(stubs):
    request = request_for(text=["a"])
    request.inputs["text"].tensor_shape.dim[0].size = 10**13
    with pytest.raises(grpc.RpcError) as caught:
        stubs[0].Predict(request)
    assert "shape [10000000000000] takes more than 10000 bytes" in caught.value.details()


def test_grpc_long_messages_are_cut(stubs):
    inputs = dict.fromkeys((f"{number}{'n' * 4000}" for number in range(2)), 1.0)
    with pytest.raises(grpc.RpcError) as caught:
        stubs[0].Predict(request_for(**inputs))
    assert caught.value.details().startswith("input size does not match signature: 2!=1 len({0nnn")
    assert len(caught.value.details()) < 1024


LONG = "ü" * 2000
CUT = "ü" * 128 + "..."


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (request_for(LONG), f"Servable not found for request: Latest({CUT})"),
        (request_for(LONG, version=2), f"Servable not found for request: Specific({CUT}, 2)"),
        (request_for(label=LONG), f"Unrecognized servable version label: {CUT}"),
        (request_for(signature=LONG), f'Serving signature key "{CUT}" not found.'),
        (
            request_for(text=["a"], filters=[LONG]),
            f"output tensor alias not found in signature: {CUT} Outputs expected to be in the set "
            "{pooled}.",
        ),
    ],
)
def test_grpc_names_of_clients_are_quoted_in_part(stubs, request_, message):
    with pytest.raises(grpc.RpcError) as caught:
        stubs[0].Predict(request_)
    assert caught.value.details() == message


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    [
        (
            "POST",
            RUN,
            {"signature_name": LONG, "instances": ["a"]},
            400,
            f'Serving signature name: "{CUT}" not found in signature def',
        ),
        (
            "POST",
            RUN,
            {"instances": [{LONG: "a"}]},
            400,
            failed(f"0 key: {CUT}", f"JSON object: does not have named input: {CUT}"),
        ),
        (
            "POST",
            M + ":classify",
            {"examples": [{LONG: None}]},
            400,
            f"Feature: {CUT} has element with unexpected JSON type: Null",
        ),
        (
            "POST",
            M + ":classify",
            {"signature_name": LONG, "examples": [{}]},
            400,
            f"No signature was found with the name: {CUT}",
        ),
        (
            "GET",
            f"/v1/models/{'n' * 2000}",
            None,
            404,
            f"Could not find any versions of model {'n' * 256}...",
        ),
        ("GET", f"/v1/{'n' * 2000}", None, 400, f"Malformed request: GET /v1/{'n' * 252}..."),
        ("N" * 2000, "/v1/x", None, 400, f"Malformed request: {'N' * 256}... /v1/x"),
    ],
)
def test_rest_names_of_clients_are_quoted_in_part(rest, method, path, body, status, message):
    answer = rest(method, path, json.dumps(body, ensure_ascii=False) if body else None)
    assert (answer.status_code, answer.json()) == (status, {"error": message})


def test_status_of_a_label_that_does_not_exist(rest, stubs):
    message = "Unrecognized servable version label: none"
    answer = rest("GET", M + "/labels/none")
    assert (answer.status_code, answer.json()) == (400, {"error": message})
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "m"
    request.model_spec.version_label = "none"
    with pytest.raises(grpc.RpcError) as caught:
        stubs[1].GetModelStatus(request)
    assert (caught.value.code(), caught.value.details()) == (INVALID, message)


def test_grpc_message_over_the_limit(stubs):
    with pytest.raises(grpc.RpcError) as caught:
        stubs[0].Predict(request_for(text=["a" * BODY_LIMIT]))
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_grpc_metadata(stubs):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "m"
    answer = stubs[0].GetModelMetadata(request)
    found = get_model_metadata_pb2.SignatureDefMap()
    assert answer.metadata["signature_def"].Unpack(found)
    assert found.signature_def["serving_default"].inputs["text"].name == "serving_default_text:0"
    assert answer.model_spec.version.value == 3
    for fields, message in (
        (["x"], "Metadata field x is not supported"),
        ([], "GetModelMetadataRequest must specify at least one metadata_field"),
    ):
        del request.metadata_field[:]
        request.metadata_field.extend(fields)
        with pytest.raises(grpc.RpcError) as caught:
            stubs[0].GetModelMetadata(request)
        assert (caught.value.code(), caught.value.details()) == (INVALID, message)


def test_grpc_status(stubs):
    request = get_model_status_pb2.GetModelStatusRequest()
    with pytest.raises(grpc.RpcError, match="Missing ModelSpec"):
        stubs[1].GetModelStatus(request)
    request.model_spec.name = "nope"
    with pytest.raises(grpc.RpcError, match="Could not find any versions of model nope"):
        stubs[1].GetModelStatus(request)
    request.model_spec.name = "m"
    (status,) = stubs[1].GetModelStatus(request).model_version_status
    assert (status.version, status.state) == (3, get_model_status_pb2.ModelVersionStatus.AVAILABLE)
    assert status.HasField("status")


def test_metrics_have_the_names_of_the_real_server(rest, stubs):
    def counts():
        lines = rest("GET", "/monitoring/prometheus/metrics").text.splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    before = counts()
    rest("POST", TYPES, '{"instances":[1]}')
    rest("POST", TYPES, '{"instances":["1"]}')
    rest("POST", "/v1/models/nope:predict", '{"instances":["1"]}')
    stubs[0].Predict(request_for("types", x=[1.0]))
    after = counts()
    grown = {name: value - before.get(name, 0) for name, value in after.items()}
    count, latency = ":tensorflow:serving:request_count", ":tensorflow:serving:request_latency"
    assert grown[count + '{model_name="types",status="OK"}'] == 2
    assert grown[count + '{model_name="types",status="INVALID_ARGUMENT"}'] == 1
    assert grown[count + '{model_name="",status="NOT_FOUND"}'] == 1
    for entrypoint in ("REST", "GRPC"):
        labels = f'{{API="Predict",entrypoint="{entrypoint}",model_name="types"}}'
        assert grown[f"{latency}_count{labels}"] == 1
        assert grown[f"{latency}_sum{labels}"] > 100  # microseconds
    (loaded,) = [name for name in after if "load_attempt_count" in name and "types/1" in name]
    assert loaded.endswith('types/1",status="success"}')
    assert after[loaded] == 1


def test_many_clients_at_a_time_each_get_their_own_answer(rest, stubs):
    def over_rest(number):
        return rest("POST", TYPES, f'{{"inputs":[{number}]}}').json()["outputs"]

    def over_grpc(number):
        return list(
            stubs[0].Predict(request_for("types", x=[float(number)])).outputs["y"].float_val
        )

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(over_rest, range(40))) + list(pool.map(over_grpc, range(40)))
    assert answers == [[2.0 * number] for number in range(40)] * 2
    assert not any(math.isnan(value) for (value,) in answers)
