"""`clozeline preprocess`: convert text to TFRecords and a manifest."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from clozeline.commands.corpus import CorpusOptions
from pipeline.errors import InputError, check_range

if TYPE_CHECKING:
    from pipeline.records.shard import Settings


@dataclass(frozen=True, kw_only=True)
class Preprocess(CorpusOptions):
    """Write TFRecords of masked sentence pairs and a manifest, as a Beam job.

    Flags of Apache Beam are passed through (`--runner=FlinkRunner ...`).
    """

    vocab: Path
    """Vocabulary file."""
    output: str
    """Dataset folder to write, on any filesystem that Beam supports."""
    max_seq_length: tuple[int, ...] = (128,)
    """Sequence length of a record, 5 to 65536: [CLS] A [SEP] B [SEP] and padding. Several lengths
    make one dataset each from one pass over the corpus: OUTPUT/128, OUTPUT/512."""
    max_predictions: tuple[int, ...] = ()
    """Maximum number of masked positions per record; one value per length. Default: --mask-rate of
    the length, rounded up (20 of 128)."""
    pairing: Literal["nsp", "sop", "none"] = "nsp"
    """nsp: A and the next or a random sentence B (BERT). sop: A and B in order or swapped (ALBERT).
    none: whole sentences one after another, no pairs (RoBERTa)."""
    masks: Literal["static", "dynamic"] = "static"
    """static: masks are stored in the records. dynamic: records are masked during training,
    differently each epoch, determined by seed, epoch and record."""
    masking: Literal["token", "whole-word", "span"] = "token"
    """Unit of masking: token (a piece), whole-word, or span (several whole words, as SpanBERT)."""
    mask_rate: float = 0.15
    """Share of the pieces to predict (above 0, to 1)."""
    short_seq_rate: float = 0.1
    """Share of sequences that are made shorter than the maximum (0 to 1)."""
    duplicates: int = 1
    """Number of passes over the corpus, each with different pairs and masks (1 to 10000)."""
    deduplicate: bool = False
    """Drop documents whose text (or id) equals that of another document."""
    min_document_pieces: int = 1
    """Drop documents with fewer pieces."""
    max_unreadable_rate: float = 0.1
    """Largest share of unreadable documents; they are dropped. Above it the job fails (0 to 1)."""
    shards: int | None = None
    """Number of training shards (1 to 99999). Default: one per 16 MB of text."""
    eval_rate: float = 0.01
    """Share of the documents held out for evaluation (0 to 0.5)."""
    compression: Literal["none", "gzip"] = "none"
    """Compression of the shard files."""
    seed: int = 0
    """Random seed; the same seed and corpus give identical bytes on every machine."""
    overwrite: bool = False
    """Replace the dataset in --output when the new one is finished."""

    def __post_init__(self) -> None:
        """Check what the types do not say.

        Raises:
            InputError: a flag is out of range.
        """
        super().__post_init__()
        if len({*self.max_seq_length}) != len(self.max_seq_length) or not self.max_seq_length:
            raise InputError("--max-seq-length: expected one or more different lengths")
        if self.max_predictions and len(self.max_predictions) != len(self.max_seq_length):
            raise InputError("--max-predictions: expected as many numbers as --max-seq-length has")
        for length in self.max_seq_length:
            check_range("max_seq_length", length, 5, 65536)
        for predictions, length in zip(self.max_predictions, self.max_seq_length, strict=False):
            check_range("max_predictions", predictions, 1, length)
        if not self.mask_rate > 0:
            raise InputError(f"--mask-rate {self.mask_rate:g}: must be above 0")
        check_range("mask_rate", self.mask_rate, 0, 1)
        check_range("short_seq_rate", self.short_seq_rate, 0, 1)
        check_range("duplicates", self.duplicates, 1, 10_000)
        check_range("min_document_pieces", self.min_document_pieces, 1, 1 << 31)
        check_range("max_unreadable_rate", self.max_unreadable_rate, 0, 1)
        check_range("eval_rate", self.eval_rate, 0, 0.5)
        if self.shards is not None:
            check_range("shards", self.shards, 1, 99_999)

    def run(self, beam_flags: Sequence[str] = ()) -> dict[str, Any]:
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
                beam_flags=beam_flags,
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
