"""`clozeline vocab`: learn a WordPiece vocabulary from text."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clozeline.commands import spelled
from clozeline.commands.corpus import CorpusOptions
from clozeline.options import config_from
from clozeline.show.terminal import print_line, results, warn
from pipeline.configs import VocabularyConfig
from pipeline.progress import counted
from pipeline.storage.outputs import Output
from pipeline.storage.remote import is_remote


@dataclass(frozen=True, kw_only=True)
class Vocab(CorpusOptions):
    """Count words with Beam and learn a WordPiece vocabulary from the counts.

    Flags of Apache Beam are passed through.
    """

    output: Path
    """Vocabulary file to write, one piece per line."""
    size: int = VocabularyConfig.size
    """Vocabulary size, including special tokens (5 to 1000000)."""
    overwrite: bool = VocabularyConfig.overwrite
    """Replace the file if it exists."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: a flag is out of range.
        """
        super().__post_init__()
        self.configuration()

    def configuration(self) -> VocabularyConfig:
        """Return the job's configuration."""
        return config_from(self, VocabularyConfig)

    @property
    def outputs(self) -> list[Output]:
        """Files and folders that the command writes."""
        return self.configuration().outputs

    def before_tensorflow(self) -> None:
        """Look for the local files, and check that the vocabulary replaces none of them.

        Raises:
            InputError: no file matches a glob, or the vocabulary would replace one that is read.
        """
        super().before_tensorflow()
        if not is_remote(self.output):
            self.configuration().check_replaces_no_input()

    def run(self, beam_flags: Sequence[str] = ()) -> dict[str, Any]:
        """Count, learn, write; return path, size and number of words."""
        from clozeline.show.dataset import dropped_documents
        from pipeline.make_vocabulary import make_vocabulary

        report = make_vocabulary(self.configuration(), beam_flags)
        # The JSON has them, too, so their fields become flags before anything is printed.
        warnings = [spelled(warning, "vocab") for warning in report.warnings]
        warn(warnings)
        print_line(
            f"{report.path}: {counted(report.pieces, 'pieces')} from "
            f"{counted(report.words, 'words')} ({report.distinct_words:,} distinct)"
        )
        if report.dropped_documents:
            results.print(f"documents dropped: {dropped_documents(report.dropped_documents)}")
        return {
            "vocab": str(report.path),
            "pieces": report.pieces,
            "words": report.words,
            "distinct_words": report.distinct_words,
            "dropped_documents": report.dropped_documents,
            "warnings": warnings,
        }
