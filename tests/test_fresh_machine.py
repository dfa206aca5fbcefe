"""What a fresh machine installs: one lock for every Python that the project supports."""

import importlib.metadata
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DIRECT = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]
SUPPORTED = SpecifierSet(PROJECT["requires-python"])
PYTHONS = [f"3.{minor}" for minor in range(30) if f"3.{minor}" in SUPPORTED]
LOCK = (ROOT / "requirements.lock").read_text()
PINS = dict(re.findall(r"^([\w.-]+)==(\S+) \\\n    --hash=sha256:", LOCK, re.MULTILINE))


def requirements(python: str) -> list[Requirement]:
    """Return the requirements of pyproject.toml on a Python version, with those of its packages."""
    environment = {**default_environment(), "python_version": python}
    environment["python_full_version"] = f"{python}.0"
    found = [Requirement(line) for line in DIRECT]
    seen = set()
    for requirement in found:
        for extra in ["", *requirement.extras]:
            name = canonicalize_name(requirement.name)
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            for line in importlib.metadata.requires(name) or []:
                needed = Requirement(line)
                if not needed.marker or needed.marker.evaluate({**environment, "extra": extra}):
                    found.append(needed)
    return found


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_is_what_pyproject_asks_for(python: str) -> None:
    needed = requirements(python)
    assert {canonicalize_name(requirement.name) for requirement in needed} == set(PINS)
    unfit = [
        str(requirement)
        for requirement in needed
        if not requirement.specifier.contains(
            PINS[canonicalize_name(requirement.name)], prereleases=True
        )
    ]
    assert unfit == []


@pytest.mark.parametrize("name", PINS)
def test_packages_of_the_lock_support_every_python(name: str) -> None:
    supported = SpecifierSet(importlib.metadata.metadata(name).get("Requires-Python", ""))
    assert [python for python in PYTHONS if f"{python}.0" not in supported] == []


def test_the_lock_names_no_registry_and_pins_with_hashes_only() -> None:
    assert "://" not in LOCK
    assert "index" not in re.sub(r"^\S+==.*$", "", LOCK, flags=re.MULTILINE)
    assert {line for line in LOCK.splitlines() if not line.startswith("    --hash=sha256:")} == {
        f"{name}=={version} \\" for name, version in PINS.items()
    }


def test_make_takes_the_pythons_that_pyproject_allows() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert PYTHONS == ["3.11", "3.12", "3.13"]
    assert f".ci/find_python {' '.join(reversed(PYTHONS))} 3)\n" in makefile
    finder = (ROOT / ".ci" / "find_python").read_text()
    assert "(3, 11) <= sys.version_info[:2] <= (3, 13)" in finder
    assert f"--python-version {PYTHONS[0]} --output-file requirements.lock" in makefile
    assert f"for version in {' '.join(PYTHONS[1:])}; do" in makefile


@pytest.mark.parametrize(
    ("on_path", "of_pyenv", "found"),
    [
        ({"python3.12": 0}, {"3.13.5/bin/python3.13": 0}, "python3.12"),
        ({"python3.13": 127, "python3": 1}, {"3.13.5/bin/python3.13": 0}, "3.13.5/bin/python3.13"),
        ({}, {"3.12.1/bin/python3.12": 1, "3.11.7/bin/python3.11": 0}, "3.11.7/bin/python3.11"),
        ({"python3": 0}, {}, "python3"),
        ({"python3": 1}, {}, ""),
    ],
)
def test_the_python_that_make_takes(
    on_path: dict[str, int], of_pyenv: dict[str, int], found: str, tmp_path: Path
) -> None:
    """Those on the PATH come first; shims of pyenv may be there and not run."""
    versions = tmp_path / "py env" / "versions"
    codes = {tmp_path / "bin" / name: code for name, code in on_path.items()}
    codes |= {versions / name: code for name, code in of_pyenv.items()}
    for program, code in codes.items():
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f"#!/bin/sh\nexit {code}\n")
        program.chmod(0o755)
    environment = {"PATH": str(tmp_path / "bin"), "PYENV_ROOT": str(versions.parent)}
    done = subprocess.run(
        ["/bin/sh", str(ROOT / ".ci" / "find_python"), "3.13", "3.12", "3.11", "3"],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    expected = f"{versions}/{found}" if "/" in found else found
    assert (done.stdout.strip(), done.stderr) == (expected, "")
