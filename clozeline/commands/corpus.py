"""The options of the commands that read a corpus."""

from dataclasses import dataclass
from typing import Literal

from clozeline.options import BeamCommand, InputGlobs
from pipeline.errors import InputError


@dataclass(frozen=True, kw_only=True)
class CorpusOptions(BeamCommand):
    """How text is found and read."""

    input: InputGlobs
    """Text files; quote a glob so that the shell leaves it alone."""
    input_format: Literal["prose", "lines", "jsonl", "parquet"] = "prose"
    """prose: one document a file, split into sentences. lines: one sentence a line, blank lines
    between documents. jsonl: a JSON object a line, parquet: a row a document, split too. Files
    whose names end in .gz, .bz2, .xz or .zst are decompressed."""
    text_column: str = "text"
    """Column of jsonl and parquet files that holds the text."""
    id_column: str | None = None
    """Column that names a document; its split and place then follow from that, not from its text,
    so that they stay when the text is corrected."""
    language: str = "en"
    """Language whose abbreviations the sentence splitter knows (ISO 639 code)."""
    lower_case: bool = True
    """Lower-case and strip accents (an uncased model)."""
    skip_damaged_files: bool = False
    """Use a damaged file (cut off, or corrupt inside) up to the damage and count it, instead of
    failing."""

    def __post_init__(self) -> None:
        """Check what the types do not say.

        Raises:
            InputError: a flag is out of range.
        """
        if not self.input:
            raise InputError("--input: give it at least one file or glob")
        if self.input_format in ("prose", "lines"):
            reason = f"--input-format {self.input_format} has no columns; jsonl and parquet have"
            self.refuse_given(reason, "text_column", "id_column")
        if self.input_format == "lines":
            reason = "--input-format lines has a sentence on each line, so none is split"
            self.refuse_given(reason, "language")
