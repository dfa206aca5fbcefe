"""A run that is killed repeatedly ends with the weights of an uninterrupted run."""

import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import clozeline
from model.run import load_run
from tests.fork_server import FORKS

ROOT = Path(clozeline.__file__).parents[1]

STEPS = 4_000
"""Far more than ten times what a run does until it is killed: one or two checkpoints."""


@pytest.mark.slow
def test_a_run_killed_ten_times_has_bit_identical_weights(
    dataset: Path, small_model: str, tmp_path: Path
) -> None:
    flags = {
        "dataset": dataset, "model": small_model, "steps": STEPS, "batch-size": 4,
        "learning-rate": 1e-3, "precision": "float32", "checkpoint-every-steps": 50,
    }  # fmt: skip
    command = [sys.executable, "-m", "clozeline", "pretrain", "--deterministic"]
    command += ["--no-xla", *(f"--{name}={value}" for name, value in flags.items())]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([*command, f"--run={tmp_path / 'whole'}"], check=True, **quiet)
    killed = tmp_path / "killed"
    checkpoints, found = killed / "checkpoints", set()
    chance = random.Random(4)
    for _ in range(10):
        process = FORKS.popen([*command, f"--run={killed}"], **quiet)
        last = latest(checkpoints)
        deadline = time.monotonic() + 300
        while latest(checkpoints) == last:  # it has come on a little
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        # At a random moment, at the latest when the next checkpoint appears: so a fast machine does
        # not finish the run in ten times.
        last, moment = latest(checkpoints), time.monotonic() + chance.uniform(0, 0.15)
        while latest(checkpoints) == last and time.monotonic() < moment:
            time.sleep(0.001)
        process.kill()
        process.wait()
        found.add(latest(checkpoints))
    assert len(found) == 10
    assert max(found) < STEPS
    subprocess.run([*command, f"--run={killed}"], check=True, **quiet)
    expected, ended = (
        load_run(tmp_path / name).load_model().weights for name in ("whole", "killed")
    )
    for weight, other in zip(expected, ended, strict=True):
        np.testing.assert_array_equal(weight.numpy(), other.numpy(), err_msg=weight.path)
    assert any(np.abs(weight.numpy()).max() > 0.5 for weight in expected)


def latest(checkpoints: Path) -> int:
    """Return the step of the last checkpoint; 0 before the first."""
    return max((int(path.name[5:]) for path in checkpoints.glob("step-*")), default=0)
