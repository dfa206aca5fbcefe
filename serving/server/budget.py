"""Limits shared by all requests: concurrent requests, bytes in flight, turns for Python work.

A request holds its bytes from reading until its response is sent, and a place (one of the
concurrent requests) from its last byte until its response is ready: responses that nobody reads
hold no place.
The last eighth of both is reserved for addresses that hold little, so that one address cannot lock
out the others.
"""

import contextlib
import gc
import threading
import time
from collections import Counter
from collections.abc import Iterator

from grpc import StatusCode

from serving.server.callers import forget_locals
from serving.server.status import ServingError

# The first bytes of every request are not counted, so that a few large requests do not lock out
# small ones; the number of connections bounds their sum. Python work up to this size needs no turn.
SMALL_BYTES = 32 * 1024
# The interpreter runs one thread at a time anyway (GIL).
_MAX_TURNS = 1
# A turn may hold the GIL throughout, and a status request needs it about ten times. So after a turn
# the next one waits as long as this one took, up to this limit.
_MOST_REST_SECS = 0.1
_RESERVED = 8  # 1/8 is reserved for addresses that hold less than 1/8


class _Pool:
    """A number of units (places or bytes) that client addresses share."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._held: Counter[str] = Counter()
        self._total = 0

    def change(self, address: str, units: int) -> bool:
        """Acquire units for an address (release if negative); return whether it was possible."""
        with self._lock:
            if units > 0 and not self._has_room(address, units):
                return False
            self._total += units
            self._held[address] += units
            if not self._held[address]:
                del self._held[address]  # or it grows with every address ever seen
            return True

    def _has_room(self, address: str, units: int) -> bool:
        part = self._size // _RESERVED
        # An address that holds nothing may take more than its part, or a large request would never
        # be accepted.
        holds_little = self._held[address] + units <= part or not self._held[address]
        return self._total + units <= self._size - (0 if holds_little else part)

    @property
    def total(self) -> int:
        """Return the number of units that are held."""
        return self._total


class Budget:
    """Places and bytes of one server; all methods are thread-safe."""

    def __init__(self, max_places: int, max_bytes: int) -> None:
        self._places = _Pool(max_places)
        self._bytes = _Pool(max_bytes)
        self._turns = threading.BoundedSemaphore(_MAX_TURNS)
        self._rested_at_secs = 0.0
        self._collection = _PausedCollection()

    @property
    def bytes_in_flight(self) -> int:
        """Return the number of counted bytes that requests hold."""
        return self._bytes.total

    def request(self, address: str) -> "Share":
        """Return a new request's share, initially empty; the caller must release it."""
        return Share(self._places, self._bytes, address)

    @contextlib.contextmanager
    def turn(self, size_bytes: int) -> Iterator[None]:
        """Wait for a turn at Python work on this many bytes, such as parsing or writing JSON.

        CPU-bound Python threads slow down all others, including the event loop, so they work one at
        a time. Small work does not wait. Garbage collection is paused, since it would traverse
        millions of new lists repeatedly.
        """
        if size_bytes <= SMALL_BYTES:
            yield
            return
        with self._turns:
            # Inside the semaphore, so that the rest holds back the next turn and not this one's
            # answer.
            time.sleep(max(0.0, self._rested_at_secs - time.monotonic()))
            started_secs = time.monotonic()
            try:
                with self._collection:
                    try:
                        yield
                    except BaseException as error:
                        forget_locals(error)  # free what was parsed before collection resumes
                        raise
            finally:
                ended_secs = time.monotonic()
                rest_secs = min(ended_secs - started_secs, _MOST_REST_SECS)
                self._rested_at_secs = ended_secs + rest_secs


class Share:
    """The places and bytes of one request; reference-counted by the threads that work on it."""

    def __init__(self, places: _Pool, in_flight: _Pool, address: str) -> None:
        self._places = places
        self._in_flight = in_flight
        self._address = address
        self._lock = threading.Lock()
        self._charged = 0
        self._has_place = False
        self._users = 1

    def take_place(self) -> None:
        """Acquire a place; call it once.

        Raises:
            ServingError: UNAVAILABLE: no place is free.
        """
        with self._lock:
            if not self._places.change(self._address, 1):
                message = f"The server is busy: {self._places.total} predictions accepted"
                raise ServingError(StatusCode.UNAVAILABLE, f"{message}; try again later")
            self._has_place = True

    def give_place(self) -> None:
        """Release the place, if one is held."""
        with self._lock:
            if self._has_place:
                self._has_place = False
                self._places.change(self._address, -1)

    def hold(self, size_bytes: int) -> None:
        """Set the number of bytes that the request holds.

        Raises:
            ServingError: UNAVAILABLE: not enough bytes are free; the number is unchanged.
        """
        with self._lock:
            charge = max(0, size_bytes - SMALL_BYTES)
            if not self._in_flight.change(self._address, charge - self._charged):
                message = f"The server is busy: {self._in_flight.total} bytes in flight"
                raise ServingError(StatusCode.UNAVAILABLE, f"{message}; try again later")
            self._charged = charge

    def retain(self) -> None:
        """Increment the reference count, for another thread that will call `release`."""
        with self._lock:
            self._users += 1

    def release(self) -> None:
        """Decrement the reference count; at zero, release everything."""
        with self._lock:
            self._users -= 1
            if self._users:
                return
            self._in_flight.change(self._address, -self._charged)
            self._charged = 0
            if self._has_place:
                self._places.change(self._address, -1)


class _PausedCollection:
    """Pauses Python's cyclic garbage collection while any thread is inside.

    A collection runs for every 700 new lists: parsing 4 MiB of `[]` takes 1.5 s with it, during
    which no other thread runs, and 0.07 s without. Parsed documents have no cycles.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._was_enabled = False

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._was_enabled = gc.isenabled()
                gc.disable()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside and self._was_enabled:
                gc.enable()
