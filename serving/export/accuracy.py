"""Measure the effect of a lower precision on a model's metrics, on labelled examples.

Both the Python model in float32 and the exported graph compute the logits of the same encoded
examples, and the kind of task evaluates both.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from model import served
from model.run import Run
from model.tasks.batches import Batches
from model.tasks.example_files import read_examples
from model.tasks.examples import Examples
from model.tasks.tables import Columns
from model.tasks.task_kind import Task
from pipeline import schema
from pipeline.errors import InputError, JobError
from serving.export.signatures import TextModel

BATCH_SIZE = 32

Logits = Callable[[Mapping[str, Any]], Any]
"""Encoder inputs, int32 [B, L] each → task logits, float32 [B, C] or [B, L, C]."""


@dataclass(frozen=True)
class Accuracy:
    """Metrics of a task before and after the export.

    Attributes:
        examples: number of labelled examples.
        metric: name of the metric that selects the task's best checkpoint.
        in_float32: its value for the Python model.
        exported: its value for the exported model.
        loss: deterioration of the metric, whatever its direction; below 0 = better.
        agreement: share of examples with the same answer, 0 to 1; None if answers are numbers.
        others: the task's other metrics: values for the Python model and for the exported model.
    """

    examples: int
    metric: str
    in_float32: float
    exported: float
    loss: float
    agreement: float | None
    others: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def check_accuracy(run: Run, model: keras.Model, module: TextModel, path: Path) -> Accuracy:
    """Evaluate the Python model and the module that is exported.

    Args:
        run: a fine-tuned run.
        model: Keras model of the run.
        module: the module with the exported graph.
        path: labelled examples in the training file's format.

    Raises:
        InputError: the run was not fine-tuned, or the file cannot be used or has no labels.
        JobError: this machine cannot run the module.
    """
    task = run.task
    if task is None:
        raise InputError(f"`check` {path}: {run.path} is not tuned for a task, so it has no metric")
    kind = task.definition
    examples = _read_labelled(path, task)
    encoded = kind.encode(run.encoder, examples, task)
    length = run.dataset.max_seq_length
    batches = Batches(encoded, task, BATCH_SIZE, run.vocabulary.pad_id, length)
    exported = tf.function(
        lambda *ids: module.task_logits(dict(zip(schema.ENCODER_INPUTS, ids, strict=True))),
        input_signature=[tf.TensorSpec([None, None], tf.int32)] * len(schema.ENCODER_INPUTS),
        # As in the exported graph: Python's control flow is not converted.
        autograph=False,
    )
    try:
        first, second = (
            kind.evaluate(examples, encoded, _logits(of, batches, task), task)
            for of in (
                lambda features: model(features)[served.TASK_LOGITS],
                lambda features: exported(*map(tf.constant, features.values())),
            )
        )
    except tf.errors.InvalidArgumentError as error:  # int8 on a CPU that cannot multiply it
        raise JobError(f"not exported: {' '.join(error.message.split())[:300]}") from error
    metric, *others = kind.metrics_on(examples, task)[1:]
    before, after = first.measures[metric], second.measures[metric]
    pairs = zip(first.answers, second.answers, strict=True)
    same = [one["answer"] == other["answer"] for one, other in pairs]
    return Accuracy(
        len(examples),
        metric,
        before,
        after,
        # Positive = worse, whatever the metric's direction.
        before - after if kind.is_higher_better(metric) else after - before,
        None if first.are_numbers else float(np.mean(same)),
        {name: (first.measures[name], second.measures[name]) for name in others},
    )


def _read_labelled(path: Path, task: Task) -> Examples:
    """Return the examples of a file that have a label which the task knows.

    Raises:
        InputError: the file cannot be used, or has no labels.
    """
    kind = task.definition
    examples = read_examples(path, task.kind, Columns(), "`check`", takes_pairs=task.takes_pairs)
    # GLUE's test files have -1 for every label.
    examples = kind.without_unknown(examples, task)
    examples, _ = kind.with_labels_of(examples, task, {})
    if not any(examples.are_labelled):
        raise InputError(f"`check` {path}: {examples.no_labels()}, so there is nothing to measure")
    return examples.select(examples.are_labelled)


def _logits(of: Logits, batches: Batches, task: Task) -> list[np.ndarray]:
    """Return the logits of each encoded text, or pair of texts, in order and without padding."""
    found: list[np.ndarray] = [np.zeros(0)] * len(batches.encoded)
    # By length, so that a batch has little padding.
    order = batches.by_length
    for start in range(0, len(order), BATCH_SIZE):
        rows = order[start : start + BATCH_SIZE]
        values = np.asarray(of(batches.inputs_of(rows)))
        for row, logits in zip(rows, values, strict=True):
            length = len(batches.encoded.input_ids[row])
            found[row] = logits[:length] if task.is_per_position else logits
    return found
