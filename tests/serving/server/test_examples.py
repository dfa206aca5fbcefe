"""Classify, Regress and MultiInference against recorded responses of TensorFlow Serving."""

import grpc
import pytest
import requests
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis import (
    classification_pb2,
    inference_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from serving.server.batching_options import BatchingOptions
from serving.server.limits import Limits
from serving.server.main import ModelServer


@pytest.fixture(scope="module")
def server(tmp_path_factory, save_classifier):
    base = tmp_path_factory.mktemp("models")
    save_classifier(base / "cr" / "1")
    started = ModelServer(base, "127.0.0.1", 0, 0, batching=BatchingOptions(max_batch_size=100))
    started.start()
    yield started
    started.stop()


@pytest.fixture(scope="module")
def ask(server):
    with requests.Session() as session:

        def post(verb, body):
            url = f"http://127.0.0.1:{server.rest_port}/v1/models/cr:{verb}"
            return session.post(url, data=body, timeout=30)

        yield post


ANSWERS = [
    (
        "classify",
        '{"examples":[{"x":0.25},{"x":0.75,"t":"a"}]}',
        {"results": [[["pos", 0.25], ["neg", 0.75]], [["pos", 0.75], ["neg", 0.25]]]},
    ),
    (
        "classify",
        '{"context":{"t":"ctx"},"examples":[{"x":0.25}]}',
        {"results": [[["pos", 0.25], ["neg", 0.75]]]},
    ),
    (
        "classify",
        '{"context":{"x":0.25},"examples":[{}]}',
        {"results": [[["pos", 0.25], ["neg", 0.75]]]},
    ),
    (
        "regress",
        '{"signature_name":"reg","examples":[{"x":0.25},{"x":[0.75]}]}',
        {"results": [1.5, 2.5]},
    ),
    (
        "predict",
        '{"instances":[{"b64":"CgA="}]}',
        {"predictions": [{"classes": ["pos", "neg"], "scores": [0.0, 1.0]}]},
    ),
]


@pytest.mark.parametrize(("verb", "body", "expected"), ANSWERS)
def test_answer(ask, verb, body, expected):
    answer = ask(verb, body)
    assert (answer.status_code, answer.json()) == (200, expected)


def of_examples(examples, why):
    return f'JSON Value: {{\n    "examples": {examples}\n}} {why}'


ERRORS = [
    (
        "classify",
        '{"instances":["a"]}',
        'JSON Value: {\n    "instances": ["a"]\n} When method is classify, key \'examples\' is '
        "expected and was not found",
    ),
    (
        "classify",
        '{"examples":[]}',
        of_examples("[]", "'examples' value is an empty array"),
    ),
    (
        "classify",
        '{"examples":{"x":1}}',
        of_examples('{\n        "x": 1\n    }', "Expecting 'examples' value to be an list/array"),
    ),
    ("classify", '{"examples":[1]}', "Example must be JSON object but got JSON Number"),
    (
        "classify",
        '{"examples":[{"x":null}]}',
        "Feature: x has element with unexpected JSON type: Null",
    ),
    (
        "classify",
        '{"examples":[{"x":[0.5,[1]]}]}',
        "Feature: x has element with unexpected JSON type: Array",
    ),
    (
        "classify",
        '{"examples":[{"x":[0.5,"a"]}]}',
        "Unexpected element type in feature: x expecting type: float",
    ),
    (
        "classify",
        '{"examples":[{"x":18446744073709551615}]}',
        "Feature: x has uint64 element. Only int64 is supported.",
    ),
    (
        "classify",
        '{"examples":[{"x":1e300}]}',
        "Cannot convert JSON value: 1e+300 to float without loss of precision.",
    ),
    (
        "classify",
        '{"signature_name":"nope","examples":[{"x":0.5}]}',
        "No signature was found with the name: nope",
    ),
]


@pytest.mark.parametrize(("verb", "body", "message"), ERRORS)
def test_error(ask, verb, body, message):
    answer = ask(verb, body)
    assert (answer.status_code, answer.json()) == (400, {"error": message})


class Native(tf.Module):
    """Signatures of TensorFlow 2, which all say that they are for Predict."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
    def classify(self, inputs):
        x = tf.strings.to_number(tf.strings.regex_replace(inputs, "(?s).*", "0.25"))
        classes = tf.tile([["neg", "pos"]], [tf.size(inputs), 1])
        return {"classes": classes, "scores": tf.stack([x, 1.0 - x], 1)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
    def regress(self, inputs):
        return {"outputs": tf.ones_like(inputs, tf.float32)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
    def columns(self, inputs):
        ones = tf.ones([tf.size(inputs), 3])
        return {"classes": tf.as_string(ones), "scores": ones[:, :2]}


def output(name, make):
    """Return a function of examples with one output."""
    spec = tf.TensorSpec([None], tf.string, "inputs")
    return tf.function(lambda inputs: {name: make(inputs)}, input_signature=[spec])


def predicting(inputs, outputs):
    """Return a function with so many inputs and outputs."""
    specs = [tf.TensorSpec([None], tf.string, f"text_{index}") for index in range(inputs)]
    return tf.function(
        lambda *texts: {f"output_{index}": texts[0] for index in range(outputs)},
        input_signature=specs,
    )


@pytest.fixture(scope="module", params=[False, True], ids=["stock", "checked"])
def native(request, tmp_path_factory, save_classifier):
    """The port of a server, and whether it checks the method names."""
    base = tmp_path_factory.mktemp("native")
    module = Native()
    module.more = [
        output("scores", lambda x: tf.ones([tf.size(x)])),
        output("scores", lambda x: tf.ones([tf.size(x), 2], tf.int32)),
        output("scores", lambda x: tf.ones([7, 2])),
        output("outputs", lambda x: tf.ones([tf.size(x), 2])),
        output("outputs", lambda x: tf.ones([7])),
        output("outputs", lambda x: tf.ones([tf.size(x)], tf.float64)),
        output("y", lambda x: x),
        predicting(2, 1),
        predicting(1, 4),
        predicting(1, 2),
        predicting(1, 1),
    ]
    names = ("vector", "int_scores", "seven_scores", "two", "seven", "double", "other_output",
             "two_inputs", "four_outputs", "two_outputs", "other_input")  # fmt: skip
    signatures = dict(zip(names, module.more, strict=True))
    signatures |= {name: getattr(module, name) for name in ("classify", "regress", "columns")}
    tf.saved_model.save(module, str(base / "n" / "1"), signatures=signatures)
    save_classifier(base / "cr" / "1")
    server = ModelServer(base, "127.0.0.1", 0, 0, Limits(checks_method_names=request.param))
    server.start()
    yield server.rest_port, request.param
    server.stop()


STOCK = [
    # TensorFlow Serving's words and order: servables/tensorflow/classifier.cc and regressor.cc.
    ("n", "classify", "classify", {"results": [[["neg", 0.25], ["pos", 0.75]]]}),
    ("n", "regress", "regress", {"results": [1.0]}),
    ("n", "classify", "four_outputs", "Expected one or two output Tensors, found 4"),
    ("n", "regress", "four_outputs", "Expected one output Tensor."),
    ("n", "classify", "two_inputs", "Expected one input Tensor."),
    ("n", "regress", "two_inputs", "Expected one input Tensor."),
    ("n", "classify", "two_outputs", 'No classification inputs found in SignatureDef: inputs {'),
    ("n", "regress", "other_input", 'No regression inputs found in SignatureDef: inputs {'),
    ("n", "classify", "other_output", 'Expected classification signature outputs to contain at '
     'least one of "classes" or "scores". Signature was: inputs {'),
    ("n", "regress", "other_output", 'No regression outputs found in SignatureDef: inputs {'),
    ("n", "classify", "vector", "Expected Tensor shape: [batch_size num_classes] but got [1]"),
    ("n", "classify", "int_scores", "Expected scores Tensor of DT_FLOAT. Got: DT_INT32"),
    ("n", "classify", "seven_scores", "Expected scores output batch size of 1. Got: 7"),
    ("n", "classify", "columns",
     "Tensors class and score should match in dim_size(1). Got 3 vs. 2"),
    ("n", "regress", "two", "Expected output Tensor shape to be either [batch_size] or "
     "[batch_size, 1] but got [1,2]"),
    ("n", "regress", "seven", "Input batch size did not match output batch size: 1 vs. 7"),
    ("n", "regress", "double", "Expected output Tensor of DT_FLOAT.  Got: DT_DOUBLE"),
    ("cr", "classify", "serving_default", {"results": [[["pos", 0.0], ["neg", 1.0]]]}),
    ("cr", "classify", "reg", 'Expected classification signature outputs to contain at least one '
     'of "classes" or "scores". Signature was: inputs {'),
    ("cr", "regress", "serving_default", "Expected one output Tensor."),
    ("cr", "regress", "reg", {"results": [1.0]}),
]  # fmt: skip
METHODS = {"serving_default": "classify", "reg": "regress"}
KINDS = {"classify": "classification", "regress": "regression"}


@pytest.mark.parametrize(("model", "verb", "signature", "expected"), STOCK)
def test_method_names_count_only_if_they_are_checked(native, model, verb, signature, expected):
    port, checks = native
    url = f"http://127.0.0.1:{port}/v1/models/{model}:{verb}"
    body = {"signature_name": signature, "examples": [{}]}
    answer = requests.post(url, json=body, timeout=30)
    method = METHODS[signature] if model == "cr" else "predict"
    if checks and method != verb:
        expected = (
            f"Expected {KINDS[verb]} signature method_name to be tensorflow/serving/{verb}. "
            f"Was: tensorflow/serving/{method}"
        )
    if isinstance(expected, str):
        assert answer.status_code == 400
        assert answer.json()["error"].startswith(expected)
    else:
        assert (answer.status_code, answer.json()) == (200, expected)


def test_an_integer_is_no_float(ask):
    answer = ask("classify", '{"examples":[{"x":1}]}')
    assert answer.status_code == 400
    # The error that TensorFlow raises has the Python stack in it, and so paths of this machine.
    assert answer.json()["error"].startswith(
        "Name: <unknown>, Key: x, Index: 0.  Data types don't match. Data type: int64 but expected "
        "type: float\n\t [[{{node "
    )


@pytest.fixture(scope="module")
def stub(server):
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


EXAMPLE = (
    'input { example_list { examples { features { feature { key: "x" value { float_list { '
    "value: 0.25 } } } } } } }"
)
SPEC = 'model_spec { name: "cr" version { value: 1 } signature_name: "%s" }'
CLASSES = 'classes { label: "pos" score: 0.25 } classes { label: "neg" score: 0.75 }'


def test_too_many_features_or_examples_are_refused_before_they_are_converted(ask):
    features = ",".join(f'"{number}":0' for number in range(16_385))
    answer = ask("classify", f'{{"examples":[{{{features}}}]}}')
    expected = "Example: a map has more than 16384 entries"
    assert (answer.status_code, answer.json()["error"]) == (400, expected)
    answer = ask("regress", '{"signature_name":"reg","examples":[' + ",".join(["7"] * 101) + "]}")
    expected = "Task size 101 is larger than maximum input batch size 100"
    assert (answer.status_code, answer.json()["error"]) == (400, expected)


def test_grpc_classify(stub):
    request = classification_pb2.ClassificationRequest()
    text_format.Parse('model_spec { name: "cr" } ' + EXAMPLE, request)
    expected = classification_pb2.ClassificationResponse()
    result = f"result {{ classifications {{ {CLASSES} }} }} " + SPEC % "serving_default"
    assert stub.Classify(request) == text_format.Parse(result, expected)
    request.ClearField("input")
    with pytest.raises(grpc.RpcError, match=r"Input is empty\."):
        stub.Classify(request)


def test_grpc_regress(stub):
    request = regression_pb2.RegressionRequest()
    text_format.Parse('model_spec { name: "cr" signature_name: "reg" } ' + EXAMPLE, request)
    expected = regression_pb2.RegressionResponse()
    result = "result { regressions { value: 1.5 } } " + SPEC % "reg"
    assert stub.Regress(request) == text_format.Parse(result, expected)


TASKS = (
    'tasks { model_spec { name: "cr" signature_name: "serving_default" } '
    'method_name: "tensorflow/serving/classify" } '
    'tasks { model_spec { name: "cr" signature_name: "reg" } '
    'method_name: "tensorflow/serving/regress" } '
)


def test_grpc_multi_inference(stub):
    request = inference_pb2.MultiInferenceRequest()
    text_format.Parse(TASKS + EXAMPLE, request)
    expected = text_format.Parse(
        "results { " + SPEC % "serving_default" + f" classification_result {{ classifications {{ "
        f"{CLASSES} }} }} }} "
        "results { " + SPEC % "reg" + " regression_result { regressions { value: 1.5 } } }",
        inference_pb2.MultiInferenceResponse(),
    )
    assert stub.MultiInference(request) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("reg", "serving_default"), "Duplicate evaluation of signature: serving_default"),
        (('"cr" signature_name: "reg"', '"m"'), "must access the same model name"),
        (("serving/regress", "serving/predict"), "Unsupported signature method_name: tensorflow/"),
        ((TASKS, ""), "must have at least one task"),
    ],
)
def test_grpc_multi_inference_of_incompatible_tasks(stub, change, message):
    request = inference_pb2.MultiInferenceRequest()
    text_format.Parse(TASKS.replace(*change, 1) + EXAMPLE, request)
    with pytest.raises(grpc.RpcError, match=message):
        stub.MultiInference(request)


def test_a_context_that_every_example_repeats_is_bounded(stub):
    request = classification_pb2.ClassificationRequest()
    text_format.Parse('model_spec { name: "cr" }', request)
    examples = request.input.example_list_with_context
    examples.context.features.feature["t"].bytes_list.value.append(b"a" * 1_000_000)
    for _ in range(68):
        examples.examples.add()
    message = "The examples with their context take more than 67108864 bytes"
    with pytest.raises(grpc.RpcError, match=message) as caught:
        stub.Classify(request)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
