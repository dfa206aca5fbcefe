"""Files that exist and may not be read."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def without_privileges() -> list[str]:
    """Return the words before a command that obeys the permissions of files, also as root."""
    if os.geteuid():
        return []
    words = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    if not shutil.which("setpriv") or subprocess.run([*words, "true"]).returncode:
        pytest.skip("privileges cannot be dropped here")
    return words


@pytest.mark.parametrize("name", ["*.txt", "second.txt"])
def test_a_file_without_permission_is_named_before_any_work(name: str, tmp_path: Path) -> None:
    for each in ("first.txt", "second.txt"):
        (tmp_path / each).write_text("He opened the door. The room was empty.\n")
    (tmp_path / "second.txt").chmod(0)
    command = [sys.executable, "-m", "clozeline", "vocab", "--size", "50"]
    where = ["--input", str(tmp_path / name), "--output", str(tmp_path / "v.txt")]
    done = subprocess.run(
        [*without_privileges(), *command, *where], capture_output=True, text=True, check=False
    )
    second = tmp_path / "second.txt"
    assert (done.returncode, done.stderr) == (
        2,
        f"clozeline: --input {second}: gives you no permission to read; change that, or leave it "
        "out\n",
    )
    assert sorted(each.name for each in tmp_path.iterdir()) == ["first.txt", "second.txt"]


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("manifest.json", ("inspect",)),
        ("config.json", ("export-hf", "--output", "new", "--run")),
    ],
)
def test_an_artefact_without_permission_is_bad_input(
    name: str, command: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / name).touch(0)
    words = [sys.executable, "-m", "clozeline", *command, str(tmp_path)]
    done = subprocess.run(
        [*without_privileges(), *words], capture_output=True, text=True, check=False
    )
    said = f"clozeline: {tmp_path / name}: cannot be read: Permission denied\n"
    assert (done.returncode, done.stderr) == (2, said)
