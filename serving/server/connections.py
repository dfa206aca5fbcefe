"""Time limits and a maximum number for REST connections.

The HTTP server itself has no such limits: it waits forever for a client that sends nothing, sends a
byte per second, or does not read; and a process without free file descriptors cannot even load a
new version.
"""

import asyncio
import resource
import socket
import weakref
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from serving.server.limits import Limits

_TICK_SECS = 1.0
# File descriptors for other purposes than connections: models, threads, just accepted sockets.
_OTHER_FILES = 256
_MOST_FILES = 16_384
# Clients read the error response to a too large body only after sending all of it. So up to this
# many times the limit is read and discarded before the connection is closed.
_MAX_DISCARDED = 16
# Each chunk of a body costs 12 us of the event loop, independent of its size (1 MB in chunks of one
# byte took 12 s). So the number of small chunks is limited.
_MAX_SMALL_PARTS = 4096
_SMALL_PART_BYTES = 64
_MAX_HEAD_BYTES = 64 * 1024
_ANSWERS_BEGIN = b"HTTP/1.1 "
# A client that has gone resets the connection as soon as bytes arrive, after one round trip: less
# than a millisecond in a data center, up to 200 around the world. Its work is given up by then.
_RESET_SECS = (0.005, 0.02, 0.08, 0.2)


class _Connection(h11.Connection):
    """Refuses a body in too many small parts: HTTP chunks, or received packets.

    The first bytes of a response can be sent before the response is known, as they never vary.
    """

    _parts = 0
    _part_bytes = 0
    _has_begun = False

    def begin_answer(self) -> bytes:
        """Return the first bytes of the next answer, which then comes without them."""
        begun, self._has_begun = self._has_begun, True
        return b"" if begun else _ANSWERS_BEGIN

    def send(self, event: Any) -> Any:
        """Return the bytes of an event, without those that were sent before (h11)."""
        data = super().send(event)
        if data and self._has_begun:
            self._has_begun = False
            return data.removeprefix(_ANSWERS_BEGIN)
        return data

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
    """Closes connections whose client is too slow, and the slowest one if there are too many.

    A connection is in one of these stages; all but the last two have a time limit here:

        head      the client sends the head of a request, or is idle
        rest      the response is sent, but the client still sends the body, which is discarded
        answer    the client reads the response; the time counts from its last progress
        body      the client sends the body; the application limits this time
        run       the application processes the request
    """

    def __init__(self, limits: Limits, evictions: "Evictions", **options: Any) -> None:
        super().__init__(**options)
        head_bytes = self.config.h11_max_incomplete_event_size or _MAX_HEAD_BYTES
        self.conn: _Connection = _Connection(h11.SERVER, head_bytes)
        self._limits = limits
        self._evictions = evictions
        self._stage: tuple[str, int] = ("head", 0)
        self._since_secs = 0.0
        self._tick: asyncio.TimerHandle | None = None
        self._discarded = 0
        self._is_half_closed = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a new connection, and close another one if there are too many."""
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
        """Receive bytes from the client; limit the bytes of a body that is discarded."""
        if self._current_stage()[0] == "rest":
            self._discarded += len(data)
            if self._discarded > _MAX_DISCARDED * self._limits.max_request_bytes:
                self.transport.abort()
                return
        else:
            self._discarded = 0
        super().data_received(data)

    def eof_received(self) -> bool:  # type: ignore[override]  # as asyncio has it
        """Go on if the client has sent whole requests and waits for answers; return whether.

        A client that went away looks the same, but resets the connection when an answer begins.
        """
        cycle = self.cycle
        if cycle is None or cycle.response_complete or cycle.more_body:
            return False
        self._is_half_closed = True
        if not cycle.response_started:
            self.transport.write(self.conn.begin_answer())
            for secs in _RESET_SECS:
                self.loop.call_later(secs, self._abort_if_reset)
        return True

    def on_response_complete(self) -> None:
        """Begin with the next request that has arrived; if none will, end the connection."""
        answered = self.cycle
        super().on_response_complete()
        if self._is_half_closed and (self.cycle is answered or self.cycle.more_body):
            self.transport.close()

    def _abort_if_reset(self) -> None:
        """Close a half-closed connection whose client went away, as nobody reads from it."""
        connected = self.transport.get_extra_info("socket")
        if connected.fileno() >= 0 and connected.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Answer a malformed request; close the connection if a response has already begun."""
        cycle = self.cycle
        if cycle and not cycle.response_complete:  # its body turned out to be malformed
            cycle.disconnected = True  # so that no answer of the application comes after this one
            cycle.message_event.set()
        if cycle and cycle.response_started and self.conn.our_state is not h11.IDLE:
            self.transport.abort()
        else:
            super().send_400_response(msg)

    def _look(self) -> None:
        """Close the connection if it has been in one stage for too long; runs every tick."""
        stage = self._current_stage()
        now_secs = self.loop.time()
        if stage != self._stage:
            self._stage, self._since_secs = stage, now_secs
        has_limit = stage[0] in ("head", "rest", "answer")
        if has_limit and now_secs - self._since_secs > self._limits.transfer_timeout_secs:
            self.transport.abort()
            return
        if self._is_half_closed:
            self._abort_if_reset()
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
        # id: the next request of a connection is another cycle, so its time begins again.
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

    Finding the slowest of 1,000 connections takes longer than accepting one, so one sorted list is
    used for as many evictions as it has entries.
    """

    def __init__(self, max_connections: int) -> None:
        self._max_connections = max_connections
        # Weak references: do not keep closed connections in memory.
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
            # Skip a connection that has made progress since the list was sorted.
            if slowest.waits and slowest.since_secs == since_secs:
                slowest.evict()

    def _look(self, connections: set[BoundedProtocol]) -> None:
        waiting = [(each.since_secs, weakref.ref(each)) for each in connections if each.waits]
        self._slowest_last = sorted(waiting, key=lambda pair: pair[0], reverse=True)


def raise_file_limit() -> None:
    """Raise the process's soft limit of open files up to its hard limit, at most `_MOST_FILES`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def connection_limit(limits: Limits) -> int:
    """Return the maximum number of connections per API, given the limit of open files."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return limits.max_connections
    # Halved, for REST and gRPC; a few connections even where the limit is very low.
    return min(limits.max_connections, max(16, (soft - _OTHER_FILES) // 2))
