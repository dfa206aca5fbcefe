"""Four workers on machines whose network fails: network namespaces, joined by a bridge.

The run is in a bucket, whose server has a machine of its own. The workers share the local cache, as
those of one machine do.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.fork_server import ROOT, ForkServer

pytestmark = pytest.mark.network

STORE = ROOT / "build" / "storage" / "versitygw"
COUNT = 4
PORT, STORE_PORT, PROXY_PORT = 2222, 7070, 2230
CUT_SECS = 5
TIMEOUT_SECS = 20
BOUND_SECS = 900
LOST = (
    rf"clozeline: worker \d of {COUNT}: lost the connection to another worker; start all workers "
    "again, they resume from the last checkpoint"
)


class Machines:
    """Network namespaces with the addresses 10.77.0.1 to .5; each has a cable to a bridge.

    Attributes:
        names: the namespaces, one for each worker.
        forks: a fork server in each of them.
        store: the namespace of the object store.
    """

    def __init__(self) -> None:
        self._prefix = f"cz{os.getpid() % 100_000}"
        *self.names, self.store = self._all = [f"{self._prefix}-{i}" for i in range(COUNT + 1)]
        self.forks = [ForkServer(*inside(name)) for name in self.names]

    def set_up(self) -> None:
        bridge = f"{self._prefix}b"
        ip("link", "add", bridge, "type", "bridge")
        ip("link", "set", bridge, "up")
        for index, name in enumerate(self._all):
            cable = self._cable(index)
            ip("netns", "add", name)
            ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("link", "set", cable, "master", bridge, "up")
            ip("-netns", name, "address", "add", f"{address(index)}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                ip("-netns", name, "link", "set", device, "up")

    def remove(self) -> None:
        for name in self._all:
            ip("netns", "delete", name, check=False)  # its end of the cable goes with it
        ip("link", "delete", f"{self._prefix}b", check=False)

    def _cable(self, index: int) -> str:
        """Name of the bridge's end of a machine's cable."""
        return f"{self._prefix}c{index}"

    def pull_out(self, index: int) -> None:
        """Pull a machine's cable out of the bridge: packets are lost without any answer."""
        ip("link", "set", self._cable(index), "down")

    def plug_in(self, index: int) -> None:
        ip("link", "set", self._cable(index), "up")

    def limit(self, mbit: int) -> None:
        """Limit what each machine can send, in Mbit/s."""
        for name in self._all:
            limit = f"rate {mbit}mbit burst 1mb latency 100ms".split()
            run(*inside(name), "tc", "qdisc", "replace", "dev", "eth0", "root", "tbf", *limit)


def address(index: int) -> str:
    return f"10.77.0.{index + 1}"


def run(*command: str, check: bool = True) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 or not check, f"{' '.join(command)}: {done.stderr}"


def ip(*words: str, check: bool = True) -> None:
    run("ip", *words, check=check)


def inside(name: str) -> list[str]:
    """Return what runs a command in a namespace."""
    return ["ip", "netns", "exec", name]


def wait_for(happened: Callable[[], bool], processes: Sequence[subprocess.Popen]) -> None:
    deadline = time.monotonic() + BOUND_SECS
    while not happened():
        assert time.monotonic() < deadline
        ended = [process for process in processes if process.poll() is not None]
        assert not ended, [process.communicate() for process in ended]
        time.sleep(0.001)


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    probe = ["unshare", "--net", "ip", "link", "add", "type", "veth"]
    refused = subprocess.run(probe, capture_output=True, text=True).stderr.strip()
    if refused:
        pytest.skip(f"network namespaces are not allowed here: {refused}")
    made = Machines()
    try:
        made.set_up()
        yield made
    finally:
        made.remove()


@pytest.fixture
def bucket(machines: Machines, tmp_path: Path) -> Iterator[Path]:
    """The folder of the bucket `bucket` of an S3 server, which has a machine of its own."""
    if not STORE.exists():
        pytest.fail(f"{STORE} is missing; make test-network builds it")
    folder = tmp_path / "store" / "bucket"
    folder.mkdir(parents=True)
    server = subprocess.Popen(
        [
            *inside(machines.store), str(STORE), "--access=key", "--secret=secret", "--quiet",
            f"--port={address(COUNT)}:{STORE_PORT}", "posix", str(folder.parent),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    sockets = Path(f"/proc/{server.pid}/net/tcp")  # those of its namespace
    wait_for(lambda: f":{STORE_PORT:04X} " in sockets.read_text(), [server])
    yield folder
    server.kill()
    server.wait()


@contextmanager
def proxies(machines: Machines) -> Iterator[Callable[[float], None]]:
    """Proxies on each machine to all others; yield a function that sets their delay."""
    started = []
    for own, name in enumerate(machines.names):
        pairs = [
            (f"{address(own)}:{PROXY_PORT + other}", f"{address(other)}:{PORT}")
            for other in range(COUNT)
            if other != own
        ]
        command = [sys.executable, "-m", "benchmarks.delay", *sum(pairs, ())]
        process = subprocess.Popen(
            inside(name) + command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)

    def delay(secs: float) -> None:
        for process in started:
            assert process.stdin
            process.stdin.write(f"{secs}\n")
            process.stdin.flush()

    try:
        for process in started:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
        yield delay
    finally:
        for process in started:
            process.kill()
            process.communicate()


FOREVER = 10**6
"""Steps of a training that something else ends."""


class Training:
    """The workers of a run in a bucket, each on a machine of its own."""

    def __init__(
        self, flags: Sequence[str], machines: Machines, bucket: Path, *, steps: int, delayed: bool
    ) -> None:
        self._checkpoints = bucket / "run" / "checkpoints"
        self.workers = []
        for index, forks in enumerate(machines.forks):
            addresses = [f"{address(each)}:{PORT}" for each in range(COUNT)]
            if delayed:  # the others' addresses are those of the proxies on the own machine
                proxies = [f"{address(index)}:{PROXY_PORT + other}" for other in range(COUNT)]
                addresses = [*proxies[:index], addresses[index], *proxies[index + 1 :]]
            task = {"type": "worker", "index": index}
            config = {"cluster": {"worker": addresses}, "task": task}
            environment = {
                "TF_CONFIG": json.dumps(config),
                "AWS_ENDPOINT_URL": f"http://{address(COUNT)}:{STORE_PORT}",
                "AWS_ACCESS_KEY_ID": "key",
                "AWS_SECRET_ACCESS_KEY": "secret",
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_EC2_METADATA_DISABLED": "true",
            }
            command = [*flags, "--run=s3://bucket/run", f"--steps={steps}"]
            command.append(f"--worker-timeout={TIMEOUT_SECS}")
            self.workers.append(
                forks.popen(
                    command,
                    env=os.environ | environment,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )

    def wait_for(self, happened: Callable[[], bool]) -> None:
        wait_for(happened, self.workers)

    def wait_for_progress(self) -> None:
        """Wait for two more checkpoints than when this is called."""
        before = self.saved_step()
        self.wait_for(lambda: self.saved_step() >= before + 2 * SAVE_STEPS)

    def saved_step(self) -> int:
        """Return the step of the last checkpoint that is whole."""
        whole = self._checkpoints.glob("step-*/checksums.json")
        return max((int(path.parent.name[5:]) for path in whole), default=0)

    def is_uploading(self) -> bool:
        """Return whether a part of a checkpoint is in the bucket, which is not whole."""
        begun = (int(path.name[5:]) for path in self._checkpoints.glob("step-*"))
        return max(begun, default=0) > self.saved_step()

    def stop(self, index: int) -> None:
        self.workers[index].send_signal(signal.SIGSTOP)

    def resume(self, index: int) -> None:
        self.workers[index].send_signal(signal.SIGCONT)

    def said(self, *indexes: int) -> list[str]:
        """Wait for some workers, or for all; return what they printed."""
        workers = [self.workers[index] for index in indexes or range(COUNT)]
        return [worker.communicate(timeout=BOUND_SECS)[1] for worker in workers]

    def codes(self) -> list[int]:
        return [worker.returncode for worker in self.workers]

    def kill(self) -> None:
        for worker in self.workers:
            worker.kill()
            worker.communicate()


SAVE_STEPS = 10
"""Steps between two checkpoints."""


@pytest.fixture
def flags(dataset: Path, small_model: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list:
    """The command of all trainings; the user's home is empty.

    The warm-up is never over, so the learning rate does not depend on --steps.
    """
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return [
        sys.executable, "-m", "clozeline", "pretrain", f"--dataset={dataset}",
        f"--model={small_model}", "--batch-size=12", "--precision=float32", "--no-xla",
        "--learning-rate=1e-3", "--warmup-steps=10000", f"--checkpoint-every-steps={SAVE_STEPS}",
    ]  # fmt: skip


@pytest.fixture
def train(flags: list[str], machines: Machines, bucket: Path) -> Iterator[Callable[..., Training]]:
    started: list[Training] = []

    def train(*, steps: int = FOREVER, delayed: bool = False) -> Training:
        started.append(Training(flags, machines, bucket, steps=steps, delayed=delayed))
        return started[-1]

    yield train
    for training in started:
        training.kill()


def weights_of(run: Path, step: int) -> dict[str, np.ndarray]:
    reader = tf.train.load_checkpoint(str(run / "checkpoints" / f"step-{step:08d}" / "checkpoint"))
    names = [name for name in reader.get_variable_to_shape_map() if name.startswith("model/")]
    return {name: reader.get_tensor(name) for name in names}


def has_lost(said: str) -> bool:
    return re.fullmatch(LOST, said.splitlines()[-1]) is not None and "Traceback" not in said


def slow_links_a_short_cut_and_a_stopped_worker(training: Training, machines: Machines) -> None:
    for mbit in (1000, 100):
        machines.limit(mbit)
        training.wait_for_progress()
    # Less than --worker-timeout: training continues.
    machines.pull_out(1)
    time.sleep(CUT_SECS)
    machines.plug_in(1)
    training.wait_for_progress()
    training.stop(2)
    time.sleep(CUT_SECS)
    training.resume(2)
    training.wait_for_progress()
    # Longer: all end with a line, the stopped one when it continues.
    training.stop(3)
    said = training.said(0, 1, 2)
    training.resume(3)
    said += training.said(3)
    assert all(map(has_lost, said)), said
    assert training.codes() == [1] * COUNT


def delayed_links_and_a_cut_for_good(
    training: Training, machines: Machines, delay: Callable
) -> None:
    for secs in (0.001, 0.02):
        delay(secs)
        training.wait_for_progress()
    machines.pull_out(1)
    said = training.said()
    machines.plug_in(1)
    assert all(map(has_lost, said)), said
    assert training.codes() == [1] * COUNT


def a_stopped_chief(training: Training) -> None:
    training.wait_for_progress()
    training.stop(0)
    said = training.said(1, 2, 3)
    training.resume(0)
    said += training.said(0)
    assert all(map(has_lost, said)), said
    assert training.codes() == [1] * COUNT


def a_chief_killed_in_an_upload(training: Training) -> int:
    """Return the step of the last checkpoint that is whole."""
    training.wait_for_progress()

    def is_stopped_in_an_upload() -> bool:
        if not training.is_uploading():
            return False
        training.stop(0)
        time.sleep(0.1)  # the store may have all of the file that was just sent
        if not training.is_uploading():
            training.resume(0)
        return training.is_uploading()

    training.wait_for(is_stopped_in_an_upload)
    training.workers[0].kill()
    said = training.said()
    assert training.codes() == [-signal.SIGKILL, 1, 1, 1]
    assert all(map(has_lost, said[1:])), said
    assert training.is_uploading()  # half a checkpoint stays there
    return training.saved_step()


def test_four_workers_survive_the_faults_of_a_network(
    machines: Machines, train: Callable[..., Training], bucket: Path, flags: list, tmp_path: Path
) -> None:
    slow_links_a_short_cut_and_a_stopped_worker(train(), machines)
    with proxies(machines) as delay:
        delayed_links_and_a_cut_for_good(train(delayed=True), machines, delay)
    a_stopped_chief(train())
    saved = a_chief_killed_in_an_upload(train())

    steps = saved + 2 * SAVE_STEPS
    training = train(steps=steps)
    said = training.said()
    assert training.codes() == [0] * COUNT, said
    assert f"resuming from step {saved:,} of" in said[0]
    # One process without a network, and without any fault.
    undisturbed = tmp_path / "undisturbed"
    run(*flags, f"--run={undisturbed}", f"--steps={steps}")
    expected, found = weights_of(undisturbed, steps), weights_of(bucket / "run", steps)
    assert len(expected) > 10
    assert expected.keys() == found.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-5, err_msg=name)
