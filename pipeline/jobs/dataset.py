"""Run the preprocessing job and publish its datasets, each with a manifest."""

import importlib.metadata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from apache_beam.options.pipeline_options import PipelineOptions

from pipeline.corpus.readers import EMPTY, UNREADABLE, check_columns
from pipeline.corpus.remarks import DAMAGED_FILE, Remark, hints
from pipeline.errors import InputError
from pipeline.jobs.beam_options import beam_options
from pipeline.jobs.job_report import JobReport, ShardReport, WrittenShard
from pipeline.jobs.preprocess import run_job
from pipeline.jobs.shared_folder import job_folder
from pipeline.jobs.tally import Stage, reading, watch
from pipeline.manifest import Manifest, Shard
from pipeline.progress import counted
from pipeline.records.shard import EVAL, TOO_SHORT, TRAIN, Settings, shard_files
from pipeline.schema import NO_OTHER_DOCUMENT
from pipeline.storage.files import absolute, match_files
from pipeline.storage.locks import temporary_folder
from pipeline.storage.publishing import Finished, check_free, publish
from pipeline.storage.rejection_files import (
    RejectionSummary,
    check_no_rejections,
    publish_rejections,
)
from pipeline.text.tokenizer import Vocabulary

TEMPORARY = "_temporary-"
"""Prefix of the job's temporary folder inside the dataset folder; removed when the job ends."""

UNUSABLE = UNREADABLE | {EMPTY, DAMAGED_FILE, NO_OTHER_DOCUMENT}
"""Reasons for dropping documents that no rule is behind."""

_VERSIONED = (
    "apache-beam", "numpy", "py3langid", "rjieba", "sentencex", "tensorflow", "tensorflow-text",
)  # fmt: skip


@dataclass(frozen=True)
class Report:
    """The job's report on one dataset.

    Attributes:
        shards: reports on the dataset's shards.
        dropped: number of documents dropped by reason, including those dropped while reading, and
            of damaged files.
        remarks: remarks on files of the corpus.
        changes: number of changes by kind that rules made to texts.
    """

    shards: list[ShardReport]
    dropped: Counter[str]
    remarks: list[Remark]
    changes: dict[str, int]

    @property
    def written(self) -> list[WrittenShard]:
        """The shards that contain records."""
        return [report.written for report in self.shards if report.written]

    @property
    def temporary_files(self) -> dict[str, str]:
        """Temporary path of each shard, by its final file name."""
        return {written.shard.name: written.temporary for written in self.written}

    @property
    def documents(self) -> int:
        """Number of documents in the corpus."""
        used = sum(written.statistics["documents"] for written in self.written)
        return used + self.dropped.total()


def make_datasets(
    globs: Sequence[str],
    vocab: Path,
    outputs: Mapping[str, Settings],
    *,
    rejected: str | None,
    overwrite: bool,
    max_unreadable_rate: float,
    skip_damaged_files: bool,
    beam_flags: Sequence[str],
) -> tuple[dict[str, Manifest], list[Remark]]:
    """Run the job and publish its datasets: the shards by renaming, the manifest last.

    Args:
        globs: globs of the corpus files.
        vocab: path of the vocabulary file.
        outputs: settings by dataset folder; they differ only in their sequence lengths.
        rejected: folder for the rejected documents; None = they are not written. It is written even
            if no dataset can be made.
        overwrite: whether an existing dataset, and existing rejections, are replaced.
        max_unreadable_rate: largest accepted share of unreadable documents (0 to 1).
        skip_damaged_files: True = use a damaged file up to the damage; False = fail the job.
        beam_flags: flags for Beam.

    Returns:
        The manifest of each folder, and remarks on files of the corpus.

    Raises:
        InputError: no input, no text column, an invalid vocabulary, an output that already holds a
            dataset, a corpus without a usable pair, a damaged file, or too many unreadable
            documents.
    """
    options = beam_options(beam_flags)
    files = match_files(globs)
    datasets = list(outputs.values())
    # All that can be wrong is checked here, in seconds; the job may run for hours.
    check_columns(list(files), datasets[0], skip_damaged=skip_damaged_files)
    vocabulary = Vocabulary.read(vocab)
    if not any(files.values()):
        raise InputError(f"`input` {' '.join(globs)}: every file is empty; give it some text")
    vocab_bytes = vocab.read_bytes()
    for output, settings in outputs.items():
        # Before the job, which may take hours; `publish` checks again.
        check_free(absolute(output), shard_files(settings), vocab_bytes, overwrite=overwrite)
    if rejected is not None:
        check_no_rejections(absolute(rejected), overwrite=overwrite)
    # In the first output, so that publishing is a rename within one filesystem.
    with job_folder(absolute(next(iter(outputs))), TEMPORARY) as temporary:
        report = _run_watched(
            files,
            vocabulary,
            datasets,
            options,
            temporary,
            skip_damaged=skip_damaged_files,
            labelled=rejected is not None,
        )
        reports = [_report(report, index) for index in range(len(datasets))]
        if rejected is not None:
            # Before the check: when too many documents are unreadable, the user needs to see which.
            _publish_rejections(rejected, report, reports[0], overwrite=overwrite)
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


def _publish_rejections(
    folder: str, job_report: JobReport, report: Report, *, overwrite: bool
) -> None:
    """Copy the files of rejected documents into their folder."""
    # A damaged file is not a document, and has no line in these files.
    counts = {rule: count for rule, count in sorted(report.dropped.items()) if rule != DAMAGED_FILE}
    files = {file.name: file.temporary for file in job_report.rejected}
    lines = {file.name: file.lines for file in job_report.rejected}
    summary = RejectionSummary(True, counts, lines)
    publish_rejections(absolute(folder), files, summary, overwrite=overwrite)


def _run_watched(
    files: Mapping[str, int],
    vocabulary: Vocabulary,
    datasets: Sequence[Settings],
    options: PipelineOptions,
    temporary: str,
    *,
    skip_damaged: bool,
    labelled: bool,
) -> JobReport:
    """Run the job while its progress is shown; arguments as those of `run_job`."""
    stages = {
        "read": reading("reading and tokenizing", sum(files.values())),
        "written": Stage("pairing, masking, writing", "examples"),
    }
    with temporary_folder() as tally, watch(tally, stages):
        return run_job(
            files,
            vocabulary,
            datasets,
            options,
            temporary,
            str(tally),
            skip_damaged=skip_damaged,
            labelled=labelled,
        )


def _report(job_report: JobReport, dataset: int) -> Report:
    """Return the part of a job's report that concerns one dataset, given by its index."""
    shards = [shard for shard in job_report.shards if shard.dataset == dataset]
    remarks = job_report.remarks
    dropped = Counter(job_report.dropped)
    # Documents are counted by workers; files are counted once, from the remarks.
    dropped.update({remark.kind: remark.files for remark in remarks if remark.kind == DAMAGED_FILE})
    changes = Counter(job_report.changes)
    for shard in shards:
        dropped.update(shard.dropped)
        changes.update(shard.changes)
    return Report(shards, dropped, remarks, dict(sorted(changes.items())))


def _check_readable(report: Report, max_unreadable_rate: float) -> None:
    """Raise `InputError` if the share of unreadable documents exceeds the limit."""
    damaged = {reason: report.dropped[reason] for reason in sorted(UNREADABLE & {*report.dropped})}
    count = sum(damaged.values())
    # After the job: only then are all documents counted.
    if count > max_unreadable_rate * report.documents:
        reasons = ", ".join(f"{number:,} {reason}" for reason, number in damaged.items())
        raise InputError(
            f"`input`: {count:,} of {report.documents:,} documents cannot be read ({reasons}); "
            f"fix them, or allow more with `max_unreadable_rate` (now {max_unreadable_rate:g})"
            f"{hints(report.remarks)}"
        )


def _manifest(report: Report, vocabulary: Vocabulary, settings: Settings) -> Manifest:
    """Build the manifest from the workers' reports.

    Raises:
        InputError: there is no training record, or there are too many shards.
    """
    splits: dict[str, list[Shard]] = {TRAIN: [], EVAL: []}
    totals: dict[str, Counter[str]] = {TRAIN: Counter(), EVAL: Counter()}
    for written in report.written:
        split = written.shard.name.partition("-")[0]
        totals[split].update(written.statistics)
        splits[split].append(written.shard)
    # With fewer than two documents per shard, random next sentences cannot come from another one.
    if not splits[TRAIN] or (1 < settings.shards > report.documents // 2):
        raise InputError(_why_nothing(report, settings))
    return Manifest(
        settings=asdict(settings) | {"cleaning": settings.cleaning.described()},
        vocab_sha256=vocabulary.sha256,
        vocab_size=len(vocabulary),
        lower_case=settings.lower_case,
        max_seq_length=settings.max_seq_length,
        max_predictions=settings.max_predictions,
        splits={split: tuple(shards) for split, shards in splits.items() if shards},
        statistics={split: dict(total) for split, total in totals.items() if splits[split]},
        dropped_documents=dict(sorted(report.dropped.items())),
        changed_text=report.changes,
        versions={name: importlib.metadata.version(name) for name in _VERSIONED},
    )


def _why_empty(report: Report, settings: Settings) -> str:
    """Return why no document is left, and what to do; the rule that removed most comes first."""
    counts = _removed(report)
    if not counts:
        return "the corpus is empty (no documents); give it some text"
    if {*report.dropped} <= UNUSABLE:
        return f"the corpus is empty ({counts.replace(' by ', ' ')}); give it some text"
    only = report.documents == 1
    every = "the only document was" if only else f"all {report.documents:,} documents were"
    remedy = "change the rules, or give other text"
    # No rule of the user's, unless they set the fewest pieces.
    if {*report.dropped} <= UNUSABLE | {TOO_SHORT} and settings.min_document_pieces == 1:
        sentences = settings.fewest.sentences
        remedy = (
            f"`pairing` {settings.pairing} needs documents of {sentences} sentences; give longer "
            "ones, or choose another `pairing`"
        )
    return f"{every} removed ({counts}); {remedy}"


def _removed(report: Report) -> str:
    """Return how many documents each rule removed; the rule that removed most comes first."""
    rules = Counter(report.dropped)
    del rules[NO_OTHER_DOCUMENT]
    return ", ".join(f"{count:,} by {rule}" for rule, count in rules.most_common())


def _why_nothing(report: Report, settings: Settings) -> str:
    """Return why no dataset can be made from the corpus, and what to do."""
    usable = report.documents - report.dropped.total() + report.dropped[NO_OTHER_DOCUMENT]
    if usable == 0:
        return f"`input`: {_why_empty(report, settings)}{hints(report.remarks)}"
    if usable == 1 and settings.pairing == "nsp":
        return f"`input`: {_why_alone(report, settings)}"
    documents = counted(usable, "documents")
    if settings.shards == 1:
        return (
            f"`input`: no training pair from {documents}: all have the same text, or fell into the "
            "eval split; add more documents"
        )
    return (
        f"`shards` {settings.shards}: too many for {documents}, since every shard needs several; "
        "use fewer `shards` or more documents"
    )


def _why_alone(report: Report, settings: Settings) -> str:
    """Return why one document makes no dataset, and what to do."""
    if not {*report.dropped} <= UNUSABLE:
        return (
            f"one of {report.documents:,} documents is left ({_removed(report)}), and no random "
            "next sentence can be drawn from another; change the rules, or give other text"
            f"{hints(report.remarks)}"
        )
    hint = (
        "; where blank lines separate documents, add `input_format` lines"
        if settings.input_format == "prose"
        else ""
    )
    return (
        "a corpus of one document: no random next sentence can be drawn from another; add more "
        f"documents{hints(report.remarks) or hint}"
    )
