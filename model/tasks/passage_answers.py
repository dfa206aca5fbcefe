"""The best answer to a question over all windows of its passage, and SQuAD's metrics."""

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from model.tasks.best_spans import IMPOSSIBLE, MAX_ANSWER_WORDS, best_spans
from model.tasks.encoded import NO_LABEL, Encoded
from model.tasks.squad import Question
from model.tasks.windows import ReadTexts


@dataclass(frozen=True)
class PassageAnswer:
    """An answer to a question.

    Attributes:
        text: text from the passage; "" = no answer.
        score: score of the best start and end minus the score of "no answer"; above 0 if and only
            if there is an answer. None if the passage has no words.
    """

    text: str
    score: float | None


def passage_answers(
    questions: Sequence[Question], encoded: Encoded, logits: Sequence[np.ndarray]
) -> list[PassageAnswer]:
    """Return the best answer to each question over all windows of its passage.

    The score of "no answer" is that of position 0 ([CLS]), the minimum over the windows, as in
    google-research/bert (run_squad.py) with a threshold of 0.
    """
    best: dict[int, tuple[float, int, int]] = {}
    nothing: dict[int, float] = {}
    found = _best_of_windows(logits, encoded.words)
    for source, scores, answer in zip(encoded.sources.tolist(), logits, found, strict=True):
        none = float(scores[0].sum())
        nothing[source] = min(nothing.get(source, np.inf), none)
        total, first, _ = answer
        if first != NO_LABEL and (source not in best or total > best[source][0]):
            best[source] = answer
    answers = []
    for index, question in enumerate(questions):
        if index not in best or best[index][0] <= nothing[index]:
            margin = best[index][0] - nothing[index] if index in best else None
            answers.append(PassageAnswer("", margin))
            continue
        total, first, last = best[index]
        start, end = encoded.word_bytes[index][[first, last], [0, 1]]
        text = question.passage.encode()[start:end].decode()
        answers.append(PassageAnswer(text, total - nothing[index]))
    return answers


_WINDOWS_TOGETHER = 64
"""Windows that are searched in one call, of similar lengths."""


def _best_of_windows(
    logits: Sequence[np.ndarray], words: Sequence[np.ndarray]
) -> list[tuple[float, int, int]]:
    """Return the score, the first and the last word of the best answer in each window."""
    found: list[tuple[float, int, int]] = [(0.0, NO_LABEL, NO_LABEL)] * len(words)
    # Windows of similar lengths together need little padding.
    order = sorted(range(len(words)), key=lambda index: len(words[index]))
    for start in range(0, len(order), _WINDOWS_TOGETHER):
        chosen = order[start : start + _WINDOWS_TOGETHER]
        # A multiple of 64, so that TensorFlow sees few shapes.
        length = -(-len(words[chosen[-1]]) // 64) * 64
        scores = np.zeros((len(chosen), length, 2), np.float32)
        at = np.full((len(chosen), length), NO_LABEL, np.int32)
        for place, index in enumerate(chosen):
            scores[place, : len(words[index])] = logits[index]
            at[place, : len(words[index])] = words[index]
        best = (each.numpy()[:, 0].tolist() for each in best_spans(scores, at))
        for index, answer in zip(chosen, zip(*best, strict=True), strict=True):
            found[index] = answer
    return found


def best_of_texts(found: Mapping[str, Any], read: ReadTexts) -> tuple[Any, Any, Any]:
    """Return the best answers over all windows of each text; no two have the same words.

    Part of the exported graph.

    Args:
        found: `Span.window_outputs` of all windows.
        read: the texts.

    Returns:
        scores: float32 [B, N]; first, last: int32 [B, N], see `best_spans`.
    """
    import tensorflow as tf

    # `window_outputs` are flat: S answers of each window, one window after another.
    count = tf.size(found["scores"]) // tf.maximum(tf.size(found["no_answer"]), 1)
    count = tf.maximum(count, 1)
    is_answer = found["first"] != NO_LABEL
    scores, first, last = (
        tf.boolean_mask(found[name], is_answer) for name in ("scores", "first", "last")
    )
    rows = tf.boolean_mask(tf.repeat(read.rows, count), is_answer)
    # One number for each run of words of a text; windows that overlap have the same ones.
    most_words = tf.reduce_max(read.words.starts.row_lengths()) + 1
    runs = rows * most_words + tf.cast(first, tf.int64)
    runs = runs * MAX_ANSWER_WORDS + tf.cast(last - first, tf.int64)
    # Windows overlap, so a run of words may be found twice; the better score counts.
    runs, index = tf.unique(runs, tf.int64)
    scores = tf.math.unsorted_segment_max(scores, index, tf.size(runs, tf.int64))
    first = tf.cast(runs // MAX_ANSWER_WORDS % most_words, tf.int32)
    last = first + tf.cast(runs % MAX_ANSWER_WORDS, tf.int32)
    rows = runs // MAX_ANSWER_WORDS // most_words  # ascending, as `read.rows` is

    def by_text(values: Any, nothing: Any) -> Any:
        """Return [runs] as [B, most runs of a text, and N more]."""
        texts = tf.size(read.texts, tf.int64)
        ragged = tf.RaggedTensor.from_value_rowids(values, rows, texts, validate=False)
        # `top_k` needs at least `count` columns, however few answers there are.
        return tf.pad(ragged.to_tensor(nothing), [[0, 0], [0, count]], constant_values=nothing)

    best, places = tf.math.top_k(by_text(scores, IMPOSSIBLE), count)
    return best, *(
        tf.gather(by_text(each, NO_LABEL), places, batch_dims=1) for each in (first, last)
    )


def normalized_answer(text: str) -> str:
    """Return an answer in lower case, without punctuation, articles and extra spaces, as SQuAD."""
    # The order of SQuAD's own script: lower case, punctuation, articles, white space.
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def answer_scores(answer: str, expected: Sequence[str]) -> tuple[float, float]:
    """Return the exact match and the F1 of an answer: the maximum over the correct answers.

    Args:
        answer: answer of the model; "" = no answer.
        expected: correct answers; empty = the question has no answer.
    """
    # Drop answers of articles and punctuation alone, as in SQuAD 2.0's evaluation script.
    correct = [text for text in map(normalized_answer, expected) if text] or [""]
    answer = normalized_answer(answer)
    exact = float(answer in correct)
    return exact, max(_word_f1(answer, text) for text in correct)


def _word_f1(answer: str, expected: str) -> float:
    a, b = answer.split(), expected.split()
    # SQuAD 2.0's script: without words on one side, F1 is whether both have none.
    if not a or not b:
        return float(a == b)
    common = sum((Counter(a) & Counter(b)).values())
    return 2 * common / (len(a) + len(b))


def answer_measures(answers: Sequence[str], expected: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return SQuAD's metrics: the mean F1 and the mean exact match."""
    scores = [answer_scores(*pair) for pair in zip(answers, expected, strict=True)]
    exact, f1 = np.mean(scores, axis=0)
    return {"span_f1": float(f1), "exact_match": float(exact)}
