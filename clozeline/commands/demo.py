"""`clozeline demo`: run all steps, from text to a model server, by commands a user would type."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clozeline.options import Command, InputGlobs
from pipeline.errors import check_range


@dataclass(frozen=True, kw_only=True)
class Demo(Command):
    """Run the whole pipeline: text, vocabulary, dataset, a trained BERT, a running model server.

    The default corpus is the docstrings of the Python packages on this machine.
    """

    corpus: InputGlobs = ()
    """Text files to use instead, one document per file."""
    output: Path = Path("demo")
    """Folder for everything the demo creates; files of an earlier demo in it are replaced."""
    megabytes: float = 5.0
    """Size of the docstring corpus to collect, in MB."""
    vocab_size: int = 8000
    """Vocabulary size."""
    steps: int = 3200
    """Training steps."""
    check_learning: bool = True
    """Exit with an error if the model did not learn; disable it for runs of a few steps."""

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
