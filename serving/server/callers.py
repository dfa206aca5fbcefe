"""Who waits for an answer, so that work which nobody waits for any more is given up."""

import contextlib
import threading
import traceback
from collections.abc import Callable, Iterator
from contextvars import ContextVar

from grpc import StatusCode

from serving.server.status import ServingError


class Caller:
    """The client of one request. Any thread may call its methods."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reason: ServingError | None = None
        self._callbacks: list[Callable[[], None]] = []

    def leave(self, reason: ServingError | None = None) -> None:
        """Note that nobody waits any more, and why; later calls change nothing."""
        with self._lock:
            if self._reason:
                return
            self._reason = reason or ServingError(StatusCode.CANCELLED, "The client went away")
            callbacks = list(self._callbacks)
        for callback in callbacks:
            callback()

    def check(self) -> None:
        """Do nothing as long as the client waits.

        Raises:
            ServingError: the client has left; the reason that `leave` was given.
        """
        if self._reason:
            raise self._reason

    @contextlib.contextmanager
    def on_leaving(self, callback: Callable[[], None]) -> Iterator[None]:
        """Call `callback` if the client leaves within the block, or has left before."""
        with self._lock:
            self._callbacks.append(callback)
            has_left = self._reason is not None
        try:
            if has_left:
                callback()
            yield
        finally:
            with self._lock:
                self._callbacks.remove(callback)

    @contextlib.contextmanager
    def served(self) -> Iterator[None]:
        """Make this the `current_caller` of what this thread does within the block.

        An error that leaves the block no longer refers to the request, which could be large.
        """
        token = _current.set(self)
        try:
            yield
        except BaseException as error:
            forget_locals(error)
            raise
        finally:
            _current.reset(token)


_current: ContextVar[Caller | None] = ContextVar("caller", default=None)


def current_caller() -> Caller:
    """Return the client that this thread works for; one that never leaves if there is none."""
    return _current.get() or Caller()


def forget_locals(error: BaseException | None) -> None:
    """Clear the variables of functions that have ended with an error.

    The error refers to them, and they to it, so that only the next full garbage collection would
    free them.
    """
    while error:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
