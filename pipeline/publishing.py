"""Finished datasets to their names: what is half published by a job that dies can be undone."""

import contextlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from apache_beam.io.filesystems import FileSystems

from pipeline.errors import InputError
from pipeline.manifest import MANIFEST, VOCABULARY, Manifest
from pipeline.remote_files import make_folders, move, names_in, remove_files, remove_folders
from pipeline.strict_json import to_json

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
    for output, finished in datasets.items():
        check_free(output, finished.shards, vocab, overwrite=overwrite)
    journal = {output: _to_undo(output, finished) for output, finished in datasets.items()}
    _write(FileSystems.join(folder, JOURNAL), to_json(journal).encode())
    for output, finished in datasets.items():
        _publish(output, finished, vocab, folder)
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


def _to_undo(output: str, finished: Finished) -> list[str]:
    """Return the files that publishing will make in a folder, and those it will remove."""
    there = set(names_in(output))
    old = _old_shards(output) if MANIFEST in there else []
    vocabulary = [VOCABULARY] if MANIFEST in there or VOCABULARY not in there else []
    return sorted({*old, *finished.shards, *vocabulary})


def _publish(output: str, finished: Finished, vocab: bytes, folder: str) -> None:
    make_folders(output)
    there = set(names_in(output))
    old = _old_shards(output) if MANIFEST in there else []
    stale = [name for name in old if name not in finished.shards]
    remove_files(FileSystems.join(output, name) for name in (MANIFEST, *stale))
    for name, temporary in finished.shards.items():
        move(temporary, FileSystems.join(output, name))
    files = {VOCABULARY: vocab, MANIFEST: finished.manifest.to_json().encode()}
    if VOCABULARY in there and MANIFEST not in there:
        del files[VOCABULARY]  # the same one, which somebody else put there
    for name, data in files.items():
        # Whole or not at all: under a temporary name first, then renamed.
        _write(FileSystems.join(folder, name), data)
        move(FileSystems.join(folder, name), FileSystems.join(output, name))


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
