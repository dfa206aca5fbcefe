"""A directory has one writer at a time; a writer that died blocks nobody."""

import errno
import logging
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock

import clozeline
from pipeline.errors import InputError, JobError
from pipeline.jobs.shared_folder import job_folder
from pipeline.storage import leases, locks
from pipeline.storage.files import CLOZELINE, make_folder
from pipeline.storage.locks import (
    LOCK,
    Holder,
    only_writer,
    only_writer_of_all,
    only_writer_of_output,
    read_holder,
    staging,
)
from pipeline.storage.strict_json import to_json


@pytest.fixture
def holder(writer_of: Callable[[Path], subprocess.Popen], tmp_path: Path) -> subprocess.Popen:
    """Another process, which holds the lock of `tmp_path / "a"`."""
    return writer_of(tmp_path / "a")


def test_the_error_for_a_second_writer_names_the_first(
    holder: subprocess.Popen, tmp_path: Path
) -> None:
    with (
        pytest.raises(InputError) as refused,
        only_writer(tmp_path / "a", "--run a"),
    ):
        pass
    assert re.fullmatch(
        rf"--run a: is being written by process {holder.pid}, since \d{{4}}-\d\d-\d\d "
        r"\d\d:\d\d:\d\d UTC; wait until it exits, or choose another path",
        str(refused.value),
    )
    with only_writer(tmp_path / "b", "--run b"):
        pass
    holder.communicate()  # ends
    with only_writer(tmp_path / "a", "--run a"):
        assert read_holder(tmp_path / "a" / LOCK).pid == os.getpid()


def test_a_killed_writers_lock_is_taken_over_and_reported(
    holder: subprocess.Popen, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "a" / LOCK).exists()
    with caplog.at_level("INFO"), only_writer(tmp_path / "a", "--run a"):
        said = caplog.text
    assert f"--run a: process {holder.pid}, since 20" in said
    assert "exited without releasing its lock; taking it over" in said


def test_an_output_has_one_writer(tmp_path: Path) -> None:
    """By whatever name; it need not exist, and nothing else is left."""
    output = tmp_path / "new" / "v.txt"
    (tmp_path / "link").symlink_to(output)
    with only_writer_of_output(output, "--output v.txt"):
        for name in (output, tmp_path / "link", tmp_path / "new" / ".." / "new" / "v.txt"):
            with (
                pytest.raises(InputError, match=f"--output: is being .* process {os.getpid()}, "),
                only_writer_of_output(name, "--output"),
            ):
                pass
        with only_writer_of_output(tmp_path / "new" / "w.txt", "--output w.txt"):
            pass
        assert not output.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["link"]
    with only_writer_of_output(output, "--output v.txt"):
        output.touch()
    assert [*output.parent.iterdir()] == [output]


def test_a_device_has_any_number_of_writers() -> None:
    null = Path(os.devnull)
    with only_writer_of_output(null, "--output"), only_writer_of_output(null, "--output"):
        assert not [*null.parent.glob(".null*")]


def test_several_directories_are_locked_or_none(holder: subprocess.Popen, tmp_path: Path) -> None:
    first, second = tmp_path / "b", tmp_path / "a"
    with (
        pytest.raises(InputError, match=rf"--output a: is being written by process {holder.pid}"),
        only_writer_of_all({first: "--output b", second: "--output a"}),
    ):
        pass
    assert not first.exists()
    with only_writer_of_all({first: "--output b", tmp_path / "c": "--output c"}):
        assert (first / LOCK).exists()
        assert (tmp_path / "c" / LOCK).exists()


def test_a_file_in_the_directorys_place(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with (
            pytest.raises(InputError, match=r"--run x: .*file is a file; name a folder"),
            only_writer(path, "--run x"),
        ):
            pass


def test_waiting_for_the_writer_before(holder: subprocess.Popen, tmp_path: Path) -> None:
    holder.stdin.close()  # it ends by and by
    with only_writer(tmp_path / "a", "--output a", waits=True):
        assert read_holder(tmp_path / "a" / LOCK).pid == os.getpid()


def test_a_writer_that_waits_says_so_and_waits_as_long_as_the_other_lives(
    holder: subprocess.Popen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "NOTICE_SECS", 0)
    said = []

    def end_it(record: logging.LogRecord) -> bool:
        said.append(record.getMessage())
        holder.stdin.close()
        return True

    monkeypatch.setattr(leases._log, "filters", [end_it])
    monkeypatch.setattr(leases._log, "level", logging.INFO)
    with only_writer(tmp_path / "a", "--output a", waits=True):
        assert read_holder(tmp_path / "a" / LOCK).pid == os.getpid()
    assert len(said) == 1
    beginning = rf"--output a: is being written by process {holder.pid}, since 20"
    assert re.fullmatch(rf"{beginning}\S+ \S+ UTC; waiting until it exits", said[0])


def test_a_directory_that_is_removed_while_it_is_looked_at_is_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, is_there = tmp_path / "a", Path.exists

    def removed_next(path: Path, **options: bool) -> bool:
        was_there = is_there(path, **options)
        if path == folder and was_there:
            folder.rmdir()
        return was_there

    folder.mkdir()
    monkeypatch.setattr(Path, "exists", removed_next)
    with only_writer(folder, "--output a"):
        assert (folder / LOCK).is_file()


@pytest.mark.parametrize("error", [FileExistsError, FileNotFoundError])
def test_a_directory_that_is_removed_while_it_is_made_is_made_again(
    error: type[OSError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`mkdir` raises the one, the sync of the directory above it the other."""
    failures = [error(errno.EEXIST, "removed by the writer before")]

    def make(path: Path) -> None:
        if failures:
            raise failures.pop()
        make_folder(path)

    monkeypatch.setattr(locks, "make_folder", make)
    with only_writer(tmp_path / "a", "--output a"):
        assert read_holder(tmp_path / "a" / LOCK).pid == os.getpid()


def test_nothing_is_left_of_a_lock(tmp_path: Path) -> None:
    with only_writer(tmp_path / "new" / "empty", "--run x"):
        pass
    assert list(tmp_path.iterdir()) == []
    with only_writer(tmp_path / "new" / "full", "--run x"):
        (tmp_path / "new" / "full" / "file").touch()
    assert [path.name for path in (tmp_path / "new" / "full").iterdir()] == ["file"]


def test_a_damaged_lock_file_is_no_obstacle(tmp_path: Path) -> None:
    for contents in (b"", b"\xff", b"[]", b'{"pid": 1}'):
        (tmp_path / LOCK).write_bytes(contents)
        with only_writer(tmp_path, "--run x"):
            assert read_holder(tmp_path / LOCK).pid == os.getpid()


def failing(number: int) -> object:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def test_a_filesystem_without_locks_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(FileLock, "acquire", failing(errno.ENOSYS))
    with caplog.at_level("INFO"), only_writer(tmp_path, "--run x"):
        assert "--run x: the filesystem does not support locks; make" in caplog.text


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.EROFS, InputError), (errno.EACCES, InputError), (errno.ELOOP, InputError),
     (errno.ENOSPC, JobError), (errno.EIO, JobError)],
)  # fmt: skip
def test_a_directory_that_cannot_be_written(
    number: int, kind: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user can choose another directory; a disk that is full or failed is no bad input."""
    monkeypatch.setattr(FileLock, "acquire", failing(number))
    with (
        pytest.raises(kind, match=f"--run x: cannot be written: {os.strerror(number)}"),
        only_writer(tmp_path, "--run x"),
    ):
        pass


STAGE = """
import sys
from pathlib import Path
from pipeline.storage.locks import staging
with staging(Path(sys.argv[1]), ".export-") as made:
    (made / "half").write_text("written")
    print("staged", flush=True)
    sys.stdin.read()
"""


def test_a_staging_directory_is_removed_when_its_process_is_dead(tmp_path: Path) -> None:
    command = [sys.executable, "-c", STAGE, str(tmp_path)]
    root = Path(clozeline.__file__).parents[1]
    with subprocess.Popen(
        command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"staged\n"
        (theirs,) = tmp_path.iterdir()
        with staging(tmp_path, ".export-") as made:
            assert list(made.iterdir()) == []
            assert len(list(tmp_path.iterdir())) == 2
        assert (theirs / "new" / "half").read_text() == "written"  # it is alive
        other.kill()
    assert list(tmp_path.iterdir()) == [theirs]
    with staging(tmp_path, ".other-"):
        pass
    assert theirs.exists()
    with staging(tmp_path, ".export-"):
        assert not theirs.exists()
    assert list(tmp_path.iterdir()) == []


DIE = """
import os, signal, sys
from pathlib import Path
from pipeline.storage.locks import only_writer, temporary_folder
with temporary_folder() as made, only_writer(Path(sys.argv[1]), "--run"):
    (made / "half").write_text("written")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_temporary_folder_of_a_killed_process_is_removed_and_its_run_stays(
    tmp_path: Path,
) -> None:
    """The run has a lock file of the same process, and a name that begins like a folder's."""
    run = tmp_path / "clozeline-run"
    run.mkdir()
    (run / "config.json").write_text("{}")
    root = Path(clozeline.__file__).parents[1]
    subprocess.run([sys.executable, "-c", DIE, str(run)], cwd=root,
                   env={**os.environ, "TMPDIR": str(tmp_path)})  # fmt: skip
    assert len([*tmp_path.glob("clozeline-*/new/half")]) == 1
    with staging(tmp_path, CLOZELINE) as made:  # as `temporary_folder`
        assert made.parent.parent == tmp_path
        assert {path.name for path in tmp_path.iterdir()} == {made.parent.name, run.name}
    assert [*tmp_path.iterdir()] == [run]
    assert (run / "config.json").read_text() == "{}"


def test_directories_of_other_processes_stay(tmp_path: Path) -> None:
    elsewhere = Holder(1, "another-host", "2026-01-01 00:00:00 UTC")
    locks = {"no-lock": None, "empty": "", "elsewhere": to_json(asdict(elsewhere))}
    for name, lock in locks.items():
        folder = tmp_path / f".export-{name}"
        folder.mkdir()
        if lock is not None:
            (folder / LOCK).write_text(lock)
    (tmp_path / ".export-file").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with staging(tmp_path, ".export-"):
        pass
    assert sorted(tmp_path.rglob("*")) == before


def test_directories_of_other_users_are_not_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder, names_in = tmp_path / f"{CLOZELINE}theirs", locks.names_in
    folder.mkdir()

    def names(path: str) -> list[str]:
        if path == str(folder):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return names_in(path)

    somebody = {**vars(os), "getuid": lambda: os.getuid() + 1}
    monkeypatch.setattr(locks, "names_in", names)
    monkeypatch.setattr(locks, "os", SimpleNamespace(**somebody))
    with caplog.at_level("INFO"), staging(tmp_path, CLOZELINE):
        pass
    assert caplog.text == ""
    assert folder.is_dir()


def test_without_locks_no_process_is_considered_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "_temporary-live"
    folder.mkdir()
    (folder / "documents-1").write_text("1")
    holder = Holder(os.getpid(), socket.gethostname(), "2026-01-01 00:00:00 UTC")
    (folder / LOCK).write_text(to_json(asdict(holder)))
    monkeypatch.setattr(FileLock, "acquire", failing(errno.ENOSYS))
    with caplog.at_level("INFO"), job_folder(str(tmp_path), "_temporary-"):
        pass
    assert (folder / "documents-1").read_text() == "1"
    assert f"{folder}: cannot be removed: {os.strerror(errno.ENOSYS)}" in caplog.text


def test_a_staging_directory_is_removed_after_an_error(tmp_path: Path) -> None:
    def stage() -> None:
        with staging(tmp_path, ".export-") as made:
            (made / "half").touch()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        stage()
    assert list(tmp_path.iterdir()) == []
