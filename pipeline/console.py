"""Terminal output for people: progress bars, result tables, one-line notes."""

import contextlib
import importlib
import os
import tempfile
from collections.abc import Iterable
from typing import Literal

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as _TimeLeft
from rich.table import Table
from rich.text import Text

# Progress and notes go to standard error; results go to standard output unless `--json` needs it.
notes = Console(stderr=True, highlight=False)
results = Console(highlight=False)


def keep_stdout_for_json(json: bool) -> None:
    """If `json` is set, send tables and text to standard error; standard output is for JSON."""
    results.stderr = json


def warn(messages: Iterable[object]) -> None:
    """Print warnings to standard error, one line each."""
    for message in messages:
        notes.print(f"warning: {message}", markup=False, soft_wrap=True)


class CountColumn(ProgressColumn):
    """Units done, and the total if it is known."""

    def render(self, task: Task) -> Text:
        """Return for example `1,250/20,000`."""
        total = "" if task.total is None else f"/{task.total:,.0f}"
        return Text(f"{task.completed:,.0f}{total}", style="progress.download")


class RateColumn(ProgressColumn):
    """Units done per second, over the recent past."""

    def render(self, task: Task) -> Text:
        """Return for example `1,250 examples/s`."""
        speed = task.finished_speed or task.speed
        unit = task.fields.get("unit", "")
        return Text("" if speed is None else f"{speed:,.0f} {unit}/s", style="progress.data.speed")


class StatusProgress(Progress):
    """Progress bars with each task's status below them: both fit an 80-column terminal."""

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield the table of bars, then one line per status."""
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            if task.fields.get("status"):
                yield Text(task.fields["status"])


def progress() -> Progress:
    """Return a progress bar with counts, rate, elapsed and remaining time.

    Tasks are added as `bar.add_task(description, total=n, unit="examples", status="")`; `status` is
    free text shown under the bars.
    """
    return StatusProgress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),
        CountColumn(),
        RateColumn(),
        TextColumn("elapsed"),
        TimeElapsedColumn(),
        TextColumn("left"),
        _TimeLeft(),
        console=notes,
    )


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


def import_quietly(*modules: str) -> None:
    """Import modules while hiding what their native code prints to standard error.

    If an import fails, the hidden output is printed after all.
    """
    with tempfile.TemporaryFile() as captured:
        # Native code writes to file descriptor 2, which replacing sys.stderr would not catch.
        stderr = os.dup(2)
        os.dup2(captured.fileno(), 2)
        try:
            for module in modules:
                importlib.import_module(module)
        except BaseException:
            captured.seek(0)
            with contextlib.suppress(OSError):
                os.write(stderr, captured.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
