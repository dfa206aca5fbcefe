"""Interface of the examples of a file; each kind of task has its own."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from pipeline.progress import counted


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
        return [counted(len(self), "examples")]

    def no_labels(self) -> str:
        """Return the error message for a file without labels."""
        return f"no example has a label{self.label_hint}"
