"""Return memory of finished requests to the system, which Python and glibc do not do by themselves.

Python runs a full garbage collection only when a quarter of all objects is new. TensorFlow and the
models have so many objects that closed connections would stay in memory for hours. So the objects
that exist at the start are exempt (frozen), and the few new ones are collected often.
"""

import contextlib
import ctypes
import gc
import os
import threading
from collections.abc import Callable, Iterator

_INTERVAL_SECS = 5.0
_M_ARENA_MAX = -8  # a parameter of mallopt(3)
_MAX_COMPUTING = 8


def share_heaps() -> None:
    """Make all new threads allocate from a few heaps, about one for each thread that computes.

    With one heap, the threads that compute the parts of a layer wait for its lock. glibc's default,
    eight heaps a core, keeps more freed memory: it does not trim the end of any heap but the first.
    """
    heaps = min(len(os.sched_getaffinity(0)), _MAX_COMPUTING) + 2
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, heaps)


_exempting = threading.Event()
"""Set inside `set_aside`. The number of frozen objects does not tell: a program around the server
may have frozen its own, as before a fork."""

_changing = threading.Lock()


@contextlib.contextmanager
def set_aside() -> Iterator[None]:
    """Exempt all existing objects from garbage collection inside the context."""
    with _changing:
        had_frozen = gc.get_freeze_count() > 0
        gc.collect()
        gc.freeze()
        _exempting.set()
    try:
        yield
    finally:
        with _changing:
            _exempting.clear()
            gc.unfreeze()
            if had_frozen:  # by others, whose objects cannot be told from the server's
                gc.collect()
                gc.freeze()


def collect_all() -> None:
    """Run a garbage collection over all objects, for example after unloading a model.

    Outside `set_aside`, what others have frozen stays so.
    """
    with _changing:
        is_exempting = _exempting.is_set()
        if is_exempting:
            gc.unfreeze()
        gc.collect()
        if is_exempting:
            gc.freeze()


def trim() -> None:
    """Return unused pages of all heaps to the system; inside `set_aside`, collect garbage before.

    Elsewhere that would take too long: Python collects as its program says.
    """
    if _exempting.is_set():
        gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


class Trimmer:
    """A thread that trims the heaps every few seconds, if requests have ended since the last time.

    Args:
        work_done: returns a counter of finished work.
        interval_secs: interval between two checks.
    """

    def __init__(self, work_done: Callable[[], int], interval_secs: float = _INTERVAL_SECS) -> None:
        self._work_done = work_done
        self._interval_secs = interval_secs
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trimmer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Tell the thread to end."""
        self._stopping.set()

    def _run(self) -> None:
        trimmed_at, is_quiet = 0, True
        while not self._stopping.wait(self._interval_secs):
            done = self._work_done()
            # Trim once more after the last work: its connections are closed somewhat later.
            if done != trimmed_at or not is_quiet:
                trimmed_at, is_quiet = done, done == trimmed_at
                trim()
