"""The signals that ask a process to stop: Ctrl-C, SIGTERM, and that its terminal is closed."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


class Stopped(KeyboardInterrupt):
    """SIGTERM or SIGHUP asks this process to stop, which unwinds it as Ctrl-C does.

    Attributes:
        number: number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


@contextlib.contextmanager
def unwinding() -> Iterator[None]:
    """Raise `Stopped` at SIGTERM and SIGHUP inside the context, so that all cleanup runs.

    A signal that is ignored, as by `nohup`, or has a handler keeps it. Outside of the main thread
    the context does nothing: Python lets only that one handle signals.
    """

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:  # the shell and the kernel both send it
            signal.signal(number, signal.SIG_IGN)
        raise Stopped(number)

    is_main = threading.current_thread() is threading.main_thread()
    numbers = [
        number
        for number in (signal.SIGTERM, signal.SIGHUP)
        if is_main and signal.getsignal(number) is signal.SIG_DFL
    ]
    for number in numbers:
        signal.signal(number, on_signal)
    try:
        yield
    finally:
        for number in numbers:
            if signal.getsignal(number) is on_signal:  # else the second SIGHUP is still to come
                signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def stop_signals(handle: Callable[[int], None], *, once: bool = False) -> Iterator[None]:
    """Call a function for SIGINT, SIGTERM and SIGHUP inside the context.

    A signal that is ignored stays ignored: SIGHUP under `nohup`, SIGINT in the background jobs of a
    script. Outside of the main thread it does nothing: Python lets only that one handle signals.

    Args:
        handle: called with the number of the signal.
        once: give SIGINT and SIGTERM their former handlers back after the first signal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {
        number: signal.getsignal(number)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    before = {number: known for number, known in handlers.items() if known is not signal.SIG_IGN}

    def restore(*numbers: int) -> None:
        for number in before.keys() & numbers:
            signal.signal(number, before[number])

    def on_signal(number: int, _frame: FrameType | None) -> None:
        # The shell and the kernel both send it: a second one is no request to hurry.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        if once:
            restore(signal.SIGINT, signal.SIGTERM)
        handle(number)

    for number in before:
        signal.signal(number, on_signal)
    try:
        yield
    finally:
        restore(*before)
