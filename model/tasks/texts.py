"""Texts or pairs of texts, each with one label: the examples of classification and regression."""

import dataclasses
import itertools
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from model.tasks.encoded import Encoded
from model.tasks.examples import Examples
from model.tasks.kinds import Task
from model.tasks.labels import UNKNOWN
from model.tasks.tables import (
    Columns,
    label_column,
    labels_of,
    listed,
    read_table,
    text_columns,
    text_of,
)
from model.tasks.task_kind import WORD_FLAGS, ForeignHead, TaskKind
from pipeline.errors import InputError

if TYPE_CHECKING:
    from model.tasks.encoding import Encoder


CLASSIFIER_HEAD = ForeignHead("BertForSequenceClassification", "classifier", "", "dense")
"""The head of classification and regression: other libraries tell them apart by its outputs."""


@dataclass
class Texts(Examples):
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

    def given(self, index: int) -> dict[str, Any]:
        """Return the line and the texts of an example, by name."""
        texts = dict(zip(self.columns, self.texts[index], strict=False))
        return {"line": self.rows[index], **texts}

    @property
    def are_labelled(self) -> list[bool]:
        """Whether each example has a label."""
        return [bool(label) for label in self.labels] or [False] * len(self)

    def select(self, are_chosen: Sequence[bool]) -> Self:
        """Return some of the examples: those for which the sequence has True."""
        labels = list(itertools.compress(self.labels, are_chosen))
        return dataclasses.replace(
            self,
            texts=list(itertools.compress(self.texts, are_chosen)),
            labels=labels if any(labels) else [],
            rows=list(itertools.compress(self.rows, are_chosen)),
        )

    @property
    def label_hint(self) -> str:
        """The columns of the file, and the flag that names the labels'."""
        columns = listed(self.available)
        return f" (its columns are {columns}; name the labels' with --label-column)" * bool(columns)

    @property
    def described(self) -> list[str]:
        """What was read, with the columns, and what was left out."""
        left_out = [f"{self.incomplete:,} incomplete rows left out"] * bool(self.incomplete)
        return [f"{len(self):,} examples of {', '.join(self.columns)}", *left_out]


class TextKind(TaskKind[Texts]):
    """A kind of task whose examples are rows of a table: one or two texts and a label."""

    @property
    def refused_flags(self) -> list[tuple[str, tuple[str, ...]]]:
        """Flags that the kind's tables have no columns for."""
        return [(f"a {self.name} task has no tags of words", WORD_FLAGS)]

    def read(self, path: Path, columns: Columns, *, takes_pairs: bool | None) -> Texts:
        """Read a table."""
        is_pair = takes_pairs if self.takes_pairs is None else self.takes_pairs
        return read_texts(path, self.name, columns, None if is_pair is None else 1 + is_pair)

    def without_unknown(self, examples: Texts, task: Task) -> Texts:
        """Return the examples, with no label where the file marks it as unknown.

        Of classes that is -1, unless it is one of the task's; of numbers, -1 in every row.
        """
        if UNKNOWN in task.labels:
            return examples
        if not self.has_classes and set(examples.labels) != {UNKNOWN}:
            return examples
        labels = ["" if label == UNKNOWN else label for label in examples.labels]
        return dataclasses.replace(examples, labels=labels if any(labels) else [])

    def encode(self, encoder: "Encoder", examples: Texts, task: Task) -> Encoded:
        """Return the texts as pieces, and the labels as `label_array` makes them."""
        input_ids, first_lengths, truncated = encoder.join(examples.texts)
        empty = sum(any(not text.strip() for text in texts) for texts in examples.texts)
        return Encoded(
            input_ids,
            first_lengths,
            self.label_array(examples, task) if examples.labels else None,
            np.arange(len(examples), dtype=np.int32),
            counts={"truncated": truncated, "empty": empty},
        )

    @abstractmethod
    def label_array(self, examples: Texts, task: Task) -> np.ndarray:
        """Return the labels as numbers: [N].

        Raises:
            InputError: a label is not the task's.
        """

    def without_empty(self, examples: Texts, encoded: Encoded) -> Encoded:
        """Return the encoded training examples whose texts all have a piece.

        Raises:
            InputError: there are none.
        """
        if not encoded.counts["empty"]:
            return encoded
        kept = [i for i, texts in enumerate(examples.texts) if all(text.strip() for text in texts)]
        if not kept:
            raise InputError(f"--train {examples.path}: all of its texts are empty")
        return encoded.chosen(kept)


def read_texts(path: Path, kind: str, columns: Columns, count: int | None) -> Texts:
    """Read a table of texts.

    Args:
        path: the file.
        kind: name of the kind of task, for messages.
        columns: which columns are what.
        count: 1 or 2 texts; None = what the columns' names say.

    Raises:
        InputError: the file is no such table, or leaves open which columns are what.
        OSError: the file cannot be read; `UnicodeDecodeError`: it is not in UTF-8.
    """
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
