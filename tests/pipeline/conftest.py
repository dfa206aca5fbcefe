"""Worker processes of local Beam jobs: forks of processes that have imported Beam."""

import itertools
import shlex
import subprocess
from types import SimpleNamespace

import pytest

from tests.fork_server import FORKS, ForkServer

OTHER_FORKS = ForkServer()
"""String hashes in its forks have another seed than in those of `FORKS`."""


@pytest.fixture
def forked_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let worker processes be forks."""
    fork_workers(monkeypatch, FORKS)


@pytest.fixture
def workers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Flags for this many worker processes: forks, whose string hashes have two seeds by turns."""
    fork_workers(monkeypatch, FORKS, OTHER_FORKS)
    return ["--direct_running_mode=multi_processing", f"--direct_num_workers={request.param}"]


def fork_workers(monkeypatch: pytest.MonkeyPatch, *servers: ForkServer) -> None:
    by_turns = itertools.cycle(servers)

    def popen(line: str, *, shell: bool, env: dict[str, str]) -> subprocess.Popen[bytes]:
        first, *command = shlex.split(line)
        assert (first, shell) == ("exec", True)
        return next(by_turns).popen(command, env=env)

    changed = SimpleNamespace(**vars(subprocess) | {"Popen": popen})
    monkeypatch.setattr("pipeline.jobs.local_runner.subprocess", changed)
