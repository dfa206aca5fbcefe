"""The machine's peak FLOP rate."""

import pytest

from model.training.peak import matrix_peak


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_matrix_peak_is_plausible(precision: str) -> None:
    assert 1e9 < matrix_peak(precision) < 1e16
