"""Tables and progress bars in the terminal."""

import io
import logging
import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from clozeline.show import terminal
from clozeline.show.terminal import command, results, speed, table, warn
from pipeline import progress as bars
from pipeline.progress import counted, progress


def test_a_table_shows_pieces_in_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    results.print(table("of [unused1]", ["[unused2]"], [["[unused3]"], [4567]]))
    shown = capsys.readouterr().out
    for word in ("of [unused1]", "[unused2]", "[unused3]", "4,567"):
        assert word in shown


@pytest.mark.parametrize("form", ["run: {}", "title"])
def test_a_path_can_be_copied_from_a_line_and_from_a_title(
    form: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # As wide as a terminal. Rich would take [b] for the style bold, and break a title anywhere.
    monkeypatch.setenv("COLUMNS", "80")
    path = "runs/" + "a folder/" * 8 + "of mine [b]/sst2"
    results.print(table(path, ["", "value"], [["a", 1]]) if form == "title" else form.format(path))
    assert path in capsys.readouterr().out


def test_a_note_keeps_a_path_in_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    warn(["runs/[b]: kept"])
    assert capsys.readouterr().err == "warning: runs/[b]: kept\n"


NAME, SHOWN = "a\nb\x1b[2Jc:cat:", r"a\nb\x1b[2Jc:cat:"
"""A name of a file which would clear the screen, and how it is shown."""


def test_names_are_shown_in_one_line_and_obeyed_by_no_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    warn([NAME])
    with terminal.printed_notes(str):
        logging.getLogger("pipeline").info(NAME)
    assert capsys.readouterr().err == f"warning: {SHOWN}\n{SHOWN}\n"
    terminal.print_line(NAME)
    results.print(table(NAME, ["", "y\nz"], [["x\x1b[2Jy\nz", 1]]))
    results.print(Text("x\x1b[2Jy\nz"))
    first, title, *rows, x, z = capsys.readouterr().out.splitlines()
    assert (first, title, x, z) == (SHOWN, SHOWN, r"x\x1b[2Jy", "z")
    assert r"┃              ┃ y\nz ┃" in rows
    assert r"│ x\x1b[2Jy\nz │    1 │" in rows
    assert {len(row) for row in rows} == {len(rows[0])}


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


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of programs of a virtual environment that is not on the PATH."""
    folder = tmp_path / ".venv" / "bin"
    folder.mkdir(parents=True)
    (folder / "clozeline").write_text("#!/bin/sh\n")
    (folder / "clozeline").chmod(0o755)
    monkeypatch.setattr(terminal, "sys", SimpleNamespace(executable=str(folder / "python")))
    monkeypatch.setenv("PATH", str(tmp_path / "elsewhere"))
    return folder


def test_a_command_to_copy_has_the_path_of_a_program_that_the_shell_does_not_find(
    environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command("clozeline", "serve") == f"{environment / 'clozeline'} serve"
    monkeypatch.chdir(tmp_path)
    assert command("clozeline", "serve") == ".venv/bin/clozeline serve"
    # Another installation's program is not this one.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "clozeline").write_text("#!/bin/sh\n")
    (elsewhere / "clozeline").chmod(0o755)
    assert command("clozeline", "serve") == ".venv/bin/clozeline serve"


@pytest.mark.parametrize("as_link", [False, True])
def test_a_command_to_copy_has_the_name_of_a_program_that_the_shell_finds(
    as_link: bool, environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = environment
    if as_link:  # as of pipx
        folder = tmp_path / "links"
        folder.mkdir()
        (folder / "clozeline").symlink_to(environment / "clozeline")
    monkeypatch.setenv("PATH", str(folder))
    # The shell must not take parts of an argument for its own characters.
    words = command("clozeline", "query", Path("my models"), "It's [MASK] `$HOME`.", 10)
    assert shlex.split(words) == [
        "clozeline", "query", "my models", "It's [MASK] `$HOME`.", "10",
    ]  # fmt: skip
    assert command("tensorboard") == "tensorboard"  # in neither of them
