"""A power cut during or after a command loses no file that has its final name."""

import errno
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tensorflow as tf

from clozeline.main import main
from model.training.checkpoints import Checkpoints
from pipeline.storage import files
from pipeline.storage.files import make_folder, publish, write_atomically


@dataclass
class DiskLog:
    """Records what a process synced and renamed, to know what a power cut would lose.

    Attributes:
        synced: by path: a file's size and time, or a directory's names, at its last sync; names
            that were removed since do no harm.
        unnamed: sizes and times of files without a name at their last sync.
        renames: new names, each with what of it was not synced at that moment.
        not_synced_since: new names whose directory has not been synced after the rename.
    """

    synced: dict[Path, set[Any]] = field(default_factory=dict)
    unnamed: set[Any] = field(default_factory=set)
    renames: dict[Path, list[Path]] = field(default_factory=dict)
    not_synced_since: set[Path] = field(default_factory=set)

    def lost(self, root: Path) -> list[Path]:
        """Return the path and the files below it whose current state was not synced."""
        paths = [root, *root.rglob("*")]
        synced = self.synced
        return [path for path in paths if not state(path) <= self.unnamed | synced.get(path, set())]

    def sync(self, path: Path, found: os.stat_result) -> None:
        if not found.st_nlink:
            self.unnamed.add((found.st_size, found.st_mtime_ns))
            return
        self.synced[path] = state(path)
        self.not_synced_since = {new for new in self.not_synced_since if new.parent != path}

    def rename(self, old: Path, new: Path) -> None:
        self.renames[new] = self.lost(old)
        for path in [path for path in self.synced if path.is_relative_to(old)]:
            self.synced[new / path.relative_to(old)] = self.synced.pop(path)
        self.not_synced_since.add(new)

    def check(self, root: Path, *temporary: str) -> None:
        """Check the files below a path, except those with temporary names."""
        assert self.renames
        assert not {new: lost for new, lost in self.renames.items() if lost}
        assert not self.not_synced_since
        lost = [path.relative_to(root) for path in self.lost(root)]
        assert not [path for path in lost if not {*temporary, ".lock"} & {*path.parts}]


def state(path: Path) -> set[Any]:
    if path.is_dir():
        return {entry.name for entry in path.iterdir() if entry.name != ".lock"}
    return {(path.stat().st_size, path.stat().st_mtime_ns)}


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> DiskLog:
    log = DiskLog()
    fsync, renaming = os.fsync, {"rename": os.rename, "replace": os.replace}

    def sync(descriptor: int) -> None:
        fsync(descriptor)
        log.sync(Path(f"/proc/self/fd/{descriptor}").readlink(), os.fstat(descriptor))

    def rename(how: str, old: Any, new: Any) -> None:
        log.rename(Path(old).resolve(), Path(new).resolve())
        renaming[how](old, new)

    monkeypatch.setattr(os, "fsync", sync)
    for how in renaming:
        monkeypatch.setattr(os, how, partial(rename, how))
    return log


def test_a_file(tmp_path: Path, disk: DiskLog) -> None:
    for data in (b"first", b"second"):
        write_atomically(tmp_path / "new" / "folder" / "file", data)
        disk.check(tmp_path)
    assert (tmp_path / "new" / "folder" / "file").read_bytes() == b"second"


KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline.storage import files

def killed(_):
    os.kill(os.getpid(), signal.SIGKILL)

os.fsync = killed
files.write_atomically(Path(sys.argv[1]), b"after")
"""
"""A program that is killed when it has written a file and waits for the disk."""


def test_a_killed_process_leaves_no_part_of_a_file(tmp_path: Path) -> None:
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
    (tmp_path / "old" / "file").write_bytes(b"before")
    for name in ("new", "old"):
        done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / name / "file")])
        assert done.returncode == -signal.SIGKILL
    assert [*(tmp_path / "new").iterdir()] == []
    assert [path.name for path in (tmp_path / "old").iterdir()] == ["file"]
    assert (tmp_path / "old" / "file").read_bytes() == b"before"


def test_a_file_where_every_file_has_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: DiskLog
) -> None:
    def opened(path: Any, flags: int, *mode: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return os.open(path, flags, *mode)

    monkeypatch.setattr(files, "os", SimpleNamespace(**vars(os) | {"open": opened}))
    for data in (b"first", b"second"):
        write_atomically(tmp_path / "file", data)
        disk.check(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"second"


def test_a_written_file_has_the_permissions_of_an_opened_one(tmp_path: Path) -> None:
    (tmp_path / "opened").write_bytes(b"1")
    write_atomically(tmp_path / "written", b"1")
    modes = [(tmp_path / name).stat().st_mode for name in ("opened", "written")]
    assert modes[0] == modes[1]


def test_a_directory(tmp_path: Path, disk: DiskLog) -> None:
    make_folder(tmp_path / "a" / "temporary" / "inner" / "empty")
    (tmp_path / "a" / "temporary" / "inner" / "file").write_bytes(b"1")
    (tmp_path / "a" / "temporary" / "file").write_bytes(b"2")
    assert publish(tmp_path / "a" / "temporary", tmp_path / "a" / "b") == tmp_path / "a" / "b"
    disk.check(tmp_path)


def test_a_checkpoint_and_the_best(tmp_path: Path, disk: DiskLog) -> None:
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
    checkpoints.save(1, {"x": tf.Variable([1.0])})
    checkpoints.mark_best(1, "loss", 0.5)
    disk.check(tmp_path)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_file_that_cannot_be_synced_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    write_atomically(tmp_path / "file", b"before")
    monkeypatch.setattr(files, "os", SimpleNamespace(**vars(os) | {"fsync": fail}))
    with pytest.raises(OSError, match=os.strerror(number)):
        write_atomically(tmp_path / "file", b"after")
    assert (tmp_path / "file").read_bytes() == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_filesystem_that_cannot_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(files, "os", SimpleNamespace(**vars(os) | {"fsync": fail}))
    write_atomically(tmp_path / "file", b"whole")
    assert (tmp_path / "file").read_bytes() == b"whole"


TINY = {
    "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3,
    "intermediate_size": 40, "max_position_embeddings": 32,
}  # fmt: skip


@pytest.mark.slow
def test_every_command_leaves_synced_files(
    prose_corpus: Path, vocab_path: Path, tmp_path: Path, disk: DiskLog
) -> None:
    model, labelled, w = tmp_path / "tiny.json", tmp_path / "labelled.csv", tmp_path / "work"
    size = len(vocab_path.read_text(encoding="utf-8").splitlines())
    model.write_text(json.dumps(TINY | {"vocab_size": size}))
    labelled.write_text("text,label\n" + "the boat,sea\nthe fox,wood\n" * 8)
    flags = {
        "vocab": {"input": prose_corpus / "*.txt", "output": w / "vocab.txt", "size": 200},
        "preprocess": {
            "input": prose_corpus / "*.txt", "vocab": vocab_path, "output": w / "ds",
            "max-seq-length": 32, "max-predictions": 4, "eval-rate": 0.2, "shards": 2,
        },
        "pretrain": {
            "dataset": w / "ds", "run": w / "run", "model": model, "steps": 4, "batch-size": 8,
            "eval-every-steps": 2, "checkpoint-every-steps": 3,
        },
        "finetune": {
            "task": "single", "train": labelled, "dev": labelled, "init": w / "run",
            "run": w / "tuned", "steps": 2, "batch-size": 4,
        },
        "evaluate": {
            "run": w / "tuned", "data": labelled, "predictions": w / "answers.jsonl",
            "picture": w / "confusion.png",
        },
        "export-hf": {"run": w / "run", "output": w / "hf" / "run"},
        "import": {"from": w / "hf" / "run", "run": w / "runs" / "imported"},
        "export": {"run": w / "run", "output": w / "models" / "fox"},
    }  # fmt: skip
    for command, options in flags.items():
        arguments = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        # Compiling would take longer than all else here, and writes no file.
        quickly = ["--no-xla"] if command in ("pretrain", "finetune", "evaluate") else []
        assert main([command, *arguments, *quickly]) == 0, command
        disk.check(w, "logs")  # TensorBoard's, which only people read


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stays_and_its_file_is_written(exists: bool, tmp_path: Path) -> None:
    target, link = tmp_path / "elsewhere" / "file", tmp_path / "link"
    target.parent.mkdir()
    if exists:
        target.write_bytes(b"before")
    link.symlink_to(target)
    write_atomically(link, b"after")
    assert link.readlink() == target
    assert target.read_bytes() == b"after"
    assert [*target.parent.iterdir()] == [target]


def test_a_pipe_is_written_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_atomically(pipe, b"data")
    assert os.read(reader, 100) == b"data"
    os.close(reader)
    assert pipe.is_fifo()


def test_a_loop_of_links_is_kept(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)) as caught:
        write_atomically(loop, b"data")
    assert caught.value.filename == str(loop)
    assert loop.is_symlink()


def test_a_file_may_have_the_longest_name(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 255)
    write_atomically(path, b"data")
    assert path.read_bytes() == b"data"


def test_an_error_names_the_file_and_not_its_temporary_name(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        write_atomically(folder, b"data")
    assert (caught.value.filename, caught.value.filename2) == (str(folder), None)
    assert [*tmp_path.iterdir()] == [folder]
