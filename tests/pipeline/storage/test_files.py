"""Files that a user names: globs, names with signs of globs, what is no file."""

import os
from pathlib import Path

import pytest

from pipeline.configs import PreprocessConfig
from pipeline.errors import InputError
from pipeline.storage.files import hidden_prefix, match_files
from pipeline.storage.remote import path_from


@pytest.mark.parametrize("name", ["[a].txt", "a*b.txt", "a?.txt", "a b%20#.txt", "a\nb.txt", "-"])
def test_a_file_is_found_by_its_own_name(name: str, tmp_path: Path) -> None:
    """A shell expands *.txt to such names."""
    (tmp_path / name).write_text("text")
    (tmp_path / "ab.txt").write_text("other")
    assert match_files([str(tmp_path / name)]) == {str(tmp_path / name): 4}


def test_a_pattern_is_a_glob(tmp_path: Path) -> None:
    for name in ("a1.txt", "a2.txt", "b1.txt"):
        (tmp_path / name).write_text(name)
    assert [*match_files([str(tmp_path / "a[12].txt")])] == [
        str(tmp_path / "a1.txt"),
        str(tmp_path / "a2.txt"),
    ]


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "broken").symlink_to("gone")
    for path, message in {
        str(tmp_path / "pipe"): "a pipe or a device, which cannot be read in parts",
        "/dev/null": "a pipe or a device",
        str(tmp_path): "is a folder; give its files",
        str(tmp_path / "broken"): "no file matches",
        str(tmp_path / "loop"): "no file matches",
        "-": "no file matches",
        "x" * 5000: "cannot be looked up: .*too long|no file matches",
        "a\0b": "cannot be looked up|no file matches",
    }.items():
        with pytest.raises(InputError, match=message):
            match_files([path])


def test_a_name_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    """Workers receive paths as UTF-8."""
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\xff.txt")).write_text("text")
    for path in (str(tmp_path / "*.txt"), os.fsdecode(os.fsencode(tmp_path) + b"/a\xff.txt")):
        with pytest.raises(InputError, match=r"a\\xff\.txt: the name is not in UTF-8; rename it"):
            match_files([path])


def test_an_empty_path_is_none() -> None:
    """It would be the working directory."""
    for text in ("", "a\0b"):
        with pytest.raises(InputError, match="expected a path"):
            path_from(text)
    with pytest.raises(InputError, match=r"^`output` '': expected a folder"):
        PreprocessConfig(input=("a",), vocab=Path("v"), output="")


@pytest.mark.parametrize("rejected", ["d", "d/", "./d", "d//", "a/../d", "d/32", "d/./64/"])
def test_rejections_have_a_folder_of_their_own(rejected: str) -> None:
    with pytest.raises(InputError, match="is the dataset; choose another folder"):
        PreprocessConfig(
            input=("a",), vocab=Path("v"), output="d", rejected=rejected, max_seq_length=(32, 64)
        )


def test_names_of_temporary_entries_leave_room_for_an_id_and_are_of_one_path() -> None:
    assert hidden_prefix(Path("runs/books")) == ".books-"
    names = ["x" * 255, "x" * 254 + "y", "ü" * 127, "x" * 150]
    prefixes = [hidden_prefix(Path("runs", name)) for name in names]
    assert len({*prefixes}) == len(names)
    assert all(len(os.fsencode(prefix)) + 32 <= 255 for prefix in prefixes)
