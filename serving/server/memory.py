"""Giving memory that requests took back to the system; the C library keeps most of it."""

import ctypes
import threading

from serving.server.backend import Work

_INTERVAL_SECS = 5.0


def trim() -> None:
    """Give unused pages of all heaps back; do nothing where the C library cannot."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):  # not glibc
        return


class Trimmer:
    """Trims the heaps every few seconds, in a thread, if there was work since the last time."""

    def __init__(self, work: Work, interval_secs: float = _INTERVAL_SECS) -> None:
        self._work = work
        self._interval_secs = interval_secs
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trimmer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread soon."""
        self._stopping.set()

    def _run(self) -> None:
        trimmed_at = 0
        while not self._stopping.wait(self._interval_secs):
            if self._work.ended != trimmed_at:
                trimmed_at = self._work.ended
                trim()
