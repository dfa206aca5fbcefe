"""`clozeline demo`: the whole line, by the commands a person would type."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clozeline.options import Command, InputGlobs
from pipeline.errors import check_range


@dataclass(frozen=True, kw_only=True)
class Demo(Command):
    """Run the whole line: text, vocabulary, records, a trained BERT, a model server that answers.

    The text is the docstrings of the Python packages on this machine, unless --corpus names other.
    """

    corpus: InputGlobs = ()
    """Text files to use instead, one document a file."""
    output: Path = Path("demo")
    """Folder for everything the demo makes; what an earlier demo made there is replaced."""
    megabytes: float = 5.0
    """Docstrings to collect."""
    vocab_size: int = 8000
    """Pieces of the vocabulary."""
    steps: int = 3200
    """Training steps."""
    check_learning: bool = True
    """Fail if the model did not learn; a run of a few steps cannot."""

    def __post_init__(self) -> None:
        """Check what the types do not say.

        Raises:
            InputError: a flag is out of range.
        """
        if self.corpus:
            self.refuse_given("--corpus brings its own text; leave one of the two out", "megabytes")
        check_range("megabytes", self.megabytes, 0.1, 1000)
        check_range("vocab_size", self.vocab_size, 100, 1_000_000)
        check_range("steps", self.steps, 1, 10**9)

    def run(self) -> dict[str, Any]:
        """Run every stage as the command a person would type, then ask the server."""
        from clozeline.demo import run_demo

        return run_demo(self)
