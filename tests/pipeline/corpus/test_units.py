"""Paragraphs and lines, and which of them are equal."""

from random import Random

import numpy as np
import pytest

from pipeline.corpus.minhash import BLOCK_CHARACTERS
from pipeline.corpus.units import text_units, unit_hashes
from pipeline.schema import Unit

NOTICE = "Never miss a story again!"


@pytest.mark.parametrize(
    ("unit", "units"),
    [("paragraphs", ["A b\nc", " d", "\ne"]), ("lines", ["A b", "c", " d", "e"])],
)
def test_units_have_text(unit: Unit, units: list[str]) -> None:
    assert text_units("\n\nA b\nc\n \t\n d\n\n\ne\n\n  ", unit) == units


@pytest.mark.parametrize(
    ("other", "is_equal"),
    [
        ("  never “miss” a\nSTORY — again", True),
        ("Never miss a story, again 1", False),
        ("Never miss story a again!", False),
        ("Never miss a story again again!", False),
        ("Never miss a storyagain!", False),
        ("Névér miss a story again!", False),
    ],
)
def test_units_are_compared_by_their_words(other: str, is_equal: bool) -> None:
    one, two = unit_hashes([NOTICE, other])
    assert (one == two) == is_equal


def test_units_without_words_are_compared_by_their_characters() -> None:
    hashes = unit_hashes(["* * *", " * * *\n", "***", "", "!"])
    assert hashes[0] == hashes[1]
    assert len({*hashes.tolist()}) == 4


def test_hashes_depend_neither_on_neighbours_nor_on_blocks() -> None:
    rng = Random(3)
    long = " ".join(f"w{rng.randrange(10**5)}" for _ in range(BLOCK_CHARACTERS // 2))
    units = ["One.", long, "", "Two words", long + " more", "我爱北京"]
    together = unit_hashes(units)
    alone = np.concatenate([unit_hashes([unit]) for unit in units])
    assert together.tolist() == alone.tolist()
    assert len({*together.tolist()}) == len(units)
    assert unit_hashes([]).tolist() == []
