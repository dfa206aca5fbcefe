"""The signals that ask a process to stop: Ctrl-C, SIGTERM, and that its terminal is closed."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def stop_signals(handle: Callable[[int], None], *, once: bool = False) -> Iterator[None]:
    """Call a function for SIGINT, SIGTERM and SIGHUP inside the context.

    Outside of the main thread it does nothing: Python lets only that one handle signals.

    Args:
        handle: called with the number of the signal.
        once: give SIGINT and SIGTERM their former handlers back after the first signal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    hang_up = signal.getsignal(signal.SIGHUP)
    is_told = hang_up is not signal.SIG_IGN  # `nohup` has it ignored

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if is_told:  # the shell and the kernel both send it: a second one is no request to hurry
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        if once:
            restore()
        handle(number)

    for number in (*before, signal.SIGHUP) if is_told else before:
        signal.signal(number, on_signal)
    try:
        yield
    finally:
        restore()
        if is_told:
            signal.signal(signal.SIGHUP, hang_up)
