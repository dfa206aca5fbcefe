"""Start the workers of a training as processes of this machine, and end all when one fails."""

import contextlib
import logging
import os
import queue
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO, Literal

from model.training.cluster import FREE_PORTS, TF_CONFIG, Cluster, cluster_from
from model.training.config import START_FACTOR, LaunchConfig
from model.training.rendezvous import members_of
from pipeline.child_processes import ending_with_parent
from pipeline.errors import InputError, JobError
from pipeline.stop_signals import stop_signals

logger = logging.getLogger(__name__)

Show = Callable[[int, Literal["stdout", "stderr"], str], None]
"""Prints a line of a worker: its index, the stream, the line with its end."""

BAD_INPUT, INTERRUPTED = 2, 130
"""Exit codes of a worker after which starting it again does not help."""

_UNTRAINED = (-signal.SIGTERM, 128 + signal.SIGTERM)
"""Exit codes of a worker that SIGTERM ends before it trains: in the first imports, and later."""

# Python runs signal handlers in its main thread, which the kernel does not wake if it gave the
# signal to another thread. So the main thread wakes by itself.
_SIGNAL_SECS = 1.0


@dataclass(frozen=True)
class Launched:
    """Result of a launch.

    Attributes:
        workers: number of workers at the end; 0 if this worker was left out.
        restarts: how many times the workers were started again.
    """

    workers: int
    restarts: int


def launch(config: LaunchConfig, show: Show) -> Launched:
    """Run the workers until they have finished; start them again after a failure if requested.

    Args:
        config: the command, where it runs, and how often to start it.
        show: prints the workers' output.

    Raises:
        InputError: a worker refused its input, or the environment names no workers.
        JobError: a worker failed or was killed, and has used up its restarts.
        KeyboardInterrupt: a signal requested a stop, and all workers have ended.
    """
    everyone = cluster_from(os.environ) if config.workers is None else None
    restarts = 0
    while True:
        clusters = _clusters(config, everyone, is_first=restarts == 0)
        if not clusters:
            return Launched(0, restarts)
        group = Group(config, clusters, show)
        with stop_signals(group.signal):
            group.run()
        failure = group.failure()
        if failure is None:
            return Launched(len(clusters[0].addresses), restarts)
        if restarts == config.restart or not isinstance(failure, JobError) or group.interrupted:
            raise failure
        restarts += 1
        logger.info(f"{failure}; starting again ({restarts} of {config.restart})")


def _clusters(config: LaunchConfig, everyone: Cluster | None, *, is_first: bool) -> list[Cluster]:
    """Return the cluster of each worker to start here.

    Args:
        config: as `launch`.
        everyone: all workers that the environment names; None = all are on this machine.
        is_first: whether this is the first start.

    Returns:
        A cluster for each worker; none if the others continue without it.
    """
    if everyone is None:
        return local_clusters(config.workers or 1)
    if not config.restart:
        return [everyone]
    wait_secs = config.worker_timeout_secs * START_FACTOR
    if not is_first:  # others notice a loss, and end, later than this one
        wait_secs = config.worker_timeout_secs + config.grace_secs
    members = members_of(everyone, wait_secs, config.shared_examples)
    if members is None:
        logger.info(f"{everyone}: the others continue without it, so that the batch size divides")
        return []
    if len(members.addresses) < len(everyone.addresses):
        logger.info(f"{everyone}: continues as {members}")
    return [members]


def local_clusters(workers: int) -> list[Cluster]:
    """Return the cluster of each of some workers on free ports of this machine."""
    addresses = tuple(f"localhost:{port}" for port in free_ports(workers))
    return [Cluster(addresses, index) for index in range(workers)]


def free_ports(count: int) -> list[int]:
    """Return ports of this machine that no process has now."""
    free: list[int] = []
    # Random, not seeded: two launches at the same time must not try the same ports.
    for port in random.SystemRandom().sample(FREE_PORTS, len(FREE_PORTS)):
        with socket.socket() as bound, contextlib.suppress(OSError):
            bound.bind(("0.0.0.0", port))  # TensorFlow listens on all addresses
            free.append(port)
        if len(free) == count:
            return free
    raise JobError(f"no {count} free ports from {FREE_PORTS[0]} to {FREE_PORTS[-1]}")


@dataclass
class _Worker:
    """A process of a group.

    Attributes:
        cluster: the worker's view of the cluster.
        process: its process.
        told: whether it was told to stop before it ended.
    """

    cluster: Cluster
    process: subprocess.Popen[str]
    told: bool = False

    @property
    def code(self) -> int:
        """Exit code; -N if signal N killed it."""
        return int(self.process.returncode)

    def __str__(self) -> str:
        """Return for example `worker 2 of 4 failed with exit code 1`."""
        if self.code < 0:
            return f"{self.cluster} was killed by {signal.Signals(-self.code).name}"
        return f"{self.cluster} failed with exit code {self.code}"


class Group:
    """The processes of one start of all workers.

    Attributes:
        interrupted: whether a signal requested a stop.
    """

    def __init__(self, config: LaunchConfig, clusters: Sequence[Cluster], show: Show) -> None:
        self.config = config
        self.interrupted = False
        self._show = show
        self._events: queue.SimpleQueue[_Worker | int] = queue.SimpleQueue()
        self._ended: list[_Worker] = []
        self._workers: list[_Worker] = []
        self._clusters = clusters

    def signal(self, number: int) -> None:
        """Handle a signal: the first stops all workers, which save; the second kills them."""
        self._events.put(number)

    def run(self) -> None:
        """Start all workers and wait until they have ended."""
        deadline: float | None = None  # a training takes any time; only a stop has a limit
        try:
            self._workers += map(self._started, self._clusters)
            while len(self._ended) < len(self._workers):
                try:
                    event = self._events.get(timeout=_SIGNAL_SECS)
                except queue.Empty:
                    event = None
                if deadline is not None and time.monotonic() >= deadline:
                    self._send(signal.SIGKILL)
                    deadline = None
                if event is None:
                    continue
                if self._must_stop(event):
                    self._send(signal.SIGTERM)
                    deadline = time.monotonic() + self.config.grace_secs
        finally:
            self._send(signal.SIGKILL)

    def _must_stop(self, event: _Worker | int) -> bool:
        """Record an event; return whether the workers must be stopped now."""
        if isinstance(event, _Worker):
            self._ended.append(event)
            # One failure is enough: the workers that were told to stop fail, too.
            is_first = not any(worker.told for worker in self._workers)
            return event.code != 0 and is_first
        if self.interrupted:
            self._send(signal.SIGKILL)
            return False
        self.interrupted = True
        return True

    def _started(self, cluster: Cluster) -> _Worker:
        """Start a worker, in a process group of its own: Ctrl-C must reach it only once."""
        process = subprocess.Popen(
            self.config.command,
            env={**os.environ, TF_CONFIG: cluster.tf_config},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=None if self._has_terminal(cluster) else subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
            preexec_fn=ending_with_parent(self._when_we_die()),
        )
        worker = _Worker(cluster, process)
        threading.Thread(target=self._follow, args=(worker,), daemon=True).start()
        return worker

    def _when_we_die(self) -> int:
        """Return the signal that a worker gets when this process is killed.

        SIGTERM: all save and stop. Workers on other machines should lose this one and continue.
        """
        return signal.SIGKILL if self.config.workers is None else signal.SIGTERM

    def _has_terminal(self, cluster: Cluster) -> bool:
        """Return whether a worker draws its progress bar on our terminal itself."""
        return cluster.index == 0 and sys.stderr.isatty()

    def _follow(self, worker: _Worker) -> None:
        """Print a worker's output until it ends."""
        process, index = worker.process, worker.cluster.index
        other = threading.Thread(target=self._copy, args=(index, "stdout", process.stdout))
        other.start()
        self._copy(index, "stderr", process.stderr)
        other.join()  # all of the output before the end is reported
        process.wait()
        self._events.put(worker)

    def _copy(self, index: int, name: Literal["stdout", "stderr"], stream: IO[str] | None) -> None:
        for line in stream or ():
            self._show(index, name, line)

    def _send(self, number: int) -> None:
        """Send a signal to all workers that run."""
        for worker in self._workers:
            if worker.process.poll() is None:
                worker.told = True
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(worker.process.pid, number)

    def failure(self) -> BaseException | None:
        """Return the error of the worker that failed first; None if all succeeded.

        A worker that was told to stop failed as a consequence, unless its input was bad.
        """
        if self.interrupted:
            for worker in self._ended:
                if worker.code not in (0, INTERRUPTED, *_UNTRAINED):
                    return JobError(
                        f"interrupted, but {worker}: the last steps may not have been saved"
                    )
            return KeyboardInterrupt()
        failed = [each for each in self._ended if each.code and not each.told]
        failed += [each for each in self._ended if each.code == BAD_INPUT]
        if not failed:
            return None
        # If one is killed, the others fail because they lose it; likewise if one refuses its input.
        cause = min(failed, key=lambda each: (each.code >= 0, each.code != BAD_INPUT))
        if cause.code == INTERRUPTED:  # it got the signal instead of us, and all have saved
            return KeyboardInterrupt()
        kind = InputError if cause.code == BAD_INPUT else JobError
        return kind(f"{cause}, so all were stopped" if len(self._ended) > 1 else f"{cause}")
