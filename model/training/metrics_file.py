"""The log of a run's metrics, as JSON Lines."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.storage.files import sync, write_atomically, writing
from pipeline.storage.strict_json import from_json, to_json


class MetricsFile:
    """The run's `metrics.jsonl`: one JSON object per line, with its `step` and `split`."""

    def __init__(self, path: Path, first_step: int) -> None:
        """Open the file; remove the lines of steps that will be repeated after a resume."""
        self.path = path
        self.cut(first_step)

    def cut(self, step: int) -> None:
        """Remove the lines of the steps after this one."""
        self._keep(lambda line: _step_of(line) <= step)

    def remove(self, step: int, split: str) -> None:
        """Remove the lines of a split at a step."""
        self._keep(lambda line: _step_of(line) != step or from_json(line).get("split") != split)

    def _keep(self, is_kept: Callable[[str], bool]) -> None:
        """Remove the lines for which the function is false."""
        if not self.path.exists():
            return
        lines = self._text().splitlines()
        # The last line may lack its end after a kill, and the next would be appended to it.
        kept = [f"{line}\n" for line in lines if is_kept(line)]
        write_atomically(self.path, "".join(kept).encode())

    def lines(self) -> list[dict[str, Any]]:
        """Return all lines; incompletely written or damaged ones are skipped."""
        if not self.path.exists():
            return []
        lines = self._text().splitlines()
        return [from_json(line) for line in lines if math.isfinite(_step_of(line))]

    def _text(self) -> str:
        # A damaged line must not prevent a resume.
        return self.path.read_text(encoding="utf-8", errors="replace")

    def sync(self) -> None:
        """Flush the lines to the disk (fsync)."""
        if self.path.exists():
            sync(self.path)
            sync(self.path.parent)

    def add(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Append one line.

        Raises:
            JobError: the disk is full or failed; `InputError` if the path cannot be written.
        """
        with writing(str(self.path)), self.path.open("a", encoding="utf-8") as file:
            file.write(to_json({"step": step, "split": split, **values}) + "\n")


def _step_of(line: str) -> float:
    """Return a line's step; infinity if the line is incomplete or damaged."""
    try:
        return int(from_json(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError):
        return float("inf")
