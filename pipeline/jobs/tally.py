"""Progress counts: workers in any process of this machine add to them, a progress bar sums them."""

import contextlib
import json
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.progress import Progress, TaskID

from pipeline.progress import SEPARATOR, counted, progress
from pipeline.storage.files import naming
from pipeline.storage.strict_json import to_json

POLL_SECS = 0.25


@dataclass(frozen=True)
class Stage:
    """One progress bar.

    Attributes:
        description: label of the bar.
        unit: name of the counted unit, as displayed.
        total: final value in units; None if unknown.
        counts_per_unit: tally counts per displayed unit, for example 1000 for bytes as kB.
    """

    description: str
    unit: str
    total: float | None = None
    counts_per_unit: float = 1


def reading(description: str, total_bytes: int) -> Stage:
    """Return the stage of a progress bar for reading a known number of bytes."""
    return Stage(description, "kB", total_bytes / 1e3, counts_per_unit=1e3)


class Tally:
    """The worker's side: appends counts to its own file in the folder that `watch` polls.

    On another machine the folder does not exist; nothing is counted there.
    """

    def __init__(self, folder: str | None) -> None:
        watched = folder and Path(folder).is_dir()
        # A file for each worker: lines that several processes append to one file could mix.
        self._path = Path(folder) / f"{uuid.uuid4().hex}.jsonl" if folder and watched else None

    def add(self, **counts: int) -> None:
        """Add to the counts; no operation if the folder does not exist."""
        if self._path:
            with naming(self._path), self._path.open("a", encoding="utf-8") as file:
                file.write(to_json(counts) + "\n")


def read_tallies(folder: Path) -> Counter[str]:
    """Return the sum of all counts so far; incompletely written lines are skipped."""
    totals: Counter[str] = Counter()
    for path in folder.glob("*.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n"):
                totals.update(json.loads(line))
    return totals


@contextlib.contextmanager
def watch(folder: Path, stages: dict[str, Stage]) -> Iterator[None]:
    """Show a progress bar per stage while the body runs, and the remaining counts below them.

    Args:
        folder: folder of the workers' tallies.
        stages: progress bars by the name of the count that they show.
    """
    stop = threading.Event()
    with progress() as bar:
        tasks = {
            name: bar.add_task(stage.description, total=stage.total, unit=stage.unit, status="")
            for name, stage in stages.items()
        }
        thread = threading.Thread(
            target=_follow, args=(bar, tasks, stages, folder, stop), daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def _follow(
    bar: Progress,
    tasks: dict[str, TaskID],
    stages: dict[str, Stage],
    folder: Path,
    stop: threading.Event,
) -> None:
    stopping = False
    while not stopping:
        # Sum once more after the stop, so that the bar ends with the final counts.
        stopping = stop.wait(POLL_SECS)
        totals = read_tallies(folder)
        for name, task in tasks.items():
            bar.update(task, completed=totals.pop(name, 0) / stages[name].counts_per_unit)
        first = bar.tasks[0]
        others = [
            f"{counted(count, name)}, {count / first.elapsed:,.0f} {name}/s"
            for name, count in totals.items()
            if first.elapsed
        ]
        bar.update(first.id, status=SEPARATOR.join(others))
