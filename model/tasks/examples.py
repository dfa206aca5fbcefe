"""Read files of labelled examples, for all kinds of task.

An error in a file is reported in one line with the file's name and the row.
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
    """Examples of a file; each kind of task has its own subclass.

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
        """Whether the label, tags or answers are known, for each example."""

    @abstractmethod
    def select(self, are_chosen: Sequence[bool]) -> Self:
        """Return the examples for which `are_chosen` is True."""

    @property
    def label_hint(self) -> str:
        """Hint for the error message if a file has no labels; "" = none."""
        return ""

    @property
    def described(self) -> list[str]:
        """Summary of what was read, as short phrases."""
        return [f"{len(self):,} examples"]

    def no_labels(self) -> str:
        """Return the error message for a file without labels."""
        return f"no example has a label{self.label_hint}"


def read_examples(
    path: Path, kind: str, columns: Columns, flag: str, *, takes_pairs: bool | None = None
) -> Any:
    """Read a file of labelled examples.

    Args:
        path: the file.
        kind: name of the kind of task.
        columns: names or numbers of the columns.
        flag: flag of the file, for error messages.
        takes_pairs: whether an example has two texts, for kinds that allow one or two; None =
            detect.

    Returns:
        The kind's `Examples`.

    Raises:
        InputError: the file cannot be read, has no examples, or its columns are ambiguous.
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
        raise InputError(f"{flag} {path}: contains no examples")
    return examples
