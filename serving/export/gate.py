"""The gate: checks that a saved model must pass before it is published.

The model is loaded in a separate process that has only TensorFlow and TF Text's ops. It must return
the Python model's answers to the golden set, and must run all requests of its warm-up file, because
a server that cannot run them does not start.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import prediction_log_pb2

from pipeline.errors import JobError
from pipeline.schema import Arrays
from pipeline.storage.files import writing
from pipeline.storage.locks import temporary_folder
from pipeline.storage.tfrecords import read_records
from pipeline.text.tokenizer import Vocabulary
from serving.export.choices import FROZEN_WEIGHTS
from serving.export.golden import Golden, largest_difference
from serving.tf_serving import WARM_UP_FILE

_PROGRAM = Path(__file__).parent / "fresh_process.py"


def check(
    saved_model: Path,
    goldens: Sequence[Golden],
    vocabulary: Vocabulary,
    tolerance: float,
) -> float:
    """Compare a saved model's answers to the golden set, and run its warm-up requests.

    Args:
        saved_model: directory of the saved model.
        goldens: requests with their expected answers.
        vocabulary: vocabulary of the model.
        tolerance: maximum difference, see `largest_difference`.

    Returns:
        The largest difference.

    Raises:
        JobError: the model cannot be loaded or run, or a difference is above the tolerance.
    """
    requests = [(golden.signature, dict(golden.inputs)) for golden in goldens]
    requests += _warm_up_requests(saved_model / WARM_UP_FILE)
    answers = _answers(saved_model, requests)
    worst = 0.0
    for number, golden in enumerate(goldens):
        difference = largest_difference(golden, answers[number], vocabulary.ids)
        if not difference <= tolerance:  # written so that NaN fails too
            raise JobError(
                f"not exported: {golden.signature} answers otherwise than the Python model: the "
                f"difference is {difference:.2g}, at most {tolerance:.2g} is allowed"
            )
        worst = max(worst, difference)
    return worst


def _warm_up_requests(path: Path) -> list[tuple[str, Arrays]]:
    """Return the requests of a warm-up file: (signature, inputs)."""
    requests = []
    for record in read_records(path):
        request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        inputs = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
        requests.append((request.model_spec.signature_name, inputs))
    return requests


def _answers(
    saved_model: Path, requests: Sequence[tuple[str, Mapping[str, np.ndarray]]]
) -> list[dict[str, np.ndarray]]:
    """Run requests in a new process; return the outputs by name for each request.

    Raises:
        JobError: the process failed.
    """
    arrays = {}
    for number, (signature, inputs) in enumerate(requests):
        for name, value in inputs.items():
            # As protobuf messages: NumPy's files store strings as pickles, which the other side
            # refuses.
            data = tf.make_tensor_proto(value).SerializeToString()
            arrays[f"{number} {signature} {name}"] = np.frombuffer(data, np.uint8)
    given = f"temporary files in {tempfile.gettempdir()}"
    with writing(given), temporary_folder() as folder:
        request_file, answer_file = folder / "requests.npz", folder / "answers.npz"
        # NumPy's stubs take the names for flags.
        np.savez(request_file, **arrays)  # type: ignore[arg-type]
        files = (_PROGRAM, saved_model, request_file, answer_file)
        command = [sys.executable, *map(str, files)]
        environment = os.environ | FROZEN_WEIGHTS
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise JobError(
                f"not exported: a process with TensorFlow and TF Text alone cannot run it: {said}"
            )
        outputs: list[dict[str, np.ndarray]] = [{} for _ in requests]
        with np.load(answer_file, allow_pickle=False) as archive:
            for key in archive.files:
                number, _, name = key.split(" ")
                tensor = tensor_pb2.TensorProto.FromString(archive[key].tobytes())
                outputs[int(number)][name] = tf.make_ndarray(tensor)
    return outputs
