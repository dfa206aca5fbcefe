"""Return memory of finished requests to the system, which Python and glibc do not do by themselves.

Python runs a full garbage collection only when a quarter of all objects is new. TensorFlow and the
models have so many objects that closed connections would stay in memory for hours. So the objects
that exist at the start are exempt (frozen), and the few new ones are collected often.
"""

import concurrent.futures
import contextlib
import ctypes
import gc
import threading
from collections.abc import Callable, Iterator

from model.training.strategy import keep_freed_memory
from pipeline.cores import usable_cores

_INTERVAL_SECS = 5.0
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_ARENA_MAX = -1, -2, -8  # parameters of mallopt(3)
_MAX_COMPUTING = 8
_BLOCK_BYTES = 128 << 10  # glibc trims a heap when a free block of 64 KiB or more arises in it


def share_heaps() -> None:
    """Make all new threads allocate from a few heaps, which keep freed memory until the next trim.

    With one heap, the threads that compute the parts of a layer wait for its lock; glibc's default
    is eight heaps a core. If large blocks were returned to the system when they are freed, page
    faults would cost long texts 30 % more CPU.
    """
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _heap_count())
        keep_freed_memory()
        _sharing.set()


def _heap_count() -> int:
    """Return the number of heaps: about one for each thread that computes."""
    return min(usable_cores(), _MAX_COMPUTING) + 2


_sharing = threading.Event()
"""Set after `share_heaps`: sizes of glibc are not changed in a program around the server."""

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
        if _sharing.is_set():
            # After it: what a thread that exits frees meanwhile joins the end, without its pages.
            _trim_ends()


def _trim_ends() -> None:
    """Return the unused end of every heap, of which `malloc_trim` does only the first.

    glibc trims the end of a heap when a thread frees a block in it, to the sizes of mallopt(3). New
    threads take the heaps in turn, so twice as many threads as heaps, all alive, reach each heap.
    """
    threads = 2 * _heap_count()
    all_alive = threading.Barrier(threads, timeout=_INTERVAL_SECS)

    def free_a_block() -> None:
        block = bytearray(_BLOCK_BYTES)
        all_alive.wait()
        del block

    libc = ctypes.CDLL(None)
    libc.mallopt(_M_TRIM_THRESHOLD, 0)
    libc.mallopt(_M_TOP_PAD, 0)
    with (
        concurrent.futures.ThreadPoolExecutor(threads, "trimmer") as pool,
        contextlib.suppress(RuntimeError),  # the system gives no more threads
    ):
        for _ in range(threads):
            pool.submit(free_a_block)
    keep_freed_memory()


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
