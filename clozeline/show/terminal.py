"""Terminal output: results, tables, and the engine's notes and warnings."""

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator

from pipeline.console import keep_stdout_for_json, notes, results, table

__all__ = ["keep_stdout_for_json", "notes", "printed_notes", "results", "table", "warn"]

ROOMS = ("pipeline", "model", "serving")
"""Packages of the engine; they are also the names of their parent loggers."""


def warn(messages: Iterable[object]) -> None:
    """Print warnings, one per line."""
    for message in messages:
        notes.print(f"warning: {message}", markup=False, soft_wrap=True)


class _Notes(logging.Handler):
    """Log handler that prints the engine's notes, one per line."""

    def __init__(self, spelled: Callable[[str], str]) -> None:
        super().__init__()
        self._spelled = spelled

    def emit(self, record: logging.LogRecord) -> None:
        """Print a note; warnings have the prefix `warning:`."""
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        notes.print(f"{prefix}{self._spelled(record.getMessage())}", markup=False, soft_wrap=True)


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
        logger.propagate = False
    try:
        yield
    finally:
        for logger, (level, propagate) in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate
