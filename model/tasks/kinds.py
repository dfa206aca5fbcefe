"""Kinds of task, the task of a fine-tuned model, and the pretraining heads."""

import pkgutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pipeline.schema import Pairing

if TYPE_CHECKING:
    from model.tasks.task_kind import TaskKind

Head = Literal["masked_lm", "next_sentence"]


@dataclass(frozen=True)
class KindEntry:
    """An entry of `KINDS`.

    Attributes:
        path: MODULE:NAME of the kind's object; it is imported on first use, to keep `--help` fast.
        summary: description of the kind's examples, for `--help`.
    """

    path: str
    summary: str


KINDS = {
    "single": KindEntry("model.tasks.classification:SINGLE", "classes of texts"),
    "pair": KindEntry("model.tasks.classification:PAIR", "classes of pairs of texts"),
    "regression": KindEntry("model.tasks.regression:REGRESSION", "numbers for texts or pairs"),
    "tagging": KindEntry("model.tasks.tagging:TAGGING", "tags of words, in CoNLL's columns"),
    "span": KindEntry("model.tasks.span:SPAN", "answers out of passages, in SQuAD's JSON"),
}
"""All kinds of task by name. To add a kind, add an entry here."""


def kind_named(name: str) -> "TaskKind[Any]":
    """Return the kind of task with this name.

    Raises:
        ValueError: there is no such kind.
    """
    if name not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, received {name!r}")
    kind: TaskKind[Any] = pkgutil.resolve_name(KINDS[name].path)
    return kind


def all_kinds() -> "list[TaskKind[Any]]":
    """Return every kind of task, in the order of the table."""
    return [kind_named(name) for name in KINDS]


def numbered_labels(count: int) -> tuple[str, ...]:
    """Return default names for the outputs of a head, the same as in `transformers`."""
    return tuple(f"LABEL_{index}" for index in range(count))


def heads(pairing: Pairing) -> tuple[Head, ...]:
    """Return the heads that are trained on a dataset: without pairs, only the masked LM head."""
    return ("masked_lm",) if pairing == "none" else ("masked_lm", "next_sentence")


@dataclass(frozen=True)
class Task:
    """The task of a fine-tuned model.

    Attributes:
        kind: name of the kind of task, a key of `KINDS`.
        labels: class names by index; empty for kinds without classes.
        takes_pairs: whether an example has two texts (for a span task, question and passage).
    """

    kind: str
    labels: tuple[str, ...]
    takes_pairs: bool

    def __post_init__(self) -> None:
        """Check that the fields are consistent.

        Raises:
            ValueError: the kind is unknown, labels are missing, duplicate or not allowed, or
                `takes_pairs` contradicts the kind.
        """
        kind = self.definition
        if kind.has_classes != bool(self.labels) or len(set(self.labels)) < len(self.labels):
            needed = "different labels" if kind.has_classes else "no labels"
            raise ValueError(f"a {self.kind} task has {needed}, received {self.labels}")
        if kind.takes_pairs not in (None, self.takes_pairs):
            raise ValueError(
                f"takes_pairs must be {kind.takes_pairs} for {self.kind}, "
                f"received {self.takes_pairs}"
            )

    @property
    def definition(self) -> "TaskKind[Any]":
        """Definition of the task's kind."""
        return kind_named(self.kind)

    @property
    def has_classes(self) -> bool:
        """Whether the answers are classes."""
        return self.definition.has_classes

    @property
    def is_per_position(self) -> bool:
        """Whether the head has outputs for every position, instead of one per text."""
        return self.definition.is_per_position

    @property
    def num_outputs(self) -> int:
        """Number of outputs of the head: one per class, 1 (regression) or 2 (span)."""
        return self.definition.num_outputs(self)

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> "Task":
        """Return the task from its JSON fields."""
        return cls(**{**settings, "labels": tuple(settings["labels"])})
