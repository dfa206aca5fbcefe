"""The Dockerfile, as far as it can be checked without a container engine.

`make image` builds it. Here its stages, sources and settings are read, and the commands that build
the environment are run on a copy of what the engine would be sent.
"""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent


class Instruction(NamedTuple):
    """One line of a Dockerfile, for example `RUN` and `pip install .`."""

    name: str
    value: str


def stages() -> dict[str, list[Instruction]]:
    """The instructions of each stage by its name; those before the first one by ``."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    found: dict[str, list[Instruction]] = {"": []}
    stage = ""
    for line in filter(None, text.replace("\\\n", " ").splitlines()):
        name, _, value = line.partition(" ")
        if name == "FROM":
            stage = value.rpartition(" AS ")[2]
            found[stage] = []
        found[stage].append(Instruction(name, value))
    return found


STAGES = stages()


def values(stage: str, name: str) -> list[str]:
    return [instruction.value for instruction in STAGES[stage] if instruction.name == name]


def test_stages() -> None:
    assert list(STAGES) == ["", "build", "base", "beam", "worker", "clozeline"]
    bases = {stage: values(stage, "FROM")[0].partition(" ")[0] for stage in list(STAGES)[1:]}
    assert bases == {
        "build": "${PYTHON_IMAGE}",
        "base": "${PYTHON_IMAGE}",
        "beam": "${BEAM_IMAGE}",
        "worker": "base",
        "clozeline": "base",
    }
    known = {"FROM", "ARG", "RUN", "ENV", "WORKDIR", "COPY", "USER", "ENTRYPOINT", "CMD", "EXPOSE"}
    assert {each.name for stage in STAGES.values() for each in stage} <= known


def test_the_program_is_clozeline_and_not_run_by_root() -> None:
    assert values("clozeline", "ENTRYPOINT") == ['["clozeline"]']
    assert values("base", "USER") == ["10001"]  # a number: Kubernetes can tell that it is not root
    assert not values("worker", "USER")
    assert not values("clozeline", "USER")


def test_the_beam_of_the_workers_is_that_of_the_lock() -> None:
    (pin,) = re.findall(r"^apache-beam==(\S+)", (ROOT / "requirements.lock").read_text(), re.M)
    arguments = dict(value.split("=", 1) for value in values("", "ARG"))
    assert arguments["BEAM_IMAGE"] == f"apache/beam_python${{PYTHON_VERSION}}_sdk:{pin}"


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """What the engine is sent: the files that .dockerignore lets through."""
    folder = tmp_path / "src"
    folder.mkdir()
    ignored, *kept = [
        line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] != "#"
    ]
    assert (ignored, kept.pop()) == ("*", "**/__pycache__/")
    for line in kept:
        source = ROOT / line.removeprefix("!")
        if line.endswith("/"):
            shutil.copytree(
                source, folder / source.name, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy(source, folder)
    return folder


def test_every_source_is_sent_and_everything_sent_is_copied(sources: Path) -> None:
    copied = [shlex.split(value)[:-1] for value in values("build", "COPY")]
    assert {path.name for path in sources.iterdir()} == {
        name.rstrip("/") for names in copied for name in names
    }
    for stage, of in (("base", "build"), ("worker", "beam")):
        assert values(stage, "COPY")[0].startswith(f"--from={of} ")
    assert shlex.split(values("base", "COPY")[0])[1] == "/opt/clozeline"


@pytest.mark.slow
def test_the_commands_that_install_clozeline_work_on_what_is_sent(
    sources: Path, tmp_path: Path
) -> None:
    """All but the one that fetches packages: this environment has them from the same lock."""
    environment = tmp_path / "clozeline"
    create, packages, filesystem, install = values("build", "RUN")
    assert packages == "pip install --require-hashes --requirement requirements.lock"
    assert install == "pip install --no-deps --no-build-isolation ."
    python = Path(sys.executable).resolve().parent
    run = {"cwd": sources, "check": True, "text": True, "capture_output": True}
    path = {"PATH": f"{environment / 'bin'}:{python}:/usr/bin:/bin", "FILESYSTEM": ""}
    command = create.replace("/opt/clozeline", str(environment))
    subprocess.run(["sh", "-c", command], env=path, **run)
    (site,) = environment.glob("lib/python*/site-packages")
    ours = [path for path in sys.path if Path(path).name == "site-packages"]
    (site / "dependencies.pth").write_text("\n".join(ours) + "\n")
    older = "pip uninstall --quiet --yes setuptools"  # what Python 3.11 puts there
    for command in (older, filesystem, install):
        subprocess.run(["sh", "-c", command], env=path, **run)
    done = subprocess.run(["clozeline", "--help"], env=path, **(run | {"cwd": tmp_path}))
    assert "usage: clozeline COMMAND" in done.stdout
