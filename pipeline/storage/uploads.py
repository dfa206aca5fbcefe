"""Write to remote storage in the background, in order."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Uploads:
    """One thread that does what it is given, in order; a failure is raised by a later call."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="uploads")
        self._pending: deque[Future[Any]] = deque()

    def submit(self, work: Callable[[], Any]) -> None:
        """Do something in the background, after all that was submitted before."""
        self._pending.append(self._thread.submit(work))

    def check(self) -> None:
        """Raise the exception of work that has already failed; do not wait."""
        while self._pending and self._pending[0].done():
            self._pending.popleft().result()

    def wait(self, most_pending: int = 0) -> None:
        """Wait until at most so many submissions are pending; raise the exception of one."""
        while len(self._pending) > most_pending:
            self._pending.popleft().result()
