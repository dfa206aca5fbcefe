"""Tables and progress bars in the terminal."""

import io
import re

import pytest
from rich.console import Console

from clozeline.show.terminal import table
from pipeline import progress as bars
from pipeline.progress import progress


def test_a_table_shows_pieces_in_brackets() -> None:
    shown = io.StringIO()
    made = table("of [unused1]", ["[unused2]"], [["[unused3]"], [4567]])
    Console(file=shown, width=40).print(made)
    for word in ("of [unused1]", "[unused2]", "[unused3]", "4,567"):
        assert word in shown.getvalue()


def test_a_progress_bar_labels_its_times_in_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(bars, "stderr", Console(file=shown, width=80, force_terminal=False))
    with progress() as bar:
        task = bar.add_task("pairing, masking, writing", total=900, unit="examples", status="")
        bar.update(task, completed=450)
    (line,) = [line for line in shown.getvalue().splitlines() if line.strip()]
    assert re.search(r"elapsed 0:00:00 left (0|-):", line)
