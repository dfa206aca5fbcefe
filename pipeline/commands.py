"""The flags of `vocab`, `preprocess` and `inspect`; the work is imported when they run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro

from pipeline.errors import InputError

InputGlobs = Annotated[tuple[str, ...], tyro.conf.arg(metavar="GLOB [GLOB ...]")]


@dataclass(frozen=True, kw_only=True)
class Command:
    """What every command takes."""

    config: Path | None = None
    """YAML file with flags by name; flags on the command line win."""
    json: bool = False
    """Print the result as JSON on standard output; everything else goes to standard error."""


def check_range(flag: str, value: float, low: float, high: float) -> None:
    """Raise `InputError` unless low <= value <= high."""
    if not low <= value <= high:
        raise InputError(f"{flag} {value}: must be from {low} to {high}")


@dataclass(frozen=True, kw_only=True)
class Corpus(Command):
    """How text is found and read."""

    takes_beam_flags: ClassVar[bool] = True

    input: InputGlobs
    """Text files; quote a glob so that the shell leaves it alone."""
    input_format: Literal["prose", "lines", "jsonl", "parquet"] = "prose"
    """prose: one document a file, split into sentences. lines: one sentence a line, blank lines
    between documents. jsonl: a JSON object a line, parquet: a row a document, split too. Endings
    .gz, .bz2 and .zst are decompressed."""
    text_column: str = "text"
    """Column of jsonl and parquet files that holds the text."""
    language: str = "en"
    """Language whose abbreviations the sentence splitter knows (ISO 639 code)."""
    lower_case: bool = True
    """Lower-case and strip accents (an uncased model)."""

    def __post_init__(self) -> None:
        """Check what the types do not say.

        Raises:
            InputError: a flag is out of range.
        """
        if not self.input:
            raise InputError("--input: give it at least one file or glob")


@dataclass(frozen=True, kw_only=True)
class Vocab(Corpus):
    """Count words with Beam and learn a WordPiece vocabulary from the counts.

    Any flag of Apache Beam's passes through.
    """

    output: Path
    """The vocabulary file to write: one piece a line."""
    size: int = 30522
    """Pieces, special tokens included."""
    overwrite: bool = False
    """Replace the file if it exists."""

    def run(self, beam_flags: list[str] | None = None) -> dict[str, Any]:
        """Count, learn, write; return path, size and number of words."""
        from tempfile import TemporaryDirectory

        from pipeline.beam_options import beam_options
        from pipeline.console import notes, results
        from pipeline.files import match_files, write_atomically
        from pipeline.readers import CorpusFormat, check_columns
        from pipeline.tally import reading, watch
        from pipeline.vocabulary import learn_vocabulary
        from pipeline.word_count import count_words

        if self.output.exists() and not self.overwrite:
            raise InputError(f"--output {self.output}: exists already; add --overwrite")
        options = beam_options(beam_flags or [])
        files = match_files(self.input)
        how = CorpusFormat(
            input_format=self.input_format, language=self.language, text_column=self.text_column
        )
        check_columns(list(files), how)
        with TemporaryDirectory() as folder:
            with watch(Path(folder), {"read": reading("counting words", sum(files.values()))}):
                counts = count_words(
                    list(files), options, Path(folder), how, lower_case=self.lower_case
                )
            notes.print(f"learning from {len(counts):,} distinct words")
            pieces = learn_vocabulary(counts, self.size)
        write_atomically(self.output, ("\n".join(pieces) + "\n").encode("utf-8"))
        if len(pieces) < self.size:
            notes.print(
                f"The corpus gives no more than {len(pieces):,} of the {self.size:,} pieces asked."
            )
        words = sum(counts.values())
        results.print(
            f"{self.output}: {len(pieces):,} pieces from {words:,} words ({len(counts):,} distinct)"
        )
        return {
            "vocab": str(self.output),
            "pieces": len(pieces),
            "words": words,
            "distinct_words": len(counts),
        }


@dataclass(frozen=True, kw_only=True)
class Preprocess(Corpus):
    """Write TFRecords of masked sentence pairs and a manifest, as a Beam job.

    Any flag of Apache Beam's passes through (`--runner=FlinkRunner ...`).
    """

    vocab: Path
    """The vocabulary to tokenize with."""
    output: str
    """The dataset folder to write, on any filesystem of Beam's."""
    max_seq_length: int = 128
    """Positions in a record: [CLS] A [SEP] B [SEP] and padding."""
    max_predictions: int = 20
    """Masked positions in a record, at the most."""
    masking: Literal["token", "whole-word", "span"] = "token"
    """What is masked at a time: a piece, a whole word, or a run of whole words (SpanBERT)."""
    mask_rate: float = 0.15
    """Share of the pieces to predict (0 to 1)."""
    short_seq_rate: float = 0.1
    """Share of pairs that are shorter than they could be (0 to 1)."""
    duplicates: int = 1
    """Times the corpus is gone through, each with other pairs and masks."""
    shards: int | None = None
    """Training files to write. Default: one for every 16 MB of text."""
    eval_rate: float = 0.01
    """Share of the documents held out for evaluation (0 to 1)."""
    seed: int = 0
    """The same seed and corpus give the same bytes on any machine."""
    overwrite: bool = False
    """Replace the dataset in --output when the new one is finished."""

    def __post_init__(self) -> None:
        """Check what the types do not say.

        Raises:
            InputError: a flag is out of range.
        """
        super().__post_init__()
        check_range("--max-seq-length", self.max_seq_length, 5, 65536)
        check_range("--max-predictions", self.max_predictions, 1, self.max_seq_length)
        check_range("--mask-rate", self.mask_rate, 0, 1)
        check_range("--short-seq-rate", self.short_seq_rate, 0, 1)
        check_range("--duplicates", self.duplicates, 1, 10_000)
        check_range("--eval-rate", self.eval_rate, 0, 0.5)
        if self.shards is not None:
            check_range("--shards", self.shards, 1, 99_999)

    def run(self, beam_flags: list[str] | None = None) -> dict[str, Any]:
        """Make the dataset; return where it is and what it holds."""
        import time

        from pipeline.console import results
        from pipeline.dataset import as_result, make_dataset
        from pipeline.files import match_files
        from pipeline.job import Settings
        from pipeline.report import dataset_table

        begin = time.monotonic()
        text_bytes = sum(match_files(self.input).values())
        settings = Settings(
            input_format=self.input_format,
            language=self.language,
            text_column=self.text_column,
            lower_case=self.lower_case,
            max_seq_length=self.max_seq_length,
            max_predictions=self.max_predictions,
            masking=self.masking,
            mask_rate=self.mask_rate,
            short_seq_rate=self.short_seq_rate,
            duplicates=self.duplicates,
            shards=self.shards or -(-text_bytes // TEXT_BYTES_PER_SHARD) or 1,
            eval_rate=self.eval_rate,
            seed=self.seed,
        )
        manifest = make_dataset(
            self.input,
            self.vocab,
            self.output,
            settings,
            overwrite=self.overwrite,
            beam_flags=beam_flags or [],
        )
        seconds = time.monotonic() - begin
        results.print(dataset_table(self.output, manifest, seconds))
        return as_result(manifest, self.output) | {"seconds": seconds}


TEXT_BYTES_PER_SHARD = 16_000_000
"""A shard's documents are sorted and paired in one worker's memory, so this bounds it."""


@dataclass(frozen=True, kw_only=True)
class Inspect(Command):
    """Check a dataset against its manifest and show decoded examples."""

    dataset: Annotated[Path, tyro.conf.Positional]
    """The dataset folder."""
    examples: int = 3
    """Examples to show."""
    split: Literal["train", "eval"] = "train"
    """Which examples to show; every split is checked."""

    def run(self) -> dict[str, Any]:
        """Check, show, and return what was counted."""
        from pipeline.inspection import inspect_dataset

        return inspect_dataset(self.dataset, self.split, self.examples)
