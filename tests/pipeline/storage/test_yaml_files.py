"""YAML: what its readers take silently for something else is refused."""

from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.storage.yaml_files import read_yaml


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3: a stands in line 1, too"),
        ("a: {b: 1, b: 1}", "line 1: b stands in line 1, too"),
        ("a:\n- {b: 1}\n- {c: 1, 'c': 2}", "line 3: c stands in line 3, too"),
        ("seed: 010", "line 1: 010 is a number with the base 8; put it in quotes"),
        ("folder: 007", "line 1: 007 is a number with the base 8"),
        ("a: 12:30", "line 1: 12:30 is a number with the base 60"),
        ("a: 12:30.5", "line 1: 12:30.5 is a number with the base 60"),
    ],
)
def test_surprises_of_yaml_1_1_are_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(InputError, match=f"^`config` a: cannot be read as YAML: {message}"):
        read_yaml(tmp_path / "a.yaml", "`config` a")


@pytest.mark.parametrize(
    ("name", "message"),
    [("missing.yaml", "No such file or directory"), (".", "Is a directory")],
)
def test_a_file_that_cannot_be_read_is_not_called_yaml(
    name: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=f"^`config` a: cannot be read: {message}$"):
        read_yaml(tmp_path / name, "`config` a")


def test_a_file_that_is_not_in_utf8(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"input: a.txt\noutput: caf\xe9\n")
    with pytest.raises(InputError, match=r"^`config` a: cannot be read: line 2: the byte 0xe9"):
        read_yaml(tmp_path / "a.yaml", "`config` a")


@pytest.mark.parametrize(
    ("text", "contents"),
    [
        ("a: 10\nb: -0.5\nc: 0x10\nd: 1_000", {"a": 10, "b": -0.5, "c": 16, "d": 1000}),
        ("a: '010'\nb: 08.txt", {"a": "010", "b": "08.txt"}),
        ("a: 2020-01-02\nb: 2020-01-02 10:30:00", {"a": "2020-01-02", "b": "2020-01-02 10:30:00"}),
        ("x: &x {b: 1}\ny: {<<: *x, b: 2}\nz: *x", {"x": {"b": 1}, "y": {"b": 2}, "z": {"b": 1}}),
        ("", None),
    ],
)
def test_other_values_are_those_of_yaml(text: str, contents: object, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text)
    assert read_yaml(tmp_path / "a.yaml", "`config` a") == contents
