"""Standard streams that never fail, or fail with their name.

The reader of a stream may be gone, and the disk of a log or of a result full.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import IO, Any


class _Wrapped:
    """A text file of which subclasses change how it is written."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the file."""
        return getattr(self._file, name)


class Unfailing(_Wrapped):
    """A text file of which what cannot be written is lost, from the first failure on."""

    def write(self, text: str) -> int:
        """Write some text; return its length."""
        try:
            self._file.write(text)
        except OSError:
            self._give_up()
        return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
        try:
            self._file.flush()
        except OSError:
            self._give_up()

    def _give_up(self) -> None:
        """Let the file's descriptor lead nowhere; else Python fails to flush it when it exits."""
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._file.fileno())
            os.close(nowhere)
        except OSError:  # a file without a descriptor
            pass


class StandardOutput(_Wrapped):
    """Standard output; errors of writing name it, as they name a file."""

    def write(self, text: str) -> int:
        """Write some text; return its length."""
        with _named():
            return self._file.write(text)

    def flush(self) -> None:
        """Write what is buffered."""
        with _named():
            self._file.flush()


@contextlib.contextmanager
def _named() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        error.filename = "standard output"
        raise
