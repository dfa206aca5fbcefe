"""Beam's local runner with quiet worker processes; if a worker dies, the job fails."""

import contextlib
import logging
import os
import shlex
import signal
import subprocess
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import grpc
from apache_beam.portability import python_urns
from apache_beam.runners.portability import local_job_service
from apache_beam.runners.portability.fn_api_runner import FnApiRunner, worker_handlers
from apache_beam.utils import subprocess_server

from pipeline.child_processes import ending_with_parent, module_command
from pipeline.errors import JobError

INTERRUPT_EVERY_SECS = 10
"""Interval at which the interrupt is repeated until the job has ended."""


class LocalRunner(FnApiRunner):
    """The local runner, which starts `pipeline.jobs.worker` instead of Beam's own worker."""

    def run_via_runner_api(self, pipeline_proto: Any, options: Any) -> Any:
        """Run a pipeline."""
        for environment in pipeline_proto.components.environments.values():
            if environment.urn == python_urns.SUBPROCESS_SDK:
                # `exec`: Beam starts a shell, and whoever kills that process means the worker.
                command = shlex.join((*module_command("pipeline.jobs.worker"), str(os.getpid())))
                environment.payload = f"exec {command}".encode()
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


def _with(module: types.ModuleType, **replacements: object) -> types.SimpleNamespace:
    """Return the contents of a module, some of them replaced."""
    return types.SimpleNamespace(**vars(module) | replacements)


_GRPC = _with(grpc, server=_loopback_server)
"""Replacement for `grpc` in the Beam modules that start worker processes."""


class _WorkerProcesses:
    """The worker processes of one job."""

    def __init__(self) -> None:
        # Reentrant: a second Ctrl-C may come while the first one kills the workers.
        self._lock = threading.RLock()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._killed = False

    def start(self, *args: Any, **kwargs: Any) -> subprocess.Popen[bytes]:
        """Start a worker, in place of `subprocess.Popen`."""
        process = subprocess.Popen(*args, **kwargs)
        with self._lock:
            self._processes.append(process)
            if self._killed:  # Beam starts its workers in threads: this one was late
                process.kill()
        return process

    def kill(self) -> bool:
        """Kill all of them, and those that are still to be started.

        Returns:
            Whether this is the first call.
        """
        with self._lock:
            is_first, self._killed = not self._killed, True
            for process in self._processes:
                process.kill()
            return is_first


def _started_job_server(*args: Any, **kwargs: Any) -> subprocess.Popen[bytes]:
    """Start Beam's job server for Flink, Spark or Prism, in place of `subprocess.Popen`.

    Beam ends it when the job ends, but not if this process is killed.
    """
    options = kwargs | {"preexec_fn": ending_with_parent(signal.SIGTERM)}
    return subprocess.Popen(*args, **options)


@contextlib.contextmanager
def ending_with_its_workers() -> Iterator[None]:
    """Raise `JobError` in the body when a local worker process dies; Beam would wait forever.

    An interrupt kills the workers, which need not have got it themselves. Meanwhile,
    tracebacks in Beam's log are suppressed: the exception contains the same cause.
    """
    deaths: list[str] = []
    workers = _WorkerProcesses()
    before = threading.excepthook

    def on_thread_failure(failure: threading.ExceptHookArgs) -> None:
        if failure.thread and failure.thread.name == "run_worker":  # Beam: one thread per worker
            # Beam's cleanup waits for the others, and a worker that has not connected yet never
            # learns that the job has ended.
            if workers.kill():  # a second interrupt would disturb Beam's cleanup after the first
                deaths.append(str(failure.exc_value))
                interrupt()
        elif not issubclass(failure.exc_type, grpc.RpcError):  # a connection that ended
            before(failure)

    # A worker's death raises in a thread of Beam's, where only this hook sees it.
    threading.excepthook = on_thread_failure
    logging.getLogger().addFilter(_is_no_traceback)
    try:
        with (
            mock.patch.object(
                local_job_service, "subprocess", _with(subprocess, Popen=workers.start)
            ),
            mock.patch.object(
                subprocess_server, "subprocess", _with(subprocess, Popen=_started_job_server)
            ),
            _before_interrupt(workers.kill),
            _interrupting() as interrupt,
        ):
            yield
    except KeyboardInterrupt:
        # Exit codes -2 and 130 mean that Ctrl-C ended the worker: the user interrupted the job.
        if not deaths or deaths[0].endswith((" -2", " 130")):
            raise
        raise JobError(
            f"the Beam job failed: {deaths[0]}; was it killed because memory ran out?"
        ) from None
    finally:
        threading.excepthook = before
        logging.getLogger().removeFilter(_is_no_traceback)


@contextlib.contextmanager
def _before_interrupt(call: Callable[[], object]) -> Iterator[None]:
    """Call a function when a signal interrupts the body, before its handler raises.

    The signals are SIGINT (Ctrl-C), SIGTERM and SIGHUP. Nothing is called for those that are
    ignored, as in a process that a script starts with `&`, or that end the process.
    """
    is_main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if is_main else ()
    before = {
        number: handler for number in numbers if callable(handler := signal.getsignal(number))
    }

    def on_interrupt(number: int, frame: types.FrameType | None) -> None:
        call()
        before[signal.Signals(number)](number, frame)

    for number in before:
        signal.signal(number, on_interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _interrupting() -> Iterator[Callable[[], None]]:
    """Yield a function that raises `KeyboardInterrupt` in the body, repeatedly until the body ends.

    It sends a signal of its own, since a process that a script starts with `&` ignores SIGINT.
    Python runs signal handlers in the main thread only, so elsewhere the function does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    ended = threading.Event()

    def on_signal(*_: object) -> None:
        if not ended.is_set():
            raise KeyboardInterrupt

    def send() -> None:
        # Repeat it: code in the main thread may swallow a KeyboardInterrupt.
        while not ended.is_set():
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
            ended.wait(INTERRUPT_EVERY_SECS)

    sender = threading.Thread(target=send, daemon=True)
    before = signal.signal(signal.SIGUSR1, on_signal)
    try:
        yield sender.start
    finally:
        ended.set()
        if sender.ident is not None:
            sender.join()  # after it, no signal comes that the handler before could meet
        signal.signal(signal.SIGUSR1, before or signal.SIG_DFL)


def _is_no_traceback(record: logging.LogRecord) -> bool:
    return "Traceback (most recent call last)" not in record.getMessage()
