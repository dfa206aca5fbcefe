"""Every attack of the benchmark, in short, on a tiny model."""

from pathlib import Path

import pytest

from benchmarks import hostile
from benchmarks.hostile_attacks import ATTACKS


@pytest.mark.slow
@pytest.mark.alone
def test_the_server_holds_every_attack(exported: Path, capfd: pytest.CaptureFixture[str]) -> None:
    # Machines of CI are slow and shared, so answers may take longer than the benchmark allows.
    bounds = hostile.Bounds(good_secs=10.0, status_secs=5.0)
    models, name = exported.parents[1], exported.parent.name
    assert hostile.run(models, name, 1.5, ATTACKS, bounds) == []
    lines = capfd.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith(tuple(ATTACKS))]) == len(ATTACKS) > 40


def test_violated_invariants_are_reported() -> None:
    rest = 10**9
    good = hostile.Seen("x", {"REST": []}, {"REST": 100}, before_bytes=rest, peak_bytes=rest,
                        after_bytes=rest)  # fmt: skip
    assert good.failures(hostile.Bounds(), rest) == []
    bad = hostile.Seen(
        "x", {"REST": ["took 9 s"] * 2}, {"REST": 100, "gRPC": 0}, before_bytes=rest,
        peak_bytes=rest + 1001 * 10**6, after_bytes=rest + 101 * 10**6, log_lines=11,
        is_alive=False,
    )  # fmt: skip
    assert bad.failures(hostile.Bounds(), rest) == [
        "the server ended",
        "REST: 2 of 100 failed: ['took 9 s']",
        "gRPC: 0 of 0 failed: []",
        "peak memory 1001 MB above rest",
        "memory after 101 MB above rest",
        "11 log lines",
    ]
