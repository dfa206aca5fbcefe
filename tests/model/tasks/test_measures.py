"""Metrics and answers against numbers of independent scripts and calculations by hand."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clozeline.show.evaluation import print_worst
from model.evaluate import worst
from model.tasks.classification import class_measures, relevant_class
from model.tasks.encoded import NO_LABEL, Encoded
from model.tasks.evaluation import Evaluation
from model.tasks.passage_answers import answer_measures, normalized_answer, passage_answers
from model.tasks.regression import number_measures
from model.tasks.squad import Question
from model.tasks.tag_schemes import tag_scheme
from model.tasks.tagging import TaggedSentences, tag_measures, word_tags
from model.tasks.task_kind import Task

GOLDEN = Path(__file__).parents[2] / "golden" / "seqeval.json"
SEQEVAL = json.loads(GOLDEN.read_text(encoding="utf-8"))["cases"]


def test_classes_by_hand() -> None:
    task = Task("single", ("no", "yes"), takes_pairs=False)
    expected, found = np.array([1, 1, 1, 0, 0, 0, 0]), np.array([1, 1, 0, 0, 0, 0, 1])
    # 2 right of 3 found and of 3 wanted; the other class 3 of 4 and of 4.
    assert class_measures(task, expected, found) == pytest.approx(
        {"accuracy": 5 / 7, "f1": 2 / 3, "macro_f1": (2 / 3 + 3 / 4) / 2, "matthews": 5 / 12}
    )
    more = Task("single", ("a", "b", "c"), takes_pairs=False)
    assert "f1" not in class_measures(more, expected, found)


def test_numbers_by_hand() -> None:
    found = number_measures(np.array([1.0, 2, 3, 4]), np.array([1.0, 3, 2, 8]))
    assert found == pytest.approx(
        {"pearson": 10 / np.sqrt(5 * 29), "spearman": 0.8, "mean_squared_error": 4.5}
    )
    assert number_measures(np.array([1.0, 2]), np.array([3.0, 3]))["pearson"] == 0


def test_nothing_is_printed_about_measures_that_are_hard_to_compute() -> None:
    """The libraries' warnings show lines of our code."""
    right = np.array([1, 1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        task = Task("single", ("a", "b"), takes_pairs=False)
        assert class_measures(task, right, right)["matthews"] == 0
        large = np.array([1.0, 2, 3, 4]) + 1e7
        found = number_measures(large.astype(np.float32), np.float32([1, 3, 2, 8]))
    assert found["pearson"] == pytest.approx(10 / np.sqrt(5 * 29))  # as without 1e7


@pytest.mark.parametrize("case", SEQEVAL, ids=lambda case: case["scheme"])
def test_entities_as_seqeval_counts_them(case: dict[str, Any]) -> None:
    assert tag_scheme(case["expected"]) == case["scheme"]
    measured = tag_measures(case["expected"], case["found"])
    for name in ("entity_precision", "entity_recall", "entity_f1"):
        assert measured[name] == pytest.approx(case[name], abs=1e-9), name


def test_tags_as_conlleval_counts_them() -> None:
    # seqeval 1.2.2 on the same tags: precision 1/2, recall 1/2, F1 1/2, accuracy 8/10.
    expected = [["O", "O", "O", "B-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    found = [["O", "O", "B-MISC", "I-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    measured = tag_measures(expected, found)
    assert measured == pytest.approx(
        {"entity_f1": 0.5, "entity_precision": 0.5, "entity_recall": 0.5, "accuracy": 0.8}
    )


def test_answers_as_squads_script_counts_them() -> None:
    assert normalized_answer("The  Great,  an'  a Cat!") == "great cat"
    found = ["the Eiffel Tower", "in Paris", "", "cat", ""]
    expected = [["Eiffel Tower"], ["Paris", "Paris, France"], [], [], ["dog"]]
    measured = answer_measures(found, expected)
    # SQuAD 2.0's script leaves out answers that are articles and punctuation alone.
    assert answer_measures([""], [["The", "Rome"]]) == {"span_f1": 0, "exact_match": 0}
    assert answer_measures([""], [["The"]]) == {"span_f1": 1, "exact_match": 1}
    assert measured == pytest.approx({"exact_match": 2 / 5, "span_f1": (1 + 2 / 3 + 1 + 0 + 0) / 5})


def test_word_tags_of_a_sentence_in_parts() -> None:
    task = Task("tagging", ("x", "y"), takes_pairs=False)
    examples = TaggedSentences(Path("f"), [["a", "b", "c"]], [["x", "x", "y"]], [1])
    labels = [np.array([NO_LABEL, 0, NO_LABEL, 0]), np.array([NO_LABEL, 1])]
    logits = [np.array([[9, 0], [0, 2], [9, 0], [3, 1]]), np.array([[0, 9], [5, 4.0]])]
    encoded = Encoded([], np.zeros(0), labels, np.array([0, 0]))
    assert word_tags(examples, encoded, logits, task) == [["y", "x", "x"]]
    nats = [np.log1p(np.exp(2)), np.log1p(np.exp(-2)), np.log1p(np.exp(1))]
    assert task.definition.mean_loss(examples, encoded, logits, task) == pytest.approx(
        np.mean(nats)
    )


def span_logits(length: int, start: int, end: int, none: float = 0.0) -> np.ndarray:
    logits = np.zeros((length, 2), np.float32)
    logits[start, 0], logits[end, 1], logits[0] = 5, 4, none
    return logits


PASSAGE = "Été: a cat sat."  # words: Été : a cat sat .
BYTES = np.array([[0, 5], [5, 6], [7, 8], [9, 12], [13, 16], [16, 17]])
NONE = NO_LABEL
WORDS = [
    np.array([NONE, NONE, NONE, 0, 0, 1, 2, NONE]),
    np.array([NONE, NONE, NONE, 2, 3, 4, 5, NONE]),
]


@pytest.mark.parametrize(
    ("first", "second", "answer", "score"),
    [
        (span_logits(8, 3, 4), span_logits(8, 3, 3, none=4.6), "Été", 9.0),
        (span_logits(8, 4, 3, none=1.0), span_logits(8, 4, 5), "cat sat", 9.0),
        # The end stands before the start: only one of them can be had.
        (span_logits(8, 5, 3, none=4.0), span_logits(8, 6, 3, none=4.0), "", -3.0),
        (span_logits(8, 3, 4, none=6.0), span_logits(8, 4, 4, none=4.6), "", -0.2),
    ],
)
def test_answers_from_several_windows(
    first: np.ndarray, second: np.ndarray, answer: str, score: float
) -> None:
    question = Question("id", "who", PASSAGE, ())
    encoded = Encoded([], np.zeros(0), None, np.array([0, 0]), words=WORDS, word_bytes=[BYTES])
    found = passage_answers([question], encoded, [first, second])[0]
    assert found.text == answer
    assert found.score == pytest.approx(score, abs=1e-5)


def test_a_passage_without_words_has_no_answer() -> None:
    question = Question("id", "who", " \n", ())
    encoded = Encoded([], np.zeros(0), None, np.array([0]), words=[np.full(4, NO_LABEL)])
    found = passage_answers([question], encoded, [np.ones((4, 2), np.float32)])[0]
    assert (found.text, found.score) == ("", None)


def test_right_answers_are_not_shown_as_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    given = {"question": "who", "expected": ["a cat", "cat"], "score": 1.0}
    answers = [{"id": "right", **given, "answer": "cat"}, {"id": "wrong", **given, "answer": "dog"}]
    print_worst(worst(Evaluation({}, answers, [0.0, 1.0]), 5))
    said = capsys.readouterr().out
    assert "wrong" in said
    assert "right" not in said


@pytest.mark.parametrize(
    ("labels", "relevant"),
    [
        (("entailment", "not_entailment"), 0),
        (("contradiction", "entailment", "neutral"), 1),
        (("0", "1"), 1),
        (("False", "True"), 1),
        (("Yes", "No"), 0),
        (("LABEL_0", "LABEL_1"), 1),
        (("1", "2", "3", "4"), 3),
        (("relevant", "same", "other"), 2),  # two names: the last class
    ],
)
def test_the_class_that_passages_are_ranked_by(labels: tuple[str, ...], relevant: int) -> None:
    assert relevant_class(labels) == relevant
