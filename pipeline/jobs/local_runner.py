"""Beam's local runner with quiet worker processes; if a worker dies, the job fails."""

import contextlib
import logging
import shlex
import signal
import sys
import threading
import types
from collections.abc import Iterator
from typing import Any
from unittest import mock

import grpc
from apache_beam.portability import python_urns
from apache_beam.runners.portability import local_job_service
from apache_beam.runners.portability.fn_api_runner import FnApiRunner, worker_handlers

from pipeline.errors import JobError

INTERRUPT_EVERY_SECS = 10
"""Interval at which the interrupt is repeated until the job has ended."""


class LocalRunner(FnApiRunner):
    """The local runner, which starts `pipeline.jobs.worker` instead of Beam's own worker."""

    def run_via_runner_api(self, pipeline_proto: Any, options: Any) -> Any:
        """Run a pipeline."""
        for environment in pipeline_proto.components.environments.values():
            if environment.urn == python_urns.SUBPROCESS_SDK:
                environment.payload = (
                    f"{shlex.quote(sys.executable)} -m pipeline.jobs.worker".encode()
                )
        with (
            mock.patch.object(worker_handlers, "grpc", _GRPC),
            mock.patch.object(local_job_service, "grpc", _GRPC),
        ):
            return super().run_via_runner_api(pipeline_proto, options)


def _loopback_server(*args: Any, **kwargs: Any) -> grpc.Server:
    """Return a gRPC server that listens on the loopback interface only.

    Beam opens its ports on all interfaces, and executes code that it receives there.
    """
    server = grpc.server(*args, **kwargs)
    add_port = server.add_insecure_port
    server.add_insecure_port = lambda address: add_port(address.replace("[::]", "localhost"))
    return server


_GRPC = types.SimpleNamespace(**vars(grpc) | {"server": _loopback_server})
"""Replacement for `grpc` in the Beam modules that start worker processes."""


@contextlib.contextmanager
def ending_with_its_workers() -> Iterator[None]:
    """Raise `JobError` in the body when a local worker process dies; Beam would wait forever.

    Meanwhile, tracebacks in Beam's log are suppressed: the exception contains the same cause.
    """
    deaths: list[str] = []
    ended = threading.Event()
    before = threading.excepthook

    def interrupt() -> None:
        # Repeat it: code in the main thread may swallow a KeyboardInterrupt.
        while not ended.is_set():
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            ended.wait(INTERRUPT_EVERY_SECS)

    def on_thread_failure(failure: threading.ExceptHookArgs) -> None:
        if failure.thread and failure.thread.name == "run_worker":  # Beam: one thread per worker
            deaths.append(str(failure.exc_value))
            if len(deaths) == 1:  # a second interrupt would disturb Beam's cleanup after the first
                threading.Thread(target=interrupt, daemon=True).start()
        elif failure.exc_type is not grpc.RpcError:  # a connection that ended with its worker
            before(failure)

    threading.excepthook = on_thread_failure
    logging.getLogger().addFilter(_is_no_traceback)
    try:
        yield
    except KeyboardInterrupt:
        # Exit codes -2 and 130 mean that Ctrl-C ended the worker: the user interrupted the job.
        if not deaths or deaths[0].endswith((" -2", " 130")):
            raise
        raise JobError(
            f"the Beam job failed: {deaths[0]}; was it killed because memory ran out?"
        ) from None
    finally:
        ended.set()
        threading.excepthook = before
        logging.getLogger().removeFilter(_is_no_traceback)


def _is_no_traceback(record: logging.LogRecord) -> bool:
    return "Traceback (most recent call last)" not in record.getMessage()
