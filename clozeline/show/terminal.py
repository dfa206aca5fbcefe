"""Terminal output: results, tables, and the engine's notes and warnings."""

import contextlib
import logging
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

from rich.table import Table

from pipeline.errors import escaped
from pipeline.progress import SafeConsole, stderr

# Progress and notes go to standard error; results go to standard output unless `--json` needs it.
notes = stderr
# Lines and titles are not wrapped, so that a path can be copied; cells of tables are.
results = SafeConsole(soft_wrap=True)

ROOMS = ("pipeline", "model", "serving")
"""Packages of the engine; they are also the names of their parent loggers."""


def keep_stdout_for_json(json: bool) -> None:
    """If `json` is set, send tables and text to standard error; standard output is for JSON."""
    results.stderr = json


def print_line(text: str) -> None:
    """Print a result that is one line, also if a name in it has a line break."""
    results.print(escaped(text))


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
    result = Table(title=escaped(title) or None, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        justify: Literal["left", "right"] = "left" if index in text_columns else "right"
        # Folded and not cut: paths and words must be readable to the end.
        result.add_column(escaped(column), justify=justify, overflow="fold")
    for row in rows:
        cells = [f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row]
        # Before their widths are measured.
        result.add_row(*map(escaped, cells))
    return result


def speed(value: float, form: str) -> str:
    """Return a speed as text, or "not measured": a training of one call compiles all the time.

    Args:
        value: the speed; 0 = not measured.
        form: format of the number, for example ",.0f".
    """
    return format(value, form) if value else "not measured"


def command(name: str, *words: object) -> str:
    """Return a command line to copy, for a program of this Python environment.

    The program is named by its path unless the shell would find the same one by its name: an
    environment that was not activated is not on the PATH.

    Args:
        name: name of the program.
        words: its arguments.
    """
    program, found = Path(sys.executable).parent / name, shutil.which(name)
    if program.exists() and not (found and program.samefile(found)):
        is_inside = program.parent.is_relative_to(Path.cwd())
        name = str(program.relative_to(Path.cwd()) if is_inside else program)
    return shlex.join([name, *map(str, words)])


def warn(messages: Iterable[object]) -> None:
    """Print warnings, one per line."""
    for message in messages:
        notes.print(escaped(f"warning: {message}"), soft_wrap=True)


class _Notes(logging.Handler):
    """Log handler that prints the engine's notes, one per line."""

    def __init__(self, spelled: Callable[[str], str]) -> None:
        super().__init__()
        self._spelled = spelled

    def emit(self, record: logging.LogRecord) -> None:
        """Print a note; warnings have the prefix `warning:`."""
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        # No wrapping, so that a path can be copied.
        notes.print(escaped(prefix + self._spelled(record.getMessage())), soft_wrap=True)


@contextlib.contextmanager
def printed_notes(spelled: Callable[[str], str]) -> Iterator[None]:
    """Print the engine's log messages inside the context.

    Args:
        spelled: function that replaces field names in backquotes by flags.
    """
    handler = _Notes(spelled)
    loggers = [logging.getLogger(room) for room in ROOMS]
    before = [(logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        # Else the handlers of a program around us would print each note once more.
        logger.propagate = False
    try:
        yield
    finally:
        for logger, (level, propagate) in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate
