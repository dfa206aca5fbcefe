"""Progress bars on standard error. What else the engine has to say goes through `logging`.

A note is `logging.getLogger(__name__).info(...)`, a warning `.warning(...)`: one line, with the
names of fields in backquotes. The front door prints both; in a Python program they are as loud as
the program's own logging says.
"""

from collections.abc import Iterable
from typing import IO, Any, cast

from rich.cells import cell_len
from rich.console import Console, ConsoleDimensions, ConsoleOptions, RenderableType
from rich.progress import BarColumn, Progress, Task, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as _TimeLeft
from rich.segment import Segment
from rich.text import Text

from pipeline.errors import escaped
from pipeline.standard_streams import StandardOutput, Unfailing

MIN_COLUMNS = 40
"""Width from which tables and help can be read; a narrower terminal breaks their lines."""


class SafeConsole(Console):
    """A console that shows control characters of texts and names escaped: no terminal obeys them.

    Brackets are no markup, and `:cat:` is no emoji. Work goes on if nobody can read what stands on
    standard error.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Return what is written; control codes of the console itself are not text."""
        for segment in super().render(renderable, options):
            shown = segment.text if segment.control else escaped(segment.text, keep="\n\t")
            yield segment._replace(text=shown)

    @property
    def size(self) -> ConsoleDimensions:
        """The width and height of the terminal; rich prints nothing in one of 0 columns."""
        size = super().size
        return size._replace(width=max(size.width, MIN_COLUMNS))

    @size.setter
    def size(self, size: tuple[int, int]) -> None:
        self._width, self._height = size

    @property
    def file(self) -> IO[str]:
        """The file that is written to."""
        kind = Unfailing if self.stderr else StandardOutput
        return cast(IO[str], kind(super().file))

    @file.setter
    def file(self, file: IO[str]) -> None:
        self._file = file


stderr = SafeConsole(stderr=True)
"""Console that bars are drawn on. Text printed here meanwhile stands above them; `stderr.quiet =
True` draws none."""


SEPARATOR = " · "
"""Stands between the parts of a line below the bars; a long line is wrapped there."""


def counted(count: float, unit: str) -> str:
    """Return a number and its unit.

    Args:
        count: the number; shown without decimals.
        unit: the unit's plural, for example "examples".
    """
    shown = f"{count:,.0f}"
    return f"{shown} {unit.removesuffix('s') if shown == '1' else unit}"


def counts(task: Task) -> str:
    """Return for example `1,250/20,000 examples · 310 examples/s`.

    The total is left out if it is unknown, and the rate (over the recent past) until it is known.
    """
    unit = task.fields.get("unit", "")
    total = "" if task.total is None else f"{task.completed:,.0f}/"
    parts = [total + counted(task.completed if task.total is None else task.total, unit)]
    # A finished task has the mean of all; before that, the recent past.
    speed = task.finished_speed or task.speed
    if speed is not None:
        parts.append(f"{speed:,.0f} {unit}/s")
    return SEPARATOR.join(parts)


def wrapped(line: str, width: int) -> str:
    """Return a line broken at separators, so that no part is split if it fits the width."""
    lines: list[str] = []
    for part in line.split(SEPARATOR):
        joined = f"{lines[-1]}{SEPARATOR}{part}" if lines else part
        if lines and cell_len(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(part)
    return "\n".join(lines)


class StatusProgress(Progress):
    """Progress bars with each task's counts and status below them, for 80 columns and more."""

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield the table of bars, then the lines of each task."""
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            line = SEPARATOR.join(filter(None, [counts(task), task.fields.get("status")]))
            yield Text(wrapped(line, self.console.width))


def progress() -> Progress:
    """Return a progress bar with elapsed and remaining time; counts and rate stand below it.

    Tasks are added as `bar.add_task(description, total=n, unit="examples", status="")`; `status` is
    free text shown after the rate.
    """
    return StatusProgress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),
        TextColumn("elapsed"),
        TimeElapsedColumn(),
        TextColumn("left"),
        _TimeLeft(),
        console=stderr,
    )
