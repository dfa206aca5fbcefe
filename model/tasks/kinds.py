"""What a model answers: the pretraining heads that are trained, or the task it was tuned for."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from pipeline.schema import Pairing

Head = Literal["masked_lm", "next_sentence"]

TaskKind = Literal["single", "pair", "regression", "tagging", "span"]


def heads(pairing: Pairing) -> tuple[Head, ...]:
    """Return what is trained on a dataset: both heads, or without pairs the masked LM's alone."""
    return ("masked_lm",) if pairing == "none" else ("masked_lm", "next_sentence")


@dataclass(frozen=True)
class Task:
    """What a tuned model answers about a text.

    Attributes:
        kind: single or pair: a class of a text, or of two. regression: a number for a text, or two.
            tagging: a class of every word. span: the part of a passage that answers a question.
        labels: the classes by index; none for regression and span.
        takes_pairs: whether two texts make an example; for a span the question and the passage.
    """

    kind: TaskKind
    labels: tuple[str, ...]
    takes_pairs: bool

    def __post_init__(self) -> None:
        """Check that the fields fit each other.

        Raises:
            ValueError: the kind is unknown, classes are missing, double or too many, or a kind
                that takes pairs is said not to, or the other way round.
        """
        if self.kind not in get_args(TaskKind):
            raise ValueError(
                f"kind must be one of {', '.join(get_args(TaskKind))}, received {self.kind!r}"
            )
        if self.has_classes != bool(self.labels) or len(set(self.labels)) < len(self.labels):
            wanted = "different labels" if self.has_classes else "no labels"
            raise ValueError(f"a {self.kind} task has {wanted}, received {self.labels}")
        fixed = {"single": False, "pair": True, "tagging": False, "span": True}
        if self.takes_pairs != fixed.get(self.kind, self.takes_pairs):
            raise ValueError(
                f"takes_pairs must be {fixed[self.kind]} for {self.kind}, "
                f"received {self.takes_pairs}"
            )

    @property
    def has_classes(self) -> bool:
        """Whether the answer is one of some classes."""
        return self.kind in ("single", "pair", "tagging")

    @property
    def is_per_position(self) -> bool:
        """Whether every position has an answer, and not the text as a whole."""
        return self.kind in ("tagging", "span")

    @property
    def num_outputs(self) -> int:
        """Numbers that the head gives: a score of each class, one number, a start and an end."""
        return {"regression": 1, "span": 2}.get(self.kind, len(self.labels))

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> "Task":
        """Return the task of its fields by name, as JSON has them."""
        return cls(**{**settings, "labels": tuple(settings["labels"])})
