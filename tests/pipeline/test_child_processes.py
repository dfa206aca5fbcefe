"""Our modules in new processes: where their imports come from."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.child_processes import module_command

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("pipeline", "model", "serving", "clozeline")


@pytest.mark.parametrize("name", ["logging.py", "clozeline/__init__.py"])
def test_files_of_the_working_directory_are_not_imported(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("raise SystemExit('a file of the user')")
    arguments = ["-m", "clozeline", "--help"]
    unsafe = subprocess.run([sys.executable, *arguments], cwd=tmp_path, capture_output=True)
    assert b"a file of the user" in unsafe.stderr  # so the file would have been found
    command = [*module_command("clozeline"), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: clozeline COMMAND")


def test_all_our_modules_are_started_so() -> None:
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    starting = [file.name for file in files if '"-m"' in file.read_text(encoding="utf-8")]
    assert starting == ["child_processes.py"]
