"""In-batch negatives are those of the global batch: on several devices, and in parts."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.run import Run, load_run
from tests.fork_server import FORKS

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).parent / "vector_gradients.py"


def steps(devices: int, *parts: int) -> dict[str, Any]:
    """Return what the program prints, by the number of accumulation steps."""
    command = [sys.executable, str(PROGRAM), str(devices), *map(str, parts)]
    done = FORKS.run(command)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def on_one_device() -> dict[str, Any]:
    return steps(1, 1, 4)


def assert_same(found: dict[str, Any], whole: dict[str, Any]) -> None:
    np.testing.assert_allclose(found["losses"], whole["losses"], rtol=1e-5)
    np.testing.assert_allclose(found["norms"], whole["norms"], rtol=1e-5)
    assert min(whole["norms"]) > 0.1
    for name, gradient in whole["gradients"].items():
        np.testing.assert_allclose(found["gradients"][name], gradient, rtol=1e-5, atol=1e-6)


def test_gradient_accumulation_does_not_change_the_result(on_one_device: dict[str, Any]) -> None:
    assert_same(on_one_device["4"], on_one_device["1"])


@pytest.mark.parametrize(("devices", "parts"), [(2, 2), (4, 1)])
def test_the_number_of_devices_does_not_change_the_result(
    on_one_device: dict[str, Any], devices: int, parts: int
) -> None:
    assert_same(steps(devices, parts)[str(parts)], on_one_device["1"])


def tuned(launcher: list[str], init: Path, pairs: Path, run: Path) -> dict[str, np.ndarray]:
    """Return the weights after three steps; each batch is read in two parts."""
    command = [
        sys.executable, "-m", "clozeline", *launcher, "finetune", "--task=similarity",
        f"--train={pairs}", f"--init={init}", f"--run={run}", "--steps=3", "--batch-size=8",
        "--accumulation-steps=2", "--learning-rate=1e-2", "--precision=float32", "--no-xla",
    ]  # fmt: skip
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = FORKS.run(command, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    weights = load_run(run).load_model("last").weights
    return {weight.path: weight.numpy() for weight in weights}


def steps_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_two_workers_train_the_same_model_as_one(trained_run: Run, tmp_path: Path) -> None:
    """Processes of their own, from the command line: negatives are those of both workers."""
    words = ("owl", "oak", "fox", "boat", "baker", "anchor", "tram", "wave")
    rows = [f"the {word}\tthe {other}" for word in words for other in words[:3] if word != other]
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("\n".join(["anchor\tpositive", *rows]) + "\n")
    before = {weight.path: weight.numpy() for weight in trained_run.load_model().weights}
    one = tuned([], trained_run.path, pairs, tmp_path / "one")
    two = tuned(["launch", "--workers=2", "--"], trained_run.path, pairs, tmp_path / "two")
    assert one.keys() == two.keys()
    for name, values in one.items():
        # The softmax of attention ignores key biases: their gradients are rounding errors, which
        # AdamW divides by their size.
        if not name.endswith("key/bias"):
            np.testing.assert_allclose(two[name], values, rtol=1e-5, atol=1e-5, err_msg=name)
    losses, norms = (
        [[step[key] for step in steps_of(tmp_path / name)] for name in ("one", "two")]
        for key in ("loss", "gradient_norm")
    )
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    np.testing.assert_allclose(norms[1], norms[0], rtol=1e-5)
    assert len(losses[0]) == 3
    query = next(name for name in one if name.endswith("query/kernel"))
    assert np.abs(one[query] - before[query]).max() > 1e-3
