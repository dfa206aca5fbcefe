"""Giving back the memory that requests took, which neither Python nor the C library does by itself.

Python looks for garbage among all objects only once a quarter of them is new. TensorFlow and the
models have so many that connections which have ended would stay for hours. So what is there when
the server starts is set aside, and the few others are looked through often.
"""

import contextlib
import ctypes
import gc
import threading
from collections.abc import Callable

_INTERVAL_SECS = 5.0
_M_ARENA_MAX = -8  # a parameter of mallopt(3)


def share_one_heap() -> None:
    """Let all threads that start from here on allocate from one heap, which can be trimmed whole.

    Of the heaps that threads have to themselves, glibc keeps the free end.
    """
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def set_aside() -> None:
    """Exempt all objects that exist from garbage collection, until `collect_all`."""
    gc.collect()
    gc.freeze()


def collect_all() -> None:
    """Collect garbage among all objects, as after a model was unloaded."""
    was_set_aside = gc.get_freeze_count() > 0
    gc.unfreeze()
    gc.collect()
    if was_set_aside:
        gc.freeze()


def trim() -> None:
    """Collect what is garbage by now, and give unused pages of all heaps back to the system."""
    if gc.get_freeze_count():
        gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


class Trimmer:
    """Trims the heaps every few seconds, in a thread, if there was work since the last time.

    Args:
        work_done: returns a number that grows with the work that was done.
        interval_secs: between two looks at it.
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
        """End the thread soon."""
        self._stopping.set()

    def _run(self) -> None:
        trimmed_at, is_quiet = 0, True
        while not self._stopping.wait(self._interval_secs):
            done = self._work_done()
            # Once more after the last work: what it ended with, such as a connection, ends later.
            if done != trimmed_at or not is_quiet:
                trimmed_at, is_quiet = done, done == trimmed_at
                trim()
