"""`clozeline inspect`: check a dataset and show its contents."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from clozeline.options import Command
from pipeline.errors import check_range


@dataclass(frozen=True, kw_only=True)
class Inspect(Command):
    """Check a dataset against its manifest and show decoded examples."""

    dataset: Annotated[Path, tyro.conf.Positional]
    """The dataset folder."""
    examples: int = 3
    """Number of examples to show."""
    split: Literal["train", "eval"] = "train"
    """Split of the examples to show; all splits are checked."""

    def __post_init__(self) -> None:
        """Check what the types do not say.

        Raises:
            InputError: a flag is out of range, or has no effect next to the others.
        """
        check_range("examples", self.examples, 0, 1024)
        if not self.examples:
            self.refuse_given("--examples 0 shows none; every split is checked", "split")

    def run(self) -> dict[str, Any]:
        """Check, show, and return what was counted."""
        from pipeline.inspection import inspect_dataset

        return inspect_dataset(self.dataset, self.split, self.examples)
