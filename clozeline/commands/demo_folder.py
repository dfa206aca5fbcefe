"""The output folder of the demo: which files of it a demo created, and may remove."""

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from model.run_config import CHECKPOINTS, CONFIG, CURVES, LOGS, METRICS
from pipeline.errors import InputError
from pipeline.manifest import MANIFEST, VOCABULARY
from pipeline.storage.files import CLOZELINE, hidden_prefix, write_atomically
from pipeline.storage.locks import LOCK
from serving.tf_serving import SAVED_MODEL, WARM_UP_FILE

MODEL = "demo"
"""Name of the exported model."""

MARKER = ".clozeline-demo"
"""File in the output folder that lists what the next demo may remove, one path per line, relative
to the folder: the files that a demo created. While one runs, and after it was killed: the files of
its corpus, and the globs `CREATED`."""

ARTEFACTS = ("corpus", "vocab.txt", "dataset", "model.json", "run", "models")
"""Files and folders that the stages create."""

CREATED = (
    *(f"{hidden_prefix(Path(name))}*" for name in ARTEFACTS),  # locks, temporary folders
    *(f"{folder}.{CLOZELINE}{'?' * 16}" for folder in ("", "*/")),  # half-written files
    *("vocab.txt", "model.json"),
    *(f"dataset/{name}" for name in (
        MANIFEST, VOCABULARY, "train-?????-of-?????.tfrecord", "eval-?????-of-?????.tfrecord",
        LOCK, "_temporary-*",
    )),
    *(f"run/{name}" for name in (
        CONFIG, VOCABULARY, METRICS, CURVES, LOCK, f"{LOGS}/events.out.tfevents.*",
    )),
    *(f"run/{CHECKPOINTS}/{name}" for name in (
        "best.json", "step-????????/checkpoint.*", "step-????????/checksums.json", "partial-*",
    )),
    *(f"models/{MODEL}/{name}" for name in (
        "batching.config", "models.config", "monitoring.config", LOCK, ".export-*",
    )),
    *(f"models/{MODEL}/1/{name}" for name in (
        SAVED_MODEL, "fingerprint.pb", f"assets/{VOCABULARY}", WARM_UP_FILE,
        "variables/variables.index", "variables/variables.data-?????-of-?????",
    )),
)  # fmt: skip
"""Globs of the files that the stages create, but for the corpus, whose files the marker lists. Not
whole folders: the user may have put files of their own there."""


def prepare_folder(folder: Path) -> Path:
    """Return an empty folder, after removing the files of an earlier demo.

    Raises:
        InputError: the folder contains files that no demo created.
    """
    if folder.exists() and any(folder.iterdir()):
        remove_files(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # Before any other file, so that a killed demo is known as one.
    mark(folder, CREATED)
    return folder


def mark(folder: Path, names: Iterable[str]) -> None:
    """Write to the marker what the next demo may remove."""
    write_atomically(folder / MARKER, "".join(f"{name}\n" for name in names).encode())


def _marked(folder: Path) -> Callable[[Path], bool]:
    """Return whether a path is one that the folder's marker lists."""
    names = (folder / MARKER).read_text(encoding="utf-8").splitlines()
    files = {MARKER, *names}
    globs = [name for name in names if name in CREATED]

    def is_marked(path: Path) -> bool:
        name = path.relative_to(folder).as_posix()
        return name in files or any(fnmatchcase(name, glob) for glob in globs)

    return is_marked


def remove_files(folder: Path) -> None:
    """Remove the files that the marker lists, and all folders.

    Raises:
        InputError: the folder was not created by a demo, or has other files; nothing is removed.
    """
    if not (folder / MARKER).is_file():
        raise InputError(f"`output` {folder}: exists, but no demo created it; name another folder")
    is_marked = _marked(folder)
    inside = sorted(folder.rglob("*"))
    others = [str(path) for path in inside if not (_is_folder(path) or is_marked(path))]
    # All is checked before the first file is removed: a folder of the user stays as it was.
    if others:
        raise InputError(
            f"`output` {folder}: contains {others[0]}, which no demo created ({len(others):,} such "
            "files); move them, or name another folder"
        )
    for path in reversed(inside):  # the contents of a folder before the folder
        if _is_folder(path):
            path.rmdir()
        else:
            path.unlink()


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def record_files(folder: Path) -> None:
    """Write the list of created files to the marker, so that the next demo may remove them."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    created = filter(_marked(folder), files)
    mark(folder, sorted(path.relative_to(folder).as_posix() for path in created))
