"""A dataset directory, from settings to a published manifest."""

import importlib.metadata
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline.corpus.readers import UNREADABLE, check_columns
from pipeline.corpus.remarks import DAMAGED_FILE, Remark, hints, remarks_from
from pipeline.errors import InputError
from pipeline.jobs.beam_options import beam_options
from pipeline.jobs.preprocess import run_job
from pipeline.jobs.shared_folder import job_folder
from pipeline.jobs.tally import Stage, reading, watch
from pipeline.manifest import Manifest, Shard
from pipeline.records.shard import EVAL, NO_OTHER_DOCUMENT, TRAIN, Settings, shard_files
from pipeline.storage.files import CLOZELINE, absolute, match_files
from pipeline.storage.publishing import Finished, check_free, publish
from pipeline.storage.strict_json import to_json
from pipeline.text.tokenizer import Vocabulary

TEMPORARY = "_temporary-"
"""What the name of a job's folder inside a dataset begins with; gone when the job ends."""

_VERSIONED = ("apache-beam", "numpy", "sentencex", "tensorflow", "tensorflow-text")


@dataclass(frozen=True)
class Report:
    """What the job found out about one dataset.

    Attributes:
        shards: as `pipeline.jobs.preprocess.run_job` returns them.
        dropped: documents by reason, also those dropped before the datasets were parted; and the
            number of damaged files.
        remarks: on files of the corpus.
    """

    shards: list[dict[str, Any]]
    dropped: Counter[str]
    remarks: list[Remark]

    @property
    def written(self) -> list[dict[str, Any]]:
        """The shards that have records."""
        return [shard for shard in self.shards if "shard" in shard]

    @property
    def temporary_files(self) -> dict[str, str]:
        """By file name, where each shard is before it is published."""
        return {shard["shard"]["name"]: shard["temporary"] for shard in self.written}

    @property
    def documents(self) -> int:
        """Number of documents in the corpus."""
        used = sum(shard["statistics"]["documents"] for shard in self.written)
        return used + self.dropped.total()


def make_datasets(
    globs: Sequence[str],
    vocab: Path,
    outputs: Mapping[str, Settings],
    *,
    overwrite: bool,
    max_unreadable_rate: float,
    skip_damaged_files: bool,
    beam_flags: Sequence[str],
) -> tuple[dict[str, Manifest], list[Remark]]:
    """Run the job and publish its datasets: the shards by renaming, the manifest last.

    Args:
        globs: corpus files.
        vocab: the vocabulary file.
        outputs: for each dataset folder its settings, which differ in their lengths alone.
        overwrite: whether a dataset that stands there already is replaced.
        max_unreadable_rate: share of the documents that may be damaged (0 to 1).
        skip_damaged_files: whether a damaged file is used up to the damage, or fails the job.
        beam_flags: flags of Beam's.

    Returns:
        The manifest of each folder, and remarks on files of the corpus.

    Raises:
        InputError: no input, no column of texts, a bad vocabulary, an output that holds a dataset
            already, a corpus that gives no pair, a damaged file, or too many documents that cannot
            be read.
    """
    options = beam_options(beam_flags)
    files = match_files(globs)
    datasets = list(outputs.values())
    check_columns(list(files), datasets[0], skip_damaged=skip_damaged_files)
    vocabulary = Vocabulary.read(vocab)
    if not any(files.values()):
        raise InputError(f"--input {' '.join(globs)}: every file is empty; give it some text")
    vocab_bytes = vocab.read_bytes()
    for output, settings in outputs.items():
        check_free(absolute(output), shard_files(settings), vocab_bytes, overwrite=overwrite)
    with job_folder(absolute(next(iter(outputs))), TEMPORARY) as temporary:
        with TemporaryDirectory(prefix=CLOZELINE) as tally:
            stages = {
                "read": reading("reading and tokenizing", sum(files.values())),
                "written": Stage("pairing, masking, writing", "examples"),
            }
            with watch(Path(tally), stages):
                found = run_job(
                    files,
                    vocabulary,
                    datasets,
                    options,
                    temporary,
                    tally,
                    skip_damaged=skip_damaged_files,
                )
        reports = [_report(found, index) for index in range(len(datasets))]
        _check_readable(reports[0], max_unreadable_rate)
        finished = {
            absolute(output): Finished(
                _manifest(report, vocabulary, settings), report.temporary_files
            )
            for (output, settings), report in zip(outputs.items(), reports, strict=True)
        }
        publish(finished, vocab_bytes, temporary, overwrite=overwrite)
    manifests = {output: finished[absolute(output)].manifest for output in outputs}
    return manifests, reports[0].remarks


def _report(found: dict[str, Any], dataset: int) -> Report:
    """Return what a job's report says of one of its datasets."""
    shards = [shard for shard in found["shards"] if shard["dataset"] == dataset]
    remarks = remarks_from(found["remarks"])
    dropped = Counter(found["dropped"])
    dropped.update({remark.kind: remark.files for remark in remarks if remark.kind == DAMAGED_FILE})
    for shard in shards:
        dropped.update(shard["dropped"])
    return Report(shards, dropped, remarks)


def _check_readable(report: Report, max_unreadable_rate: float) -> None:
    """Raise `InputError` if more documents than allowed cannot be read."""
    damaged = {reason: report.dropped[reason] for reason in sorted(UNREADABLE & {*report.dropped})}
    count = sum(damaged.values())
    if count > max_unreadable_rate * report.documents:
        reasons = ", ".join(f"{number:,} {reason}" for reason, number in damaged.items())
        raise InputError(
            f"--input: {count:,} of {report.documents:,} documents cannot be read ({reasons}); "
            f"mend them, or allow more with --max-unreadable-rate (now {max_unreadable_rate:g})"
            f"{hints(report.remarks)}"
        )


def _manifest(report: Report, vocabulary: Vocabulary, settings: Settings) -> Manifest:
    """Put together what the workers reported.

    Raises:
        InputError: there is no training record, or the shards are too many.
    """
    splits: dict[str, list[Shard]] = {TRAIN: [], EVAL: []}
    totals: dict[str, Counter[str]] = {TRAIN: Counter(), EVAL: Counter()}
    for shard in report.written:
        split = shard["name"].partition("-")[0]
        totals[split].update(shard["statistics"])
        splits[split].append(Shard(**shard["shard"]))
    if not splits[TRAIN] or (1 < settings.shards > report.documents // 2):
        raise InputError(_why_nothing(report, settings))
    return Manifest(
        settings=asdict(settings),
        vocab_sha256=vocabulary.sha256,
        vocab_size=len(vocabulary),
        lower_case=settings.lower_case,
        max_seq_length=settings.max_seq_length,
        max_predictions=settings.max_predictions,
        splits={split: tuple(shards) for split, shards in splits.items() if shards},
        statistics={split: dict(total) for split, total in totals.items() if splits[split]},
        dropped_documents=dict(sorted(report.dropped.items())),
        versions={name: importlib.metadata.version(name) for name in _VERSIONED},
    )


def _why_nothing(report: Report, settings: Settings) -> str:
    """Return what keeps a corpus from being a dataset, and what to do."""
    usable = report.documents - report.dropped.total() + report.dropped[NO_OTHER_DOCUMENT]
    if usable == 0:
        reasons = ", ".join(f"{count} {reason}" for reason, count in report.dropped.items())
        return (
            f"--input: the corpus is empty ({reasons or 'no documents'}); give it some text"
            f"{hints(report.remarks)}"
        )
    if usable == 1:
        hint = (
            "; where blank lines separate documents, add --input-format lines"
            if settings.input_format == "prose"
            else ""
        )
        return (
            "--input: a corpus of one document: no random next sentence can be drawn from another; "
            f"give it more documents{hints(report.remarks) or hint}"
        )
    if settings.shards == 1:
        return (
            f"--input: {usable:,} documents give no training pair: they have the same text, or all "
            "of them fell into the eval split; give it more documents"
        )
    return (
        f"--shards {settings.shards}: too many for {usable:,} documents, since every shard needs "
        "several; use fewer --shards or more documents"
    )


def as_result(manifest: Manifest, output: str) -> dict[str, Any]:
    """Return what `clozeline preprocess --json` prints."""
    return {
        "dataset": output,
        "splits": {split: manifest.examples(split) for split in manifest.splits},
        "statistics": manifest.statistics,
        "dropped_documents": manifest.dropped_documents,
        "settings": json.loads(to_json(manifest.settings)),
    }
