"""The wheel, installed away from the checkout: it has everything, and the demo runs from there."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("clozeline", "pipeline", "model", "serving")
BESIDE = ("benchmarks", "docs", "tests")
"""Folders of the checkout that hold Python, too, and do not belong in the wheel."""

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command that cannot see the checkout, and return its output."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, from a copy of the sources: setuptools writes next to them."""
    sources, output = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("wheel")
    for name in (*PACKAGES, *BESIDE):
        ignored = shutil.ignore_patterns("__pycache__", "golden")
        shutil.copytree(ROOT / name, sources / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    pip = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index"]
    run(*pip, "--wheel-dir", output, sources, cwd=output)
    (path,) = output.iterdir()
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a new environment with the wheel in it, which sees our dependencies."""
    environment = tmp_path_factory.mktemp("environment")
    venv.create(environment, symlinks=True)
    python = environment / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index"]
    run(*pip, wheel, cwd=environment)
    (site,) = environment.glob("lib/python*/site-packages")
    # A folder in a .pth file is searched last, and its own .pth files, such as that of an editable
    # installation of the checkout, are not read.
    ours = [path for path in sys.path if Path(path).name == "site-packages"]
    (site / "dependencies.pth").write_text("\n".join(ours) + "\n")
    return environment / "bin"


def test_the_wheel_holds_every_module_and_data_file(wheel: Path) -> None:
    expected = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if (path.parent / "__init__.py").exists()
    }
    data = [
        *(ROOT / "model").glob("recipes/*.yaml"),
        *(ROOT / "pipeline").glob("corpus/rules/quality_files/*.yaml"),
        *(ROOT / "serving").glob("export/op_lists/*.txt"),
        *(ROOT / "serving/pages").iterdir(),
    ]
    expected |= {path.relative_to(ROOT).as_posix() for path in data if path.is_file()}
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert found == expected


def test_packages_are_those_of_the_wheel(installed: Path, tmp_path: Path) -> None:
    code = f"for name in {PACKAGES}: print(__import__(name).__file__)"
    places = run(installed / "python", "-c", code, cwd=tmp_path).split()
    assert [path for path in places if not path.startswith(str(installed.parent))] == []
    assert len(places) == len(PACKAGES)


def test_the_demo_runs_away_from_the_checkout(installed: Path, tmp_path: Path) -> None:
    assert "usage: clozeline COMMAND" in run(installed / "clozeline", "--help", cwd=tmp_path)
    little = ["--megabytes", "0.2", "--vocab-size", "1000", "--steps", "5"]
    where = ["--output", tmp_path / "demo", "--no-check-learning"]
    said = run(installed / "clozeline", "demo", *little, *where, cwd=tmp_path)
    assert "[MASK]" in said
    assert list((tmp_path / "demo").glob("models/*/1/saved_model.pb"))
    # The next demo may replace all of it.
    files = [path for path in (tmp_path / "demo").rglob("*") if path.is_file()]
    marked = (tmp_path / "demo" / ".clozeline-demo").read_text().splitlines()
    assert sorted(marked) == sorted(str(path.relative_to(tmp_path / "demo")) for path in files)
