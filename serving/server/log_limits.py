"""Limit the log to one line per minute for each kind of event that clients can trigger."""

import logging
import threading
import time
from collections.abc import Iterator

_INTERVAL_SECS = 60.0
# Tracebacks of these libraries are caused by clients; ours indicate a fault of the server.
_WITHOUT_TRACEBACK = ("uvicorn", "asyncio", "grpc")


class OncePerMinute(logging.Filter):
    """Passes at most one record per minute and line of code, with the number of dropped ones."""

    def __init__(self, interval_secs: float = _INTERVAL_SECS) -> None:
        super().__init__()
        self._interval_secs = interval_secs
        self._lock = threading.Lock()
        self._last_secs: dict[tuple[str, int], float] = {}
        self._dropped: dict[tuple[str, int], int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log the record; replace a client-caused traceback by its error.

        Notes (below WARNING) all pass: they say what the server does, such as each loaded version.
        """
        if record.levelno < logging.WARNING:
            return True
        key, now_secs = (record.pathname, record.lineno), time.monotonic()
        with self._lock:
            if now_secs - self._last_secs.get(key, -self._interval_secs) < self._interval_secs:
                self._dropped[key] = self._dropped.get(key, 0) + 1
                return False
            self._last_secs[key] = now_secs
            dropped = self._dropped.pop(key, 0)
        if dropped:
            message = record.getMessage().rstrip()
            record.msg, record.args = f"{message} ({dropped} more like it before)", ()
        if record.exc_info and record.name.split(".")[0] in _WITHOUT_TRACEBACK:
            record.msg, record.args = f"{record.getMessage().strip()}: {record.exc_info[1]!r}", ()
            record.exc_info = record.exc_text = None
        return True


_LIMIT = OncePerMinute()


def limit_log_lines() -> None:
    """Add the limit to all handlers of our log and of others'; a second call has no effect."""
    for handler in (*_handlers(logging.getLogger(__name__)), logging.lastResort):
        if handler:
            handler.addFilter(_LIMIT)


def _handlers(logger: logging.Logger | None) -> Iterator[logging.Handler]:
    """Yield the handlers of a logger and of its parents: a program may give our rooms their own."""
    while logger:
        yield from logger.handlers
        logger = logger.parent
