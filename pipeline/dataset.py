"""A dataset directory, from settings to a published manifest."""

import importlib.metadata
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from apache_beam.io.filesystems import FileSystems

from pipeline.beam_options import beam_options
from pipeline.errors import InputError
from pipeline.files import absolute, match_files
from pipeline.job import run_job
from pipeline.manifest import MANIFEST, VOCABULARY, Manifest, Shard
from pipeline.readers import UNREADABLE, check_columns
from pipeline.shard import EVAL, NO_OTHER_DOCUMENT, TRAIN, Settings
from pipeline.strict_json import to_json
from pipeline.tally import Stage, reading, watch
from pipeline.tokenizer import Vocabulary

TEMPORARY = "_temporary"
"""Folder inside a dataset in the making; gone when it is finished."""

_VERSIONED = ("apache-beam", "numpy", "sentencex", "tensorflow", "tensorflow-text")


@dataclass(frozen=True)
class Report:
    """What the job found out about one dataset.

    Attributes:
        shards: as `pipeline.job.run_job` returns them.
        dropped: documents by reason, also those dropped before the datasets were parted.
    """

    shards: list[dict[str, Any]]
    dropped: Counter[str]

    @property
    def written(self) -> list[dict[str, Any]]:
        """The shards that have records."""
        return [shard for shard in self.shards if "shard" in shard]

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
    beam_flags: Sequence[str],
) -> dict[str, Manifest]:
    """Run the job and publish its datasets: the shards by renaming, the manifest last.

    Args:
        globs: corpus files.
        vocab: the vocabulary file.
        outputs: for each dataset folder its settings, which differ in their lengths alone.
        overwrite: whether a dataset that stands there already is replaced.
        max_unreadable_rate: share of the documents that may be damaged (0 to 1).
        beam_flags: flags of Beam's.

    Returns:
        The manifest of each folder.

    Raises:
        InputError: no input, no column of texts, a bad vocabulary, an output that holds a dataset
            already, a corpus that gives no pair, or too many documents that cannot be read.
    """
    options = beam_options(beam_flags)
    files = match_files(globs)
    datasets = list(outputs.values())
    check_columns(list(files), datasets[0])
    vocabulary = Vocabulary.read(vocab)
    if not any(files.values()):
        raise InputError(f"--input {' '.join(globs)}: every file is empty; give it some text")
    for output in outputs:
        _check_output(output, overwrite=overwrite)
    new = {_first_missing(output) for output in outputs}
    temporary = FileSystems.join(absolute(next(iter(outputs))), TEMPORARY)
    _remove(temporary)
    try:
        FileSystems.mkdirs(temporary)
        with TemporaryDirectory() as tally:
            stages = {
                "read": reading("reading and tokenizing", sum(files.values())),
                "written": Stage("pairing, masking, writing", "examples"),
            }
            with watch(Path(tally), stages):
                found = run_job(files, vocabulary, datasets, options, temporary, tally)
        reports = [_report(found, index) for index in range(len(datasets))]
        _check_readable(reports[0], max_unreadable_rate)
        manifests = {
            output: _manifest(report, vocabulary, settings)
            for (output, settings), report in zip(outputs.items(), reports, strict=True)
        }
        for (output, manifest), report in zip(manifests.items(), reports, strict=True):
            _publish(output, temporary, report, vocab.read_bytes(), manifest)
    except BaseException:
        for path in (temporary, *filter(None, new)):
            _remove(path)
        raise
    _remove(temporary)
    return manifests


def _check_output(output: str, *, overwrite: bool) -> None:
    """Raise `InputError` if a dataset may not be written to a folder."""
    if FileSystems.exists(FileSystems.join(output, MANIFEST)) and not overwrite:
        raise InputError(
            f"--output {output}: holds a dataset already; choose another folder or add --overwrite"
        )
    for path in (Path(output), *Path(output).parents):
        if path.is_file():
            raise InputError(f"--output {output}: {path} is a file; name a folder")


def _first_missing(output: str) -> str | None:
    """Return the outermost folder that writing to `output` will make, if it makes any."""
    if FileSystems.exists(output):
        return None
    above = [] if "://" in output else [*reversed(Path(output).absolute().parents)]
    return next((str(path) for path in above if not path.exists()), output)


def _report(found: dict[str, Any], dataset: int) -> Report:
    """Return what a job's report says of one of its datasets."""
    shards = [shard for shard in found["shards"] if shard["dataset"] == dataset]
    dropped = Counter(found["dropped"])
    for shard in shards:
        dropped.update(shard["dropped"])
    return Report(shards, dropped)


def _check_readable(report: Report, max_unreadable_rate: float) -> None:
    """Raise `InputError` if more documents than allowed cannot be read."""
    damaged = {reason: report.dropped[reason] for reason in sorted(UNREADABLE & {*report.dropped})}
    count = sum(damaged.values())
    if count > max_unreadable_rate * report.documents:
        reasons = ", ".join(f"{number:,} {reason}" for reason, number in damaged.items())
        raise InputError(
            f"--input: {count:,} of {report.documents:,} documents cannot be read ({reasons}); "
            f"mend them, or allow more with --max-unreadable-rate (now {max_unreadable_rate:g})"
        )


def _remove(path: str) -> None:
    if FileSystems.exists(path):
        FileSystems.delete([path])


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
        return f"--input: the corpus is empty ({reasons or 'no documents'}); give it some text"
    if usable == 1:
        hint = (
            "; where blank lines separate documents, add --input-format lines"
            if settings.input_format == "prose"
            else ""
        )
        return (
            "--input: a corpus of one document: no random next sentence can be drawn from another; "
            f"give it more documents{hint}"
        )
    return (
        f"--shards {settings.shards}: too many for {usable:,} documents, since every shard needs "
        "several; use fewer --shards or more documents"
    )


def _publish(output: str, temporary: str, report: Report, vocab: bytes, manifest: Manifest) -> None:
    """Move the shards to their names; until the manifest is written there is no dataset."""
    if not FileSystems.exists(output):
        FileSystems.mkdirs(output)
    _remove(FileSystems.join(output, MANIFEST))
    for stale in FileSystems.match([FileSystems.join(output, "*.tfrecord*")])[0].metadata_list:
        FileSystems.delete([stale.path])
    FileSystems.rename(
        [shard["temporary"] for shard in report.written],
        [FileSystems.join(output, shard["shard"]["name"]) for shard in report.written],
    )
    for name, data in ((VOCABULARY, vocab), (MANIFEST, manifest.to_json().encode())):
        # Whole or not at all: under a temporary name first, then renamed.
        with FileSystems.create(FileSystems.join(temporary, name)) as file:
            file.write(data)
        FileSystems.rename([FileSystems.join(temporary, name)], [FileSystems.join(output, name)])


def as_result(manifest: Manifest, output: str) -> dict[str, Any]:
    """Return what `clozeline preprocess --json` prints."""
    return {
        "dataset": output,
        "splits": {split: manifest.examples(split) for split in manifest.splits},
        "statistics": manifest.statistics,
        "dropped_documents": manifest.dropped_documents,
        "settings": json.loads(to_json(manifest.settings)),
    }
