"""`clozeline preprocess`: convert text to TFRecords and a manifest."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clozeline.commands import spelled
from clozeline.commands.corpus import CorpusOptions
from clozeline.options import PathText, config_from
from clozeline.show.terminal import results, warn
from pipeline.configs import Masking, PreprocessConfig
from pipeline.schema import Compression, Deduplicate, Masks, Overflow, Pairing, finds_near
from pipeline.storage.outputs import Output
from pipeline.storage.remote import is_remote, is_url
from pipeline.storage.strict_json import to_json

if TYPE_CHECKING:
    from pipeline.preprocess import DatasetReport


@dataclass(frozen=True, kw_only=True)
class Preprocess(CorpusOptions):
    """Write TFRecords of masked sentence pairs and a manifest, as a Beam job.

    Flags of Apache Beam are passed through (`--runner=FlinkRunner ...`).
    """

    vocab: Path
    """Vocabulary file."""
    output: PathText
    """Dataset folder to write."""
    max_seq_length: tuple[int, ...] = PreprocessConfig.max_seq_length
    """Sequence length of a record, 5 to 65536: [CLS] A [SEP] B [SEP] and padding. Several lengths
    make one dataset each from one pass over the corpus: OUTPUT/128, OUTPUT/512."""
    max_predictions: tuple[int, ...] = ()
    """Maximum number of masked positions per record; one value per length. Default: --mask-rate of
    the length, rounded up (20 of 128)."""
    pairing: Pairing = PreprocessConfig.pairing
    """nsp: A and the next or a random sentence B (BERT). sop: A and B in order or swapped (ALBERT).
    none: whole sentences one after another, no pairs (RoBERTa)."""
    overflow: Overflow = PreprocessConfig.overflow
    """Treatment of the pieces of a pair above --max-seq-length. cut: they are in no record
    (BERT). carry: the next pair begins with them, so no text is lost."""
    packing: bool = PreprocessConfig.packing
    """Put several short pairs into a record, so that fewer positions are padding. Pairs do not see
    each other: the losses are those of unpacked records (Krell et al. 2021)."""
    max_pairs: int | None = None
    """With --packing: maximum number of pairs in a record (2 to 4096). Default: one for each 16
    positions."""
    masks: Masks = PreprocessConfig.masks
    """static: masks are stored in the records. dynamic: records are masked during training,
    differently each epoch, determined by seed, epoch and record."""
    masking: Masking = PreprocessConfig.masking
    """Unit of masking: token (a piece), whole-word, or span (several whole words, as SpanBERT). The
    words of Chinese text are found by a segmenter, as for BERT-wwm."""
    mask_rate: float = PreprocessConfig.mask_rate
    """Share of the pieces to predict (above 0, to 1)."""
    short_seq_rate: float = PreprocessConfig.short_seq_rate
    """Share of sequences that are made shorter than the maximum (0 to 1)."""
    duplicates: int = PreprocessConfig.duplicates
    """Number of passes over the corpus, each with different pairs and masks (1 to 10000)."""
    deduplicate: Deduplicate = field(
        default=PreprocessConfig.deduplicate, metadata={"switch": ("documents", "none")}
    )
    """documents (or no value): drop documents whose text (or id) equals that of another document.
    near: drop near-duplicates, too; one document of each cluster is kept (MinHash over word
    5-grams, as FineWeb). paragraphs, lines: drop duplicate documents, and remove all but one of
    each paragraph or line that is repeated in the corpus. near+paragraphs, near+lines: both."""
    minhash_bands: int = PreprocessConfig.minhash_bands
    """With --deduplicate near: number of bands of a signature (1 to 256)."""
    minhash_rows: int = PreprocessConfig.minhash_rows
    """With --deduplicate near: number of values in a band (1 to 64). Two documents whose 5-grams
    have the Jaccard similarity J are near-duplicates with probability 1 - (1 - J^rows)^bands."""
    min_document_pieces: int = PreprocessConfig.min_document_pieces
    """Drop documents with fewer pieces."""
    max_unreadable_rate: float = PreprocessConfig.max_unreadable_rate
    """Largest share of unreadable documents; they are dropped. Above it the job fails (0 to 1)."""
    rejected: PathText | None = None
    """Folder to write each rejected document to, with the rule, its value and its threshold (JSON
    Lines). `inspect` shows it."""
    shards: int | None = None
    """Number of training shards (1 to 99999). Default: one per 16 MB of text."""
    streams: int = PreprocessConfig.streams
    """Number of record streams that training interleaves (1 to 512). With P workers, each reads
    1/P of the dataset if P divides this number."""
    eval_rate: float = PreprocessConfig.eval_rate
    """Share of the documents held out for evaluation (0 to 0.5)."""
    compression: Compression = PreprocessConfig.compression
    """Compression of the shard files."""
    seed: int = PreprocessConfig.seed
    """Random seed; the same seed and corpus give identical bytes on every machine."""
    overwrite: bool = PreprocessConfig.overwrite
    """Replace the dataset in --output when the new one is finished."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: a flag is out of range.
        """
        super().__post_init__()
        if not finds_near(self.deduplicate):
            reason = f"`deduplicate` {self.deduplicate} computes no MinHash; near does"
            self.refuse_given(reason, "minhash_bands", "minhash_rows")
        # Built once now, so that its checks run before the slow imports.
        self.configuration()

    def configuration(self) -> PreprocessConfig:
        """Return the job's configuration."""
        return config_from(self, PreprocessConfig)

    @property
    def outputs(self) -> list[Output]:
        """Files and folders that the command writes."""
        return self.configuration().outputs

    def before_tensorflow(self) -> None:
        """Look for the local files and results, and check a local vocabulary.

        Raises:
            InputError: no file matches a glob, the vocabulary cannot be used, or an output has
                results of an earlier job, which may not be replaced.
        """
        from pipeline.storage.files import absolute
        from pipeline.storage.publishing import check_no_dataset
        from pipeline.storage.rejection_files import check_no_rejections
        from pipeline.text.tokenizer import Vocabulary

        super().before_tensorflow()
        for dataset in self.configuration().datasets:
            if not is_url(dataset):
                check_no_dataset(absolute(dataset), overwrite=self.overwrite)
        if self.rejected is not None and not is_url(self.rejected):
            check_no_rejections(absolute(self.rejected), overwrite=self.overwrite)
        if not is_remote(self.vocab):
            Vocabulary.read(self.vocab)

    def run(self, beam_flags: Sequence[str] = ()) -> dict[str, Any]:
        """Make the datasets; return where they are and what they hold."""
        from clozeline.show.dataset import dataset_table
        from pipeline.preprocess import preprocess

        report = preprocess(self.configuration(), beam_flags)
        for dataset in report.datasets:
            results.print(dataset_table(dataset.path, dataset.manifest, report.seconds))
        # The JSON has them, too, so their fields become flags before anything is printed.
        warnings = [spelled(warning, "preprocess") for warning in report.warnings]
        warn(warnings)
        datasets = [_as_json(dataset) for dataset in report.datasets]
        both = {"warnings": warnings, "seconds": report.seconds}
        # With one length, the dataset's keys are at the top.
        return (datasets[0] if len(datasets) == 1 else {"datasets": datasets}) | both


def _as_json(made: "DatasetReport") -> dict[str, Any]:
    manifest = made.manifest
    return {
        "dataset": made.path,
        "splits": {split: manifest.examples(split) for split in manifest.splits},
        "statistics": manifest.statistics,
        "dropped_documents": manifest.dropped_documents,
        "changed_text": manifest.changed_text,
        # As the manifest has them on the disk: lists, where the dataclass has tuples.
        "settings": json.loads(to_json(manifest.settings)),
    }
