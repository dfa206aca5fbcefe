"""Finished datasets to their names: what is half published by a job that dies can be undone."""

import contextlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from apache_beam.io.filesystems import FileSystems

from pipeline.errors import InputError
from pipeline.manifest import MANIFEST, VOCABULARY, Manifest
from pipeline.storage.files import sync
from pipeline.storage.remote_files import (
    is_local_path,
    make_folders,
    move,
    names_in,
    remove_files,
    remove_folders,
)
from pipeline.storage.strict_json import to_json

JOURNAL = "publishing.json"
"""File in a job's folder: by dataset folder, the files that are no use without a manifest."""


@dataclass(frozen=True)
class Finished:
    """A dataset that is to be published.

    Attributes:
        manifest: its manifest.
        shards: by file name, where the shard is now.
    """

    manifest: Manifest
    shards: Mapping[str, str]


def check_free(output: str, names: Iterable[str], vocab: bytes, *, overwrite: bool) -> None:
    """Check that publishing to a folder replaces nothing but a dataset, and that only if asked.

    Args:
        output: the folder.
        names: of the shards that will be published.
        vocab: the bytes of the vocabulary.
        overwrite: whether a dataset may be replaced.

    Raises:
        InputError: it would.
    """
    there = set(names_in(output))
    if MANIFEST in there:
        if not overwrite:
            raise InputError(
                f"--output {output}: holds a dataset already; choose another folder or add "
                "--overwrite"
            )
        there -= {VOCABULARY, *_old_shards(output)}
    elif VOCABULARY in there and _read(FileSystems.join(output, VOCABULARY)) == vocab:
        there.remove(VOCABULARY)
    for name in sorted(there & {VOCABULARY, *names}):
        raise InputError(
            f"--output {output}: holds {name}, which no dataset there lists and this one would "
            "replace; move it, or choose another folder"
        )


def publish(
    datasets: Mapping[str, Finished], vocab: bytes, folder: str, *, overwrite: bool
) -> None:
    """Move shards to their names; until its manifest is written there is no dataset.

    Args:
        datasets: by output folder.
        vocab: the bytes of the vocabulary.
        folder: the job's own, which holds the shards.
        overwrite: whether datasets may be replaced.

    Raises:
        InputError: another job has published to one of the folders meanwhile.
    """
    # All is written before a dataset is replaced: the disk may be full.
    moves = {}
    for number, (output, finished) in enumerate(datasets.items()):
        check_free(output, finished.shards, vocab, overwrite=overwrite)
        moves[output] = dict(finished.shards)
        manifest = finished.manifest.to_json().encode()
        for name, data in ((VOCABULARY, vocab), (MANIFEST, manifest)):
            moves[output][name] = FileSystems.join(folder, f"{number}-{name}")
            _write(moves[output][name], data)
        there = names_in(output)
        if VOCABULARY in there and MANIFEST not in there:
            del moves[output][VOCABULARY]  # the same one, which somebody else put there
    journal = {output: _to_undo(output, names) for output, names in moves.items()}
    _write(FileSystems.join(folder, JOURNAL), to_json(journal).encode())
    for output, files in moves.items():
        _publish(output, files)
    remove_files([FileSystems.join(folder, JOURNAL)])


def undo(folder: str) -> None:
    """Remove what a job published only in part: shards without a manifest.

    Args:
        folder: the job's own.
    """
    if JOURNAL not in names_in(folder):
        return
    for output, names in json.loads(_read(FileSystems.join(folder, JOURNAL))).items():
        there = names_in(output)
        if MANIFEST not in there:
            remove_files(FileSystems.join(output, name) for name in names if name in there)
            remove_folders([output])


def _to_undo(output: str, names: Iterable[str]) -> list[str]:
    """Return the files that publishing will make in a folder, and those it will remove."""
    old = _old_shards(output) if MANIFEST in names_in(output) else []
    return sorted({*old, *names} - {MANIFEST})


def _publish(output: str, files: Mapping[str, str]) -> None:
    """Replace a folder's dataset, if it has one, by files that are given by name."""
    make_folders(output)
    old = _old_shards(output) if MANIFEST in names_in(output) else []
    stale = [name for name in old if name not in files]
    remove_files([FileSystems.join(output, MANIFEST)])
    if is_local_path(output):
        sync(Path(output))  # no manifest outlives its shards
    remove_files(FileSystems.join(output, name) for name in stale)
    for name, temporary in files.items():  # the manifest is the last one
        move(temporary, FileSystems.join(output, name))


def _old_shards(output: str) -> list[str]:
    """Return the shards that a folder's manifest lists and that are there.

    None where the manifest cannot be read: then nobody knows whose they are.
    """
    with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
        manifest = Manifest.from_json(_read(FileSystems.join(output, MANIFEST)).decode())
        listed = {shard.name for shards in manifest.splits.values() for shard in shards}
        return sorted(listed.intersection(names_in(output)))
    return []


def _read(path: str) -> bytes:
    with FileSystems.open(path) as file:
        return file.read()


def _write(path: str, data: bytes) -> None:
    with FileSystems.create(path) as file:
        file.write(data)
