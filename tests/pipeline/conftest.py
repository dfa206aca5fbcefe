"""Worker processes of local Beam jobs: new ones, or forks of a process that has imported Beam."""

import shlex
import subprocess
from types import SimpleNamespace

import pytest

from tests.fork_server import FORKS


@pytest.fixture
def forked_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let worker processes be forks."""

    def popen(line: str, *, shell: bool, env: dict[str, str]) -> subprocess.Popen[bytes]:
        first, *command = shlex.split(line)
        assert (first, shell) == ("exec", True)
        return FORKS.popen(command, env=env)

    changed = SimpleNamespace(**vars(subprocess) | {"Popen": popen})
    monkeypatch.setattr("pipeline.jobs.local_runner.subprocess", changed)


@pytest.fixture
def workers(request: pytest.FixtureRequest) -> list[str]:
    """Flags for this many worker processes.

    Two are new ones, whose string hashes have different seeds. Other numbers test how the work is
    divided and put together again, which forks do in the same way.
    """
    count = request.param
    if count != 2:
        request.getfixturevalue("forked_workers")
    return ["--direct_running_mode=multi_processing", f"--direct_num_workers={count}"]
