"""Options of the commands that read a corpus."""

from dataclasses import dataclass

from clozeline.options import BeamCommand, InputGlobs, PathText
from pipeline.configs import CorpusConfig, InputFormat, Redacted
from pipeline.storage.remote import is_url


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
    encoding: str = CorpusConfig.encoding
    """Encoding of the files, for example windows-1252."""
    repair: bool = CorpusConfig.repair
    """Repair text that was decoded wrongly (mojibake) and HTML entities; remove soft hyphens and
    zero-width spaces."""
    languages: tuple[str, ...] = CorpusConfig.languages
    """Keep documents in these languages only (ISO 639 codes). Sentences are then split, and quality
    rules chosen, for each document's own language."""
    language_threshold: float = CorpusConfig.language_threshold
    """With --languages: minimum probability of a document's language (0 to 1)."""
    decontaminate: tuple[PathText, ...] = CorpusConfig.decontaminate
    """Evaluation files or globs, one example per line: drop documents that share a run of 13 words
    with one."""
    redact: tuple[Redacted, ...] = CorpusConfig.redact
    """Replace email addresses, telephone numbers, public IP addresses and IBANs by markers such as
    [EMAIL]."""
    quality: tuple[PathText, ...] = CorpusConfig.quality
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
        if not self.languages:
            reason = "has no effect without `languages`"
            self.refuse_given(reason, "language_threshold")

    def before_tensorflow(self) -> None:
        """Look for the local files; the job itself lists remote ones, which takes requests.

        Raises:
            InputError: no file matches a glob.
        """
        from pipeline.storage.files import match_files

        # Only to raise: the job lists the files again, also the remote ones.
        match_files([glob for glob in self.input if not is_url(glob)])
