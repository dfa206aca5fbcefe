"""State that REST and gRPC share: models, runner, limits, and request metrics."""

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from grpc import StatusCode

from serving.server.budget import Budget
from serving.server.limits import Limits
from serving.server.metrics import NO_MODEL, Metrics
from serving.server.models import Repository
from serving.server.runner import Runner
from serving.server.status import ServingError


class Work:
    """Counts requests that threads are working on, so that a stopping server can wait for them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self._ended = 0

    def __enter__(self) -> None:
        with self._lock:
            self._running += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._running -= 1
            self._ended += 1

    @property
    def ended(self) -> int:
        """Return the number of blocks that have been left."""
        return self._ended

    @property
    def running(self) -> int:
        """Return the number of blocks that have been entered and not left."""
        return self._running


@dataclass(frozen=True)
class Backend:
    """The models, their runner, and the server's limits and metrics."""

    repository: Repository
    runner: Runner
    metrics: Metrics
    limits: Limits
    work: Work = field(default_factory=Work)
    budget: Budget = field(init=False)

    def __post_init__(self) -> None:
        """Create the budget from the limits."""
        limits = self.limits
        budget = Budget(limits.max_accepted_requests, limits.max_bytes_in_flight)
        # The dataclass is frozen; this is the one field that is derived.
        object.__setattr__(self, "budget", budget)

    @contextlib.contextmanager
    def counted(self, model: str, api: str, entrypoint: str) -> Iterator[None]:
        """Record the block as one request in the metrics; arguments as in `Metrics.request`."""
        status = "OK"
        started = time.perf_counter()
        try:
            yield
        except ServingError as error:
            status = error.code.name
            raise
        except BaseException:
            status = StatusCode.INTERNAL.name
            raise
        finally:
            # Clients choose the name: unknown ones would fill the metrics.
            known = model if self.repository.is_known(model) else NO_MODEL
            self.metrics.request(known, api, entrypoint, status, time.perf_counter() - started)
