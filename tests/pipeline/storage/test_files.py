"""Files that a user names: globs, names with signs of globs, what is no file."""

import errno
import os
from pathlib import Path

import pytest

from pipeline.configs import PreprocessConfig
from pipeline.errors import InputError, JobError
from pipeline.storage.files import hidden_prefix, match_files, writing
from pipeline.storage.locks import only_writer
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
        str(tmp_path / "broken"): "broken: is a link to nothing; remove it",
        str(tmp_path / "loop"): "loop: cannot be looked up: .*symbolic links",
        "-": "no file matches",
        "x" * 5000: "cannot be looked up: .*too long|no file matches",
        "a\0b": "cannot be looked up|no file matches",
    }.items():
        with pytest.raises(InputError, match=message):
            match_files([path])


@pytest.mark.parametrize(
    ("glob", "names"),
    [
        ("*.txt", ["a.txt", ".hidden.txt"]),
        ("?.txt", ["a.txt"]),
        ("[!b-z].txt", ["a.txt"]),
        ("[][].md", ["[.md", "].md"]),
        ("*/*.txt", ["b/c.txt", "linked/e.txt"]),
        ("b/*/[d].*", ["b/x/d.txt"]),
        ("**/*.txt", ["b/c.txt", "b/x/d.txt"]),
        ("b**.txt", ["b/c.txt", "b/x/d.txt"]),
    ],
)
def test_what_globs_match(glob: str, names: list[str], tmp_path: Path) -> None:
    here = tmp_path / "here"
    for name in ("a.txt", ".hidden.txt", "[.md", "].md", "b/c.txt", "b/x/d.txt"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(name)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "e.txt").write_text("e")
    (here / "linked").symlink_to(tmp_path / "elsewhere")
    assert [*match_files([f"{here}/{glob}"])] == sorted(f"{here}/{name}" for name in names)


@pytest.mark.parametrize("glob", ["here/*.txt", "*/*.txt", "**/*.txt"])
def test_a_glob_leaves_nothing_out_without_a_word(glob: str, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / "a.txt").write_text("text")
    assert [*match_files([str(tmp_path / glob)])] == [str(here / "a.txt")]
    (here / "b.txt").symlink_to("gone")
    with pytest.raises(InputError, match=r"here/b\.txt: is a link to nothing; remove it"):
        match_files([str(tmp_path / glob)])
    (here / "b.txt").unlink()
    os.mkfifo(here / "b.txt")
    with pytest.raises(InputError, match=r"here/b\.txt: a pipe or a device"):
        match_files([str(tmp_path / glob)])
    (here / "b.txt").unlink()
    if "**" not in glob:  # there, links and files alone match
        (here / "b.txt").mkdir()
        with pytest.raises(InputError, match=r"here/b\.txt: is a folder; give its files"):
            match_files([str(tmp_path / glob)])


@pytest.mark.parametrize(("glob", "levels"), [("*/x/*.txt", 1), ("**/*.txt", 17)])
def test_a_folder_that_cannot_be_listed_is_no_empty_one(
    glob: str, levels: int, tmp_path: Path
) -> None:
    (tmp_path / "x" / "x").mkdir(parents=True)
    (tmp_path / "x" / "x" / "a.txt").write_text("text")
    if levels == 1:
        (tmp_path / "y").mkdir()
        (tmp_path / "y" / "x").symlink_to("x")  # a loop, which even root cannot list
    # A path of more than 4,096 bytes cannot be listed, either.
    below = os.open(tmp_path, os.O_PATH)
    for _ in range(levels):
        os.mkdir("d" * 250, dir_fd=below)
        above, below = below, os.open("d" * 250, os.O_PATH, dir_fd=below)
        os.close(above)
    os.close(below)
    with pytest.raises(InputError, match=r"cannot be looked up: (.*symbolic links|.*too long)"):
        match_files([str(tmp_path / glob)])


def test_folders_that_a_glob_cannot_match_are_not_looked_at(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "a.txt").write_text("text")
    (tmp_path / "loop").symlink_to("loop")
    assert [*match_files([f"{tmp_path}/[a-k]/*.txt"])] == [f"{tmp_path}/a/a.txt"]


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        *((each, InputError) for each in ("EACCES", "EROFS", "ENOENT", "EOPNOTSUPP", "EILSEQ")),
        *((each, JobError) for each in ("ENOSPC", "EDQUOT", "EIO")),
    ],
)
def test_a_bad_path_is_bad_input_and_a_full_disk_is_not(number: str, kind: type[Exception]) -> None:
    value = getattr(errno, number)
    with pytest.raises(kind, match=r"^`output` x: cannot be written: "), writing("`output` x"):
        raise OSError(value, os.strerror(value))


def test_a_filesystem_without_new_folders_is_bad_input() -> None:
    place = Path("/proc/self/nothing")
    message = "^`run` x: cannot be written: No such file or directory$"
    with pytest.raises(InputError, match=message), only_writer(place, "`run` x"):
        pass


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


def test_a_slash_at_the_end_of_an_output_is_no_part_of_names():
    config = PreprocessConfig(
        input=("a",), vocab=Path("v"), output="gs://bucket/d/", max_seq_length=(32, 64)
    )
    assert config.datasets == ("gs://bucket/d/32", "gs://bucket/d/64")


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
