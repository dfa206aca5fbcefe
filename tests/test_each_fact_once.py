"""Names and numbers that several modules share are spelled in one of them, and imported."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("pipeline", "model", "serving", "clozeline")

FEATURES = {
    "input_ids", "input_mask", "segment_ids", "masked_lm_positions", "masked_lm_ids",
    "masked_lm_weights", "next_sentence_labels",
}  # fmt: skip
"""Features of a record, written down again: they are the interface to every other BERT trainer."""


def literals() -> Iterator[tuple[str, int, str]]:
    """Yield the module, the line and the value of every string literal in the rooms.

    Keys and arguments that are written without quotation marks are names of Python's, and checked
    by mypy; docstrings and parts of longer strings are never equal to one of the facts.
    """
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield path.relative_to(ROOT).as_posix(), node.lineno, node.value


@pytest.mark.parametrize(("home", "values"), [("pipeline/schema.py", FEATURES)])
def test_a_shared_name_is_a_literal_once_and_in_its_module(home: str, values: set[str]) -> None:
    found = [(f"{path}:{line}", value) for path, line, value in literals() if value in values]
    assert {value for _, value in found} == values
    elsewhere = [(where, value) for where, value in found if not where.startswith(f"{home}:")]
    assert not elsewhere
    assert len(found) == len(values)
