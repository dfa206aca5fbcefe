"""A run to a versioned SavedModel directory, published by one rename."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from model.run import Run
from pipeline.errors import InputError
from serving.signatures import NEXT_SENTENCE, TextModel

WARM_UP = Path("assets.extra", "tf_serving_warmup_requests")
"""Where a model server looks for requests to run before it announces a version."""


def export_run(run: Run, model_path: Path) -> Path:
    """Save a run as the next version of a model.

    The directory is written under a temporary name that no server takes for a version, and renamed
    when it is whole.

    Returns:
        `model_path/VERSION`.

    Raises:
        InputError: the run has no weights to export, or the output cannot be written.
    """
    module = TextModel(run)
    try:
        model_path.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".export-", dir=model_path))
    except OSError as error:
        raise InputError(f"--output {model_path}: cannot be written: {error.strerror}") from error
    try:
        # mkdtemp is private to the user; a model is for the server's user, too.
        temporary.chmod(0o755)
        signatures = module.signatures()
        tf.saved_model.save(module, str(temporary), signatures=signatures)
        write_warm_up(temporary / WARM_UP, model_path.name, list(signatures))
        version = model_path / str(next_version(model_path))
        return temporary.rename(version)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def next_version(model_path: Path) -> int:
    """Return one more than the highest version there is."""
    versions = (int(path.name) for path in model_path.iterdir() if path.name.isdecimal())
    return max(versions, default=0) + 1


def write_warm_up(path: Path, model: str, signatures: list[str]) -> None:
    """Write one request a signature: the first real one then finds the graph compiled.

    A server that lacks an op of the graph refuses the version at once, instead of announcing it
    and failing every request.
    """
    path.parent.mkdir(parents=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature in signatures:
            request = predict_pb2.PredictRequest()
            request.model_spec.name = model
            request.model_spec.signature_name = signature
            request.inputs["text"].CopyFrom(_strings("The [MASK] barked."))
            if signature == NEXT_SENTENCE:
                request.inputs["text_pair"].CopyFrom(_strings("It saw a cat."))
            log = prediction_log_pb2.PredictLog(request=request)
            record = prediction_log_pb2.PredictionLog(predict_log=log)
            writer.write(record.SerializeToString())


def _strings(*texts: str) -> Any:
    return tf.make_tensor_proto(list(texts), tf.string)
