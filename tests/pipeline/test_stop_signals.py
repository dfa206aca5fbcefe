"""Signals that ask a process to stop."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from pipeline.stop_signals import Stopped, stop_signals, unwinding


@pytest.fixture(autouse=True)
def handlers(obeys_hang_up: None) -> Iterator[dict[int, object]]:
    """Handlers of this process, which are back at the end of each test."""
    numbers = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
    before = {number: signal.getsignal(number) for number in numbers}
    yield dict(before)
    for number, handler in before.items():
        assert signal.getsignal(number) is handler


def test_a_closed_terminal_is_told_once(handlers: dict[int, object]) -> None:
    """The kernel sends SIGHUP, and the shell sends it again to its jobs."""
    told: list[int] = []
    with stop_signals(told.append):
        for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
    assert told == [signal.SIGHUP, signal.SIGTERM, signal.SIGINT]


def test_a_terminal_that_is_closed_while_a_process_stops(handlers: dict[int, object]) -> None:
    told: list[int] = []
    with stop_signals(told.append, once=True):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGINT) is handlers[signal.SIGINT]
        assert signal.getsignal(signal.SIGTERM) is handlers[signal.SIGTERM]
    assert told == [signal.SIGTERM]


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
def test_an_ignored_signal_stays_ignored(number: int) -> None:
    """`nohup` has SIGHUP ignored, and a shell SIGINT in a script's background jobs."""
    other = signal.SIGTERM if number != signal.SIGTERM else signal.SIGINT
    before = signal.signal(number, signal.SIG_IGN)
    told: list[int] = []
    try:
        with stop_signals(told.append):
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), other)
            assert signal.getsignal(number) is signal.SIG_IGN
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)
    assert told == [other]


def test_another_thread_handles_no_signals(handlers: dict[int, object]) -> None:
    seen: list[object] = []

    def look() -> None:
        with stop_signals(seen.append):
            seen.append(signal.getsignal(signal.SIGHUP))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [handlers[signal.SIGHUP]]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_stop_unwinds_as_ctrl_c(number: int) -> None:
    with pytest.raises(Stopped) as stopped, unwinding():
        os.kill(os.getpid(), number)
    assert stopped.value.number == number
    assert isinstance(stopped.value, KeyboardInterrupt)
    # The terminal's second SIGHUP would end the process before it has said why it stops.
    after = signal.SIG_IGN if number == signal.SIGHUP else signal.SIG_DFL
    assert signal.signal(number, signal.SIG_DFL) is after


def test_unwinding_changes_no_other_handlers() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    own = signal.signal(signal.SIGTERM, lambda *_: None)
    during = signal.getsignal(signal.SIGTERM)
    try:
        with unwinding():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is during
    finally:
        signal.signal(signal.SIGTERM, own)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
