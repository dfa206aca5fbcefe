"""What a model answers: the pretraining heads that are trained, or the task it was tuned for."""

import pkgutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pipeline.schema import Pairing

if TYPE_CHECKING:
    from model.tasks.task_kind import TaskKind

Head = Literal["masked_lm", "next_sentence"]


@dataclass(frozen=True)
class KindEntry:
    """A row of the table of kinds.

    Attributes:
        path: the kind's object, as MODULE:NAME, which is imported when it is needed.
        summary: what its examples are, for `--help`.
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
"""Every kind of task by name: the one table that a new kind is added to."""


def kind_named(name: str) -> "TaskKind[Any]":
    """Return the kind of task with this name.

    Raises:
        ValueError: there is none.
    """
    if name not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, received {name!r}")
    kind: TaskKind[Any] = pkgutil.resolve_name(KINDS[name].path)
    return kind


def all_kinds() -> "list[TaskKind[Any]]":
    """Return every kind of task, in the order of the table."""
    return [kind_named(name) for name in KINDS]


def numbered_labels(count: int) -> tuple[str, ...]:
    """Return names for the outputs of a head that a checkpoint does not name, as `transformers`."""
    return tuple(f"LABEL_{index}" for index in range(count))


def heads(pairing: Pairing) -> tuple[Head, ...]:
    """Return what is trained on a dataset: both heads, or without pairs the masked LM's alone."""
    return ("masked_lm",) if pairing == "none" else ("masked_lm", "next_sentence")


@dataclass(frozen=True)
class Task:
    """What a tuned model answers about a text.

    Attributes:
        kind: name of the kind of task, one of `KINDS`.
        labels: the classes by index; none for a kind without classes.
        takes_pairs: whether two texts make an example; for a span the question and the passage.
    """

    kind: str
    labels: tuple[str, ...]
    takes_pairs: bool

    def __post_init__(self) -> None:
        """Check that the fields fit each other.

        Raises:
            ValueError: the kind is unknown, classes are missing, double or too many, or a kind
                that takes pairs is said not to, or the other way round.
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
        """The object of the task's kind."""
        return kind_named(self.kind)

    @property
    def has_classes(self) -> bool:
        """Whether the answer is one of some classes."""
        return self.definition.has_classes

    @property
    def is_per_position(self) -> bool:
        """Whether every position has an answer, and not the text as a whole."""
        return self.definition.is_per_position

    @property
    def num_outputs(self) -> int:
        """Numbers that the head gives: a score of each class, one number, a start and an end."""
        return self.definition.num_outputs(self)

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> "Task":
        """Return the task of its fields by name, as JSON has them."""
        return cls(**{**settings, "labels": tuple(settings["labels"])})
