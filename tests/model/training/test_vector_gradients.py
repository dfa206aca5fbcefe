"""In-batch negatives are those of the global batch: on several devices, and in parts."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).parent / "vector_gradients.py"


def steps(devices: int, *parts: int) -> dict[str, Any]:
    """Return what the program prints, by the number of accumulation steps."""
    command = [sys.executable, str(PROGRAM), str(devices), *map(str, parts)]
    done = subprocess.run(command, capture_output=True, text=True)
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


def test_parts_change_nothing(on_one_device: dict[str, Any]) -> None:
    assert_same(on_one_device["4"], on_one_device["1"])


@pytest.mark.parametrize(("devices", "parts"), [(2, 2), (4, 1)])
def test_devices_change_nothing(on_one_device: dict[str, Any], devices: int, parts: int) -> None:
    assert_same(steps(devices, parts)[str(parts)], on_one_device["1"])
