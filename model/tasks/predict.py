"""Compute the logits of all examples of a file, and evaluate them."""

import numpy as np

from model import served
from model.finite import check_finite
from model.tasks.batches import Batches
from model.tasks.evaluation import Evaluation
from model.tasks.examples import Examples
from model.training.loop import distribute
from model.training.predictor import Predictor


def predict(predictor: Predictor, batches: Batches) -> list[np.ndarray]:
    """Return the task logits of every encoded text, or pair of texts, in order, without padding.

    Returns:
        N arrays float32 [C], or [L, C] if the head has outputs for every position.

    Raises:
        InputError: a logit is NaN or infinite; as labels, NaN would be the first class.
    """
    iterator = distribute(predictor.strategy, batches.evaluation)
    by_example: list[np.ndarray] = [np.zeros(0)] * len(batches.encoded)
    order = batches.by_length
    for index in range(batches.evaluation_count):
        logits = predictor.predict(next(iterator))[served.TASK_LOGITS]
        rows = order[index * batches.batch_size : (index + 1) * batches.batch_size]
        for row, values in zip(rows, logits, strict=False):  # filler follows the last example
            per_position = batches.task.is_per_position
            length = len(batches.encoded.input_ids[row])
            by_example[row] = values[:length] if per_position else values
    check_finite(predictor.name, by_example)
    return by_example


def evaluate(predictor: Predictor, examples: Examples, batches: Batches) -> Evaluation:
    """Return the answers, metrics and loss of a model on a file of examples.

    Args:
        predictor: the model.
        examples: examples of the file.
        batches: the same examples, encoded.

    Raises:
        InputError: a logit is NaN or infinite.
    """
    task, encoded = batches.task, batches.encoded
    kind = task.definition
    logits = predict(predictor, batches)
    evaluation = kind.evaluate(examples, encoded, logits, task)
    if evaluation.measures:
        loss = kind.mean_loss(examples, encoded, logits, task)
        evaluation.measures = {"loss": loss} | evaluation.measures
    return evaluation
