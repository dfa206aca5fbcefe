"""`benchmarks.network` ends with what it made: without namespaces, whose program is replaced."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.network import BRIDGE, NAMES, Training, logged_step

IP = '#!/bin/sh\necho "$@" >> "$CALLS"\n'
MACHINES = """
import signal
from benchmarks.network import machines, unwound_at_sigterm
with unwound_at_sigterm(), machines():
    print("ready", flush=True)
    while True:
        signal.pause()
"""


def test_a_worker_that_ended_is_not_waited_for(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    log.write_text("first line\nclozeline: no memory\n")
    process = subprocess.Popen([sys.executable, "-S", "-c", "raise SystemExit(3)"])
    process.wait()
    training = Training(tmp_path / "metrics.jsonl", {log: process})
    with pytest.raises(RuntimeError, match=r"worker\.log: .* ended with code 3: clozeline: no mem"):
        logged_step(training, 0)


def test_a_step_that_was_logged_before_a_worker_ended_is_returned(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 4}\n{"step": 8}\n')
    assert logged_step(Training(tmp_path / "metrics.jsonl", {}), 4) == 8


def test_sigterm_removes_the_namespaces(tmp_path: Path) -> None:
    program, calls = tmp_path / "ip", tmp_path / "calls"
    program.write_text(IP)
    program.chmod(0o700)
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    process = subprocess.Popen(
        [sys.executable, "-c", MACHINES],
        env=os.environ | {"PATH": path, "CALLS": str(calls)},
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 128 + signal.SIGTERM
    prefix = f"bench{process.pid % 1_000_000}"
    lines = calls.read_text().splitlines()
    names = [line.split()[-1] for line in lines if line.startswith("netns add")]
    assert names == [f"{prefix}-a", f"{prefix}-b"]
    assert {f"netns delete {name}" for name in names} <= {*lines}
    assert f"link delete {prefix}-br" in lines


def test_names_are_short_enough_for_the_kernel() -> None:
    """IFNAMSIZ is 16, with the end of the string; a cable has one character more than a machine."""
    assert max(len(name) for name in (*(f"{name}c" for name in NAMES), BRIDGE)) < 16
