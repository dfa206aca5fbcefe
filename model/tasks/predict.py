"""A model's logits for every example of a file."""

import numpy as np

from model.tasks.batches import Batches
from model.training.loop import Predictor, distribute


def predict(predictor: Predictor, batches: Batches) -> list[np.ndarray]:
    """Return the task's logits for every encoded example, without its padding, in their order.

    Returns:
        float32 [C], or [L, C] for an answer at every position.
    """
    iterator = distribute(predictor.strategy, batches.evaluation)
    found: list[np.ndarray] = [np.zeros(0)] * len(batches)
    order = batches.by_length
    for index in range(batches.evaluation_count):
        logits = predictor.predict(next(iterator))["task_logits"]
        rows = order[index * batches.batch_size : (index + 1) * batches.batch_size]
        for row, values in zip(rows, logits, strict=False):  # what is left over is filler
            per_position = batches.task.is_per_position
            length = len(batches.encoded.input_ids[row])
            found[row] = values[:length] if per_position else values
    return found
