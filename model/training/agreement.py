"""Check at the start that all workers run the same code, and that their clocks agree."""

import hashlib
import logging
import platform
import time
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path

from model.training.workers import Workers
from pipeline.errors import InputError

logger = logging.getLogger(__name__)

PACKAGES = ("clozeline", "tensorflow", "keras", "numpy")
CODE = ("pipeline", "model")
"""Rooms whose code determines the result of a training."""

CLOCK_SECS = 10.0
"""Difference of two clocks above which they are reported."""


def check_agreement(workers: Workers) -> None:
    """Check that all workers run the same code; warn if their clocks differ. A collective.

    Raises:
        InputError: a worker has another version of the project or of a library.
    """
    if workers.count == 1:
        return
    fault = version_fault(workers.gathered_texts(", ".join(software())))
    if fault:
        raise InputError(fault)
    # The texts were gathered, so all workers are here at about the same time.
    started = time.monotonic()
    times = workers.gathered(time.time())
    for warning in clock_faults(times, CLOCK_SECS + time.monotonic() - started):
        logger.warning(warning)


def version_fault(texts: Sequence[str]) -> str | None:
    """Return the error message for workers with different software; None if all have the same.

    Args:
        texts: software of each worker, separated by ", ".
    """
    first = texts[0].split(", ")
    for index, text in enumerate(texts):
        others = [(theirs, own) for theirs, own in zip(text.split(", "), first, strict=False)]
        differing = [f"{theirs} instead of {own}" for theirs, own in others if theirs != own]
        if text != texts[0]:
            return (
                f"worker {index + 1} of {len(texts)} has other software than the first one: "
                f"{', '.join(differing)}; install the same on every machine"
            )
    return None


def clock_faults(times: Sequence[float], tolerance_secs: float) -> list[str]:
    """Return a warning for each clock that differs from the first worker's.

    Args:
        times: seconds since the epoch by the clock of each worker, read at about the same time.
        tolerance_secs: differences up to this may come from the reading itself.
    """
    return [
        f"the clock of worker {index + 1} of {len(times)} is {abs(each - times[0]):,.0f} s "
        f"{'ahead of' if each > times[0] else 'behind'} the first one's; set both (NTP), since "
        "object storage and probes compare clocks"
        for index, each in enumerate(times)
        if abs(each - times[0]) > tolerance_secs
    ]


@cache
def software() -> tuple[str, ...]:
    """Return the versions of this process's software, among them a checksum of our own code."""
    code = hashlib.sha256()
    root = Path(__file__).parents[2]
    for path in sorted(path for room in CODE for path in (root / room).rglob("*.py")):
        code.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    libraries = (f"{name} {version(name)}" for name in PACKAGES)
    return (*libraries, f"code {code.hexdigest()[:12]}", f"Python {platform.python_version()}")
