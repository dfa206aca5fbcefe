"""Replay a model's warm-up requests after loading, so that the first client does not wait."""

from collections.abc import Iterator
from pathlib import Path

from google.protobuf.message import DecodeError
from tensorflow_serving.apis import prediction_log_pb2

from pipeline.errors import InputError
from pipeline.storage.tfrecords import read_records
from serving.server.runner import Runner
from serving.server.signature_spec import ServableSignature
from serving.server.status import invalid
from serving.server.tensors import arrays_from_protos
from serving.server.wire import check_elements
from serving.tf_serving import DEFAULT_SIGNATURE, WARM_UP_FILE

_MAX_RECORDS = 1000
"""As TensorFlow Serving's `kMaxNumRecords` (saved_model_warmup_util)."""


def warm_up(version_dir: Path, signatures: dict[str, ServableSignature], runner: Runner) -> None:
    """Run the Predict requests in the version's warm-up file, if it has one.

    Raises:
        ServingError: a record cannot be parsed or run. As in TensorFlow Serving, such a version is
            not served.
    """
    path = version_dir / WARM_UP_FILE
    if not path.is_file():
        return
    for number, record in enumerate(_records(path)):
        if number == _MAX_RECORDS:
            raise invalid(f"{path}: more than {_MAX_RECORDS:,} records; write fewer")
        check_elements(record, prediction_log_pb2.PredictionLog.DESCRIPTOR)
        try:
            log = prediction_log_pb2.PredictionLog.FromString(record)
        except DecodeError as error:
            raise invalid(f"{path}: record {number} is not a PredictionLog") from error
        # Models of other exporters may have records of other kinds, such as Classify.
        if not log.HasField("predict_log"):
            continue
        request = log.predict_log.request
        name = request.model_spec.signature_name or DEFAULT_SIGNATURE
        if name not in signatures:
            raise invalid(f'{WARM_UP_FILE}: signature "{name}" not found in the model')
        signature = signatures[name]
        inputs = arrays_from_protos(signature, request.inputs, runner.max_input_bytes)
        runner.run(signature, inputs)


def _records(path: Path) -> Iterator[bytes]:
    try:
        yield from read_records(path)
    except InputError as error:
        raise invalid(str(error)) from error
