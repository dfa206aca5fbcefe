"""Read the training and evaluation files of models that turn a text into a vector.

An example is a pair (anchor, positive), a pair with negatives, or a pair with a score. Pairs that
are labelled with entailment become pairs with a negative, as in Reimers & Gurevych 2019's training
on SNLI and MultiNLI.
"""

import dataclasses
import itertools
import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from model.tasks.examples import Examples
from model.tasks.tables import (
    Columns,
    Table,
    check_size,
    label_column,
    labels_of,
    read_table,
    text_columns,
    text_of,
)
from pipeline.errors import InputError
from pipeline.progress import counted
from pipeline.storage.strict_json import JsonObject

PAIRS = (
    *(("anchor", "positive"), ("query", "positive"), ("question", "answer"), ("query", "answer")),
    *(("query", "document"), ("title", "body"), ("title", "abstract"), ("source", "target")),
)
"""Names of the two texts of a pair, in lower case, besides those in `tables.PAIRS`."""

_NEGATIVE = re.compile(r"(?i:hard[ _])?(?i:negative)(?i:[ _]?\d+)?")

ENTAILMENT, CONTRADICTION = "entailment", "contradiction"

_NLI_PAIRS = {("premise", "hypothesis")}
_NLI_NUMBERS = {"0", "1", "2", "-1"}


@dataclass
class ComparedTexts(Examples):
    """Texts whose vectors are compared.

    Attributes:
        path: the file.
        texts: T texts per example: anchor and positive, then negatives.
        scores: similarity of the two texts of each example; empty = the pairs are positive ones.
        rows: line number of each example.
        columns: names of the columns of the texts, and of the score.
        left_out: number of rows that were left out, by reason.
    """

    path: Path
    texts: list[tuple[str, ...]]
    scores: list[float]
    rows: list[int]
    columns: list[str]
    left_out: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.texts)

    @property
    def texts_per_example(self) -> int:
        """T: 2, or more with negatives."""
        return len(self.texts[0])

    @property
    def have_negatives(self) -> bool:
        """Whether the examples have negatives."""
        return self.texts_per_example > 2

    @property
    def are_labelled(self) -> list[bool]:
        """True for each example: a pair without a score is a positive one."""
        return [True] * len(self)

    def given(self, index: int) -> JsonObject:
        """Return the line number and the texts of an example, by name."""
        texts = dict(zip(self.columns, self.texts[index], strict=False))
        return {"line": self.rows[index], **texts}

    def select(self, are_chosen: Sequence[bool]) -> Self:
        """Return the examples for which `are_chosen` is True."""
        return dataclasses.replace(
            self,
            texts=list(itertools.compress(self.texts, are_chosen)),
            scores=list(itertools.compress(self.scores, are_chosen)),
            rows=list(itertools.compress(self.rows, are_chosen)),
        )

    @property
    def described(self) -> list[str]:
        """Summary of what was read and left out."""
        parts = [f"{count:,} {reason}" for reason, count in self.left_out.items() if count]
        return [f"{counted(len(self), 'examples')} of {', '.join(self.columns)}", *parts]


def read_compared_texts(path: Path, kind: str, columns: Columns) -> ComparedTexts:
    """Read a table of pairs, with negatives or a score if it has such columns.

    Args:
        path: the file.
        kind: name of the kind of task, for messages.
        columns: names of the columns.

    Raises:
        InputError: the file is not such a table, or its columns are ambiguous.
        OSError: the file cannot be read; `UnicodeDecodeError`: it is not in UTF-8.
    """
    table = read_table(path, skip_incomplete=columns.skip_incomplete_rows)
    if not table.rows:
        return ComparedTexts(path, [], [], [], [])
    negatives = _negative_columns(table, columns)
    # With negatives, there is nothing to score.
    label = None if negatives else label_column(table, columns.label_column)
    pair = _pair_columns(table, kind, columns, label)
    names = [*pair, *(name for name in negatives if name not in pair)]
    rows = range(len(table.rows))
    texts = [tuple(text_of(table, row, name) for name in names) for row in rows]
    left_out = {"incomplete rows left out": table.incomplete}
    read = ComparedTexts(path, texts, [], list(table.lines), names, left_out)
    labels = labels_of(table, label) if label is not None else []
    if label is None or not labels:
        return read
    # As in SimCSE (Gao et al. 2021, https://arxiv.org/abs/2104.08821, section 4).
    if ENTAILMENT in {text.lower() for text in labels}:
        return _of_entailment(read, labels)
    _check_numbers(table, pair, label, labels)
    scores = [_score(path, line, text) for line, text in zip(table.lines, labels, strict=True)]
    return dataclasses.replace(read, scores=scores, columns=[*names, label])


def _negative_columns(table: Table, columns: Columns) -> list[str]:
    """Return the columns of the negatives, in the order of the file."""
    named = columns.negative_column
    if named is None:
        return [name for name in table.columns if _NEGATIVE.fullmatch(name)]
    if named not in table.columns:
        raise InputError(
            f"{table.path}: no column {named!r}; it has {table.listed}; name the negatives' with "
            "`negative_column`"
        )
    return [named]


def _pair_columns(table: Table, kind: str, columns: Columns, label: str | None) -> list[str]:
    """Return the columns of anchor and positive."""
    by_name = {name.lower(): name for name in table.columns if name != label}
    if columns.text_column is None:
        for pair in PAIRS:
            if by_name.keys() >= {*pair}:
                return [by_name[name] for name in pair]
    return text_columns(table, kind, columns, label, 2)


def _check_numbers(table: Table, pair: Sequence[str], label: str, labels: Sequence[str]) -> None:
    """Refuse classes of entailment that are numbers: they would be read as scores.

    Raises:
        InputError: the labels of premises and hypotheses are 0, 1 and 2.
    """
    names = tuple(name.lower() for name in pair)
    if names in _NLI_PAIRS and {*labels} <= _NLI_NUMBERS:
        raise InputError(
            f"{table.path}: {label!r} has numbers for classes; write {ENTAILMENT}, neutral and "
            f"{CONTRADICTION} there, or name a column of scores with `label_column`"
        )


def _score(path: Path, line: int, label: str) -> float:
    try:
        score = float(label)
    except ValueError:
        raise InputError(
            f"{path}: line {line}: {label!r} is neither a score nor one of {ENTAILMENT}, neutral, "
            f"{CONTRADICTION}; name the column of scores with `label_column`"
        ) from None
    if not math.isfinite(score):
        raise InputError(f"{path}: line {line}: {label!r} is not a finite number")
    check_size(f"{path}: line {line}: {label!r}", score)
    return score


def _of_entailment(read: ComparedTexts, labels: Sequence[str]) -> ComparedTexts:
    """Return an example for each entailment: premise, hypothesis, and one that contradicts.

    The contradictions of a premise take turns. If no premise has one, the examples are pairs.

    Raises:
        InputError: no pair is labelled with entailment.
    """
    hypotheses: defaultdict[str, list[str]] = defaultdict(list)
    kinds = [label.lower() for label in labels]
    for (premise, hypothesis), kind in zip(read.texts, kinds, strict=True):
        if kind == CONTRADICTION:
            hypotheses[premise].append(hypothesis)
    # A premise has several hypotheses in SNLI; all contradictions are used.
    turns = {premise: itertools.cycle(texts) for premise, texts in hypotheses.items()}
    entailed = [
        (premise, hypothesis, line)
        for (premise, hypothesis), kind, line in zip(read.texts, kinds, read.rows, strict=True)
        if kind == ENTAILMENT
    ]
    with_negative = [each for each in entailed if each[0] in turns]
    # All examples of a batch have the same number of texts: either all with a negative, or none.
    chosen = with_negative or entailed
    texts = [
        (premise, hypothesis, *([next(turns[premise])] if with_negative else []))
        for premise, hypothesis, _ in chosen
    ]
    left_out = {
        "pairs of other labels are no positives": len(kinds) - len(entailed),
        "premises without a contradiction left out": len(entailed) - len(chosen),
    }
    columns = [*read.columns, CONTRADICTION][: len(texts[0])]
    return ComparedTexts(
        read.path, texts, [], [line for *_, line in chosen], columns, read.left_out | left_out
    )
