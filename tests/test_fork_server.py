"""Forks of the tests' own server: what a new process would have of the one that starts it."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fork_server import FORKS, ROOT, _Fork

PROGRAM = Path(__file__).parent / "describe_process.py"
pytestmark = pytest.mark.slow


def description(start: Callable[..., subprocess.Popen], folder: Path) -> list[str]:
    command = [sys.executable, str(PROGRAM), "a b", "ü"]
    environment = os.environ | {"OF_THE_TEST": "yes"}
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    umask = os.umask(0o027)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[0] - 1, limits[1]))
    try:
        process = start(
            command, cwd=folder, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
    finally:
        os.umask(umask)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    out, err = process.communicate("given\n", timeout=300)
    assert process.returncode == 7
    assert err == "to standard error\n"
    return out.splitlines()


def test_a_fork_has_what_a_new_process_has(tmp_path: Path) -> None:
    expected = description(subprocess.Popen, tmp_path)
    assert f"parent {os.getpid()}" in expected
    assert "arguments ['a b', 'ü']" in expected
    assert description(FORKS.popen, tmp_path) == expected


def test_signals_reach_a_fork() -> None:
    for number in (signal.SIGKILL, signal.SIGTERM):
        with FORKS.popen([sys.executable, str(PROGRAM), "wait"], stdin=subprocess.PIPE) as process:
            assert isinstance(process, _Fork)
            process.send_signal(number)
            assert process.wait(60) == -number


def test_a_fork_leads_its_session() -> None:
    with FORKS.popen(
        [sys.executable, str(PROGRAM), "wait"], stdin=subprocess.PIPE, start_new_session=True
    ) as process:
        assert isinstance(process, _Fork)
        assert os.getsid(process.pid) == os.getpgid(process.pid) == process.pid
        process.kill()


def test_a_fork_is_stopped_and_resumed_and_ends_with_ctrl_c() -> None:
    with FORKS.popen(
        [sys.executable, str(PROGRAM), "wait"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout
        while process.stdout.readline() != "waiting\n":
            assert process.poll() is None
        process.send_signal(signal.SIGSTOP)
        assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (["-m", "clozeline", "serve", "--help"], {}),  # sets variables that TensorFlow reads
        (["-c", ""], {}),
        (["-m", "clozeline", "--help"], {"env": os.environ | {"TF_CPP_MAX_VLOG_LEVEL": "0"}}),
        (["-m", "clozeline", "--help"], {"env": os.environ | {"PYTHONPATH": str(ROOT)}}),
        (["-m", "clozeline", "--help"], {"process_group": 0}),
        (["-m", "clozeline", "--help"], {"cwd": "copy"}),
    ],
    ids=["serve", "code", "TensorFlow's", "Python's", "option", "other code"],
)
def test_a_new_process_where_a_fork_would_differ(
    command: list[str], options: dict, tmp_path: Path
) -> None:
    if "cwd" in options:
        (tmp_path / "copy").mkdir()
        (tmp_path / "copy" / "clozeline").symlink_to(ROOT / "clozeline")
        options = {"cwd": tmp_path / "copy"}
    with FORKS.popen([sys.executable, *command], stdout=subprocess.DEVNULL, **options) as process:
        assert not isinstance(process, _Fork)
        assert process.wait(60) == 0


def test_a_fork_that_has_ended_is_a_zombie_until_it_is_waited_for() -> None:
    process = FORKS.popen([sys.executable, "-m", "clozeline", "--help"], stdout=subprocess.DEVNULL)
    status = Path(f"/proc/{process.pid}/status")
    deadline = time.monotonic() + 60
    while "State:\tZ" not in status.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert process.wait() == 0
    assert not status.exists()
