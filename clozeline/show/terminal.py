"""What a person sees in the terminal: results, closing tables, and the engine's notes."""

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator

from pipeline.console import keep_stdout_for_json, notes, results, table

__all__ = ["keep_stdout_for_json", "notes", "printed_notes", "results", "table", "warn"]

ROOMS = ("pipeline", "model", "serving")
"""The packages of the engine, and so their loggers."""


def warn(messages: Iterable[object]) -> None:
    """Print warnings, a line each."""
    for message in messages:
        notes.print(f"warning: {message}", markup=False, soft_wrap=True)


class _Notes(logging.Handler):
    """Prints the engine's notes, a line each."""

    def __init__(self, spelled: Callable[[str], str]) -> None:
        super().__init__()
        self._spelled = spelled

    def emit(self, record: logging.LogRecord) -> None:
        """Print a note, or a warning that says that it is one."""
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        notes.print(f"{prefix}{self._spelled(record.getMessage())}", markup=False, soft_wrap=True)


@contextlib.contextmanager
def printed_notes(spelled: Callable[[str], str]) -> Iterator[None]:
    """Print what the engine logs while the context lasts.

    Args:
        spelled: returns a note with flags for the fields that it names in backquotes.
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
