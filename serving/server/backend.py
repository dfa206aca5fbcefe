"""What REST and gRPC share: from a request to the model it means, counted for monitoring."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

from grpc import StatusCode

from serving.server.limits import Limits
from serving.server.metrics import NO_MODEL, Metrics
from serving.server.models import Repository
from serving.server.runner import Runner
from serving.server.status import ServingError


@dataclass(frozen=True)
class Backend:
    """The models, what runs them, and the server's bounds and counters."""

    repository: Repository
    runner: Runner
    metrics: Metrics
    limits: Limits

    @contextlib.contextmanager
    def counted(self, model: str, api: str, entrypoint: str) -> Iterator[None]:
        """Count what happens inside as one request; see `Metrics.request` for the arguments."""
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
            known = model if self.repository.is_known(model) else NO_MODEL
            self.metrics.request(known, api, entrypoint, status, time.perf_counter() - started)
