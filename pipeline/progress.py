"""Progress bars on standard error. What else the engine has to say goes through `logging`.

A note is `logging.getLogger(__name__).info(...)`, a warning `.warning(...)`: one line, with the
names of fields in backquotes. The front door prints both; in a Python program they are as loud as
the program's own logging says.
"""

from collections.abc import Iterable

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as _TimeLeft
from rich.text import Text

stderr = Console(stderr=True, highlight=False)
"""Where bars are drawn. What is printed here meanwhile stands above them; `stderr.quiet = True`
draws none."""


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
        # A finished task has the mean of all; before that, the recent past.
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
        console=stderr,
    )
