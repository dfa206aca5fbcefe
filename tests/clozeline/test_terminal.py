"""Tables and progress bars in the terminal."""

import io
import re
from typing import Any

import pytest
from rich.console import Console

from clozeline.show.terminal import speed, table
from pipeline import progress as bars
from pipeline.progress import counted, progress


def test_a_table_shows_pieces_in_brackets() -> None:
    shown = io.StringIO()
    made = table("of [unused1]", ["[unused2]"], [["[unused3]"], [4567]])
    Console(file=shown, width=40).print(made)
    for word in ("of [unused1]", "[unused2]", "[unused3]", "4,567"):
        assert word in shown.getvalue()


def drawn(monkeypatch: pytest.MonkeyPatch, *tasks: dict[str, Any], width: int = 80) -> list[str]:
    """Return the lines of progress bars: arguments of `add_task`, and `done`, their progress."""
    shown = io.StringIO()
    monkeypatch.setattr(bars, "stderr", Console(file=shown, width=width, force_terminal=False))
    with progress() as bar:
        for task in tasks:
            done = task.pop("done")
            bar.update(bar.add_task(**task), completed=done)
    return [line.rstrip() for line in shown.getvalue().splitlines() if line.strip()]


def test_a_progress_bar_labels_its_times_in_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    longest = {"description": "pairing, masking, writing", "unit": "examples", "status": ""}
    line, below = drawn(monkeypatch, {**longest, "total": 123_456_789, "done": 12_345_678})
    assert re.search(r"elapsed 0:00:00 left (0|-):", line)
    assert below == "12,345,678/123,456,789 examples"


def test_a_long_status_is_wrapped_between_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    status = (
        "step 1,250 · loss 6.210 · masked 12.3% · next 50.0% · waiting for data 51% · rate 1.2e-04"
        " · 12,345 tokens/s"
    )
    lines = drawn(
        monkeypatch,
        {"description": "training", "total": None, "unit": "kB", "status": status, "done": 640},
        {"description": "reading", "total": 1, "unit": "documents", "done": 0},
    )
    assert lines[2:] == [
        "640 kB · step 1,250 · loss 6.210 · masked 12.3% · next 50.0%",
        "waiting for data 51% · rate 1.2e-04 · 12,345 tokens/s",
        "0/1 document",
    ]


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0 documents"), (1, "1 document"), (1000, "1,000 documents")]
)
def test_a_unit_is_singular_for_one(count: int, shown: str) -> None:
    assert counted(count, "documents") == shown


def test_a_speed_that_was_not_measured_is_not_shown_as_0() -> None:
    assert [speed(0.0, ",.0f"), speed(1234.5, ",.0f")] == ["not measured", "1,234"]
