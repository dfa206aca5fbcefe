"""Labels of a file that are renamed to those of the run, and unknown labels."""

from pathlib import Path

import pytest

from model.tasks.labels import parse_label_map
from model.tasks.tagging import TaggedSentences
from model.tasks.task_kind import Task
from model.tasks.texts import Texts
from pipeline.errors import InputError


def texts(*labels: str) -> Texts:
    count = range(len(labels))
    return Texts(Path("f.tsv"), [(f"t{i}",) for i in count], [*labels], [i + 2 for i in count], [])


def classes(*labels: str) -> Task:
    return Task("single", labels, takes_pairs=False)


NUMBER = Task("regression", (), takes_pairs=False)


@pytest.mark.parametrize(
    ("task", "labels", "expected"),
    [
        (classes("0", "1"), ["-1", "-1"], []),
        (classes("0", "1"), ["-1", "1", ""], ["", "1", ""]),
        (classes("-1", "0", "1"), ["-1", "1"], ["-1", "1"]),
        (classes("a", "b"), ["a", "b"], ["a", "b"]),
        (classes("a", "b"), [], []),
        (NUMBER, ["-1", "-1"], []),
        (NUMBER, ["-1", "2.5"], ["-1", "2.5"]),
    ],
)
def test_unknown_labels(task: Task, labels: list[str], expected: list[str]) -> None:
    found = task.definition.without_unknown(texts(*labels), task)
    assert isinstance(found, Texts)
    assert found.labels == expected


def test_labelled_examples_can_be_selected() -> None:
    examples = texts("a", "", "b")
    assert examples.are_labelled == [True, False, True]
    kept = examples.select([True, False, True])
    assert isinstance(kept, Texts)
    assert (kept.texts, kept.labels, kept.rows) == ([("t0",), ("t2",)], ["a", "b"], [2, 4])
    rest = examples.select([False, True, False])
    assert isinstance(rest, Texts)
    assert (rest.texts, rest.labels) == ([("t1",)], [])
    assert rest.are_labelled == [False]


HUGGING_FACE = classes("LABEL_0", "LABEL_1", "LABEL_2")


@pytest.mark.parametrize(
    ("task", "labels", "names", "expected", "read_as"),
    [
        (classes("a", "b"), ["b", "a"], [], ["b", "a"], {}),
        (HUGGING_FACE, ["2", "0"], [], ["LABEL_2", "LABEL_0"], {"0": "LABEL_0", "2": "LABEL_2"}),
        (classes("0.0", "1.0"), ["1", "0"], [], ["1.0", "0.0"], {"0": "0.0", "1": "1.0"}),
        (classes("0", "1"), ["LABEL_1", ""], [], ["1", ""], {"LABEL_1": "1"}),
        (classes("NO", "YES"), ["yes", "NO"], [], ["YES", "NO"], {"yes": "YES"}),
        (classes("a", "A"), ["a", "A"], [], ["a", "A"], {}),
        (classes("no", "yes"), ["1", "0", "no"], ["1=yes", "0=no"], ["yes", "no", "no"],
         {"0": "no", "1": "yes"}),
        (HUGGING_FACE, ["x", "1"], ["x=LABEL_0"], ["LABEL_0", "LABEL_1"],
         {"1": "LABEL_1", "x": "LABEL_0"}),
    ],
)  # fmt: skip
def test_other_names(
    task: Task, labels: list[str], names: list[str], expected: list[str], read_as: dict[str, str]
) -> None:
    found, changed = task.definition.with_labels_of(
        texts(*labels), task, parse_label_map(names, task)
    )
    assert isinstance(found, Texts)
    assert found.labels == expected
    assert changed == read_as


@pytest.mark.parametrize(
    ("task", "labels", "message"),
    [
        (HUGGING_FACE, ["0", "3"], r"line 3: the label '3' is not one of the run's \(LABEL_0"),
        (classes("no", "yes"), ["1"], "line 2: the label '1' .*; map it with `label_map` 1=NAME"),
        (classes("a", "A"), ["a", "B"], "line 3: the label 'B'"),
    ],
)
def test_labels_unknown_to_the_run(task: Task, labels: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        task.definition.with_labels_of(texts(*labels), task, {})


def test_tags_under_other_names() -> None:
    task = Task("tagging", ("LABEL_0", "LABEL_1"), takes_pairs=False)
    words = TaggedSentences(Path("f"), [["a", "b"]], [["O", "B-X"]], [1])
    names = parse_label_map(["O=LABEL_0", "B-X=LABEL_1"], task)
    found, changed = task.definition.with_labels_of(words, task, names)
    assert isinstance(found, TaggedSentences)
    assert found.tags == [["LABEL_0", "LABEL_1"]]
    assert changed == {"B-X": "LABEL_1", "O": "LABEL_0"}


@pytest.mark.parametrize(
    ("pair", "message"),
    [("0", "expected the file's label, =, and the run's"), ("0=c", "no label 'c'; it has a, b")],
)
def test_invalid_label_maps(pair: str, message: str) -> None:
    with pytest.raises(InputError, match=f"`label_map` {pair}: .*{message}"):
        parse_label_map([pair], classes("a", "b"))
