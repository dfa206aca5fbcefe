"""The best answer of a window against a search by definition; evaluated answers against served."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from model.tasks.best_spans import best_spans
from model.tasks.encoded import NO_LABEL, Encoded
from model.tasks.passage_answers import passage_answers
from model.tasks.span import SPAN
from model.tasks.squad import Question
from model.tasks.task_kind import Task
from model.tasks.windows import ReadTexts
from pipeline.text.inputs import WordPieces

LONGEST = 30  # words, as in google-research/bert's `max_answer_length`


def by_definition(scores: np.ndarray, at: np.ndarray) -> tuple[float, int, int] | None:
    """Return the best answer of a window, [L, 2] and [L]; the first and shortest one of equals."""
    return next(iter(all_by_definition(scores, at)), None)


def all_by_definition(scores: np.ndarray, at: np.ndarray) -> list[tuple[float, int, int]]:
    """Return all answers of a window, the best one first; no two have the same words."""
    answers: dict[tuple[int, int], float] = {}
    for start, end in itertools.combinations_with_replacement(np.flatnonzero(at >= 0), 2):
        words = int(at[start]), int(at[end])
        if words[1] - words[0] < LONGEST:
            total = scores[start, 0] + scores[end, 1]
            answers[words] = max(answers.get(words, -np.inf), total)
    return sorted(((total, *words) for words, total in answers.items()), key=by_rank)


def by_rank(answer: tuple[float, int, int]) -> tuple[float, int, int]:
    total, first, last = answer
    return -total, first, last


def window(random: np.random.Generator, words: int, tokens: int = 120) -> np.ndarray:
    """Return the word at each position: [CLS] question [SEP] passage [SEP] and padding."""
    pieces = np.repeat(np.arange(words), random.integers(1, 4, words))[: tokens - 6]
    around = np.full(5, NO_LABEL), pieces, np.full(tokens - 5 - len(pieces), NO_LABEL)
    return np.concatenate(around).astype(np.int32)


@pytest.mark.parametrize("kinds_of_score", [3, 1_000_000], ids=["many ties", "few ties"])
def test_best_spans_are_those_by_definition(kinds_of_score: int) -> None:
    random = np.random.default_rng(1)
    at = np.stack([window(random, words) for words in (0, 1, 2, 5, 20, 40, 80, 80)])
    scores = random.integers(kinds_of_score, size=(len(at), 120, 2)).astype(np.float32)
    scores /= kinds_of_score
    totals, firsts, lasts = (each.numpy() for each in best_spans(scores, at, 50))
    for row in range(len(at)):
        expected = all_by_definition(scores[row], at[row])[:50]
        found = list(zip(totals[row], firsts[row], lasts[row], strict=True))
        assert found[: len(expected)] == expected
        assert all(first == last == NO_LABEL for _, first, last in found[len(expected) :])


@pytest.mark.parametrize("pieces", [128, 129, 266, 400])
def test_a_word_of_many_pieces_is_answered_from_its_first_to_its_last(pieces: int) -> None:
    # Text of Thai or kana is one word up to the next space; of up to 800 bytes, it is kept.
    at = np.array([[NO_LABEL, *[0] * pieces, NO_LABEL]], np.int32)
    scores = np.zeros((1, pieces + 2, 2), np.float32)
    scores[0, 1, 0] = scores[0, pieces, 1] = 4.0
    total, first, last = (each.numpy() for each in best_spans(scores, at))
    assert (total[0, 0], first[0, 0], last[0, 0]) == (8.0, 0, 0)


def lists_of_best_that_do_not_meet() -> np.ndarray:
    """Scores of 50 words whose best 25 starts come after their best 25 ends."""
    scores = np.zeros((52, 2), np.float32)
    scores[26:51, 0] = scores[1:26, 1] = 9
    scores[7, 0] = 3  # an answer from the 7th word to the 20th
    scores[20, 1] += 1
    return scores


@pytest.mark.parametrize(
    "scores",
    [
        lists_of_best_that_do_not_meet(),
        *np.random.default_rng(2).normal(size=(10, 52, 2)).astype(np.float32),
    ],
)
def test_evaluated_answers_are_the_served_ones(scores: np.ndarray) -> None:
    passage = " ".join(f"word{index:02}" for index in range(50))
    starts = np.arange(50) * 7
    at = np.array([NO_LABEL, *range(50), NO_LABEL], np.int32)
    encoded = Encoded(
        [], np.zeros(0), None, np.zeros(1, np.int32),
        words=[at], word_bytes=[np.stack([starts, starts + 6], axis=1)],
    )  # fmt: skip
    evaluated = passage_answers([Question("id", "which", passage, ())], encoded, [scores])[0]

    task = Task("span", (), takes_pairs=True)
    places = (tf.ragged.constant([each], tf.int64) for each in (starts, starts + 6))
    words = WordPieces(None, *places, 0, 0)
    read = ReadTexts(tf.constant([passage]), words, tf.constant([0], tf.int64), None)
    found = SPAN.window_outputs(task, tf.constant(scores[None]), tf.constant(at[None]), None)
    served = SPAN.served_answers(task, found, read)
    assert evaluated.text == served["answer"].numpy()[0].decode()
    assert evaluated.score == pytest.approx(served["score"].numpy()[0])
    best = by_definition(scores, at)
    assert best is not None
    assert evaluated.score == pytest.approx(best[0] - scores[0].sum(), abs=1e-5)
