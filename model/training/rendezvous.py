"""Agreement of supervisors on the workers of the next start, without a coordination server.

While a worker does not run, its supervisor listens on the worker's own port. The reachable
supervisor with the lowest index decides: it waits for the others to join, and then sends them the
indexes of the workers that continue. If the network is split and two groups form, the lock of the
run lets only one of them train.
"""

import contextlib
import socket
import time
from collections.abc import Iterator

from model.training.cluster import Cluster
from pipeline.errors import JobError
from pipeline.storage.strict_json import from_json, to_json

_TRY_SECS = 1.0
_PORT_SECS = 10.0  # the kernel may keep the port of an ended worker for a moment
_HELLO = b"clozeline rendezvous "
_MOST_BYTES = 1 << 16

Joined = dict[int, socket.socket]
"""Connections of the supervisors that have joined, by the index of their worker."""


def members_of(cluster: Cluster, wait_secs: float, batch_size: int) -> Cluster | None:
    """Agree with the other supervisors on the workers of the next start.

    Args:
        cluster: all workers of the training.
        wait_secs: how long to wait for the others. They notice a loss at different times.
        batch_size: number that the number of workers must divide; the workers with the highest
            indexes are left out.

    Returns:
        The workers that continue; None if this one is left out.

    Raises:
        JobError: the address of this worker is taken.
    """
    deadline = time.monotonic() + wait_secs
    with contextlib.ExitStack() as stack:
        server: socket.socket | None = None
        joined: Joined = {}
        while True:
            # Asked again each time: a supervisor with a lower index, which decides, may start
            # later.
            lower = _connection_to_lower(cluster)
            if lower is not None:
                # Those that joined this one would wait for it, while the lower one waits for them.
                stack.close()
                server, joined = None, {}
                indexes = _decision(lower, cluster.index, deadline + wait_secs)
                if indexes is not None:
                    break
            server = server or stack.enter_context(_listening(cluster))
            joined |= _arrivals(server, stack)
            joined = {i: each for i, each in joined.items() if i in range(len(cluster.addresses))}
            present = sorted({cluster.index, *joined})
            if len(present) == len(cluster.addresses) or time.monotonic() > deadline:
                indexes = _dividing(present, batch_size)
                _tell(joined, indexes)
                break
    if cluster.index not in indexes:
        return None
    addresses = tuple(cluster.addresses[index] for index in indexes)
    return Cluster(addresses, indexes.index(cluster.index))


def _dividing(indexes: list[int], batch_size: int) -> list[int]:
    """Return the first of some workers, as many as divide the batch size."""
    count = next(n for n in range(len(indexes), 0, -1) if batch_size % n == 0)
    return indexes[:count]


@contextlib.contextmanager
def _listening(cluster: Cluster) -> Iterator[socket.socket]:
    port = int(cluster.addresses[cluster.index].rpartition(":")[2])
    deadline = time.monotonic() + _PORT_SECS
    while True:
        try:
            dual = socket.has_dualstack_ipv6()
            family = socket.AF_INET6 if dual else socket.AF_INET
            server = socket.create_server(("", port), family=family, dualstack_ipv6=dual)
            break
        except OSError as error:
            if time.monotonic() > deadline:
                raise JobError(
                    f"{cluster}: cannot listen on port {port}: {error.strerror}"
                ) from error
            time.sleep(0.2)
    with server:
        server.settimeout(_TRY_SECS)
        yield server


def _arrivals(server: socket.socket, stack: contextlib.ExitStack) -> Joined:
    """Return the next supervisor that joins within a moment, by its index."""
    try:
        connection, _ = server.accept()
    except TimeoutError:
        return {}
    stack.enter_context(connection)
    connection.settimeout(_TRY_SECS)
    try:
        with connection.makefile("rb") as lines:
            hello = lines.readline(64)  # `recv` may return a part: 1 of 12
        if hello.startswith(_HELLO) and hello.endswith(b"\n"):
            return {int(hello.removeprefix(_HELLO)): connection}
    except (OSError, ValueError):
        pass
    return {}


def _connection_to_lower(cluster: Cluster) -> socket.socket | None:
    """Connect to the reachable supervisor with the lowest index, if that is lower than ours."""
    for address in cluster.addresses[: cluster.index]:
        host, _, port = address.rpartition(":")
        with contextlib.suppress(OSError):
            return socket.create_connection((host.strip("[]"), int(port)), _TRY_SECS)
    return None


def _decision(lower: socket.socket, index: int, deadline: float) -> list[int] | None:
    """Join a supervisor, and return the indexes of the workers that it chose.

    Returns:
        None if it was lost, joined another one, or is a worker that has not ended yet.
    """
    with lower, contextlib.suppress(OSError, ValueError, TypeError):
        lower.sendall(_HELLO + b"%d\n" % index)
        lower.settimeout(max(_TRY_SECS, deadline - time.monotonic()))
        with lower.makefile("rb") as answer:  # ends when the other one closes the connection
            return [int(index) for index in from_json(answer.read(_MOST_BYTES))]
    return None


def _tell(joined: Joined, indexes: list[int]) -> None:
    for connection in joined.values():
        with contextlib.suppress(OSError):  # it is lost again; the start will notice
            connection.sendall(to_json(indexes).encode())
