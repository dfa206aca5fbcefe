"""Write a model's warm-up requests, so that the first client does not wait for initialization.

A server runs them before a version becomes available. So a server without an op of the graph fails
to load the version, instead of failing every request.
"""

from collections.abc import Mapping
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from model import served
from pipeline import schema
from pipeline.schema import Arrays
from pipeline.text.tokenizer import Vocabulary
from serving.tf_serving import DEFAULT_SIGNATURE

BATCH_SIZES = (1, 2, 4, 8, 16, 32)
"""Batch sizes of the warm-up requests to the default signature; a server pads batches to them.

Batches above 32 are not faster: with mini in float32 on one core, a text of 16 positions took
1.27, 1.02, 0.90, 0.87 and 0.89 ms of CPU time in batches of 8, 16, 32, 64 and 128, one of 64
positions 3.42, 3.25, 3.22, 3.36 and 3.42 ms (medians of 15; quartiles within 0.1 ms).
"""

TEXTS = (
    "The [MASK] barked.",
    "He opened the door, and the room was [MASK].",
    "Nobody has seen the garden since the old gardener left for the coast in [MASK], years ago.",
    "",
)
PAIRS = ("It saw a cat.", "", "She stayed at home.")


def example_inputs(
    names: list[str], batch_size: int, vocabulary: Vocabulary
) -> dict[str, np.ndarray]:
    """Return a batch of inputs for a signature.

    Args:
        names: names of the inputs.
        batch_size: B.
        vocabulary: vocabulary of the model.
    """
    # Any piece but the mask, whose position the request names.
    plain = next(index for index in range(len(vocabulary)) if index != vocabulary.mask_id)
    row = [vocabulary.cls_id, vocabulary.mask_id, plain, vocabulary.sep_id]
    values: Arrays = {
        served.TEXT: np.array(list(islice(cycle(TEXTS), batch_size)), object),
        served.TEXT_PAIR: np.array(list(islice(cycle(PAIRS), batch_size)), object),
        served.N_BEST: np.full(batch_size, 3, np.int32),
        served.PASSAGES: np.array([PAIRS] * batch_size, object),
        served.DIMENSION: np.ones(batch_size, np.int32),
        schema.INPUT_IDS: np.array([row] * batch_size, np.int32),
        schema.INPUT_MASK: np.ones([batch_size, len(row)], np.int32),
        schema.SEGMENT_IDS: np.zeros([batch_size, len(row)], np.int32),
        schema.MASKED_LM_POSITIONS: np.array([[1]] * batch_size, np.int32),
    }
    return {name: values[name] for name in names}


def write_warm_up(
    path: Path, model: str, signatures: Mapping[str, Any], vocabulary: Vocabulary
) -> None:
    """Write a request for every batch size to the default signature, and one to every other.

    One request initializes a signature. Those of other sizes let oneDNN generate code for its
    shapes, which signatures share.

    Args:
        path: output file; its directory is created.
        model: name of the model.
        signatures: functions with an `input_signature`, by name.
        vocabulary: vocabulary of the model.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for name, function in signatures.items():
            names = [spec.name for spec in function.input_signature]
            sizes = BATCH_SIZES if name == DEFAULT_SIGNATURE else BATCH_SIZES[:1]
            for size in sizes:
                record = _record(model, name, example_inputs(names, size, vocabulary))
                writer.write(record.SerializeToString())


def _record(
    model: str, signature: str, inputs: Mapping[str, np.ndarray]
) -> prediction_log_pb2.PredictionLog:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    log = prediction_log_pb2.PredictLog(request=request)
    return prediction_log_pb2.PredictionLog(predict_log=log)
