"""Publish finished datasets by renaming; a partial publication by a killed job can be undone."""

import contextlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import InputError
from pipeline.manifest import MANIFEST, VOCABULARY, Manifest
from pipeline.storage.files import sync
from pipeline.storage.remote_files import (
    is_local_path,
    joined,
    make_folders,
    move,
    names_in,
    open_to_read,
    open_to_write,
    remove_files,
    remove_folders,
)
from pipeline.storage.strict_json import to_json

JOURNAL = "publishing.json"
"""File in a job's folder: by dataset folder, the files to remove if its manifest is missing."""


@dataclass(frozen=True)
class Finished:
    """A dataset that is ready to be published.

    Attributes:
        manifest: the dataset's manifest.
        shards: current (temporary) path of each shard, by its final file name.
    """

    manifest: Manifest
    shards: Mapping[str, str]


def check_no_dataset(output: str, *, overwrite: bool) -> None:
    """Check that a folder has no dataset, except if it may be replaced.

    Raises:
        InputError: it has one.
    """
    if not overwrite and MANIFEST in names_in(output):
        raise InputError(
            f"`output` {output}: already holds a dataset; choose another folder or add `overwrite`"
        )


def check_free(output: str, names: Iterable[str], vocab: bytes, *, overwrite: bool) -> None:
    """Check that publishing to a folder replaces no file, except a dataset if `overwrite` is set.

    Args:
        output: the dataset folder.
        names: file names of the shards to publish.
        vocab: contents of the vocabulary file.
        overwrite: whether an existing dataset may be replaced.

    Raises:
        InputError: a file would be replaced.
    """
    check_no_dataset(output, overwrite=overwrite)
    existing = set(names_in(output))
    if MANIFEST in existing:
        # Only what the manifest lists is the dataset's; other files of these names are the user's.
        existing -= {VOCABULARY, *_old_shards(output)}
    elif VOCABULARY in existing and _read(joined(output, VOCABULARY)) == vocab:
        existing.remove(VOCABULARY)
    for name in sorted(existing & {VOCABULARY, *names}):
        raise InputError(
            f"`output` {output}: contains {name}, which belongs to no dataset and would be "
            "replaced; move it, or choose another folder"
        )


def publish(
    datasets: Mapping[str, Finished], vocab: bytes, folder: str, *, overwrite: bool
) -> None:
    """Rename the shards to their final names; a dataset exists once its manifest is in place.

    Args:
        datasets: finished datasets by output folder.
        vocab: contents of the vocabulary file.
        folder: the job's folder, which holds the shards.
        overwrite: whether existing datasets may be replaced.

    Raises:
        InputError: another job has published to one of the folders meanwhile.
    """
    # Write everything before an old dataset is removed: the disk may fill up.
    moves = {}
    for number, (output, finished) in enumerate(datasets.items()):
        check_free(output, finished.shards, vocab, overwrite=overwrite)
        moves[output] = dict(finished.shards)
        manifest = finished.manifest.to_json().encode()
        for name, data in ((VOCABULARY, vocab), (MANIFEST, manifest)):
            moves[output][name] = joined(folder, f"{number}-{name}")
            _write(moves[output][name], data)
        existing = names_in(output)
        if VOCABULARY in existing and MANIFEST not in existing:
            # The user's own file with the same contents: not ours, so `undo` must not remove it.
            del moves[output][VOCABULARY]
    journal = {output: _to_undo(output, names) for output, names in moves.items()}
    # The journal before the first change, and gone after the last: `undo` sees every state between.
    _write(joined(folder, JOURNAL), to_json(journal).encode())
    for output, files in moves.items():
        _publish(output, files)
    remove_files([joined(folder, JOURNAL)])


def undo(folder: str) -> None:
    """Remove the partially published shards of a job: those without a manifest.

    Args:
        folder: the job's folder, which may contain the `JOURNAL`.
    """
    if JOURNAL not in names_in(folder):
        return
    for output, names in json.loads(_read(joined(folder, JOURNAL))).items():
        existing = names_in(output)
        if MANIFEST not in existing:
            remove_files(joined(output, name) for name in names if name in existing)
            remove_folders([output])


def _to_undo(output: str, names: Iterable[str]) -> list[str]:
    """Return the files that publishing will create in a folder, and those it will remove."""
    old = _old_shards(output) if MANIFEST in names_in(output) else []
    return sorted({*old, *names} - {MANIFEST})


def _publish(output: str, files: Mapping[str, str]) -> None:
    """Rename files into a folder, after removing the dataset that it holds, if any.

    Args:
        output: the dataset folder.
        files: temporary path by final name; the manifest is last.
    """
    make_folders(output)
    old = _old_shards(output) if MANIFEST in names_in(output) else []
    stale = [name for name in old if name not in files]
    # The manifest goes first: a reader must not find the old one with new shards.
    remove_files([joined(output, MANIFEST)])
    if is_local_path(output):
        sync(Path(output))  # no manifest outlives its shards
    remove_files(joined(output, name) for name in stale)
    for name, temporary in files.items():  # the manifest is the last one
        move(temporary, joined(output, name))


def _old_shards(output: str) -> list[str]:
    """Return the names of the existing shards that a folder's manifest lists.

    Empty if the manifest cannot be read: it is then unknown which files belong to the dataset.
    """
    with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
        manifest = Manifest.from_json(_read(joined(output, MANIFEST)).decode())
        listed = {shard.name for shards in manifest.splits.values() for shard in shards}
        return sorted(listed.intersection(names_in(output)))
    return []


def _read(path: str) -> bytes:
    with open_to_read(path) as file:
        return file.read()


def _write(path: str, data: bytes) -> None:
    with open_to_write(path) as file:
        file.write(data)
