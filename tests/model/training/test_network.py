"""Two workers on two machines whose network fails: network namespaces, joined by a bridge."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

pytestmark = pytest.mark.network

COUNT = 2
STEPS = 4000
CUT_SECS = 5
TIMEOUT_SECS = 15
LOST = (
    r"clozeline: worker \d of 2: lost the connection to another worker; start all workers again, "
    "they resume from the last checkpoint"
)


class Machines:
    """Network namespaces with the addresses 10.77.0.1 and 10.77.0.2; each has a cable to a bridge.

    Attributes:
        names: the namespaces.
    """

    def __init__(self) -> None:
        self._prefix = f"cz{os.getpid() % 100_000}"
        self.names = [f"{self._prefix}-{index}" for index in range(COUNT)]

    def set_up(self) -> None:
        bridge = f"{self._prefix}b"
        ip("link", "add", bridge, "type", "bridge")
        ip("link", "set", bridge, "up")
        for index, name in enumerate(self.names):
            cable = self._cable(index)
            ip("netns", "add", name)
            ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("link", "set", cable, "master", bridge, "up")
            ip("-netns", name, "address", "add", f"{address(index)}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                ip("-netns", name, "link", "set", device, "up")

    def remove(self) -> None:
        for name in self.names:
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


def address(index: int) -> str:
    return f"10.77.0.{index + 1}"


def ip(*words: str, check: bool = True) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    assert done.returncode == 0 or not check, f"ip {' '.join(words)}: {done.stderr}"


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


class Training:
    """The two workers of a run, each on a machine of its own."""

    def __init__(self, machines: Machines, run: Path, *flags: str) -> None:
        self.run = run
        addresses = [f"{address(index)}:2222" for index in range(COUNT)]
        self.workers = []
        for index, name in enumerate(machines.names):
            config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            command = [
                "ip", "netns", "exec", name, sys.executable, "-m", "clozeline", "pretrain",
                f"--run={run}", f"--steps={STEPS}", "--batch-size=12", "--precision=float32",
                "--learning-rate=1e-4", f"--worker-timeout={TIMEOUT_SECS}", "--no-xla", *flags,
            ]  # fmt: skip
            environment = {
                **os.environ,
                "CUDA_VISIBLE_DEVICES": "",
                "TF_CONFIG": json.dumps(config),
            }
            self.workers.append(
                subprocess.Popen(
                    command,
                    env=environment,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )

    def wait_for(self, happened: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 300
        while not happened():
            assert time.monotonic() < deadline
            assert all(worker.poll() is None for worker in self.workers), self.said()
            time.sleep(0.001)

    def wait_for_progress(self) -> None:
        """Wait until ten more lines have been logged than when this is called."""
        before = self.lines()
        self.wait_for(lambda: self.lines() >= before + 10)

    def lines(self) -> int:
        path = self.run / "metrics.jsonl"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def said(self) -> list[str]:
        """Wait for all workers and return what they printed."""
        return [worker.communicate(timeout=300)[1] for worker in self.workers]

    def codes(self) -> list[int]:
        return [worker.returncode for worker in self.workers]

    def kill(self) -> None:
        for worker in self.workers:
            worker.kill()
            worker.communicate()


@pytest.fixture
def train(machines: Machines, dataset: Path, small_model: str) -> Iterator[Callable[..., Training]]:
    started: list[Training] = []

    def train(run: Path) -> Training:
        flags = (f"--dataset={dataset}", f"--model={small_model}", "--checkpoint-every-steps=40")
        started.append(Training(machines, run, *flags))
        return started[-1]

    yield train
    for training in started:
        training.kill()


def weights_of(run: Path) -> dict[str, np.ndarray]:
    reader = tf.train.load_checkpoint(str(run / "checkpoints" / f"step-{STEPS:08d}" / "checkpoint"))
    names = [name for name in reader.get_variable_to_shape_map() if name.startswith("model/")]
    return {name: reader.get_tensor(name) for name in names}


def has_lost(said: str) -> bool:
    return re.fullmatch(LOST, said.splitlines()[-1]) is not None and "Traceback" not in said


def test_a_run_survives_the_faults_of_a_network(
    machines: Machines, train: Callable[..., Training], tmp_path: Path
) -> None:
    undisturbed = train(tmp_path / "undisturbed")
    said = undisturbed.said()
    assert undisturbed.codes() == [0, 0], said
    run = tmp_path / "disturbed"

    # A link that is cut for less than --worker-timeout: training continues.
    training = train(run)
    training.wait_for_progress()
    machines.pull_out(1)
    time.sleep(CUT_SECS)
    machines.plug_in(1)
    training.wait_for_progress()

    # A link that is cut for good ends both workers with a line.
    machines.pull_out(1)
    said = training.said()
    machines.plug_in(1)
    assert training.codes() == [1, 1], said
    assert all(map(has_lost, said)), said

    # A stopped worker, then a stopped chief. Once it continues, it ends with the same line.
    for index in (1, 0):
        training = train(run)
        training.wait_for_progress()
        training.workers[index].send_signal(signal.SIGSTOP)
        said = training.workers[1 - index].communicate(timeout=300)[1]
        assert has_lost(said), said
        training.workers[index].send_signal(signal.SIGCONT)
        said = training.workers[index].communicate(timeout=300)[1]
        assert has_lost(said), said
        assert training.codes() == [1, 1]

    # A chief that is killed in the middle of a save.
    training = train(run)
    training.wait_for_progress()
    chief = training.workers[0]

    def is_saving() -> bool:
        return any((run / "checkpoints").glob("partial-*"))

    def is_stopped_while_saving() -> bool:
        if not is_saving():
            return False
        chief.send_signal(signal.SIGSTOP)
        if not is_saving():
            chief.send_signal(signal.SIGCONT)
        return is_saving()

    training.wait_for(is_stopped_while_saving)
    chief.kill()
    said = training.said()
    assert training.codes() == [-signal.SIGKILL, 1]
    assert has_lost(said[1]), said

    training = train(run)
    said = training.said()
    assert training.codes() == [0, 0], said
    expected, found = weights_of(tmp_path / "undisturbed"), weights_of(run)
    assert len(expected) > 10
    assert expected.keys() == found.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-5, err_msg=name)
