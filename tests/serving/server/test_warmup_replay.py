"""Which records of a warm-up file are run, and which keep a version from being served."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from serving.server.signature_spec import ServableSignature, TensorInfo
from serving.server.status import ServingError
from serving.server.warmup_replay import warm_up


def record(value: float, signature: str = "") -> bytes:
    """A Predict request with one number."""
    log = prediction_log_pb2.PredictionLog()
    log.predict_log.request.model_spec.signature_name = signature
    log.predict_log.request.inputs["x"].CopyFrom(tf.make_tensor_proto([value], tf.float32))
    packed: bytes = log.SerializeToString()
    return packed


def signature(name: str) -> ServableSignature:
    return ServableSignature(name, {"x": TensorInfo(tf.float32, (None,), "x:0")}, {}, dict)


def replay(version: Path, records: list[bytes]) -> list[tuple[str, list[float]]]:
    """Return the signatures and numbers that are run for the records of a file."""
    path = version / "assets.extra" / "tf_serving_warmup_requests"
    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for each in records:
            writer.write(each)
    ran: list[tuple[str, list[float]]] = []

    def run(signature: ServableSignature, inputs: dict[str, np.ndarray]) -> None:
        ran.append((signature.name, inputs["x"].tolist()))

    runner: Any = SimpleNamespace(run=run, max_input_bytes=1 << 20)
    signatures = {name: signature(name) for name in ("serving_default", "other")}
    warm_up(version, signatures, runner)
    return ran


def test_requests_are_run_in_order_with_the_signature_that_they_name(tmp_path: Path) -> None:
    # A log of another kind, such as Classify's, is left out.
    another = prediction_log_pb2.PredictionLog(classify_log={}).SerializeToString()
    ran = replay(tmp_path, [record(1.5), another, record(2.5, "other")])
    assert ran == [("serving_default", [1.5]), ("other", [2.5])]


def test_more_than_a_thousand_records_are_refused(tmp_path: Path) -> None:
    """As in TensorFlow Serving (saved_model_warmup_util.cc): a start must end."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    ran = replay(tmp_path / "a", [record(number) for number in np.arange(1000.0)])
    assert ran[-1] == ("serving_default", [999.0])
    with pytest.raises(ServingError, match="more than 1,000 records"):
        replay(tmp_path / "b", [record(number) for number in np.arange(1001.0)])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (b"\xff\xff", "record 1 is not a PredictionLog"),
        (record(1, "absent"), 'signature "absent" not found in the model'),
    ],
)
def test_a_wrong_record_keeps_the_version_out(tmp_path: Path, wrong: bytes, message: str) -> None:
    with pytest.raises(ServingError, match=message):
        replay(tmp_path, [record(1.5), wrong])


def test_a_version_without_a_file_needs_no_warm_up(tmp_path: Path) -> None:
    warm_up(tmp_path, {}, None)  # type: ignore[arg-type]
