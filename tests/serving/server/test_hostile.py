"""Requests that try to crash the server, exhaust its memory or keep it busy."""

import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest
import requests
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from serving.client import Client

MEBIBYTE = 1024 * 1024
DEADLINE_SECS = 60


class Server:
    """A server process, a gRPC stub for it, and its memory."""

    def __init__(self, models: Path, name: str, ports: list[int]) -> None:
        self.rest_port, self.grpc_port = ports
        command = [sys.executable, "-m", "clozeline", "serve", "--embedded", "--models", models]
        where = ["--rest-port", str(self.rest_port), "--grpc-port", str(self.grpc_port)]
        self.process = subprocess.Popen([*command, *where])
        Client(f"http://127.0.0.1:{self.rest_port}").wait_until_ready(name, 600)
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.grpc_port}")
        self.stub = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)

    def memory_bytes(self, field: str) -> int:
        """Return VmRSS (now) or VmHWM (the peak since `forget_peak`)."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
        raise AssertionError(field)

    def forget_peak(self) -> int:
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")
        return self.memory_bytes("VmRSS")

    def stop(self) -> None:
        self.channel.close()
        self.process.terminate()
        assert self.process.wait(DEADLINE_SECS) == 0

    def check_good(self) -> None:
        request = request_for("", x=tf.make_tensor_proto(np.float32([1.5, 2.0])))
        answer = self.stub.Predict(request, timeout=DEADLINE_SECS)
        assert list(answer.outputs["y"].float_val) == [3.0, 4.0]
        assert self.process.poll() is None


@pytest.fixture(scope="module")
def server(tmp_path_factory, save_types, free_ports):
    base = tmp_path_factory.mktemp("models")
    save_types(base / "types" / "1")
    started = Server(base, "types", free_ports(2))
    yield started
    started.stop()


def request_for(signature: str, **inputs: tensor_pb2.TensorProto) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "types"
    request.model_spec.signature_name = signature
    for name, proto in inputs.items():
        request.inputs[name].CopyFrom(proto)
    return request


def tensor(dtype: int, shape: list[int], **values) -> tensor_pb2.TensorProto:
    proto = tensor_pb2.TensorProto(dtype=dtype, **values)
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    return proto


def variant_list(dtype: int) -> tensor_pb2.TensorProto:
    """A list of tensors whose metadata gives it 2^63 - 1 invalid elements."""
    proto = tensor(dtype, [])
    metadata = b"\xff" * 8 + b"\x7f"
    proto.variant_val.add(type_name="tensorflow::TensorList", metadata=metadata)
    return proto


def multi(**changes: tensor_pb2.TensorProto) -> predict_pb2.PredictRequest:
    inputs = {
        "f": tf.make_tensor_proto(np.ones([1, 2], np.float32)),
        "i": tf.make_tensor_proto(np.ones([1], np.int32)),
        "s": tf.make_tensor_proto([b"a"]),
    }
    return request_for("multi", **(inputs | changes))


def resource() -> tensor_pb2.TensorProto:
    proto = tensor(types_pb2.DT_RESOURCE, [1])
    proto.resource_handle_val.add(device="/cpu:0", container="c", name="n", hash_code=1)
    return proto


STRING, INT64 = types_pb2.DT_STRING, types_pb2.DT_INT64
FLOAT = types_pb2.DT_FLOAT
MANY = {f"x{number}": tensor(INT64, [2**26], int64_val=[1]) for number in range(100)}
ATTACKS = {
    "variant": multi(s=variant_list(types_pb2.DT_VARIANT)),
    "variant named string": multi(s=variant_list(STRING)),
    "variant where a float belongs": multi(f=variant_list(types_pb2.DT_VARIANT)),
    "variant under an unknown name": multi(x=variant_list(types_pb2.DT_VARIANT)),
    "resource": multi(s=resource()),
    "reference": multi(f=tensor(types_pb2.DT_FLOAT_REF, [1, 2], float_val=[1])),
    "no dtype": multi(f=tensor(types_pb2.DT_INVALID, [1, 2])),
    "unknown dtype": multi(f=tensor(12345, [1, 2])),
    "quantized": multi(i=tensor(types_pb2.DT_QINT32, [1], int_val=[1])),
    "a hundred unknown inputs": request_for("", **MANY),
    "one value repeated": request_for("", x=tensor(FLOAT, [2**26], float_val=[1])),
    "a long string repeated": multi(s=tensor(STRING, [20_000], string_val=[b"a" * MEBIBYTE])),
    "a string repeated less": multi(s=tensor(STRING, [1000], string_val=[b"a" * MEBIBYTE])),
    "an empty string repeated": multi(s=tensor(STRING, [2**26 - 1])),
    "sums of inputs": multi(
        f=tensor(FLOAT, [2**22, 2]), i=tensor(types_pb2.DT_INT32, [2**23]), s=tensor(STRING, [2])
    ),
    "40,000 dimensions": request_for("", x=tensor(FLOAT, [2**62] * 40_000, float_val=[1])),
    "255 dimensions": request_for("", x=tensor(FLOAT, [1] * 255, float_val=[1])),
    "65 dimensions": request_for("", x=tensor(FLOAT, [1] * 65, float_val=[1])),
    "more than numbers can count": request_for("", x=tensor(FLOAT, [2**62, 2**62])),
    "zero times too many": request_for("", x=tensor(FLOAT, [2**62, 0])),
    "zero first": request_for("", x=tensor(FLOAT, [0, 2**62, 2**62])),
    "negative": request_for("", x=tensor(FLOAT, [-1])),
    "strings for integers": multi(i=tensor(STRING, [1], string_val=[b"a"])),
    "lengths that lie": multi(s=tensor(STRING, [2], tensor_content=b"\xff\xff\xff\xff\x7fab")),
    "lengths without end": multi(s=tensor(STRING, [2], tensor_content=b"\xff" * 1000)),
    "too few bytes": request_for("", x=tensor(FLOAT, [2], tensor_content=b"\0\0\0")),
    "unknown rank": request_for("", x=tensor_pb2.TensorProto(dtype=FLOAT, float_val=[1])),
}
ATTACKS["unknown rank"].inputs["x"].tensor_shape.unknown_rank = True


@pytest.mark.parametrize("name", ATTACKS)
def test_a_tensor_that_is_refused_unread(server, name):
    before = server.forget_peak()
    with pytest.raises(grpc.RpcError) as caught:
        server.stub.Predict(ATTACKS[name], timeout=DEADLINE_SECS)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert server.memory_bytes("VmHWM") < before + 100 * MEBIBYTE
    server.check_good()


class Wide(tf.Module):
    """Outputs much larger than the inputs."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
    def scores(self, text):
        length = tf.reduce_max(tf.strings.length(text))
        return {"scores": tf.ones([tf.size(text), 6, length, length])}

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None], tf.int32, "ids"),
            tf.TensorSpec([None, None], tf.int32, "at"),
        ]
    )
    def logits(self, ids, at):
        logits = tf.ones([tf.shape(ids)[0], tf.shape(at)[1], 30_000])
        return {"logits": tf.ensure_shape(logits, [None, None, 30_000])}


@pytest.fixture(scope="module")
def wide(tmp_path_factory, free_ports):
    base = tmp_path_factory.mktemp("wide")
    module = Wide()
    signatures = {"serving_default": module.scores, "logits": module.logits}
    tf.saved_model.save(module, str(base / "wide" / "1"), signatures=signatures)
    started = Server(base, "wide", free_ports(2))
    yield started
    started.stop()


def wide_request(signature, **inputs):
    protos = {name: tf.make_tensor_proto(value) for name, value in inputs.items()}
    request = request_for(signature, **protos)
    request.model_spec.name = "wide"
    return request


REFUSED = {  # MiB above rest: what the run itself takes, and nothing where it is not run
    "an answer of 96 MB": ("", {"text": ["a" * 2000]}, 300),
    "logits of 108 GB": ("logits", {"ids": [[0] * 8], "at": [[0] * 900_000]}, 200),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_answer_that_is_too_large_over_both_apis(wide, name):
    signature, inputs, most_mebibytes = REFUSED[name]
    before = wide.forget_peak()
    with pytest.raises(grpc.RpcError, match=r"The answer takes \d+ bytes, and \d+ are") as caught:
        wide.stub.Predict(wide_request(signature, **inputs), timeout=DEADLINE_SECS)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    answer = requests.post(
        f"http://127.0.0.1:{wide.rest_port}/v1/models/wide:predict",
        json={"signature_name": signature, "inputs": inputs},
        timeout=DEADLINE_SECS,
    )
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("The answer takes ")
    assert wide.memory_bytes("VmHWM") < before + most_mebibytes * MEBIBYTE


def test_a_large_answer_takes_little_more_memory_than_its_text(wide):
    text = "a" * 700  # 2.9 million numbers
    before = wide.forget_peak()
    url = f"http://127.0.0.1:{wide.rest_port}/v1/models/wide:predict"
    answer = requests.post(url, json={"instances": [text]}, timeout=DEADLINE_SECS)
    assert answer.status_code == 200
    assert len(answer.content) > 14_000_000
    assert wide.memory_bytes("VmHWM") < before + 150 * MEBIBYTE
