"""A model's scores to answers: classes, numbers, tags of words, parts of passages.

Shapes: N examples of a file, L positions, C outputs of the task's head.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax, softmax

from model.tasks.encoding import NO_LABEL, Encoded
from model.tasks.examples import Question, Words
from model.tasks.kinds import Task

BEST_ENDS = 20
"""Starts and ends of an answer that are tried with each other, as in google-research/bert."""

MAX_ANSWER_WORDS = 30


def class_probabilities(logits: Sequence[np.ndarray]) -> np.ndarray:
    """Return the probability of each class: float32 [N, C]."""
    return softmax(np.stack(logits), axis=-1)


def mean_loss(encoded: Encoded, logits: Sequence[np.ndarray], task: Task) -> float:
    """Return the task's mean loss over all examples, every class counting the same."""
    labels = encoded.labels
    if task.kind == "regression":
        return float(np.mean(np.square(np.stack(logits)[:, 0] - labels)))
    if task.kind == "span":
        sides = [
            [-log_softmax(score[:, side])[label[side]] for side in (0, 1)]
            for score, label in zip(logits, labels, strict=True)
        ]
        return float(np.mean(sides))
    if task.kind == "tagging":
        rows = [score[label != NO_LABEL] for score, label in zip(logits, labels, strict=True)]
        labels = np.concatenate([label[label != NO_LABEL] for label in labels])
    else:
        rows = [np.stack(logits)]
    nats = -log_softmax(np.concatenate(rows), axis=-1)
    return float(np.mean(nats[np.arange(len(labels)), labels]))


def word_tags(
    examples: Words, encoded: Encoded, logits: Sequence[np.ndarray], task: Task
) -> list[list[str]]:
    """Return the tag of every word, by sentence.

    A word's answer is that at its first piece; the parts of a long sentence are put together.
    """
    tags: list[list[str]] = [[] for _ in examples.words]
    for source, score, label in zip(encoded.sources, logits, encoded.labels, strict=True):
        best = score[label != NO_LABEL].argmax(axis=-1)
        tags[source] += [task.labels[index] for index in best]
    return tags


@dataclass(frozen=True)
class Answer:
    """An answer out of a passage.

    Attributes:
        text: what stands in the passage; "" if it has no answer.
        score: score of the best start and end, minus the score of no answer; above 0 unless the
            text is "". None: the passage has no words.
    """

    text: str
    score: float | None


def passage_answers(
    questions: Sequence[Question], encoded: Encoded, logits: Sequence[np.ndarray]
) -> list[Answer]:
    """Return the best answer to each question, from all parts of its passage.

    There is none where every part scores position 0 higher, as in google-research/bert
    (run_squad.py) with a threshold of 0.
    """
    best: dict[int, tuple[float, int, int]] = {}
    nothing: dict[int, float] = {}
    for source, score, words in zip(encoded.sources, logits, encoded.words, strict=True):
        source = int(source)
        none = float(score[0].sum())
        nothing[source] = min(nothing.get(source, np.inf), none)
        found = _best_words(score, words)
        if found and (source not in best or found[0] > best[source][0]):
            best[source] = found
    answers = []
    for index, question in enumerate(questions):
        if index not in best or best[index][0] <= nothing[index]:
            margin = best[index][0] - nothing[index] if index in best else None
            answers.append(Answer("", margin))
            continue
        total, first, last = best[index]
        start, end = encoded.word_bytes[index][[first, last], [0, 1]]
        text = question.passage.encode()[start:end].decode()
        answers.append(Answer(text, total - nothing[index]))
    return answers


def _best_words(score: np.ndarray, words: np.ndarray) -> tuple[float, int, int] | None:
    """Return the best score of an answer in a part of a passage, and its first and last word.

    Args:
        score: float32 [L, 2]. Of starts and ends.
        words: int32 [L]. Which word stands at a position.
    """
    there = np.flatnonzero(words != NO_LABEL)
    if not len(there):
        return None
    starts, ends = (
        there[np.argsort(-score[there, side], kind="stable")[:BEST_ENDS]] for side in (0, 1)
    )
    totals = score[starts, 0][:, np.newaxis] + score[ends, 1]
    lengths = words[ends] - words[starts][:, np.newaxis]
    fits = (lengths >= 0) & (lengths < MAX_ANSWER_WORDS) & (ends >= starts[:, np.newaxis])
    if not fits.any():
        return None
    start, end = np.unravel_index(np.argmax(np.where(fits, totals, -np.inf)), totals.shape)
    return float(totals[start, end]), int(words[starts[start]]), int(words[ends[end]])
