"""Labelled examples as they stand in a file: tables of texts, CoNLL columns, SQuAD's JSON.

Whatever is wrong with a file is one line that names the file and the row.
"""

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.tasks import TaskKind
from pipeline.errors import InputError


@dataclass(frozen=True)
class Columns:
    """Which columns of a table are what; None: found by looking.

    Attributes:
        text: the text, or the first of two.
        text_pair: the second of two.
        label: the class, or the number.
    """

    text: str | None = None
    text_pair: str | None = None
    label: str = "label"


@dataclass
class Texts:
    """Texts, or pairs of texts, with a label each.

    Attributes:
        path: the file.
        texts: one or two texts an example.
        labels: a class or a number as it is written; none where the file has no such column.
        rows: the line of each in the file.
        columns: what was read: text, text_pair where there are two, label where there is one.
    """

    path: Path
    texts: list[tuple[str, ...]]
    labels: list[str]
    rows: list[int]
    columns: list[str]

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.texts)


@dataclass
class Words:
    """Sentences of words, with a tag each.

    Attributes:
        path: the file.
        words: of every sentence.
        tags: of every sentence, one a word.
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
            passage does not answer it.
    """

    id: str
    question: str
    passage: str
    answers: tuple[tuple[str, int], ...]


@dataclass
class Questions:
    """Questions about passages.

    Attributes:
        path: the file.
        questions: all of them.
        misplaced: ids of those with an answer that does not stand where the file says.
    """

    path: Path
    questions: list[Question] = field(default_factory=list)
    misplaced: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        """Return the number of questions."""
        return len(self.questions)


Examples = Texts | Words | Questions


def read_examples(path: Path, kind: TaskKind, columns: Columns, flag: str) -> Examples:
    """Read a file of labelled examples.

    Args:
        path: the file.
        kind: of the task.
        columns: of a table; a single task takes one text, a pair or span two, a regression what
            there is.
        flag: that named the file, for messages.

    Raises:
        InputError: it cannot be read, or has no example.
    """
    try:
        if kind == "tagging":
            found: Examples = _read_conll(path)
        elif kind == "span":
            found = _read_squad(path)
        else:
            found = _read_texts(path, kind, columns)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{flag} {path}: cannot be read: {error}") from error
    if not len(found):
        raise InputError(f"{flag} {path}: no examples in it")
    return found


# ---- tables


def _read_texts(path: Path, kind: TaskKind, columns: Columns) -> Texts:
    rows = list(_table(path))
    if not rows:
        return Texts(path, [], [], [], [])
    names = _text_columns(path, kind, columns, list(rows[0][1]))
    has_labels = columns.label in rows[0][1]
    wanted = [*names, *([columns.label] if has_labels else [])]
    values = [_values(path, line, row, wanted) for line, row in rows]
    texts = [tuple(value[: len(names)]) for value in values]
    labels = [value[-1].strip() for value in values] if has_labels else []
    return Texts(path, texts, labels, [line for line, _ in rows], wanted)


def _text_columns(path: Path, kind: TaskKind, columns: Columns, there: list[str]) -> list[str]:
    """Return the names of the columns with the one or two texts.

    Those that are not named are the first ones that are not the label.
    """
    if columns.text_pair and not columns.text:
        raise InputError("--text-pair-column: name the first text too, with --text-column")
    named = [name for name in (columns.text, columns.text_pair) if name]
    missing = [name for name in named if name not in there]
    if missing:
        raise InputError(f"{path}: no column {missing[0]!r}; it has {', '.join(map(repr, there))}")
    others = [name for name in there if name != columns.label]
    count = {"single": 1, "pair": 2}.get(kind, len(named) or min(len(others), 2))
    if not named:
        named = others[:count]
    if len(named) != count or not named:
        raise InputError(
            f"{path}: a {kind} task needs {count or 1} text column{'s' * (count > 1)}, found "
            f"{', '.join(map(repr, named)) or 'none'}; name them with --text-column and "
            "--text-pair-column"
        )
    return named


def _values(path: Path, line: int, row: dict[str, Any], wanted: Sequence[str]) -> list[str]:
    """Return a row's values; a number stands for its text."""
    for name in wanted:
        if not isinstance(row.get(name), str | int | float):
            raise InputError(f"{path}: line {line}: no {name!r} in this row; complete or remove it")
    return [str(row[name]) for name in wanted]


def _table(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield each row of a table with its line; the kind of file is told by the name's ending."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        ending = path.suffix.lower()
        if ending == ".tsv":
            # As GLUE's: a tab is never part of a text, and a quotation mark is text.
            yield from _rows(path, csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
        elif ending == ".csv":
            yield from _rows(path, csv.reader(file, strict=True))
        elif ending in (".jsonl", ".json"):
            yield from _json_lines(path, file)
        else:
            raise InputError(f"{path}: expected a .tsv, .csv or .jsonl file")


def _rows(path: Path, reader: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        header: list[str] = next(reader, [])
        if len(set(header)) < len(header):
            raise InputError(f"{path}: line 1: two columns have the same name")
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise InputError(
                    f"{path}: line {reader.line_num}: {len(row)} columns, but the header has "
                    f"{len(header)}"
                )
            yield reader.line_num, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num}: {error}") from error


def _json_lines(path: Path, file: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}: line {number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise InputError(f"{path}: line {number}: expected a JSON object")
        yield number, row


# ---- words and tags


def _read_conll(path: Path) -> Words:
    """Read words and tags in columns: the first is the word, the last its tag.

    Blank lines end a sentence; lines of `-DOCSTART-` are left out, as CoNLL's scripts do.
    """
    found = Words(path)
    sentence: list[tuple[str, str]] = []
    columns: int | None = None
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate([*file, ""], start=1):
            parts = line.rstrip("\n").split("\t") if "\t" in line else line.split()
            if not line.strip() or parts[0] == "-DOCSTART-":
                if sentence:
                    words, tags = zip(*sentence, strict=True)
                    found.words.append(list(words))
                    found.tags.append(list(tags))
                    sentence = []
                continue
            columns = columns or len(parts)
            if len(parts) != columns or columns < 2 or not all(part.strip() for part in parts):
                raise InputError(
                    f"{path}: line {number}: {len(parts)} columns where "
                    f"{max(columns, 2)} are expected: a word, …, its tag"
                )
            if not sentence:
                found.rows.append(number)
            sentence.append((parts[0].strip(), parts[-1].strip()))
    return found


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
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(
            f"{path}: not in SQuAD's format (data, paragraphs, context, qas): {error!r}"
        ) from error
    return found


def _add_question(found: Questions, passage: str, asked: dict[str, Any]) -> None:
    given = [] if asked.get("is_impossible") else asked.get("answers", [])
    answers = [(str(answer["text"]), int(answer["answer_start"])) for answer in given]
    right = [(text, first) for text, first in answers if text and passage[first:].startswith(text)]
    if len(right) < len(answers):
        found.misplaced.append(str(asked["id"]))
        if not right:
            return
    made = Question(str(asked["id"]), str(asked["question"]), passage, tuple(right))
    found.questions.append(made)
