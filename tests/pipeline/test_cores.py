"""The cores that a process may use: its affinity, and the limit of its container."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cores import limited_threads, usable_cores

COUNT = "from pipeline.cores import *; print(usable_cores(), limited_threads())"


def told(*command: str) -> str:
    done = subprocess.run([*command, sys.executable, "-c", COUNT], text=True, capture_output=True)
    return done.stdout.strip() or done.stderr


def test_the_cores_that_the_scheduler_leaves() -> None:
    core = str(max(os.sched_getaffinity(0)))
    # TensorFlow counts them, too.
    assert told("taskset", "--cpu-list", core) == "1 {}"


def test_the_limit_of_a_container(tmp_path: Path) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core cannot be limited to fewer")
    # As `docker run --cpus 0.5` mounts it: 50 ms of CPU time in 100 ms.
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    mounted = ("unshare", "--mount", "--map-root-user", "sh", "-c",
               f'mount --bind {tmp_path} /sys/fs/cgroup && exec "$@"', "sh")  # fmt: skip
    if subprocess.run([*mounted, "true"], capture_output=True).returncode:
        pytest.skip("mount namespaces are not allowed here")
    threads = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
    assert told(*mounted) == f"1 {threads}"


def test_without_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("joblib.cpu_count", lambda: len(os.sched_getaffinity(0)))
    assert usable_cores() == len(os.sched_getaffinity(0))
    assert limited_threads() == {}
