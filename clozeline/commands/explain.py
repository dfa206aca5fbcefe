"""`clozeline explain`: show what a model computes for a text."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from clozeline.commands.caching import RunReader
from clozeline.options import config_from
from clozeline.show.terminal import print_line, results
from model.explaining.config import ExplainConfig
from pipeline.errors import InputError
from pipeline.storage.outputs import Output
from pipeline.storage.recognition import is_page, is_picture


@dataclass(frozen=True, kw_only=True)
class Explain(RunReader):
    """Explain a model's answers for a text: which words they come from, and how.

    Shows the computation step by step, attention, attention rollout, and integrated gradients.
    """

    text: Annotated[tuple[str, ...], tyro.conf.Positional]
    """One text, or a pair of texts. [MASK] marks a word to predict."""
    # The front door calls options.run(), so the field has another name than its flag.
    run_dir: Annotated[Path, tyro.conf.arg(name="run")] = field(metadata={"flag": "run"})
    """Directory of the run to explain."""
    output: Path | None = None
    """File to write: a self-contained page (.html) or a picture (.png)."""
    layer: int = ExplainConfig.layer
    """Layer to show step by step, from 1."""
    head: int = ExplainConfig.head
    """Attention head to show step by step, from 1."""
    position: int | None = None
    """Position of the piece to predict ([CLS] is 0) in a text without [MASK]. Default: last."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: no text, more than two, or a file of another kind.
        """
        if self.output and self.output.suffix not in (".html", ".png"):
            raise InputError(f"`output` {self.output}: must end in .html or .png")
        self.configuration()

    def configuration(self) -> ExplainConfig:
        """Return what is explained."""
        return config_from(self, ExplainConfig)

    @property
    def outputs(self) -> list[Output]:
        """Files and folders that the command writes."""
        if self.output is None:
            return []
        is_ours = is_picture if self.output.suffix == ".png" else is_page
        return [Output("output", self.output, "file", is_ours=is_ours)]

    def run(self) -> dict[str, Any]:
        """Explain, show, and write the file.

        Returns:
            The whole explanation with `--json`; else nothing.
        """
        from clozeline.show.explanation import shown, write_explanation
        from model.explaining.explanation import explain
        from model.explaining.plain import as_plain
        from pipeline.storage.locks import only_writer_of_outputs

        with only_writer_of_outputs(self.outputs):
            explanation = explain(self.configuration())
            results.print(shown(explanation))
            if self.output:
                write_explanation(explanation, self.output)
                print_line(f"{self.output}: written")
        return as_plain(explanation) if self.json else {}
