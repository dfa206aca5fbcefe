"""How long REST connections may wait for their clients, and how many there may be.

The HTTP server itself limits none of this: a client that connects and sends nothing, a byte a
second, or reads nothing, is waited for without end, and a process out of file descriptors cannot
even load a new version.
"""

import asyncio
import resource
import weakref
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from serving.server.limits import Limits

_TICK_SECS = 1.0
# What the process needs besides connections: models, threads, sockets that just were accepted.
_OTHER_FILES = 256
_MOST_FILES = 16_384
# A client that sends a body over the limit hears so once it has sent all; so many limits are read.
_MAX_DISCARDED = 16
# Reading a part of a body takes 12 us, in which the event loop does nothing else, whatever the size
# of the part. Clients may send so many small ones (1 MB in parts of a byte took 12 s).
_MAX_SMALL_PARTS = 4096
_SMALL_PART_BYTES = 64
_MAX_HEAD_BYTES = 64 * 1024


class _BoundedParts(h11.Connection):
    """Refuses a body in many small parts: chunks, or what arrived at a time of other bodies."""

    _parts = 0
    _part_bytes = 0

    def next_event(self) -> Any:
        """Return the next event of a request (h11).

        Raises:
            h11.RemoteProtocolError: the request is malformed, or its body is in too many parts.
        """
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._parts = self._part_bytes = 0
        elif isinstance(event, h11.Data):
            self._parts += 1
            self._part_bytes += len(event.data)
            large = self._part_bytes // _SMALL_PART_BYTES
            if self._parts > _MAX_SMALL_PARTS + large:
                raise h11.RemoteProtocolError("The body is in too many small parts")
        return event


class BoundedProtocol(H11Protocol):
    """Closes a connection that keeps the server waiting, and the slowest one if there are too many.

    A connection is in one of these stages, each with a time limit but the last two:

        head      the client sends the head of a request, or nothing
        rest      the answer is sent, but the client still sends the body, which is thrown away
        answer    the client takes the answer; the time counts from the last byte that it took
        body      the client sends the body; the application limits its time
        run       the application works
    """

    def __init__(self, limits: Limits, evictions: "Evictions", **options: Any) -> None:
        super().__init__(**options)
        head_bytes = self.config.h11_max_incomplete_event_size or _MAX_HEAD_BYTES
        self.conn = _BoundedParts(h11.SERVER, head_bytes)
        self._limits = limits
        self._evictions = evictions
        self._stage: tuple[str, int] = ("head", 0)
        self._since_secs = 0.0
        self._tick: asyncio.TimerHandle | None = None
        self._discarded = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a new connection, and close another one if it is one too many."""
        super().connection_made(transport)
        self._since_secs = self.loop.time()
        self._tick = self.loop.call_later(_TICK_SECS, self._look)
        self._evictions.make_room(self.connections)  # type: ignore[arg-type]

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        if self._tick:
            self._tick.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client; of a body that nobody reads, only so many."""
        if self._current_stage()[0] == "rest":
            self._discarded += len(data)
            if self._discarded > _MAX_DISCARDED * self._limits.max_request_bytes:
                self.transport.abort()
                return
        else:
            self._discarded = 0
        super().data_received(data)

    def send_400_response(self, msg: str) -> None:
        """Answer a malformed request, unless its answer has begun: then end the connection."""
        if self.cycle and self.cycle.response_started and self.conn.our_state is not h11.IDLE:
            self.transport.abort()
        else:
            super().send_400_response(msg)

    def _look(self) -> None:
        """Close the connection if it has been in one stage for too long."""
        stage = self._current_stage()
        now_secs = self.loop.time()
        if stage != self._stage:
            self._stage, self._since_secs = stage, now_secs
        has_limit = stage[0] in ("head", "rest", "answer")
        if has_limit and now_secs - self._since_secs > self._limits.transfer_timeout_secs:
            self.transport.abort()
            return
        self._tick = self.loop.call_later(_TICK_SECS, self._look)

    def _current_stage(self) -> tuple[str, int]:
        """Return the stage, with a number that changes when the client makes progress."""
        cycle, unsent = self.cycle, self.transport.get_write_buffer_size()
        if unsent:
            return "answer", unsent
        if cycle is None:
            return "head", 0
        if cycle.response_complete:
            return ("rest" if cycle.more_body else "head"), id(cycle)
        return ("body" if cycle.more_body else "run"), id(cycle)

    @property
    def waits(self) -> bool:
        """Whether the server waits for the client."""
        return self._current_stage()[0] != "run"

    @property
    def since_secs(self) -> float:
        """Return when the connection's stage began, in seconds of the event loop's clock."""
        return self._since_secs

    def evict(self) -> None:
        """Close the connection at once."""
        self.transport.abort()
        self.connections.discard(self)


class Evictions:
    """Closes the slowest connections of one server when there are too many.

    Looking for the slowest of 1,000 takes longer than accepting a connection, so one look serves
    for as many new connections as there were old ones.
    """

    def __init__(self, max_connections: int) -> None:
        self._max_connections = max_connections
        # Weak, so that what ends meanwhile is not kept in memory.
        self._slowest_last: list[tuple[float, weakref.ref[BoundedProtocol]]] = []

    def make_room(self, connections: set[BoundedProtocol]) -> None:
        """Close a connection if there are too many."""
        while len(connections) > self._max_connections:
            if not self._slowest_last:
                self._look(connections)
            since_secs, reference = self._slowest_last.pop()
            slowest = reference()
            if slowest not in connections:
                continue
            if slowest.waits and slowest.since_secs == since_secs:
                slowest.evict()

    def _look(self, connections: set[BoundedProtocol]) -> None:
        waiting = [(each.since_secs, weakref.ref(each)) for each in connections if each.waits]
        self._slowest_last = sorted(waiting, key=lambda pair: pair[0], reverse=True)


def raise_file_limit() -> None:
    """Let the process open as many files as it is allowed to, within reason."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def connection_limit(limits: Limits) -> int:
    """Return how many connections each API may have, given the files the process may open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return limits.max_connections
    return max(16, min(limits.max_connections, (soft - _OTHER_FILES) // 2))
