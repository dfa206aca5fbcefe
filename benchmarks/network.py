"""Measure the time of a step on two machines against the network's bandwidth and delay.

    python -m benchmarks.network              # needs root: machines are network namespaces
    python -m benchmarks.network --only mini

Two workers, one core each, in network namespaces that a bridge joins; `tc tbf` limits what each of
them sends, and proxies (`benchmarks.delay`) delay it. Figures go to build/bench/network-*.json.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import tyro

from benchmarks.commands import BUILD, CLOZELINE
from benchmarks.training import LENGTH, Bench
from clozeline.show.terminal import results, table

FOLDER = BUILD / "network"
NAMES = ("bench-a", "bench-b")
ADDRESSES = ("10.78.0.1", "10.78.0.2")
PORT, PROXY_PORT = 2222, 2223
BRIDGE = "bench-bridge"


@dataclass(frozen=True)
class Shape:
    """A model and its batch.

    Attributes:
        model: name of the size.
        batch_size: sequences of 128 positions per worker.
        steps: total number of steps; a line is logged every hundredth of them.
        first_step: step at which the measurements begin, after compilation.
        seconds: shortest time of a measurement.
    """

    model: str
    batch_size: int
    steps: int
    first_step: int
    seconds: float


SHAPES = {"mini": Shape("mini", 8, 500, 30, 6.0), "base": Shape("base", 2, 100, 3, 8.0)}
BANDWIDTHS: dict[str, int | None] = {"no limit": None, "1 Gbit/s": 1000, "100 Mbit/s": 100}
"""Mbit/s that a worker can send."""
DELAYS = {"no delay, proxy": 0.0, "1 ms each way": 0.001, "20 ms each way": 0.02}


@dataclass(frozen=True)
class Figure:
    """One measurement.

    Attributes:
        model: name of the size.
        network: limit or delay.
        step_secs: time of a step, in seconds.
        sent_bytes: bytes that the first worker sends in a step, counted by the kernel.
        wire_secs: sent bytes by bandwidth, in seconds; None without a limit.
    """

    model: str
    network: str
    step_secs: float
    sent_bytes: float
    wire_secs: float | None


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
def training(shape: Shape, dataset: Path, *, by_proxy: bool) -> Iterator[Path]:
    """Train with two workers while the context lasts; yield the file of the metrics."""
    run, cores = FOLDER / "run", sorted(os.sched_getaffinity(0))
    shutil.rmtree(run, ignore_errors=True)
    command = [
        CLOZELINE, "pretrain", "--dataset", dataset, "--run", run, "--model", shape.model,
        "--batch-size", 2 * shape.batch_size, "--steps", shape.steps, "--precision", "bfloat16",
        "--checkpoint-every-steps", 10**6,
    ]  # fmt: skip
    started = []
    for index, name in enumerate(NAMES):
        addresses = [f"{address}:{PORT}" for address in ADDRESSES]
        if by_proxy:  # the other worker's address is that of the proxy on the own machine
            addresses[1 - index] = f"{ADDRESSES[index]}:{PROXY_PORT}"
        task = {"type": "worker", "index": index}
        config = json.dumps({"cluster": {"worker": addresses}, "task": task})
        pinned = inside(name, "taskset", "--cpu-list", cores[index % len(cores)], *command)
        with (FOLDER / f"{name}.log").open("w") as log:
            environment = {**os.environ, "TF_CONFIG": config}
            started.append(subprocess.Popen(pinned, env=environment, stdout=log, stderr=log))
    try:
        yield run / "metrics.jsonl"
    finally:
        for process in started:
            process.kill()
            process.wait()


def logged_step(metrics: Path, after: int) -> int:
    """Wait until a step after this one is logged, and return it."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        with suppress(OSError, ValueError, IndexError):
            step = int(json.loads(metrics.read_text().splitlines()[-1])["step"])
            if step > after:
                return step
        time.sleep(0.005)
    raise RuntimeError(f"{metrics}: no step after {after}; see {FOLDER}/*.log")


def sent_bytes() -> int:
    """Return the number of bytes that the first machine has sent."""
    path = "/sys/class/net/eth0/statistics/tx_bytes"
    done = subprocess.run(inside(NAMES[0], "cat", path), capture_output=True, check=True)
    return int(done.stdout)


def measured(metrics: Path, shape: Shape) -> tuple[float, float]:
    """Return seconds and sent bytes of a step, over at least the shape's shortest time."""
    # One logged step for the change of the network to take effect.
    first = logged_step(metrics, max(shape.first_step, logged_step(metrics, 0)))
    started, before, step = time.monotonic(), sent_bytes(), first
    while time.monotonic() < started + shape.seconds:
        step = logged_step(metrics, step)
    steps = step - first
    return (time.monotonic() - started) / steps, (sent_bytes() - before) / steps


def measure(shape: Shape, dataset: Path) -> Iterator[Figure]:
    """Yield the figures of a shape."""
    with machines():
        with training(shape, dataset, by_proxy=False) as metrics:
            for network, mbit in BANDWIDTHS.items():
                limit(mbit)
                secs, sent = measured(metrics, shape)
                wire_secs = sent * 8 / (mbit * 1e6) if mbit else None
                yield Figure(shape.model, network, secs, sent, wire_secs)
        limit(None)
        with proxies() as delay, training(shape, dataset, by_proxy=True) as metrics:
            for network, secs in DELAYS.items():
                delay(secs)
                yield Figure(shape.model, network, *measured(metrics, shape), None)


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
        figures = []
        for figure in measure(SHAPES[name], dataset):
            figures.append(figure)
            print(figure, file=sys.stderr, flush=True)
        text = json.dumps([asdict(figure) for figure in figures], indent=1) + "\n"
        (BUILD / f"network-{name}.json").write_text(text)
        rows = [
            (each.model, each.network, f"{each.step_secs:.2f} s", f"{each.sent_bytes / 1e6:.1f} MB",
             f"{each.wire_secs:.2f} s" if each.wire_secs else "")
            for each in figures
        ]  # fmt: skip
        columns = ("model", "network", "a step", "sent in a step", "sent / bandwidth")
        results.print(table("", columns, rows, frozenset({0, 1})))


if __name__ == "__main__":
    tyro.cli(main)
