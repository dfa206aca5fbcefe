"""Labelled texts and text pairs: the examples of classification and regression."""

import dataclasses
import itertools
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from model import served
from model.tasks.encoded import Encoded
from model.tasks.examples import Examples
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
from model.tasks.task_kind import WORD_FIELDS, ForeignHead, Task, TaskKind
from model.tasks.windows import half_windows, is_first_or_last, window_count
from pipeline.errors import InputError
from pipeline.progress import counted
from pipeline.schema import Arrays
from pipeline.storage.strict_json import JsonObject

if TYPE_CHECKING:
    from model.tasks.encoder import Encoder
    from model.tasks.reference_model import ReferenceModel


CLASSIFIER_HEAD = ForeignHead("BertForSequenceClassification", "classifier", "", "dense")
"""Head of classification and regression, which other libraries distinguish by number of outputs."""


@dataclass
class Texts(Examples):
    """Texts or text pairs, each with a label.

    Attributes:
        path: the file.
        texts: one or two texts per example.
        labels: classes, or numbers as text; "" = no label. Empty if no example has a label.
        rows: line number of each example.
        columns: names of the columns that were read: text, second text, label (if present).
        available: names of all columns of the file.
        incomplete: number of incomplete rows that were skipped.
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

    def given(self, index: int) -> JsonObject:
        """Return the line number and the texts of an example, by name."""
        texts = dict(zip(self.columns, self.texts[index], strict=False))
        return {"line": self.rows[index], **texts}

    @property
    def are_labelled(self) -> list[bool]:
        """Whether each example has a label."""
        return [bool(label) for label in self.labels] or [False] * len(self)

    def select(self, are_chosen: Sequence[bool]) -> Self:
        """Return the examples for which `are_chosen` is True."""
        labels = list(itertools.compress(self.labels, are_chosen))
        return dataclasses.replace(
            self,
            texts=list(itertools.compress(self.texts, are_chosen)),
            labels=labels if any(labels) else [],
            rows=list(itertools.compress(self.rows, are_chosen)),
        )

    @property
    def label_hint(self) -> str:
        """Hint for the error message: the file's columns, and the field for the label column."""
        columns = listed(self.available)
        return f" (its columns are {columns}; name the labels' with `label_column`)" * bool(columns)

    @property
    def described(self) -> list[str]:
        """Summary of what was read and skipped."""
        left_out = [f"{self.incomplete:,} incomplete rows left out"] * bool(self.incomplete)
        return [f"{counted(len(self), 'examples')} of {', '.join(self.columns)}", *left_out]


class TextKind(TaskKind[Texts]):
    """A kind of task with examples in a table: one or two texts and a label."""

    @property
    def refused_fields(self) -> list[tuple[str, tuple[str, ...]]]:
        """Fields for columns that files of this kind do not have."""
        return [
            (f"a {self.name} task has no tags of words", WORD_FIELDS),
            (f"a {self.name} task has no negatives", ("negative_column",)),
        ]

    def read(self, path: Path, columns: Columns, *, takes_pairs: bool | None) -> Texts:
        """Read a table."""
        is_pair = takes_pairs if self.takes_pairs is None else self.takes_pairs
        return read_texts(path, self.name, columns, None if is_pair is None else 1 + is_pair)

    def without_unknown(self, examples: Texts, task: Task) -> Texts:
        """Return the examples with labels removed that mean "unknown".

        For classes, -1 means unknown unless the task has a class -1. For numbers, -1 is a valid
        number, and means unknown only if all rows have it.
        """
        if UNKNOWN in task.labels:
            return examples
        if not self.has_classes and set(examples.labels) != {UNKNOWN}:
            return examples
        labels = ["" if label == UNKNOWN else label for label in examples.labels]
        return dataclasses.replace(examples, labels=labels if any(labels) else [])

    def encode(self, encoder: "Encoder", examples: Texts, task: Task) -> Encoded:
        """Return the encoded texts, with the labels of `label_array`.

        A text in windows is several examples with its label.
        """
        empty = sum(any(not text.strip() for text in texts) for texts in examples.texts)
        labels = self.label_array(examples, task) if examples.labels else None
        if encoder.long != "first":
            return dataclasses.replace(
                # Only kinds with one text take other parts than the first, see `takes_long`.
                _long_texts(encoder, [texts[0] for texts in examples.texts], labels),
                counts={"too long": _too_long(encoder, examples), "empty": empty},
            )
        input_ids, first_lengths, truncated = encoder.join(examples.texts)
        return Encoded(
            input_ids,
            first_lengths,
            labels,
            np.arange(len(examples), dtype=np.int32),
            counts={"truncated": truncated, "empty": empty},
        )

    def encode_unlabelled(self, encoder: "Encoder", examples: Texts, task: Task) -> Encoded:
        """Return the encoded texts without labels, whatever the file says."""
        return self.encode(encoder, dataclasses.replace(examples, labels=[]), task)

    @abstractmethod
    def label_array(self, examples: Texts, task: Task) -> np.ndarray:
        """Return the labels as an array of `label_dtype` [N].

        Raises:
            InputError: a label is not one of the task's.
        """

    def without_empty(self, examples: Texts, encoded: Encoded) -> Encoded:
        """Return the encoded training examples without those that have an empty text.

        Raises:
            InputError: there are none.
        """
        if not encoded.counts["empty"]:
            return encoded
        # An empty text with a label would teach the class of nothing.
        kept = [i for i, texts in enumerate(examples.texts) if all(text.strip() for text in texts)]
        if not kept:
            raise InputError(f"`train` {examples.path}: all of its texts are empty")
        return encoded.chosen(np.flatnonzero(np.isin(encoded.sources, kept)).tolist())

    def golden_row(self, reference: "ReferenceModel", task: Task, texts: Sequence[str]) -> Arrays:
        """Return the answers to a text, of which a part or several windows may be read."""
        if reference.long == "first":
            return super().golden_row(reference, task, texts)
        ids = reference.text_pieces(texts[0])
        room = reference.max_seq_length - 2
        is_long = len(ids) > room
        windows = [ids[:room]]
        if reference.long == "first-last" and is_long:
            # Counted by hand, not with `is_first_or_last`, which the graph uses.
            windows = [ids[: room // 4] + ids[len(ids) - room + room // 4 :]]
        while (
            reference.long == "mean-of-windows" and is_long and len(windows) < reference.max_windows
        ):
            begin = len(windows) * max(room // 2, 1)
            windows.append(ids[begin : begin + room])
            is_long = begin + room < len(ids)
        logits = np.mean(reference.logits([[window] for window in windows]), axis=0)
        row = {served.TASK_LOGITS: logits, served.TRUNCATED: np.array(is_long)}
        return row | self.golden_answers(task, logits)


def _too_long(encoder: "Encoder", examples: Texts) -> int:
    pieces = encoder.pieces([texts[0] for texts in examples.texts])
    return sum(len(row) > encoder.max_seq_length - 2 for row in pieces)


def _long_texts(encoder: "Encoder", texts: Sequence[str], labels: Any) -> Encoded:
    """Return texts of which beginning and end are read, or all windows: one row a window."""
    room, step = half_windows(encoder.max_seq_length)
    rows, sources = [], []
    for index, pieces in enumerate(encoder.pieces(texts)):
        if encoder.long == "first-last":
            rows.append(pieces[is_first_or_last(np.arange(len(pieces)), len(pieces), room)])
            sources.append(index)
            continue
        for window in range(int(window_count(len(pieces), room, step))):
            rows.append(pieces[window * step : window * step + room])
            sources.append(index)
    input_ids = encoder.sequences(rows)
    return Encoded(
        input_ids,
        np.array([len(ids) for ids in input_ids], np.int32),
        None if labels is None else labels[sources],
        np.array(sources, np.int32),
    )


def of_texts(encoded: Encoded, logits: Sequence[np.ndarray]) -> tuple[np.ndarray, Any]:
    """Return the mean logits of each text over its windows, and its label.

    Args:
        encoded: the encoded examples; every text has at least one.
        logits: float32 [C] for each of them.

    Returns:
        float32 [texts, C], and the labels [texts]; None if they are unknown.
    """
    _, first, counts = np.unique(encoded.sources, return_index=True, return_counts=True)
    # Windows of a text follow each other, so `first` begins a run of each.
    sums = np.add.reduceat(np.stack(logits), first, axis=0)
    labels = None if encoded.labels is None else encoded.labels[first]
    return (sums / counts[:, np.newaxis]).astype(np.float32), labels


def read_texts(path: Path, kind: str, columns: Columns, count: int | None) -> Texts:
    """Read a table of texts.

    Args:
        path: the file.
        kind: name of the kind of task, for messages.
        columns: names of the columns.
        count: number of texts per example, 1 or 2; None = detect from the columns' names.

    Raises:
        InputError: the file is not such a table, or its columns are ambiguous.
        OSError: the file cannot be read; `UnicodeDecodeError`: it is not in UTF-8.
    """
    table = read_table(path, skip_incomplete=columns.skip_incomplete_rows)
    if not table.rows:
        return Texts(path, [], [], [], [])
    label = label_column(table, columns.label_column)
    names = text_columns(table, kind, columns, label, count)
    texts = [tuple(text_of(table, row, name) for name in names) for row in range(len(table.rows))]
    labels = labels_of(table, label) if label is not None else []
    if label is not None and label.lower() == "gold_label":
        labels = ["" if text == "-" else text for text in labels]  # annotators did not agree
    used = [*names, label] if label is not None and labels else names
    return Texts(path, texts, labels, table.lines, used, table.columns, table.incomplete)
