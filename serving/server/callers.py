"""Track whether a request's client is still connected, so that abandoned work is cancelled."""

import contextlib
import threading
import traceback
from collections.abc import Callable, Iterator
from contextvars import ContextVar

from grpc import StatusCode

from serving.server.status import ServingError


class Caller:
    """The client of one request; all methods are thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reason: ServingError | None = None
        self._callbacks: list[Callable[[], None]] = []

    def leave(self, reason: ServingError | None = None) -> None:
        """Record that the client no longer waits, and why; later calls have no effect."""
        with self._lock:
            if self._reason:
                return
            self._reason = reason or ServingError(StatusCode.CANCELLED, "The client went away")
            # Called outside the lock: a callback may take others, or this one.
            callbacks = list(self._callbacks)
        for callback in callbacks:
            callback()

    def check(self) -> None:
        """Raise an error if the client no longer waits.

        Raises:
            ServingError: the reason passed to `leave`.
        """
        if self._reason:
            raise self._reason

    @contextlib.contextmanager
    def on_leaving(self, callback: Callable[[], None]) -> Iterator[None]:
        """Call `callback` if the client leaves during the block or has already left."""
        with self._lock:
            self._callbacks.append(callback)
            # In the same lock: a client that leaves now either sees the callback, or is seen here.
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
        """Make this the thread's `current_caller` during the block.

        The tracebacks of errors are cleared, so that they do not keep a large request in memory.
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
    """Return the client that this thread works for; if none, a dummy that never leaves."""
    return _current.get() or Caller()


def forget_locals(error: BaseException | None) -> None:
    """Clear the local variables in an error's traceback.

    Error and locals refer to each other, a cycle that only a full garbage collection would free.
    """
    while error:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
