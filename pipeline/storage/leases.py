"""One writer per remote directory or file: a lease object that its holder renews.

Object stores have no locks. The lease is created by a conditional PUT, so that one of two writers
gets it, and written again every `RENEW_SECS`. A lease that was not renewed for `LEASE_SECS` is that
of a dead process and may be taken over. Its age is measured by the clock of the store alone, so
the clocks of machines may differ.
"""

import contextlib
import logging
import math
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from pipeline.errors import InputError, JobError
from pipeline.storage.remote import (
    create_exclusively,
    missing_folders,
    modified_secs,
    remove_empty,
    write,
)
from pipeline.storage.strict_json import from_json, to_json

_log = logging.getLogger(__name__)

LEASE = ".lease"
"""Name of the lease in a directory that is being written; removed when the writer exits."""

# Three renewals may fail before another process may take the lease over.
RENEW_SECS = 15.0
LEASE_SECS = 60.0

NOTICE_SECS = 5.0
"""How long a writer that waits for another one is silent."""

_SETTLE_SECS = 1.0
"""Pause after taking over a lease, in which another process that does the same becomes visible."""

_lost: dict[str, str] = {}
"""Reasons why a lease that this process held is no longer valid, by what it is the lease of."""


@dataclass(frozen=True)
class LeaseHolder:
    """The contents of a lease.

    Attributes:
        id: unique to each lease.
        pid: id of the process that holds it.
        namespace: the namespace in which the process has this id.
        host: host name of its machine.
        since: when it was taken, in UTC, human-readable.
    """

    id: str
    pid: int
    namespace: str
    host: str
    since: str

    @classmethod
    def of_this_process(cls) -> "LeaseHolder":
        """Return a new holder."""
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return cls(uuid.uuid4().hex, os.getpid(), _namespace(), socket.gethostname(), now)

    @property
    def is_dead(self) -> bool:
        """Whether the process ran here, in this namespace, and has exited."""
        if (self.host, self.namespace) != (socket.gethostname(), _namespace()):
            return False
        try:
            os.kill(self.pid, 0)  # signal 0 only asks whether the process exists
        except ProcessLookupError:
            return True
        except PermissionError:  # it exists, and belongs to another user
            return False
        return False

    def __str__(self) -> str:
        """Return for example `process 4242 on node7, since 2026-11-25 17:03:20 UTC`."""
        elsewhere = "" if self.host == socket.gethostname() else f" on {self.host}"
        return f"process {self.pid}{elsewhere}, since {self.since}"


@contextlib.contextmanager
def leased(
    path: Path, given: str, *, waits: bool = False, lease: Path | None = None
) -> Iterator[None]:
    """Hold the lease of a remote directory or file inside the context.

    Args:
        path: the directory or file.
        given: the field with its value, for messages.
        waits: whether to wait until the current writer exits or its lease ends.
        lease: the lease object; None = in the directory.

    Raises:
        InputError: another process is writing there and `waits` is not set; and as
            `pipeline.storage.remote`.
        JobError: as `pipeline.storage.remote`.
    """
    lease = lease or path / LEASE
    holder = LeaseHolder.of_this_process()
    created = missing_folders(lease.parent)
    try:
        _acquire(lease, holder, given, waits=waits)
    except KeyboardInterrupt:  # the lease may have been written
        _release(lease, holder, created)
        raise
    _lost.pop(str(path), None)
    ended = threading.Event()
    renewer = threading.Thread(
        target=_renew, args=(path, lease, holder, ended), name="lease", daemon=True
    )
    renewer.start()
    try:
        yield
    finally:
        ended.set()
        renewer.join()
        _lost.pop(str(path), None)
        try:
            _release(lease, holder, created)
        except KeyboardInterrupt:
            _release(lease, holder, created)
            raise


def _release(lease: Path, holder: LeaseHolder, created: list[Path]) -> None:
    """Remove a lease if it is this holder's, and the folders that were made for it."""
    # A failure must not hide the exception of the body; the lease ends by itself.
    with contextlib.suppress(InputError, JobError, OSError):
        if read_holder(lease) == holder:
            lease.unlink(missing_ok=True)
            remove_empty(created)


def check_not_lost(path: Path) -> None:
    """Check that the leases of a remote path and those above it are still ours, if they were.

    Raises:
        JobError: another process has taken one over.
    """
    # A copy: the thread of another lease may add an entry meanwhile.
    for place, why in list(_lost.items()):
        if str(path) == place or str(path).startswith(f"{place.rstrip('/')}/"):
            raise JobError(f"{place}: {why}; nothing more is written there")


def tell_of_waiting(given: str, holder: object) -> None:
    """Say that a writer waits for another one."""
    _log.info("%s: is being written by %s; waiting until it exits", given, holder)


def _acquire(lease: Path, holder: LeaseHolder, given: str, *, waits: bool) -> None:
    notice = time.monotonic() + NOTICE_SECS
    while True:
        try:
            create_exclusively(lease, _json(holder))
        except FileExistsError:
            other = read_holder(lease)
            if other == holder:  # our own request, repeated after its answer was lost
                return
            if _take_over(lease, holder, other):
                return
            writer = other or "another process"
            if not waits:
                raise InputError(
                    f"{given}: is being written by {writer}; wait until it exits, or choose "
                    "another path (if its machine is gone, try again in "
                    f"{LEASE_SECS:.0f} seconds)"
                ) from None
            if time.monotonic() >= notice:
                tell_of_waiting(given, writer)
                notice = math.inf
            time.sleep(1)
        else:
            return


def _take_over(lease: Path, holder: LeaseHolder, other: LeaseHolder | None) -> bool:
    """Replace the lease of a dead process; return whether it is ours now."""
    if not (other and other.is_dead) and _age_secs(lease) < LEASE_SECS:
        return False
    # Renewed or taken by another process since it was read: no longer dead.
    if read_holder(lease) != other:
        return False
    lease.unlink(missing_ok=True)
    with contextlib.suppress(FileExistsError):
        create_exclusively(lease, _json(holder))
    time.sleep(_SETTLE_SECS)
    return read_holder(lease) == holder


def _age_secs(lease: Path) -> float:
    """Return the time since a lease was written, by the clock of the store."""
    probe = lease.with_name(f"{LEASE}.{uuid.uuid4().hex}")
    # A new object has the present time of the store's clock, the only one that all writers share.
    write(probe, b"")
    try:
        return modified_secs(probe) - modified_secs(lease)
    except FileNotFoundError:  # released meanwhile
        return LEASE_SECS
    finally:
        probe.unlink(missing_ok=True)


def _renew(path: Path, lease: Path, holder: LeaseHolder, ended: threading.Event) -> None:
    """Renew the lease of a path until `ended`; note if it was lost."""
    while not ended.wait(RENEW_SECS):
        # A store that does not answer now may answer next time.
        with contextlib.suppress(InputError, JobError, OSError):
            found = read_holder(lease)
            if found is not None and found != holder:
                _lost[str(path)] = f"{found}, has taken over"
                return
            write(lease, _json(holder))


def _json(holder: LeaseHolder) -> bytes:
    return f"{to_json(asdict(holder))}\n".encode()


def read_holder(lease: Path) -> LeaseHolder | None:
    """Return the holder that a lease names; None if it is missing or invalid."""
    try:
        return LeaseHolder(**from_json(lease.read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")  # noqa: PTH115  a link to no file
    except OSError:
        return ""
