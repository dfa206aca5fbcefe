"""Labelled examples as they stand in a file: tables of texts, CoNLL columns, SQuAD's JSON.

Whatever is wrong with a file is one line that names the file and the row.
"""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from model.tasks.conll import read_conll
from model.tasks.kinds import TaskKind
from model.tasks.tables import (
    Columns,
    is_unicode,
    label_column,
    labels_of,
    listed,
    read_table,
    text_columns,
    text_of,
)
from pipeline.corpus.remarks import meaning
from pipeline.errors import InputError


@dataclass
class Texts:
    """Texts, or pairs of texts, with a label each.

    Attributes:
        path: the file.
        texts: one or two texts an example.
        labels: a class or a number as text, "" = the example has none; an empty list if none has.
        rows: the line of each in the file.
        columns: names of those that were read: text, text_pair if there are two, label if there
            is one.
        available: names of all columns of the file.
        incomplete: number of rows of the file that were left out.
    """

    path: Path
    texts: list[tuple[str, ...]]
    labels: list[str]
    rows: list[int]
    columns: list[str]
    available: tuple[str, ...] = ()
    incomplete: int = 0

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.texts)


@dataclass
class Words:
    """Sentences of words, with a tag each.

    Attributes:
        path: the file.
        words: of every sentence.
        tags: of every sentence, one a word; none where they are not known.
        rows: the line of each sentence's first word in the file.
    """

    path: Path
    words: list[list[str]] = field(default_factory=list)
    tags: list[list[str]] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        """Return the number of sentences."""
        return len(self.words)


@dataclass(frozen=True)
class Question:
    """A question about a passage.

    Attributes:
        id: the file's name for it.
        question: the question.
        passage: the text that the answer is part of.
        answers: the right ones, each as (text, its first character in the passage); none if the
            passage does not answer it, or if no answer is where the file says.
        expected: the texts of all right answers, wherever they are; None = unknown.
    """

    id: str
    question: str
    passage: str
    answers: tuple[tuple[str, int], ...]
    expected: tuple[str, ...] | None = ()

    @property
    def is_learnable(self) -> bool:
        """Whether it is known where the answer is, or that there is none."""
        return self.expected is not None and bool(self.answers or not self.expected)


@dataclass
class Questions:
    """Questions about passages.

    Attributes:
        path: the file.
        questions: all of them.
        misplaced: ids of those with an answer that is not where the file says.
    """

    path: Path
    questions: list[Question] = field(default_factory=list)
    misplaced: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        """Return the number of questions."""
        return len(self.questions)


Examples = Texts | Words | Questions


def are_labelled(examples: Examples) -> list[bool]:
    """Return for each example whether its label, tags or answers are known."""
    if isinstance(examples, Texts):
        return [bool(label) for label in examples.labels] or [False] * len(examples)
    if isinstance(examples, Questions):
        return [question.expected is not None for question in examples.questions]
    return [bool(tags) for tags in examples.tags]


def no_labels(examples: Examples) -> str:
    """Return that the file has no labels, in words that help to name its column of them."""
    columns = listed(examples.available) if isinstance(examples, Texts) else ""
    hint = f" (its columns are {columns}; name the labels' with --label-column)" * bool(columns)
    if isinstance(examples, Words):
        hint = " (its lines have one column; tabs or spaces separate columns)"
    return f"no example has a label{hint}"


def select(examples: Examples, are_chosen: Sequence[bool]) -> Examples:
    """Return some of the examples: those for which the sequence has True."""

    def chosen(values: list[Any]) -> list[Any]:
        return list(itertools.compress(values, are_chosen))

    if isinstance(examples, Questions):
        return replace(examples, questions=chosen(examples.questions))
    rows = chosen(examples.rows)
    if isinstance(examples, Words):
        return replace(
            examples, words=chosen(examples.words), tags=chosen(examples.tags), rows=rows
        )
    labels = chosen(examples.labels)
    labels = labels if any(labels) else []
    return replace(examples, texts=chosen(examples.texts), labels=labels, rows=rows)


def read_examples(
    path: Path, kind: TaskKind, columns: Columns, flag: str, *, takes_pairs: bool | None = None
) -> Examples:
    """Read a file of labelled examples.

    Args:
        path: the file.
        kind: of the task.
        columns: which columns are what.
        flag: that named the file, for messages.
        takes_pairs: whether a regression takes two texts; None = detected.

    Raises:
        InputError: it cannot be read, has no example, or leaves open which columns are what.
    """
    try:
        if kind == "tagging":
            examples: Examples = _read_words(path, columns)
        elif kind == "span":
            examples = _read_squad(path)
        else:
            count = {"single": 1, "pair": 2}.get(
                kind, None if takes_pairs is None else 1 + takes_pairs
            )
            examples = _read_texts(path, kind, columns, count)
    except UnicodeDecodeError as error:
        reason = meaning(path.read_bytes()) or str(error)
        raise InputError(f"{flag} {path}: cannot be read: {reason}") from error
    except OSError as error:
        raise InputError(f"{flag} {path}: cannot be read: {error}") from error
    if not len(examples):
        raise InputError(f"{flag} {path}: no examples in it")
    return examples


# ---- texts


def _read_texts(path: Path, kind: TaskKind, columns: Columns, count: int | None) -> Texts:
    table = read_table(path, skip_incomplete=columns.skip_incomplete)
    if not table.rows:
        return Texts(path, [], [], [], [])
    label = label_column(table, columns.label)
    names = text_columns(table, kind, columns, label, count)
    texts = [tuple(text_of(table, row, name) for name in names) for row in range(len(table.rows))]
    labels = labels_of(table, label) if label is not None else []
    if label is not None and label.lower() == "gold_label":
        labels = ["" if text == "-" else text for text in labels]  # annotators did not agree
    used = [*names, label] if label is not None and labels else names
    return Texts(path, texts, labels, table.lines, used, table.columns, table.incomplete)


# ---- words and tags


def _read_words(path: Path, columns: Columns) -> Words:
    sentences = read_conll(path, columns.word, columns.tag)
    return Words(
        path,
        [sentence.words for sentence in sentences],
        [sentence.tags for sentence in sentences],
        [sentence.line for sentence in sentences],
    )


# ---- questions


def _read_squad(path: Path) -> Questions:
    """Read the JSON of SQuAD 1.1 or 2.0 (Rajpurkar et al. 2018, https://arxiv.org/abs/1806.03822)."""
    try:
        articles = json.loads(path.read_text(encoding="utf-8-sig"))["data"]
        found = Questions(path)
        for article in articles:
            for paragraph in article["paragraphs"]:
                for asked in paragraph["qas"]:
                    _add_question(found, paragraph["context"], asked)
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
        raise InputError(
            f"{path}: not in SQuAD's format (data, paragraphs, context, qas): {error!r}"
        ) from error
    return found


def _add_question(found: Questions, passage: str, asked: dict[str, Any]) -> None:
    if not is_unicode(str(asked["id"])):
        raise ValueError(f"{asked['id']!r}: the id is no text")
    for name, text in (("context", passage), ("question", asked["question"])):
        if not isinstance(text, str) or not is_unicode(text):
            raise ValueError(f"{asked['id']}: the {name} is no text")
    is_impossible = asked.get("is_impossible", False)
    if not isinstance(is_impossible, bool):
        raise ValueError(f"{asked['id']}: is_impossible is neither true nor false")
    given = [] if is_impossible else asked.get("answers")
    answers = [(str(answer["text"]), int(answer["answer_start"])) for answer in given or []]
    if not all(is_unicode(text) for text, _ in answers):
        raise ValueError(f"{asked['id']}: an answer is no text")
    placed = [
        (text, first)
        for text, first in answers
        if text and first >= 0 and passage.startswith(text, first)
    ]
    if len(placed) < len(answers):
        found.misplaced.append(str(asked["id"]))
    expected = None if given is None else tuple(text for text, _ in answers)
    found.questions.append(
        Question(str(asked["id"]), str(asked["question"]), passage, tuple(placed), expected)
    )
