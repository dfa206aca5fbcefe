"""Terminal output for people: result tables, one-line notes."""

from collections.abc import Iterable
from typing import Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.progress import progress, stderr
from pipeline.quiet_imports import import_quietly

__all__ = ["import_quietly", "notes", "progress", "results", "table"]

# Progress and notes go to standard error; results go to standard output unless `--json` needs it.
notes = stderr
results = Console(highlight=False)


def keep_stdout_for_json(json: bool) -> None:
    """If `json` is set, send tables and text to standard error; standard output is for JSON."""
    results.stderr = json


def warn(messages: Iterable[object]) -> None:
    """Print warnings to standard error, one line each."""
    for message in messages:
        notes.print(f"warning: {message}", markup=False, soft_wrap=True)


def table(
    title: str,
    columns: Iterable[str],
    rows: Iterable[Iterable[object]],
    text_columns: frozenset[int] = frozenset({0}),
) -> Table:
    """Return a table; cells are shown literally, so `[unused5]` is not parsed as markup.

    Args:
        title: title above the table; may be empty.
        columns: column headers.
        rows: cells; integers get thousands separators.
        text_columns: indices of left-aligned columns; the others (numbers) are right-aligned.
    """
    result = Table(title=escape(title) or None, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        justify: Literal["left", "right"] = "left" if index in text_columns else "right"
        result.add_column(escape(column), justify=justify, overflow="fold")
    for row in rows:
        cells = (f"{cell:,}" if isinstance(cell, int) else escape(str(cell)) for cell in row)
        result.add_row(*cells)
    return result
