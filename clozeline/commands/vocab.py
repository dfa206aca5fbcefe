"""`clozeline vocab`: learn a WordPiece vocabulary from text."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clozeline.commands.corpus import CorpusOptions
from pipeline.errors import InputError, check_range


@dataclass(frozen=True, kw_only=True)
class Vocab(CorpusOptions):
    """Count words with Beam and learn a WordPiece vocabulary from the counts.

    Flags of Apache Beam are passed through.
    """

    output: Path
    """Vocabulary file to write, one piece per line."""
    size: int = 30522
    """Vocabulary size, including special tokens (5 to 1000000)."""
    overwrite: bool = False
    """Replace the file if it exists."""

    def __post_init__(self) -> None:
        """Check what the types do not say.

        Raises:
            InputError: a flag is out of range.
        """
        super().__post_init__()
        check_range("size", self.size, 5, 1_000_000)

    def run(self, beam_flags: Sequence[str] = ()) -> dict[str, Any]:
        """Count, learn, write; return path, size and number of words."""
        from pipeline.console import notes, results, warn
        from pipeline.corpus.readers import CorpusFormat
        from pipeline.corpus.remarks import hints
        from pipeline.jobs.count_words import count_words
        from pipeline.report import dropped_documents
        from pipeline.storage.files import write_atomically
        from pipeline.text.vocabulary import learn_vocabulary

        if self.output.exists() and not self.overwrite:
            raise InputError(f"--output {self.output}: already exists; add --overwrite")
        how = CorpusFormat(
            input_format=self.input_format,
            language=self.language,
            text_column=self.text_column,
            id_column=self.id_column,
        )
        counted = count_words(
            self.input,
            how,
            beside=self.output,
            lower_case=self.lower_case,
            skip_damaged_files=self.skip_damaged_files,
            beam_flags=beam_flags,
        )
        counts = counted.words
        notes.print(f"learning from {len(counts):,} distinct words")
        if not counts:
            raise InputError(
                f"--input: no words to learn a vocabulary from; give it some text"
                f"{hints(counted.remarks)}"
            )
        warn(counted.remarks)
        pieces = learn_vocabulary(counts, self.size)
        write_atomically(self.output, ("\n".join(pieces) + "\n").encode("utf-8"))
        if len(pieces) < self.size:
            notes.print(
                f"The corpus gives only {len(pieces):,} of the {self.size:,} requested pieces."
            )
        words = sum(counts.values())
        results.print(
            f"{self.output}: {len(pieces):,} pieces from {words:,} words ({len(counts):,} distinct)"
        )
        if counted.dropped:
            results.print(f"documents dropped: {dropped_documents(counted.dropped)}")
        return {
            "vocab": str(self.output),
            "pieces": len(pieces),
            "words": words,
            "distinct_words": len(counts),
            "dropped_documents": counted.dropped,
            "warnings": [*map(str, counted.remarks)],
        }
