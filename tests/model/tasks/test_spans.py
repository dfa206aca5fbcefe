"""The best answer of a window against a search by definition; evaluated answers against served."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from model.tasks.encoded import NO_LABEL, Encoded
from model.tasks.span import SPAN, Question, best_spans, passage_answers
from model.tasks.task_kind import Task

LONGEST = 30  # words, as in google-research/bert's `max_answer_length`


def by_definition(scores: np.ndarray, at: np.ndarray) -> tuple[float, int, int] | None:
    """Return the best answer of a window, [L, 2] and [L]; the first one of equals."""
    best = None
    for start, end in itertools.combinations_with_replacement(np.flatnonzero(at >= 0), 2):
        total = scores[start, 0] + scores[end, 1]
        if at[end] - at[start] < LONGEST and (best is None or total > best[0]):
            best = total, at[start], at[end]
    return best


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
    totals, firsts, lasts = (each.numpy() for each in best_spans(scores, at))
    assert firsts[0] == lasts[0] == NO_LABEL
    for row in range(1, len(at)):
        found = totals[row], firsts[row], lasts[row]
        assert found == by_definition(scores[row], at[row])


def lists_of_best_that_do_not_meet() -> np.ndarray:
    """Scores of 50 words in which the best 25 starts stand behind the best 25 ends."""
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

    words = SimpleNamespace(at=at[None], starts=starts[None], limits=starts[None] + 6)
    task = Task("span", (), takes_pairs=True)
    served = SPAN.served_answers(task, scores[None], words, np.array([passage.encode()]))
    assert evaluated.text == served["answer"].numpy()[0].decode()
    assert evaluated.score == pytest.approx(served["score"].numpy()[0])
    best = by_definition(scores, at)
    assert best is not None
    assert evaluated.score == pytest.approx(best[0] - scores[0].sum(), abs=1e-5)
