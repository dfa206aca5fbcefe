"""Start and stop the embedded server."""

import contextlib
import functools
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import uvicorn

from pipeline.errors import InputError
from pipeline.stop_signals import stop_signals
from pipeline.storage.cache import CacheConfig
from serving.addresses import joined
from serving.server.backend import Backend
from serving.server.batching_options import SERVE_DEFAULT, BatchingOptions
from serving.server.connections import (
    BoundedProtocol,
    Evictions,
    connection_limit,
    raise_file_limit,
)
from serving.server.grpc_admission import CallClocks
from serving.server.grpc_api import grpc_server
from serving.server.limits import Limits
from serving.server.loading import saved_model_loader
from serving.server.log_limits import limit_log_lines
from serving.server.memory import Trimmer, set_aside, share_heaps
from serving.server.metrics import Metrics
from serving.server.models import Repository
from serving.server.origins import known_hosts
from serving.server.rest import rest_app
from serving.server.runner import Runner

_log = logging.getLogger(__name__)

# Additional time for the transports to end their threads after the stop timeout.
_STOP_MARGIN_SECS = 0.5
# Number of connections that the event loop accepts before it serves existing ones.
_ACCEPTED_AT_ONCE = 128
# Length of the kernel's accept queue (limited by net.core.somaxconn). If it is full, the kernel
# drops a new client's first packet, which the client repeats after 1 s.
_ACCEPT_QUEUE = 4096
# Python runs signal handlers in its main thread, which the kernel does not wake if it gave the
# signal to another thread. So the main thread wakes by itself.
_SIGNAL_SECS = 1.0


class ModelServer:
    """A REST and a gRPC server over a folder of models or a `models.config`.

    The constructor binds both ports and loads the models; `start` begins to answer requests; `stop`
    lets running requests finish. Port 0 chooses a free port; `rest_port` and `grpc_port` are the
    actual ones.

    Raises:
        InputError: no models, a model that cannot be loaded, or a port in use.
    """

    def __init__(
        self,
        models: Path,
        host: str,
        rest_port: int,
        grpc_port: int,
        limits: Limits | None = None,
        batching: BatchingOptions | None = None,
        allowed_hosts: tuple[str, ...] = (),
        caching: CacheConfig | None = None,
    ) -> None:
        self._limits = limits = limits or Limits()
        metrics = Metrics()
        self._runner = runner = Runner(limits, batching, metrics)
        load = saved_model_loader(runner, metrics, caching)
        self.host = host
        self.stop_timeout_secs = limits.stop_timeout_secs
        self.repository = Repository(models, load)
        self._backend = backend = Backend(self.repository, runner, metrics, limits)
        self._trimmer = Trimmer(lambda: backend.work.ended)
        self._socket = _bound_socket(host, rest_port, "`rest_port`")
        self.rest_port = self._socket.getsockname()[1]
        try:
            # Try the port first: gRPC prints its own lines if it is in use.
            _bound_socket(host, grpc_port, "`grpc_port`").close()
            self._clocks = CallClocks(limits.transfer_timeout_secs)
            address = joined(host, grpc_port)
            self._grpc, self.grpc_port = grpc_server(backend, address, self._clocks)
            self.served = self.repository.load_all()
        except BaseException:
            self._socket.close()
            raise
        self._threads = futures.ThreadPoolExecutor(limits.max_accepted_requests, "rest")
        hosts = known_hosts(self._socket.getsockname()[0], host, allowed_hosts)
        app = rest_app(backend, self._threads, hosts)
        self._rest = uvicorn.Server(_uvicorn_config(app, limits))
        # Outside the main thread uvicorn installs no signal handlers; ours stay in effect.
        self._rest_thread = threading.Thread(
            target=self._rest.run, args=([self._socket],), name="rest", daemon=True
        )

    def start(self) -> None:
        """Start to answer requests; return when both APIs are ready.

        Raises:
            InputError: another process has started to listen on the REST port meanwhile.
        """
        try:
            self._socket.listen()
        except OSError as error:
            self._socket.close()
            self._grpc.stop(None)
            raise _port_in_use("`rest_port`", self.host, self.rest_port) from error
        self._clocks.start()
        self._grpc.start()
        self._rest_thread.start()
        while self._rest_thread.is_alive() and not self._rest.started:
            self._rest_thread.join(0.01)
        # uvicorn uses one number for both the queue and its accepts; set the queue's length here.
        self._socket.listen(_ACCEPT_QUEUE)
        self.repository.start_polling(self._limits.poll_secs)
        self._trimmer.start()

    def stop(self) -> list[str]:
        """Refuse new requests, let running ones finish for `stop_timeout_secs`, and return.

        Returns:
            Descriptions of work that still runs in threads, which cannot be stopped.
        """
        deadline = time.monotonic() + self._limits.stop_timeout_secs + _STOP_MARGIN_SECS

        def remaining_secs() -> float:
            return max(0.0, deadline - time.monotonic())

        self.repository.stop_polling(0)
        self._trimmer.stop()
        self._rest.should_exit = True
        grpc_stopped = self._grpc.stop(self._limits.stop_timeout_secs)
        self._rest_thread.join(remaining_secs())
        grpc_stopped.wait(remaining_secs())
        self._clocks.stop()
        has_ended = self.repository.stop_polling(remaining_secs())
        self._runner.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        running = self._backend.work.running
        given_up = [f"{running} running requests"] if running else []
        return given_up if has_ended else [*given_up, "the load of a version"]


def serve(
    models: Path,
    host: str,
    rest_port: int,
    grpc_port: int,
    batching: BatchingOptions | None = SERVE_DEFAULT,
    allowed_hosts: tuple[str, ...] = (),
    limits: Limits | None = None,
    caching: CacheConfig | None = None,
) -> None:
    """Serve models until SIGINT or SIGTERM; a second signal ends the process at once.

    Running requests may finish within `Limits.stop_timeout_secs`. If some do not, the process exits
    with code 1, since their threads cannot be stopped.

    Args:
        models: folder with NAME/VERSION/saved_model.pb (the newest version of each name is served,
            and a newer one is loaded when it appears), or a `models.config`.
        host: address to listen on, for example 127.0.0.1.
        rest_port: port of the REST API; 0 = a free port.
        grpc_port: port of the gRPC API; 0 = a free port.
        batching: batching options; None = no batching.
        allowed_hosts: host names that REST clients may use, in addition to loopback names and
            `host`. Empty = all names, if `host` is not a loopback address.
        limits: limits on memory, connections and time.
        caching: local copies of remote versions; None = in the default folder.

    Raises:
        InputError: no models, a model that cannot be loaded, or a port in use.
    """
    raise_file_limit()
    limit_log_lines()
    share_heaps()
    server = ModelServer(
        models, host, rest_port, grpc_port, limits, batching, allowed_hosts, caching
    )
    with _stop_signal() as stopping:
        server.start()
        with set_aside():
            for servable in server.served:
                _log.info("%s version %s", servable.name, servable.version)
            _log.info("REST at http://%s", joined(host, server.rest_port))
            _log.info("gRPC at %s", joined(host, server.grpc_port))
            while not stopping.wait(_SIGNAL_SECS):
                pass
            given_up = server.stop()
            if given_up:
                named = " and ".join(given_up)
                _log.info("stopped after %g s; gave up %s", server.stop_timeout_secs, named)
                _end_process()


@contextlib.contextmanager
def _stop_signal() -> Iterator[threading.Event]:
    """Yield an event that a signal sets; a second Ctrl-C or SIGTERM ends the process at once."""
    stopping = threading.Event()

    def stop(number: int) -> None:
        if stopping.is_set():
            os._exit(128 + number)
        stopping.set()

    with stop_signals(stop):
        yield stopping


def _end_process() -> None:
    """Exit without waiting for threads, which a normal exit of the interpreter does."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # a closed pipe must not keep the process
            stream.flush()
    os._exit(1)


def _bound_socket(host: str, port: int, field: str) -> socket.socket:
    """Return a TCP socket that is bound to the port but does not listen yet.

    Connections are refused until the models are loaded, as in TensorFlow Serving.
    """
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, where = infos[0]
    except (socket.gaierror, OverflowError) as error:
        raise InputError(f"`host` {host} {field} {port}: {error}") from error
    # Pass the protocol: only then asyncio sets TCP_NODELAY, without which responses wait 40 ms.
    bound = socket.socket(family, kind, protocol)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(where)
    except (OSError, OverflowError) as error:
        bound.close()
        raise _port_in_use(field, host, port) from error
    return bound


def _port_in_use(field: str, host: str, port: int) -> InputError:
    where = joined(host, port)
    return InputError(f"{field}: cannot listen at {where}; is it in use? choose another port")


def _uvicorn_config(app: object, limits: Limits) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        http=functools.partial(BoundedProtocol, limits, Evictions(connection_limit(limits))),  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # a client could claim an address, and escape its share of the budget
        backlog=_ACCEPTED_AT_ONCE,
        timeout_graceful_shutdown=int(limits.stop_timeout_secs),
    )
