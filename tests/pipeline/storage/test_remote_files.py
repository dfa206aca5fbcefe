"""Files named by paths, as Beam's workers use them."""

import errno
from pathlib import Path
from typing import Any

import pytest

from pipeline.storage.remote_files import (
    exists,
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


def write(path: str, data: bytes) -> None:
    with open_to_write(path) as file:
        file.write(data)


@pytest.fixture(params=["local", "bucket"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, store: Any) -> str:
    """A folder on this machine, and one in a bucket."""
    return str(tmp_path / "ds") if request.param == "local" else "gs://bucket/ds"


def test_paths(tmp_path: Path) -> None:
    assert is_local_path(str(tmp_path))
    assert not is_local_path("gs://bucket/x")
    assert joined("gs://bucket/x/", "y") == joined("gs://bucket/x", "y") == "gs://bucket/x/y"


def test_a_file_is_written_moved_listed_read_and_removed(folder: str) -> None:
    make_folders(folder)
    write(joined(folder, "b"), b"one")
    write(joined(folder, "a"), b"two")
    move(joined(folder, "b"), joined(folder, "c"))
    assert names_in(folder) == ["a", "c"]
    with open_to_read(joined(folder, "c")) as file:
        assert file.read() == b"one"
    remove_files([joined(folder, "a"), joined(folder, "absent")])
    assert not exists(joined(folder, "a"))
    assert exists(joined(folder, "c"))


def test_a_missing_folder_has_no_names(folder: str) -> None:
    assert names_in(folder) == []


def test_a_glob_in_a_path_names_no_other_file(tmp_path: Path) -> None:
    for name in ("ds1", "ds[12]"):
        (tmp_path / name).mkdir()
        write(str(tmp_path / name / "x"), b"kept")
    remove_files([str(tmp_path / "ds[12]" / "x")])
    assert names_in(str(tmp_path / "ds1")) == ["x"]
    assert names_in(str(tmp_path / "ds[12]")) == []


def test_only_the_folders_that_were_made_are_removed_and_only_if_empty(tmp_path: Path) -> None:
    made = make_folders(str(tmp_path / "a" / "b"))
    assert made == [str(tmp_path / "a"), str(tmp_path / "a" / "b")]
    assert make_folders(str(tmp_path / "a" / "b")) == []
    (tmp_path / "a" / "of_another").touch()
    remove_folders(made)
    assert names_in(str(tmp_path / "a")) == ["of_another"]
    (tmp_path / "a" / "of_another").unlink()
    (tmp_path / "a" / "b").mkdir()
    remove_folders(made)
    assert names_in(str(tmp_path)) == []


@pytest.mark.parametrize("size", [100, 100_000])
def test_a_full_disk_names_the_file(size: int, tmp_path: Path, full_disk: Any) -> None:
    """Also if it shows when the file is closed, and what was buffered is written."""
    path = str(tmp_path / "documents")
    with full_disk(10), pytest.raises(OSError, match=rf"\[Errno 27\] .*: '{path}'$"):
        write(path, b"x" * size)


def test_another_error_is_not_the_files(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match="Input") as caught,
        open_to_write(str(tmp_path / "documents")),
    ):
        raise OSError(errno.EIO, "Input/output error")  # of what is copied into it
    assert caught.value.filename is None
