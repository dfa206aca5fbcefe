"""Measure the time of a step on two machines against the network's bandwidth and delay.

    python -m benchmarks.network              # needs root: machines are network namespaces
    python -m benchmarks.network --only mini

Two workers, one core each, in network namespaces that a bridge joins; `tc tbf` limits what each of
them sends, and proxies (`benchmarks.delay`) delay it. The networks of a training are measured in
turns, since the load of the machine may change; a figure is the median of its turns. Figures go to
build/bench/network-*.json.
"""

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import tyro

from benchmarks.commands import BUILD, CLOZELINE
from benchmarks.training import LENGTH, Bench
from clozeline.show.terminal import results, table

FOLDER = BUILD / "network"
_PREFIX = f"bench{os.getpid() % 1_000_000}"  # the kernel takes at most 15 characters
NAMES = (f"{_PREFIX}-a", f"{_PREFIX}-b")
BRIDGE = f"{_PREFIX}-br"
ADDRESSES = ("10.78.0.1", "10.78.0.2")
PORT, PROXY_PORT = 2222, 2223
LONGEST_STEP_SECS = 600
"""How long to wait for a logged step; the first one includes imports and compilation."""

POLL_SECS = 0.02
"""Seconds between two reads of a training's metrics file; short compared with a measurement."""


@dataclass(frozen=True)
class Shape:
    """A model and its batch.

    Attributes:
        model: name of the size.
        batch_size: sequences of 128 positions per worker.
        steps: total number of steps; a line is logged every hundredth of them.
        first_step: step at which the measurements begin, after compilation.
        seconds: shortest time of a measurement.
        turns: number of measurements of each network.
    """

    model: str
    batch_size: int
    steps: int
    first_step: int
    seconds: float
    turns: int


SHAPES = {
    "mini": Shape("mini", 8, 1000, 30, 6.0, 5),
    "base": Shape("base", 2, 100, 3, 8.0, 3),
}
BANDWIDTHS: dict[str, int | None] = {"no limit": None, "1 Gbit/s": 1000, "100 Mbit/s": 100}
"""Mbit/s that a worker can send."""
DELAYS = {"no delay, proxy": 0.0, "1 ms each way": 0.001, "20 ms each way": 0.02}


@dataclass(frozen=True)
class Figure:
    """One measurement.

    Attributes:
        model: name of the size.
        network: limit or delay.
        step_secs: time of a step, in seconds, in the median of all turns.
        of_turns: time of a step in each turn.
        sent_bytes: bytes that the first worker sends in a step, counted by the kernel.
        wire_secs: sent bytes by bandwidth, in seconds; None without a limit.
        loads: load average of the machine, with the workers, at the end of each turn.
    """

    model: str
    network: str
    step_secs: float
    of_turns: tuple[float, ...]
    sent_bytes: float
    wire_secs: float | None
    loads: tuple[float, ...]


@dataclass(frozen=True)
class Training:
    """A training under way.

    Attributes:
        metrics: its file of metrics.
        workers: process and log file of each worker.
    """

    metrics: Path
    workers: Mapping[Path, subprocess.Popen]

    def check(self) -> None:
        """Raise `RuntimeError` if a worker has ended."""
        for log, process in self.workers.items():
            if (code := process.poll()) is not None:
                *_, last = ["", *log.read_text(errors="replace").splitlines()]
                raise RuntimeError(f"{log}: a worker ended with code {code}: {last}")


def ip(*words: str) -> None:
    """Run iproute2's `ip`."""
    subprocess.run(["ip", *words], check=True)


@contextmanager
def machines() -> Iterator[None]:
    """Two network namespaces on a bridge."""
    with ExitStack() as stack:
        remove = [["ip", "netns", "delete", name] for name in NAMES]
        for command in [["ip", "link", "delete", BRIDGE], *remove]:
            stack.callback(subprocess.run, command, stderr=subprocess.DEVNULL)
        ip("link", "add", BRIDGE, "type", "bridge")
        ip("link", "set", BRIDGE, "up")
        for name, address in zip(NAMES, ADDRESSES, strict=True):
            ip("netns", "add", name)
            ip("link", "add", f"{name}c", "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("link", "set", f"{name}c", "master", BRIDGE, "up")
            ip("-netns", name, "address", "add", f"{address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                ip("-netns", name, "link", "set", device, "up")
        yield


def inside(name: str, *words: object) -> list[str]:
    """Return a command to run in a namespace."""
    return ["ip", "netns", "exec", name, *map(str, words)]


def limit(mbit: int | None) -> None:
    """Limit what each machine can send."""
    for name in NAMES:
        words = ["tc", "qdisc", "replace", "dev", "eth0", "root"]
        words += ["tbf", "rate", f"{mbit}mbit", "burst", "1mb", "latency", "100ms"]
        if mbit is None:
            words = ["tc", "qdisc", "delete", "dev", "eth0", "root"]
        subprocess.run(inside(name, *words), stderr=subprocess.DEVNULL)


@contextmanager
def proxies() -> Iterator[Callable[[float], None]]:
    """A proxy on each machine to the other one; yield a function that sets their delay."""
    with ExitStack() as stack:
        started = []
        for name, own, other in zip(NAMES, ADDRESSES, reversed(ADDRESSES), strict=True):
            ends = (f"{own}:{PROXY_PORT}", f"{other}:{PORT}")
            process = subprocess.Popen(
                inside(name, sys.executable, "-m", "benchmarks.delay", *ends),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            started.append(stack.enter_context(process))
            stack.callback(process.kill)
            assert process.stdout
            process.stdout.readline()

        def delay(secs: float) -> None:
            for process in started:
                assert process.stdin
                process.stdin.write(f"{secs}\n")
                process.stdin.flush()

        yield delay


@contextmanager
def training(shape: Shape, dataset: Path, *, by_proxy: bool) -> Iterator[Training]:
    """Train with two workers while the context lasts."""
    run, cores = FOLDER / "run", sorted(os.sched_getaffinity(0))
    shutil.rmtree(run, ignore_errors=True)
    command = [
        CLOZELINE, "pretrain", "--dataset", dataset, "--run", run, "--model", shape.model,
        "--batch-size", 2 * shape.batch_size, "--steps", shape.steps, "--precision", "bfloat16",
        "--checkpoint-every-steps", 10**6,
    ]  # fmt: skip
    workers: dict[Path, subprocess.Popen] = {}
    try:
        for index, name in enumerate(NAMES):
            addresses = [f"{address}:{PORT}" for address in ADDRESSES]
            if by_proxy:  # the other worker's address is that of the proxy on the own machine
                addresses[1 - index] = f"{ADDRESSES[index]}:{PROXY_PORT}"
            task = {"type": "worker", "index": index}
            config = json.dumps({"cluster": {"worker": addresses}, "task": task})
            pinned = inside(name, "taskset", "--cpu-list", cores[index % len(cores)], *command)
            log = FOLDER / f"worker-{index}.log"
            with log.open("w") as output:
                environment = {**os.environ, "TF_CONFIG": config}
                workers[log] = subprocess.Popen(
                    pinned, env=environment, stdout=output, stderr=output
                )
        yield Training(run / "metrics.jsonl", workers)
    finally:
        for process in workers.values():
            process.kill()
            process.wait()


def logged_step(training: Training, after: int) -> int:
    """Wait until a step after this one is logged, and return it.

    Raises:
        RuntimeError: a worker has ended, or no step was logged for too long.
    """
    deadline = time.monotonic() + LONGEST_STEP_SECS
    while time.monotonic() < deadline:
        with suppress(OSError, ValueError, IndexError):
            step = int(json.loads(training.metrics.read_text().splitlines()[-1])["step"])
            if step > after:
                return step
        training.check()
        time.sleep(POLL_SECS)
    raise RuntimeError(f"{training.metrics}: no step after {after}; see {FOLDER}/*.log")


def sent_bytes() -> int:
    """Return the number of bytes that the first machine has sent."""
    path = "/sys/class/net/eth0/statistics/tx_bytes"
    done = subprocess.run(inside(NAMES[0], "cat", path), capture_output=True, check=True)
    return int(done.stdout)


@dataclass(frozen=True)
class Turn:
    """One measurement: seconds and sent bytes of a step, and the load average at its end."""

    step_secs: float
    sent_bytes: float
    load: float


def measured(training: Training, shape: Shape) -> Turn:
    """Measure steps for at least the shape's shortest time."""
    # One logged step for the change of the network to take effect.
    first = logged_step(training, max(shape.first_step, logged_step(training, 0)))
    started, before, step = time.monotonic(), sent_bytes(), first
    while time.monotonic() < started + shape.seconds:
        step = logged_step(training, step)
    steps, secs = step - first, time.monotonic() - started
    return Turn(secs / steps, (sent_bytes() - before) / steps, os.getloadavg()[0])


def in_turns(
    shape: Shape, training: Training, set_up: Mapping[str, Callable[[], None]]
) -> dict[str, list[Turn]]:
    """Measure each network `shape.turns` times.

    Args:
        shape: the model and its batch.
        training: the training under way.
        set_up: changes to each network, by name.
    """
    turns: dict[str, list[Turn]] = {network: [] for network in set_up}
    for _ in range(shape.turns):
        for network, change in set_up.items():
            change()
            turns[network].append(measured(training, shape))
            print(shape.model, network, turns[network][-1], file=sys.stderr, flush=True)
    return turns


def measure(shape: Shape, dataset: Path) -> list[Figure]:
    """Return the figures of a shape."""
    with machines():
        with training(shape, dataset, by_proxy=False) as direct:
            limits = {name: partial(limit, mbit) for name, mbit in BANDWIDTHS.items()}
            turns = in_turns(shape, direct, limits)
        limit(None)
        with proxies() as delay, training(shape, dataset, by_proxy=True) as delayed:
            delays = {name: partial(delay, secs) for name, secs in DELAYS.items()}
            turns |= in_turns(shape, delayed, delays)
    return [_figure(shape, network, each) for network, each in turns.items()]


def _figure(shape: Shape, network: str, turns: list[Turn]) -> Figure:
    sent, mbit = statistics.median(turn.sent_bytes for turn in turns), BANDWIDTHS.get(network)
    of_turns = tuple(turn.step_secs for turn in turns)
    return Figure(
        model=shape.model,
        network=network,
        step_secs=statistics.median(of_turns),
        of_turns=of_turns,
        sent_bytes=sent,
        wire_secs=sent * 8 / (mbit * 1e6) if mbit else None,
        loads=tuple(turn.load for turn in turns),
    )


@contextmanager
def unwound_at_sigterm() -> Iterator[None]:
    """Let SIGTERM raise `SystemExit`, so that namespaces and processes are removed."""

    def end(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # another one would interrupt the removal
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(*, only: tuple[str, ...] = (), prepare: bool = False) -> None:
    """Measure, print, and write the figures to build/bench/network-*.json.

    Args:
        only: mini, base; empty = both.
        prepare: only make the dataset, which later calls use.
    """
    dataset = FOLDER / "dataset"
    if not dataset.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        shutil.copytree(Bench(quick=True).dataset(LENGTH), dataset)
    if prepare:
        return
    for name in only or SHAPES:
        with unwound_at_sigterm():
            figures = measure(SHAPES[name], dataset)
        text = json.dumps([asdict(figure) for figure in figures], indent=1) + "\n"
        (BUILD / f"network-{name}.json").write_text(text)
        rows = [
            (each.model, each.network, f"{each.step_secs:.2f} s",
             f"{min(each.of_turns):.2f} to {max(each.of_turns):.2f} s",
             f"{each.sent_bytes / 1e6:.1f} MB",
             f"{each.wire_secs:.2f} s" if each.wire_secs else "",
             f"{min(each.loads):.1f} to {max(each.loads):.1f}")
            for each in figures
        ]  # fmt: skip
        columns = ("model", "network", "a step", "of all turns", "sent in a step",
                   "sent / bandwidth", "load average")  # fmt: skip
        results.print(table("", columns, rows, frozenset({0, 1})))


if __name__ == "__main__":
    tyro.cli(main)
