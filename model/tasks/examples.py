"""Labelled examples as they stand in a file, of any kind of task.

Whatever is wrong with a file is one line that names the file and the row.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from model.tasks.kinds import kind_named
from model.tasks.tables import Columns
from pipeline.corpus.remarks import meaning
from pipeline.errors import InputError


class Examples(ABC):
    """The examples of a file; each kind of task has a class of them.

    Attributes:
        path: the file.
    """

    path: Path

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of examples."""

    @property
    @abstractmethod
    def are_labelled(self) -> list[bool]:
        """Whether the label, tags or answers of each example are known."""

    @abstractmethod
    def select(self, are_chosen: Sequence[bool]) -> Self:
        """Return some of the examples: those for which the sequence has True."""

    @property
    def label_hint(self) -> str:
        """How a user can find labels in a file where none were found; "" = no hint."""
        return ""

    @property
    def described(self) -> list[str]:
        """What was read, a few words each."""
        return [f"{len(self):,} examples"]

    def no_labels(self) -> str:
        """Return that the file has no labels, with the hint."""
        return f"no example has a label{self.label_hint}"


def read_examples(
    path: Path, kind: str, columns: Columns, flag: str, *, takes_pairs: bool | None = None
) -> Any:
    """Read a file of labelled examples.

    Args:
        path: the file.
        kind: name of the kind of task.
        columns: which columns are what.
        flag: that named the file, for messages.
        takes_pairs: whether an example has two texts, where the kind leaves it open; None =
            detected.

    Returns:
        The kind's `Examples`.

    Raises:
        InputError: it cannot be read, has no example, or leaves open which columns are what.
    """
    definition = kind_named(kind)
    try:
        examples = definition.read(path, columns, takes_pairs=takes_pairs)
    except UnicodeDecodeError as error:
        reason = meaning(path.read_bytes()) or str(error)
        raise InputError(f"{flag} {path}: cannot be read: {reason}") from error
    except OSError as error:
        raise InputError(f"{flag} {path}: cannot be read: {error}") from error
    if not len(examples):
        raise InputError(f"{flag} {path}: no examples in it")
    return examples
