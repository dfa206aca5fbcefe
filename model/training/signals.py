"""Handling of Ctrl-C, SIGTERM and SIGHUP: save a checkpoint and stop."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.stop_signals import stop_signals


@contextmanager
def stop_requested() -> Iterator[Callable[[], bool]]:
    """Catch the first Ctrl-C, SIGTERM or SIGHUP, so that the training can save.

    A second Ctrl-C or SIGTERM kills it.

    Yields:
        A function that returns whether a signal has been received.
    """
    stopped = threading.Event()
    with stop_signals(lambda _: stopped.set(), once=True):
        yield stopped.is_set
