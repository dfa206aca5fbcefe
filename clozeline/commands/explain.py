"""`clozeline explain`: what a model computes for a text."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from clozeline.options import Command
from pipeline.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Explain(Command):
    """Show what a run's model computes for a text, and which words its answers come from.

    The worked example step by step, attention, rollout, and attribution by integrated gradients.
    """

    text: Annotated[tuple[str, ...], tyro.conf.Positional]
    """One text, or two that the model reads together. [MASK] stands for a word to fill in."""
    run_dir: Annotated[Path, tyro.conf.arg(name="run")] = field(metadata={"flag": "run"})
    """The run to look into."""
    output: Path | None = None
    """File to write: a page (.html) that opens without a network, or a picture (.png)."""
    layer: int = 1
    """Layer of the worked example, from 1."""
    head: int = 1
    """Head of the worked example, from 1."""
    position: int | None = None
    """Which piece to ask for, [CLS] being 0, where the text has no [MASK]. Default: the last."""

    def __post_init__(self) -> None:
        """Check what the types do not say.

        Raises:
            InputError: no text, more than two, or a file of another kind.
        """
        if not 1 <= len(self.text) <= 2:
            raise InputError(f"TEXT: expected one or two texts, got {len(self.text)}")
        if self.output and self.output.suffix not in (".html", ".png"):
            raise InputError(f"--output {self.output}: must end in .html or .png")

    def run(self) -> dict[str, Any]:
        """Explain, show, and write the file."""
        from clozeline.explain import explain_texts

        return explain_texts(self)
