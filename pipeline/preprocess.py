"""Make datasets of a corpus: their settings, the job, and its report."""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields

from pipeline.configs import POSITIONS_PER_PAIR, PreprocessConfig
from pipeline.corpus.rules.build import cleaning_of
from pipeline.dataset_warnings import dataset_warnings
from pipeline.jobs.dataset import make_datasets
from pipeline.manifest import Manifest
from pipeline.records.shard import EVAL, Settings
from pipeline.storage.files import match_files
from pipeline.storage.locks import only_writer_of_all
from pipeline.text.inputs import PAIR_MARKS

TEXT_BYTES_PER_SHARD = 16_000_000
"""A shard's documents are sorted and paired in one worker's memory, so this bounds it."""

FILES_PER_SHARD = 8
"""The fewest, where a file is a document: random next sentences come from the shard's others."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DatasetReport:
    """A dataset that was written.

    Attributes:
        path: its folder, a local path or a URL.
        manifest: its manifest, with the counts and every setting.
    """

    path: str
    manifest: Manifest


@dataclass(frozen=True)
class PreprocessReport:
    """Report of a job.

    Attributes:
        datasets: one for every sequence length.
        warnings: remarks on files of the corpus, and what a model cannot learn; one line each.
        seconds: duration of the job.
    """

    datasets: tuple[DatasetReport, ...]
    warnings: tuple[str, ...]
    seconds: float


def preprocess(config: PreprocessConfig, beam_flags: Sequence[str] = ()) -> PreprocessReport:
    """Write TFRecords of masked sentence pairs and a manifest, as a Beam job.

    Args:
        config: the corpus, the vocabulary, the datasets.
        beam_flags: flags for Apache Beam, such as "--runner=FlinkRunner".

    Raises:
        InputError: no input, an invalid vocabulary, an output that holds a dataset or that another
            process writes, a corpus without a usable pair, or too many unreadable documents.
        JobError: the Beam job failed.
    """
    begin = time.monotonic()
    outputs = settings_of(config)
    # Before the job: two jobs with one output would mix their shards.
    with only_writer_of_all({output.path: str(output) for output in config.outputs}):
        manifests, remarks = make_datasets(
            config.input,
            config.vocab,
            outputs,
            rejected=config.rejected,
            overwrite=config.overwrite,
            max_unreadable_rate=config.max_unreadable_rate,
            skip_damaged_files=config.skip_damaged_files,
            beam_flags=beam_flags,
        )
    if config.eval_rate and not any(manifest.examples(EVAL) for manifest in manifests.values()):
        _log.info("no document fell into the eval split; give more text or a higher `eval_rate`")
    # Datasets that differ only in their lengths have mostly the same warnings.
    of_datasets = [w for manifest in manifests.values() for w in dataset_warnings(manifest)]
    return PreprocessReport(
        tuple(DatasetReport(path, manifest) for path, manifest in manifests.items()),
        (*map(str, remarks), *dict.fromkeys(of_datasets)),
        time.monotonic() - begin,
    )


def settings_of(config: PreprocessConfig) -> dict[str, Settings]:
    """Return the settings of each dataset by its folder."""
    sizes = match_files(config.input).values()
    shards = -(-sum(sizes) // TEXT_BYTES_PER_SHARD)
    if config.input_format == "prose":
        shards = min(shards, len(sizes) // FILES_PER_SHARD)
    # The fields that decide the bytes of the records; the manifest holds all of them.
    names = {field.name for field in fields(Settings)}
    settings = {name: value for name, value in vars(config).items() if name in names}
    settings["shards"] = config.shards or max(shards, 1)
    settings["cleaning"] = cleaning_of(config)
    predictions = config.max_predictions or [
        math.ceil(length * config.mask_rate) for length in config.max_seq_length
    ]
    return {
        dataset: Settings(
            **settings
            | {"max_seq_length": length, "max_predictions": count}
            | {"max_pairs": _max_pairs(config, length)}
        )
        for dataset, length, count in zip(
            config.datasets, config.max_seq_length, predictions, strict=True
        )
    }


def _max_pairs(config: PreprocessConfig, length: int) -> int:
    """Return the maximum number of pairs in a record of this length."""
    if not config.packing:
        return 1
    # No pair is shorter than its special pieces and a piece of each segment.
    most = length // (PAIR_MARKS + 2)
    return max(2, min(config.max_pairs or length // POSITIONS_PER_PAIR, most))
