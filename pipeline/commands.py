"""The flags of `vocab`, `preprocess` and `inspect`; the work is imported when they run."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import tyro

from pipeline.errors import InputError

if TYPE_CHECKING:
    from pipeline.records.shard import Settings

InputGlobs = Annotated[tuple[str, ...], tyro.conf.arg(metavar="GLOB [GLOB ...]")]


@dataclass(frozen=True, kw_only=True)
class Command:
    """What every command takes."""

    config: Path | None = None
    """YAML file with flags by name; flags on the command line win."""
    json: bool = False
    """Print the result as JSON on standard output; everything else goes to standard error."""
    given: Annotated[frozenset[str], tyro.conf.Fixed, tyro.conf.Suppress] = field(
        default=frozenset(), metadata={"flag": None}
    )
    """Names of the options that the user named, which the front door knows."""

    def refuse_given(self, reason: str, *names: str) -> None:
        """Refuse options that have no effect next to the others.

        Args:
            reason: why they have none, and what to do.
            names: of the options.

        Raises:
            InputError: the user named one of them.
        """
        for name in names:
            if name in self.given:
                raise InputError(f"--{name.replace('_', '-')}: {reason}")

    @property
    def environment(self) -> dict[str, str]:
        """What the process's environment is to have before anything heavy is imported."""
        return {}


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


@dataclass(frozen=True, kw_only=True)
class Vocab(Corpus):
    """Count words with Beam and learn a WordPiece vocabulary from the counts.

    Any flag of Apache Beam's passes through.
    """

    output: Path
    """The vocabulary file to write: one piece a line."""
    size: int = 30522
    """Pieces, special tokens included (5 to 1000000)."""
    overwrite: bool = False
    """Replace the file if it exists."""

    def __post_init__(self) -> None:
        """Check what the types do not say.

        Raises:
            InputError: a flag is out of range.
        """
        super().__post_init__()
        check_range("--size", self.size, 5, 1_000_000)

    def run(self, beam_flags: list[str] | None = None) -> dict[str, Any]:
        """Count, learn, write; return path, size and number of words."""
        from pipeline.console import notes, results, warn
        from pipeline.corpus.readers import CorpusFormat
        from pipeline.corpus.remarks import hints
        from pipeline.jobs.count_words import count_words
        from pipeline.report import dropped_documents
        from pipeline.storage.files import write_atomically
        from pipeline.text.vocabulary import learn_vocabulary

        if self.output.exists() and not self.overwrite:
            raise InputError(f"--output {self.output}: exists already; add --overwrite")
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
                f"The corpus gives no more than {len(pieces):,} of the {self.size:,} pieces asked."
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


@dataclass(frozen=True, kw_only=True)
class Preprocess(Corpus):
    """Write TFRecords of masked sentence pairs and a manifest, as a Beam job.

    Any flag of Apache Beam's passes through (`--runner=FlinkRunner ...`).
    """

    vocab: Path
    """The vocabulary to tokenize with."""
    output: str
    """The dataset folder to write, on any filesystem of Beam's."""
    max_seq_length: tuple[int, ...] = (128,)
    """Positions in a record, 5 to 65536: [CLS] A [SEP] B [SEP] and padding. Several lengths are
    made from one reading, each a dataset of its own: OUTPUT/128, OUTPUT/512."""
    max_predictions: tuple[int, ...] = ()
    """Masked positions in a record, at the most; one for every length. Default: --mask-rate of the
    positions, rounded up (20 of 128)."""
    pairing: Literal["nsp", "sop", "none"] = "nsp"
    """nsp: A and the next or a random sentence B (BERT). sop: A and B in order or swapped (ALBERT).
    none: whole sentences one after another, no pairs (RoBERTa)."""
    masks: Literal["static", "dynamic"] = "static"
    """static: masked in the records. dynamic: masked anew in every epoch, while they are trained
    on, from seed, epoch and record."""
    masking: Literal["token", "whole-word", "span"] = "token"
    """What is masked at a time: a piece, a whole word, or a run of whole words (SpanBERT)."""
    mask_rate: float = 0.15
    """Share of the pieces to predict (above 0, to 1)."""
    short_seq_rate: float = 0.1
    """Share of pairs that are shorter than they could be (0 to 1)."""
    duplicates: int = 1
    """Times the corpus is gone through, each with other pairs and masks (1 to 10000)."""
    deduplicate: bool = False
    """Leave out documents whose text, or id, is that of another one."""
    min_document_pieces: int = 1
    """Leave out documents of fewer pieces."""
    max_unreadable_rate: float = 0.1
    """Share of the documents that may be damaged, and are left out, before the job fails (0 to
    1)."""
    shards: int | None = None
    """Training files to write (1 to 99999). Default: one for every 16 MB of text."""
    eval_rate: float = 0.01
    """Share of the documents held out for evaluation (0 to 0.5)."""
    compression: Literal["none", "gzip"] = "none"
    """How the records are packed."""
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
        if len({*self.max_seq_length}) != len(self.max_seq_length) or not self.max_seq_length:
            raise InputError("--max-seq-length: give it one or more different lengths")
        if self.max_predictions and len(self.max_predictions) != len(self.max_seq_length):
            raise InputError("--max-predictions: give it as many numbers as --max-seq-length")
        for length in self.max_seq_length:
            check_range("--max-seq-length", length, 5, 65536)
        for predictions, length in zip(self.max_predictions, self.max_seq_length, strict=False):
            check_range("--max-predictions", predictions, 1, length)
        if not self.mask_rate > 0:
            raise InputError(f"--mask-rate {self.mask_rate:g}: must be above 0")
        check_range("--mask-rate", self.mask_rate, 0, 1)
        check_range("--short-seq-rate", self.short_seq_rate, 0, 1)
        check_range("--duplicates", self.duplicates, 1, 10_000)
        check_range("--min-document-pieces", self.min_document_pieces, 1, 1 << 31)
        check_range("--max-unreadable-rate", self.max_unreadable_rate, 0, 1)
        check_range("--eval-rate", self.eval_rate, 0, 0.5)
        if self.shards is not None:
            check_range("--shards", self.shards, 1, 99_999)

    def run(self, beam_flags: list[str] | None = None) -> dict[str, Any]:
        """Make the dataset, or the datasets; return where they are and what they hold."""
        import time

        from pipeline.console import notes, results, warn
        from pipeline.jobs.dataset import as_result, make_datasets
        from pipeline.records.shard import EVAL
        from pipeline.report import dataset_table, dataset_warnings
        from pipeline.storage.locks import only_writer_of_all

        begin = time.monotonic()
        outputs = self.outputs()
        # Beam's other filesystems have no locks.
        local = {Path(output): f"--output {output}" for output in outputs if "://" not in output}
        with only_writer_of_all(local):
            manifests, remarks = make_datasets(
                self.input,
                self.vocab,
                outputs,
                overwrite=self.overwrite,
                max_unreadable_rate=self.max_unreadable_rate,
                skip_damaged_files=self.skip_damaged_files,
                beam_flags=beam_flags or [],
            )
        seconds = time.monotonic() - begin
        for output, manifest in manifests.items():
            results.print(dataset_table(output, manifest, seconds))
        if self.eval_rate and not any(manifest.examples(EVAL) for manifest in manifests.values()):
            notes.print(
                "no document fell into the eval split; give more text or a higher --eval-rate"
            )
        # Datasets that differ in their lengths have mostly the same ones.
        of_datasets = [w for made in manifests.values() for w in dataset_warnings(made)]
        warnings = [*map(str, remarks), *dict.fromkeys(of_datasets)]
        warn(warnings)
        made = [as_result(manifest, output) for output, manifest in manifests.items()]
        both = {"warnings": warnings, "seconds": seconds}
        return (made[0] if len(made) == 1 else {"datasets": made}) | both

    def outputs(self) -> dict[str, "Settings"]:
        """Return the folder and the settings of each dataset."""
        import math

        from pipeline.records.shard import Settings
        from pipeline.storage.files import match_files

        sizes = match_files(self.input).values()
        shards = -(-sum(sizes) // TEXT_BYTES_PER_SHARD)
        if self.input_format == "prose":
            shards = min(shards, len(sizes) // FILES_PER_SHARD)
        names = {field.name for field in fields(Settings)}
        flags = {name: value for name, value in vars(self).items() if name in names}
        flags["shards"] = self.shards or max(shards, 1)
        predictions = self.max_predictions or [
            math.ceil(length * self.mask_rate) for length in self.max_seq_length
        ]
        return {
            self.output if len(predictions) == 1 else f"{self.output}/{length}": Settings(
                **flags | {"max_seq_length": length, "max_predictions": count}
            )
            for length, count in zip(self.max_seq_length, predictions, strict=True)
        }


TEXT_BYTES_PER_SHARD = 16_000_000
"""A shard's documents are sorted and paired in one worker's memory, so this bounds it."""

FILES_PER_SHARD = 8
"""The fewest, where a file is a document: random next sentences come from the shard's others."""


@dataclass(frozen=True, kw_only=True)
class Inspect(Command):
    """Check a dataset against its manifest and show decoded examples."""

    dataset: Annotated[Path, tyro.conf.Positional]
    """The dataset folder."""
    examples: int = 3
    """Examples to show."""
    split: Literal["train", "eval"] = "train"
    """Which examples to show; every split is checked."""

    def __post_init__(self) -> None:
        """Check what the types do not say.

        Raises:
            InputError: a flag is out of range, or has no effect next to the others.
        """
        check_range("--examples", self.examples, 0, 1024)
        if not self.examples:
            self.refuse_given("--examples 0 shows none; every split is checked", "split")

    def run(self) -> dict[str, Any]:
        """Check, show, and return what was counted."""
        from pipeline.inspection import inspect_dataset

        return inspect_dataset(self.dataset, self.split, self.examples)
