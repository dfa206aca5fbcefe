"""Outputs are checked before any work, and nothing is created or removed by the check."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import InputError
from pipeline.storage.files import write_atomically
from pipeline.storage.outputs import Output, check_outputs, outputs_of
from pipeline.storage.remote import path_from

KINDS = ("file", "folder", "new folder")
FOLDERS = KINDS[1:]


def below(folder: Path) -> dict[str, tuple[int, int]]:
    """What is in a folder, with what a change of an entry changes."""
    paths = [folder, *folder.rglob("*")]
    return {str(path): (path.lstat().st_ino, path.lstat().st_mtime_ns) for path in paths}


def refused(path: Path, kind: str, message: str) -> None:
    (output,) = outputs_of(kind, run_dir=path)
    with pytest.raises(InputError, match=message) as caught:
        check_outputs([output])
    assert str(caught.value).startswith(f"`run_dir` {path}: ".replace("\0", r"\x00"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a file, a full folder, and links."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full" / "inside").mkdir(parents=True)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "nothing").symlink_to("missing")
    (tmp_path / "into").symlink_to("full")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "kinds", "message"),
    [
        ("full", ("file",), "is a folder; name a file"),
        ("into", ("file",), "is a folder; name a file"),
        ("file", FOLDERS, "file is a file; name a folder"),
        ("file/below/x", KINDS, "file is a file; name a folder"),
        ("loop", KINDS, "cannot be written: Too many levels of symbolic links"),
        ("loop/x", KINDS, "cannot be written: Too many levels of symbolic links"),
        ("nothing", FOLDERS, "is a link to nothing"),
        ("ä" * 128, KINDS, "name"),
        ("new/" + "a" * 256 + "/x", KINDS, "a name has more than 255 bytes; shorten it"),
        ("a/" * 2100 + "x", KINDS, "cannot be written: File name too long"),
        ("a\0b", KINDS, "cannot be written: a name has a NUL"),
        ("full", ("new folder",), "already exists; choose another directory or remove it"),
    ],
)
def test_what_cannot_be_written(
    name: str, kinds: tuple[str, ...], message: str, folder: Path
) -> None:
    before = below(folder)
    for kind in kinds:
        refused(folder / name, kind, message)
    assert below(folder) == before


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("new", KINDS),
        ("new/and/deeper", KINDS),
        ("a" * 255, KINDS),
        ("full/inside", FOLDERS),
        ("full", ("folder",)),
        ("into/new", KINDS),
        ("file", ("file",)),
        ("nothing", ("file",)),
    ],
)
def test_what_can_be_written(name: str, kinds: tuple[str, ...], folder: Path) -> None:
    before = below(folder)
    for kind in kinds:
        check_outputs(outputs_of(kind, run_dir=folder / name))
    assert below(folder) == before


def test_relative_paths_and_pipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    check_outputs(outputs_of("file", predictions=Path("new"), picture=Path("pipe")))
    check_outputs(outputs_of("folder", output=Path(), rejected=Path("a/b"), run_dir=None))
    refused(Path("pipe"), "folder", "pipe is a file; name a folder")


@pytest.mark.parametrize("root", ["/proc", "/sys"])
@pytest.mark.parametrize("kind", KINDS)
def test_filesystems_of_the_kernel_take_no_files(root: str, kind: str) -> None:
    if not os.path.ismount(root):
        pytest.skip(f"{root} is not mounted here")
    for name in ("clozeline-new", "clozeline-new/deeper"):
        refused(Path(root, name), kind, f"{root} takes no files; choose another place")


def test_a_pipe_as_standard_output_can_be_written() -> None:
    words = [sys.executable, "-c", CHECK, "/dev/stdout", "file"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_new_file_is_not_replaced(folder: Path) -> None:
    for name in ("missing", "nothing"):
        check_outputs(outputs_of("new file", run_dir=folder / name))
    refused(folder / "file", "new file", "already exists; add `overwrite`$")
    refused(folder / "full", "new file", "is a folder; name a file")


def test_a_file_that_is_read_is_not_replaced(folder: Path) -> None:
    (folder / "same").symlink_to("file")
    for name in ("file", "same"):
        with pytest.raises(InputError, match="is a file that is read; choose another"):
            check_outputs([Output("predictions", folder / name, "file", (folder / "file",))])
    check_outputs([Output("predictions", folder / "new", "file", (folder / "file",))])
    assert (folder / "file").read_text() == "mine"


def test_a_file_of_a_folder_that_is_read_is_not_replaced(folder: Path, store) -> None:
    (folder / "same").symlink_to("full")
    (folder / "full/of").mkdir(parents=True, exist_ok=True)
    (folder / "full/of/corpus.jsonl").write_text("mine")
    remote = path_from("gs://bucket/full")
    write_atomically(remote / "of/corpus.jsonl", b"mine")
    local = folder / "full"
    bucket = path_from("gs://bucket")
    places = ((local, local), (folder / "same", local), (remote, remote), (bucket, remote))
    for read, base in places:
        with pytest.raises(InputError, match="is a file that is read; choose another"):
            check_outputs([Output("predictions", base / "of/corpus.jsonl", "file", (read,))])
        check_outputs([Output("predictions", base / "of/new.jsonl", "file", (read,))])
        check_outputs([Output("predictions", base.parent / "fuller", "file", (read,))])


@pytest.mark.parametrize("remote", [False, True])
def test_only_an_own_or_an_empty_file_is_replaced(folder: Path, store: Any, remote: bool) -> None:
    place = path_from("gs://bucket") if remote else folder
    for name, contents in (("ours", b"made by us"), ("empty", b""), ("theirs", b"mine")):
        write_atomically(place / name, contents)
    for name in ("ours", "empty", "missing"):
        check_outputs([Output("picture", place / name, "file", is_ours=b"made by us".__eq__)])
    with pytest.raises(InputError, match="theirs: exists, and this command did not make it; choo"):
        check_outputs([Output("picture", place / "theirs", "file", is_ours=b"made by us".__eq__)])


READ_ONLY = 'mount --bind $0 $0 && mount -o remount,bind,ro $0 && exec "$@"'


def read_only(folder: Path) -> list[str]:
    """Return the words before a command that may not write to a folder."""
    if os.geteuid():
        folder.chmod(0o555)
        return []
    # Root may write to all folders, except on a filesystem that is mounted without that.
    words = ["unshare", "--map-root-user", "--mount", "sh", "-c", READ_ONLY, str(folder)]
    if subprocess.run([*words, "true"], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    return words


CHECK = """
import sys
from pathlib import Path
from pipeline.errors import InputError
from pipeline.storage.files import write_atomically
from pipeline.storage.outputs import Output, check_outputs
for kind in sys.argv[2:]:
    try:
        check_outputs([Output("output", Path(sys.argv[1]), kind)])
    except InputError as error:
        print(error)
"""


@pytest.mark.parametrize(
    ("name", "kinds"),
    [("x", KINDS), ("new/x", KINDS), ("folder", ("folder", "new folder")), ("file", ("file",))],
)
def test_a_folder_that_is_read_only(name: str, kinds: tuple[str, ...], tmp_path: Path) -> None:
    folder = tmp_path / "read-only"
    (folder / "folder").mkdir(parents=True)
    (folder / "file").touch()
    if os.geteuid():
        (folder / "folder").chmod(0o555)
    words = [*read_only(folder), sys.executable, "-c", CHECK, str(folder / name), *kinds]
    done = subprocess.run(words, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert (done.stderr, len(lines)) == ("", len(kinds))
    for line in lines:
        assert line.startswith(f"`output` {folder / name}: {folder}")
        assert "read-only file system" in line or "no permission to write" in line


def test_an_object_store_is_asked_for_new_folders_only(store: Any) -> None:
    here = path_from("gs://bucket/run")
    (here / "config.json").write_bytes(b"{}")
    store.requests.clear()
    check_outputs([Output("run_dir", here, "folder"), Output("output", here, "file")])
    assert store.requests == []
    refused(here, "new folder", "already exists; choose another directory or remove it")
    check_outputs([Output("run_dir", path_from("gs://bucket/new"), "new folder")])
