"""Arbitrary requests and files: valid ones are answered, invalid ones refused."""

import concurrent.futures
import contextlib
import json
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import requests
import tensorflow as tf
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from benchmarks import faults
from serving.client import Client
from serving.server import json_request
from serving.server.examples import read_examples
from serving.server.json_request import parse_document, read_inputs, signature_name
from serving.server.limits import Limits
from serving.server.main import ModelServer
from serving.server.signature_spec import ServableSignature, TensorInfo
from serving.server.status import ServingError

DEADLINE_SECS = 60

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(
        [2**31, -(2**63), 2**64, 1e39, "\ud800", "", "\0", {"b64": "YQ"}, {"b64": "@"}]
    )
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["text", "x", "b64", "k", ""]), inner, max_size=3)
    ),
    max_leaves=12,
)
KEYS = st.sampled_from(["instances", "inputs", "examples", "context", "signature_name", "other"])
DOCUMENTS = st.dictionaries(KEYS, VALUES, max_size=3)
SIGNATURES = st.dictionaries(
    st.sampled_from(["text", "x", "k"]),
    st.sampled_from([tf.string, tf.float32, tf.int32, tf.uint8, tf.bool, tf.half, tf.float64]),
    min_size=1,
    max_size=3,
).map(
    lambda dtypes: ServableSignature(
        "s", {name: TensorInfo(dtype, None, "x:0") for name, dtype in dtypes.items()}, {}, dict
    )
)


def refused_or(function, *arguments):
    """What a function returns, or None if it refuses with a message that can be answered."""
    try:
        return function(*arguments)
    except ServingError as error:
        # An answer can be made of it.
        return None if error.message.encode("utf-8", "surrogateescape") else pytest.fail("empty")


@given(st.binary() | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_a_document_or_refused(body):
    document = refused_or(parse_document, body)
    assert document is None or isinstance(document, dict)


@given(DOCUMENTS, st.integers(0, 20), st.binary(max_size=3))
@settings(max_examples=200, deadline=None)
def test_damaged_json_is_a_document_or_refused(document, cut, junk):
    body = json.dumps(document).encode()
    place = cut % (len(body) + 1)
    refused_or(parse_document, body[:place] + junk + body[place:])
    refused_or(parse_document, body[:place])


@given(DOCUMENTS, SIGNATURES)
@settings(max_examples=400, deadline=None)
def test_any_document_gives_tensors_of_the_signature_or_is_refused(document, signature):
    parsed = refused_or(parse_document, json.dumps(document).encode())
    if parsed is None:
        return
    refused_or(signature_name, parsed)
    refused_or(read_examples, parsed)
    read = refused_or(read_inputs, parsed, signature)
    if read is None:
        return
    _, arrays = read
    assert arrays.keys() == signature.inputs.keys()
    for name, array in arrays.items():
        assert array.dtype == signature.inputs[name].dtype.as_numpy_dtype
        assert array.dtype != np.object_ or all(isinstance(one, bytes) for one in array.ravel())


@st.composite
def batches(draw):
    """A signature, and a document that has rows or columns for it."""
    signature = draw(SIGNATURES)
    alike = st.sampled_from([1, 2**31 - 1, 255, -1]) | st.floats() | st.booleans() | st.text()
    leaves = st.one_of(alike, SCALARS)
    shape = draw(st.lists(st.integers(0, 3), max_size=2))
    values = leaves if draw(st.booleans()) else st.sampled_from([draw(alike), draw(alike)])
    for size in reversed(shape):
        values = st.lists(values, min_size=size, max_size=size)
    named = st.fixed_dictionaries(dict.fromkeys(signature.inputs, values))
    rows = st.lists(named | values if draw(st.booleans()) else named, min_size=1, max_size=4)
    plain = st.lists(values, min_size=1, max_size=4)
    return signature, draw(
        st.fixed_dictionaries({"instances": rows | plain})
        | st.fixed_dictionaries({"inputs": named | values | plain})
    )


@given(batches())
@settings(max_examples=1000, deadline=None)
def test_the_fast_path_reads_the_same_values_as_the_slow_one(signature_and_document):
    signature, document = signature_and_document
    # Lone surrogates are refused or replaced here, before any value is read.
    document = refused_or(parse_document, json.dumps(document).encode())
    assume(document is not None)

    def read():
        try:
            return read_inputs(document, signature)
        except ServingError as error:
            return str(error)

    at_once = read()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_request, "convert_all", lambda *_: None)
        one_by_one = read()
    if isinstance(one_by_one, str):
        assert at_once == one_by_one
        return
    assert at_once[0] is one_by_one[0]
    for name, array in one_by_one[1].items():
        assert (array.dtype, array.shape) == (at_once[1][name].dtype, at_once[1][name].shape)
        assert array.tobytes() == at_once[1][name].tobytes() or array.dtype == np.object_
        assert array.dtype != np.object_ or array.tolist() == at_once[1][name].tolist()


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":'])
def test_deep_nesting_is_refused(opening):
    with pytest.raises(ServingError, match="nested too deeply"):
        parse_document(('{"instances": ' + opening * 100_000).encode())


@pytest.mark.slow
def test_ten_thousand_requests_a_twentieth_of_them_malformed(exported, free_ports):
    models, name = exported.parent.parent, exported.parent.name
    rest_port, grpc_port = free_ports(2)
    ports = ["--rest-port", str(rest_port), "--grpc-port", str(grpc_port)]
    command = [sys.executable, "-m", "clozeline", "serve", "--embedded", "--models", str(models)]
    server = subprocess.Popen([*command, *ports])
    try:
        Client(f"http://127.0.0.1:{rest_port}").wait_until_ready(name, 600)
        outcome = faults.run(models, name, 10_000, rest_port, grpc_port)
    finally:
        server.terminate()
        assert server.wait(DEADLINE_SECS) == 0
    assert outcome.wrong == []
    assert outcome.good > 9000
    assert set(outcome.bad) >= set(faults.BAD)
    assert outcome.end_bytes < 1.1 * outcome.start_bytes


class Times(tf.Module):
    """y = factor * x, so that an answer tells which version gave it."""

    def __init__(self, factor):
        super().__init__()
        self.factor = tf.Variable(tf.fill([1000], float(factor)))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def run(self, x):
        return {"y": self.factor[0] * x}


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    base = tmp_path_factory.mktemp("exports")
    for factor in (2, 3, 5):
        module = Times(factor)
        tf.saved_model.save(module, str(base / str(factor)), {"serving_default": module.run})
    return base


def copy_in_parts(source, destination, between):
    """Copy file by file, each in two halves, and call `between` after every one of them."""
    for path in sorted(source.rglob("*"), key=lambda path: path.suffix != ".pb"):
        if path.is_file():
            content = path.read_bytes()
            target = destination / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            for end in (len(content) // 2, len(content)):
                if target.exists() and target.stat().st_size == end:
                    continue
                target.write_bytes(content[:end])
                between()


def test_versions_that_are_half_copied_corrupt_or_deleted_under_load(exports, tmp_path):
    models = tmp_path / "models"
    shutil.copytree(exports / "2", models / "m" / "1")
    server = ModelServer(models, "127.0.0.1", 0, 0, Limits(poll_secs=0.02))
    server.start()
    url = f"http://127.0.0.1:{server.rest_port}/v1/models/m"
    stop = threading.Event()

    def load():
        seen = set()
        with requests.Session() as session:
            while not stop.is_set():
                answer = session.post(url + ":predict", json={"instances": [7]}, timeout=30)
                seen.add((answer.status_code, answer.json()["predictions"][0]))
        return seen

    def state(version):
        known = {one.version: one for one in server.repository.statuses("m")}
        return known.get(version)

    def until(condition):
        deadline = time.monotonic() + DEADLINE_SECS
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def failed(version):
        until(lambda: (found := state(version)) and found.message)

    with concurrent.futures.ThreadPoolExecutor(2) as pool, contextlib.ExitStack() as at_end:
        at_end.callback(stop.set)
        loads = [pool.submit(load) for _ in range(2)]
        parts = []

        def half_copied():
            if len(parts) < 3:  # before the last half of the last file
                time.sleep(0.1)
                parts.append(server.repository.find("m").version)

        copy_in_parts(exports / "3", models / "m" / "2", half_copied)
        until(lambda: server.repository.find("m").version == 2)

        shutil.copytree(exports / "5", tmp_path / "corrupt")
        (data,) = (tmp_path / "corrupt" / "variables").glob("*.data-*")
        content = bytearray(data.read_bytes())
        content[len(content) // 2] ^= 1  # one bit of a weight
        data.write_bytes(content)
        (tmp_path / "corrupt").rename(models / "m" / "3")
        failed(3)
        assert state(3).code.name == "DATA_LOSS"

        shutil.rmtree(models / "m" / "2")
        shutil.rmtree(models / "m" / "3")
        until(lambda: server.repository.find("m").version == 1)
        shutil.rmtree(models / "m")
        time.sleep(0.1)
        after = requests.post(url + ":predict", json={"instances": [1]}, timeout=30).json()
        stop.set()
        seen = set().union(*(future.result() for future in loads))
    server.stop()
    assert parts == [1, 1, 1]
    assert after == {"predictions": [2.0]}
    assert seen == {(200, 14.0), (200, 21.0)}
