"""Workers with different software or clocks."""

import pytest

from model.training.agreement import clock_faults, software, version_fault


def test_the_software_is_named() -> None:
    names = [text.split()[0] for text in software()]
    assert names == ["clozeline", "tensorflow", "keras", "numpy", "code", "Python"]
    assert len(", ".join(software())) < 200  # workers send 256 bytes


def test_the_first_worker_that_differs_is_named() -> None:
    same = "clozeline 1.0, code abc"
    assert version_fault([same, same]) is None
    assert version_fault([same, same, "clozeline 1.0, code abd", "clozeline 2.0, code x"]) == (
        "worker 3 of 4 has other software than the first one: code abd instead of code abc; "
        "install the same on every machine"
    )


@pytest.mark.parametrize(
    ("ahead", "expected"),
    [(0, None), (9, None), (-9, None), (11, "11 s ahead of"), (-3600, "3,600 s behind")],
)
def test_clocks(ahead: float, expected: str | None) -> None:
    now = 1_795_651_000.0
    faults = clock_faults([now, now + 1, now + ahead], 10)
    assert len(faults) == (expected is not None)
    if expected:
        assert faults[0].startswith(f"the clock of worker 3 of 3 is {expected} the first one's; ")
