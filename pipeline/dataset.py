"""A dataset directory, from settings to a published manifest."""

import importlib.metadata
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from apache_beam.io.filesystems import FileSystems

from pipeline.beam_options import beam_options
from pipeline.errors import InputError
from pipeline.files import match_files
from pipeline.job import EVAL, NO_OTHER_DOCUMENT, TRAIN, Settings, run_job
from pipeline.manifest import MANIFEST, VOCABULARY, Manifest, Shard
from pipeline.readers import check_columns
from pipeline.tally import Stage, reading, watch
from pipeline.tokenizer import Vocabulary

TEMPORARY = "_temporary"
"""Folder inside a dataset in the making; gone when it is finished."""

_VERSIONED = ("apache-beam", "numpy", "sentencex", "tensorflow", "tensorflow-text")


def make_dataset(
    globs: Sequence[str],
    vocab: Path,
    output: str,
    settings: Settings,
    *,
    overwrite: bool,
    beam_flags: Sequence[str],
) -> Manifest:
    """Run the job and publish the dataset: the shards by renaming, the manifest last.

    Raises:
        InputError: no input, no column of texts, a bad vocabulary, an output that holds a dataset
            already, or a corpus that gives no pair.
    """
    options = beam_options(beam_flags)
    files = match_files(globs)
    check_columns(list(files), settings)
    vocabulary = Vocabulary.read(vocab)
    if not any(files.values()):
        raise InputError(f"--input {' '.join(globs)}: every file is empty; give it some text")
    if FileSystems.exists(FileSystems.join(output, MANIFEST)) and not overwrite:
        raise InputError(
            f"--output {output}: holds a dataset already; choose another folder or add --overwrite"
        )
    if Path(output).is_file():
        raise InputError(f"--output {output}: is a file; name a folder")
    temporary = FileSystems.join(output, TEMPORARY)
    is_new = not FileSystems.exists(output)
    _remove(temporary)
    try:
        FileSystems.mkdirs(temporary)
        with TemporaryDirectory() as tally:
            stages = {
                "read": reading("reading and tokenizing", sum(files.values())),
                "written": Stage("pairing, masking, writing", "examples"),
            }
            with watch(Path(tally), stages):
                report = run_job(list(files), vocabulary, settings, options, temporary, tally)
        manifest = _manifest(report, vocabulary, settings)
        _publish(output, report, vocab.read_bytes(), manifest)
    except BaseException:
        _remove(output if is_new else temporary)
        raise
    _remove(temporary)
    return manifest


def _remove(path: str) -> None:
    if FileSystems.exists(path):
        FileSystems.delete([path])


def _manifest(report: dict[str, Any], vocabulary: Vocabulary, settings: Settings) -> Manifest:
    """Put together what the workers reported.

    Raises:
        InputError: there is no training record.
    """
    splits: dict[str, list[Shard]] = {TRAIN: [], EVAL: []}
    totals: dict[str, Counter[str]] = {TRAIN: Counter(), EVAL: Counter()}
    dropped = Counter(report["dropped"])
    for shard in report["shards"]:
        split = shard["name"].partition("-")[0]
        totals[split].update(shard["statistics"])
        dropped[NO_OTHER_DOCUMENT] += shard["dropped"]
        if "shard" in shard:
            splits[split].append(Shard(**shard["shard"]))
    dropped = +dropped
    if not splits[TRAIN]:
        raise InputError(_why_nothing(dropped, settings))
    return Manifest(
        settings=asdict(settings),
        vocab_sha256=vocabulary.sha256,
        vocab_size=len(vocabulary),
        lower_case=settings.lower_case,
        max_seq_length=settings.max_seq_length,
        max_predictions=settings.max_predictions,
        splits={split: tuple(shards) for split, shards in splits.items() if shards},
        statistics={split: dict(total) for split, total in totals.items() if splits[split]},
        dropped_documents=dict(sorted(dropped.items())),
        versions={name: importlib.metadata.version(name) for name in _VERSIONED},
    )


def _why_nothing(dropped: Counter[str], settings: Settings) -> str:
    alone = dropped[NO_OTHER_DOCUMENT]
    if alone == 0:
        reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
        return f"--input: the corpus is empty ({reasons or 'no documents'}); give it some text"
    if alone == 1:
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
        f"--input: {alone} documents spread over {settings.shards} shards, and none holds two "
        "different ones to draw random next sentences from; use fewer --shards or more documents"
    )


def _publish(output: str, report: dict[str, Any], vocab: bytes, manifest: Manifest) -> None:
    """Move the shards to their names; until the manifest is written there is no dataset."""
    _remove(FileSystems.join(output, MANIFEST))
    for stale in FileSystems.match([FileSystems.join(output, "*.tfrecord")])[0].metadata_list:
        FileSystems.delete([stale.path])
    written = [shard for shard in report["shards"] if "shard" in shard]
    FileSystems.rename(
        [shard["temporary"] for shard in written],
        [FileSystems.join(output, shard["name"]) for shard in written],
    )
    _put(output, VOCABULARY, vocab)
    _put(output, MANIFEST, manifest.to_json().encode())


def _put(output: str, name: str, data: bytes) -> None:
    """Write a small file whole: under a temporary name first, then renamed."""
    temporary = FileSystems.join(output, TEMPORARY, name)
    with FileSystems.create(temporary) as file:
        file.write(data)
    FileSystems.rename([temporary], [FileSystems.join(output, name)])


def as_result(manifest: Manifest, output: str) -> dict[str, Any]:
    """Return what `clozeline preprocess --json` prints."""
    return {
        "dataset": output,
        "splits": {split: manifest.examples(split) for split in manifest.splits},
        "statistics": manifest.statistics,
        "dropped_documents": manifest.dropped_documents,
        "settings": json.loads(json.dumps(manifest.settings)),
    }
