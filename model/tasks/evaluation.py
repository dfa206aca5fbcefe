"""All answers to a file of examples, their measures, and what went wrong most."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy.special import log_softmax

from model.tasks.answers import class_probabilities, mean_loss, passage_answers, word_tags
from model.tasks.batches import Batches
from model.tasks.encoding import NO_LABEL, Encoded
from model.tasks.examples import Examples, Questions, Texts, Words
from model.tasks.kinds import Task
from model.tasks.measures import answer_measures, class_measures, number_measures, tag_measures
from model.tasks.tag_schemes import Scheme, tag_scheme
from model.training.loop import Predictor, distribute
from pipeline.errors import InputError


@dataclass
class Evaluation:
    """What a model answered.

    Attributes:
        measures: `loss`, and those of the task, by name; none where labels are unknown.
        answers: one row an example: what was given, expected and answered, by name.
        errors: how wrong each answer is, the higher the worse; empty where labels are unknown.
        confusion: int [C, C]. How often a class (row) was taken for another; None without classes.
        tag_scheme: how tags mark entities; None without tags.
    """

    measures: dict[str, float]
    answers: list[dict[str, Any]]
    errors: list[float] = field(default_factory=list)
    confusion: np.ndarray | None = None
    tag_scheme: Scheme | None = None


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


def evaluate(
    examples: Examples, encoded: Encoded, logits: Sequence[np.ndarray], task: Task
) -> Evaluation:
    """Return what a model's logits say of a file of examples.

    Args:
        examples: the file's.
        encoded: the same, encoded.
        logits: of `predict`.
        task: what the model was tuned for.
    """
    if isinstance(examples, Words):
        evaluation = _of_tags(examples, encoded, logits, task)
    elif isinstance(examples, Questions):
        evaluation = _of_answers(examples, encoded, logits)
    elif task.kind == "regression":
        evaluation = _of_numbers(examples, encoded, logits)
    else:
        evaluation = _of_classes(examples, encoded, logits, task)
    if evaluation.measures:
        loss = mean_loss(*_with_known_place(examples, encoded, logits), task)
        evaluation.measures = {"loss": loss} | evaluation.measures
    return evaluation


def _with_known_place(
    examples: Examples, encoded: Encoded, logits: Sequence[np.ndarray]
) -> tuple[Encoded, Sequence[np.ndarray]]:
    """Return what has a loss: everything but questions whose answer is not where the file says."""
    if not isinstance(examples, Questions) or all(q.is_learnable for q in examples.questions):
        return encoded, logits
    kept = [i for i, s in enumerate(encoded.sources) if examples.questions[s].is_learnable]
    return replace(encoded, labels=encoded.labels[kept]), [logits[i] for i in kept]


def _given(examples: Texts, index: int) -> dict[str, Any]:
    texts = dict(zip(examples.columns, examples.texts[index], strict=False))
    return {"line": examples.rows[index], **texts}


def _of_classes(
    examples: Texts, encoded: Encoded, logits: Sequence[np.ndarray], task: Task
) -> Evaluation:
    probabilities = class_probabilities(logits)
    best = probabilities.argmax(axis=-1)
    answers = [
        {
            **_given(examples, index),
            **({"expected": examples.labels[index]} if examples.labels else {}),
            "answer": task.labels[label],
            "probability": float(probabilities[index, label]),
        }
        for index, label in enumerate(best)
    ]
    labels = encoded.labels
    if labels is None:
        return Evaluation({}, answers)
    errors = -np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-30))
    return Evaluation(
        class_measures(task, labels, best),
        answers,
        errors.tolist(),
        _confusion(labels, best, len(task.labels)),
    )


def _of_numbers(examples: Texts, encoded: Encoded, logits: Sequence[np.ndarray]) -> Evaluation:
    scores = np.stack(logits)[:, 0]
    answers = [
        {
            **_given(examples, index),
            **({"expected": float(encoded.labels[index])} if examples.labels else {}),
            "answer": float(score),
        }
        for index, score in enumerate(scores)
    ]
    if encoded.labels is None:
        return Evaluation({}, answers)
    errors = np.abs(scores - encoded.labels)
    return Evaluation(number_measures(encoded.labels, scores), answers, errors.tolist())


def _of_tags(
    examples: Words, encoded: Encoded, logits: Sequence[np.ndarray], task: Task
) -> Evaluation:
    tags = word_tags(examples, encoded, logits, task)
    answers = [
        {"line": row, "words": words, **({"expected": right} if right else {}), "answer": answer}
        for row, words, right, answer in zip(
            examples.rows, examples.words, examples.tags, tags, strict=True
        )
    ]
    if not any(examples.tags):
        return Evaluation({}, answers)
    errors = np.zeros(len(examples))
    for source, score, label in zip(encoded.sources, logits, encoded.labels, strict=True):
        there = np.flatnonzero(label != NO_LABEL)
        errors[source] -= log_softmax(score[there], axis=-1)[range(len(there)), label[there]].sum()
    numbers = {label: index for index, label in enumerate(task.labels)}
    expected, found = (
        np.array([numbers[tag] for sentence in side for tag in sentence])
        for side in (examples.tags, tags)
    )
    confusion = _confusion(expected, found, len(task.labels))
    scheme = scheme_of(examples, task)
    measures = tag_measures(examples.tags, tags, scheme)
    return Evaluation(measures, answers, errors.tolist(), confusion, scheme)


def scheme_of(examples: Words, task: Task) -> Scheme:
    """Return how the tags of a file mark entities.

    Raises:
        InputError: in no known way.
    """
    try:
        return tag_scheme(examples.tags, task.labels)
    except ValueError as error:
        raise InputError(f"{examples.path}: {error}") from error


def _of_answers(examples: Questions, encoded: Encoded, logits: Sequence[np.ndarray]) -> Evaluation:
    found = passage_answers(examples.questions, encoded, logits)
    answers = [
        {
            "id": question.id,
            "question": question.question,
            **({} if question.expected is None else {"expected": list(question.expected)}),
            "answer": answer.text,
            "score": answer.score,
        }
        for question, answer in zip(examples.questions, found, strict=True)
    ]
    if encoded.labels is None:
        return Evaluation({}, answers)
    expected = [question.expected or () for question in examples.questions]
    texts = [answer.text for answer in found]
    errors = [
        1.0 - answer_measures([a], [e])["span_f1"] for a, e in zip(texts, expected, strict=True)
    ]
    return Evaluation(answer_measures(texts, expected), answers, errors)


def _confusion(expected: np.ndarray, found: np.ndarray, classes: int) -> np.ndarray:
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (expected, found), 1)
    return counts
