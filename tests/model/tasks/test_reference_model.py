"""Offsets in code points and UTF-16 units, counted by Python, for the reference answers."""

import numpy as np
import pytest

from model.tasks.reference_model import PLACES, farther


@pytest.mark.parametrize(
    ("before", "utf8", "code_points", "utf16"),
    [("", 0, 0, 0), ("naïve ", 7, 6, 6), ("東京", 6, 2, 2), ("🦄!", 5, 2, 3)],
)
def test_places_in_the_units_of_clients(
    before: str, utf8: int, code_points: int, utf16: int
) -> None:
    """UTF-16 code units are those of JavaScript and Java: two for an emoji."""
    found = {suffix: count(before.encode()) for suffix, count in PLACES.items()}
    assert found == {"": utf8, "_code_point": code_points, "_utf16": utf16}


def test_an_answer_is_compared_with_the_value_that_it_is_farther_from() -> None:
    best, chosen = np.array([1.0, 5.0, 2.0]), np.array([2.0, 2.0, 2.0])
    assert farther(best, chosen, np.array([1.9, 4.9, 2.0])).tolist() == [1.0, 2.0, 2.0]
