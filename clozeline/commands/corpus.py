"""Options of the commands that read a corpus."""

from dataclasses import dataclass

from clozeline.options import BeamCommand, InputGlobs
from pipeline.configs import CorpusConfig, InputFormat


@dataclass(frozen=True, kw_only=True)
class CorpusOptions(BeamCommand):
    """Options of commands that read a corpus."""

    input: InputGlobs
    """Text files or globs; quote a glob so that the shell does not expand it."""
    input_format: InputFormat = CorpusConfig.input_format
    """prose: one document per file, split into sentences. lines: one sentence per line, blank lines
    between documents. jsonl: one JSON object per line. parquet: one row per document; both are
    split into sentences. Files ending in .gz, .bz2, .xz or .zst are decompressed."""
    text_column: str = CorpusConfig.text_column
    """Column of jsonl and parquet files that contains the text."""
    id_column: str | None = None
    """Column with a document's id. The id then determines the document's split and shard, instead
    of its text, so that they stay the same when the text is edited."""
    language: str = CorpusConfig.language
    """Language for the sentence splitter's abbreviations (ISO 639 code)."""
    lower_case: bool = CorpusConfig.lower_case
    """Lower-case and strip accents (an uncased model)."""
    skip_damaged_files: bool = CorpusConfig.skip_damaged_files
    """Read a truncated or corrupt file up to the damage and count it, instead of failing."""
    quality: tuple[str, ...] = CorpusConfig.quality
    """Apply quality rules to each document: c4, fineweb, gopher, or YAML files with thresholds."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: a flag is out of range.
        """
        if self.input_format in ("prose", "lines"):
            reason = f"`input_format` {self.input_format} has no columns; jsonl and parquet have"
            self.refuse_given(reason, "text_column", "id_column")
        if self.input_format == "lines":
            reason = "`input_format` lines has a sentence on each line, so none is split"
            self.refuse_given(reason, "language")
