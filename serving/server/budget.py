"""What all requests together may take of the server: places, bytes, and turns at the interpreter.

Every request holds its bytes from when they are read until its answer is sent, and a place from
the last byte of the request until the answer is ready: answers that nobody reads take no places.
The last eighth of either is for addresses that hold little, so that one address alone cannot shut
out the others.
"""

import contextlib
import gc
import threading
import time
from collections import Counter
from collections.abc import Iterator

from grpc import StatusCode

from serving.server.status import ServingError

# Of every request this much is free, so that a few large requests do not turn small ones away.
# Connections bound its sum. Python work on no more than this needs no turn, either.
SMALL_BYTES = 32 * 1024
# The interpreter runs one thread at a time anyway.
_MAX_TURNS = 1
# A turn may keep the interpreter all the while, and an answer to a status request needs it some ten
# times. So after a turn, large work rests as long as the turn took, but no longer than this.
_MOST_REST_SECS = 0.1
_RESERVED = 8  # one part in so many is for addresses that hold less than such a part


class _Pool:
    """A number of units that addresses share."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._held: Counter[str] = Counter()
        self._total = 0

    def change(self, address: str, units: int) -> bool:
        """Take units for an address, or give back if negative; return whether it was possible."""
        with self._lock:
            if units > 0 and not self._has_room(address, units):
                return False
            self._total += units
            self._held[address] += units
            if not self._held[address]:
                del self._held[address]
            return True

    def _has_room(self, address: str, units: int) -> bool:
        part = self._size // _RESERVED
        holds_little = self._held[address] + units <= part or not self._held[address]
        return self._total + units <= self._size - (0 if holds_little else part)

    @property
    def total(self) -> int:
        """Return the number of units that are held."""
        return self._total


class Budget:
    """Places and bytes of one server; every method may be called from any thread."""

    def __init__(self, max_places: int, max_bytes: int) -> None:
        self._places = _Pool(max_places)
        self._bytes = _Pool(max_bytes)
        self._turns = threading.BoundedSemaphore(_MAX_TURNS)
        self._rested_at_secs = 0.0
        self._collection = _PausedCollection()

    @property
    def bytes_in_flight(self) -> int:
        """Return the bytes that requests hold beyond what is free."""
        return self._bytes.total

    def request(self, address: str) -> "Share":
        """Return the share of a new request, which holds nothing yet; release it at the end."""
        return Share(self._places, self._bytes, address)

    @contextlib.contextmanager
    def turn(self, size_bytes: int) -> Iterator[None]:
        """Wait for a turn at Python work on so many bytes, such as parsing or writing JSON.

        Threads that keep the interpreter busy slow every other one down, the event loop too, so
        they work one at a time. Small work does not wait. Garbage collection is paused: it would
        look through millions of new lists again and again.
        """
        if size_bytes <= SMALL_BYTES:
            yield
            return
        with self._turns:
            time.sleep(max(0.0, self._rested_at_secs - time.monotonic()))
            started_secs = time.monotonic()
            try:
                with self._collection:
                    yield
            finally:
                ended_secs = time.monotonic()
                rest_secs = min(ended_secs - started_secs, _MOST_REST_SECS)
                self._rested_at_secs = ended_secs + rest_secs


class Share:
    """What one request holds, until everyone who works on it has released it."""

    def __init__(self, places: _Pool, in_flight: _Pool, address: str) -> None:
        self._places = places
        self._in_flight = in_flight
        self._address = address
        self._lock = threading.Lock()
        self._charged = 0
        self._has_place = False
        self._users = 1

    def take_place(self) -> None:
        """Take a place, once.

        Raises:
            ServingError: UNAVAILABLE, none is free.
        """
        with self._lock:
            if not self._places.change(self._address, 1):
                message = f"The server is busy: {self._places.total} predictions accepted"
                raise ServingError(StatusCode.UNAVAILABLE, f"{message}; try again later")
            self._has_place = True

    def give_place(self) -> None:
        """Give the place back, if one is held."""
        with self._lock:
            if self._has_place:
                self._has_place = False
                self._places.change(self._address, -1)

    def hold(self, size_bytes: int) -> None:
        """Hold so many bytes from here on, instead of what was held before.

        Raises:
            ServingError: UNAVAILABLE, there is no room; what was held is still held.
        """
        with self._lock:
            charge = max(0, size_bytes - SMALL_BYTES)
            if not self._in_flight.change(self._address, charge - self._charged):
                message = f"The server is busy: {self._in_flight.total} bytes in flight"
                raise ServingError(StatusCode.UNAVAILABLE, f"{message}; try again later")
            self._charged = charge

    def retain(self) -> None:
        """Ask for one more `release`, of another thread."""
        with self._lock:
            self._users += 1

    def release(self) -> None:
        """Give everything back if this is the last of those who use it."""
        with self._lock:
            self._users -= 1
            if self._users:
                return
            self._in_flight.change(self._address, -self._charged)
            self._charged = 0
            if self._has_place:
                self._places.change(self._address, -1)


class _PausedCollection:
    """Pauses Python's garbage collection while any thread is inside.

    For every 700 lists of a document it looks at all that is there: 4 MiB of `[]` take 1.5 s, in
    which no other thread runs, and without it 0.07 s. Documents have no cycles.
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
