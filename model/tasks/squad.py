"""Questions about passages, in the JSON of SQuAD."""

import dataclasses
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from model.tasks.examples import Examples
from pipeline.errors import InputError
from pipeline.storage.encodings import is_unicode


@dataclass(frozen=True)
class Question:
    """A question about a passage.

    Attributes:
        id: id in the file.
        question: text of the question.
        passage: text that contains the answer.
        answers: correct answers, each (text, character offset in the passage); empty if the passage
            does not answer the question, or if no answer is at the offset that the file states.
        expected: texts of all correct answers, at any offset; None = unknown.
    """

    id: str
    question: str
    passage: str
    answers: tuple[tuple[str, int], ...]
    expected: tuple[str, ...] | None = ()

    @property
    def is_learnable(self) -> bool:
        """Whether the answer's offset is known, or the question has no answer."""
        return self.expected is not None and bool(self.answers or not self.expected)


@dataclass
class Questions(Examples):
    """Questions about passages.

    Attributes:
        path: the file.
        questions: questions in the file's order.
        misplaced: ids of questions with an answer that is not at the offset that the file states.
    """

    path: Path
    questions: list[Question] = field(default_factory=list)
    misplaced: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        """Return the number of questions."""
        return len(self.questions)

    @property
    def are_labelled(self) -> list[bool]:
        """Whether the answers to each question are known (including "no answer")."""
        return [question.expected is not None for question in self.questions]

    def select(self, are_chosen: Sequence[bool]) -> Self:
        """Return the questions for which `are_chosen` is True."""
        chosen = list(itertools.compress(self.questions, are_chosen))
        return dataclasses.replace(self, questions=chosen)


def read_squad(path: Path) -> Questions:
    """Read the JSON of SQuAD 1.1 or 2.0 (Rajpurkar et al. 2018, https://arxiv.org/abs/1806.03822).

    Raises:
        InputError: the file has another format.
        OSError: the file cannot be read; `UnicodeDecodeError`: it is not in UTF-8.
    """
    # With a byte order mark, as Windows writes it, plain JSON would be refused.
    text = path.read_text(encoding="utf-8-sig")
    try:
        articles = json.loads(text)["data"]
        questions = Questions(path)
        for article in articles:
            for paragraph in article["paragraphs"]:
                for entry in paragraph["qas"]:
                    _add_question(questions, paragraph["context"], entry)
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
        raise InputError(
            f"{path}: not in SQuAD's format (data, paragraphs, context, qas): {error!r}"
        ) from error
    return questions


def _add_question(found: Questions, passage: str, entry: dict[str, Any]) -> None:
    if entry["id"] is None or not is_unicode(str(entry["id"])):
        raise ValueError(f"{entry['id']!r}: the id is not text")
    for name, text in (("context", passage), ("question", entry["question"])):
        if not isinstance(text, str) or not is_unicode(text):
            raise ValueError(f"{entry['id']}: the {name} is not text")
    is_impossible = entry.get("is_impossible", False)
    if not isinstance(is_impossible, bool):
        raise ValueError(f"{entry['id']}: is_impossible is neither true nor false")
    # SQuAD 2.0 lists plausible answers of impossible questions elsewhere; none of them is right.
    listed = [] if is_impossible else entry.get("answers")
    answers = [(_answer_text(entry, each), int(each["answer_start"])) for each in listed or []]
    placed = [
        (text, first)
        for text, first in answers
        # `startswith` takes a negative offset from the end.
        if text and first >= 0 and passage.startswith(text, first)
    ]
    if len(placed) < len(answers):
        found.misplaced.append(str(entry["id"]))
    expected = None if listed is None else tuple(text for text, _ in answers)
    found.questions.append(
        Question(str(entry["id"]), str(entry["question"]), passage, tuple(placed), expected)
    )


def _answer_text(entry: dict[str, Any], answer: dict[str, Any]) -> str:
    """Return the text of an answer; a number, such as a year, may stand without quotes.

    Raises:
        ValueError: it is neither: the text of null would be "None".
    """
    text = answer["text"]
    is_number = isinstance(text, int | float) and not isinstance(text, bool)
    if not (is_number or isinstance(text, str)) or not is_unicode(str(text)):
        raise ValueError(f"{entry['id']}: an answer is not text")
    return str(text)
