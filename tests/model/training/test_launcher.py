"""Workers as processes of one machine; small scripts replace the training."""

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import clozeline
from model.training import launcher, rendezvous
from model.training.cluster import Cluster
from model.training.config import LaunchConfig
from model.training.launcher import Launched, free_ports, launch
from model.training.rendezvous import members_of
from pipeline.errors import InputError, JobError

ROOT = Path(clozeline.__file__).parents[1]

PREPARE = """
import json, os, signal, sys, time
from pathlib import Path
config = json.loads(os.environ["TF_CONFIG"])
index, folder = config["task"]["index"], Path(sys.argv[1])
def note(text):
    with open(folder / f"{index}", "a") as file: file.write(text + "\\n")
def stop(number, frame):
    note("stopped")
    os._exit(130)
def wait():
    note("waits")
    while True: time.sleep(60)
def others_wait():
    notes = lambda: [each.read_text() for each in folder.iterdir()]
    while sum("waits" in text for text in notes()) < count - 1: time.sleep(0.01)
count = len(config["cluster"]["worker"])
signal.signal(signal.SIGTERM, stop)
"""


class Recorder:
    """Runs a script in several workers and keeps what they print."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lines: list[tuple[int, str, str]] = []

    def run(self, workers: int, script: str, **fields: float) -> Launched:
        command = (sys.executable, "-c", PREPARE + script, str(self.folder))
        config = LaunchConfig(command=command, workers=workers, **fields)  # type: ignore[arg-type]
        return launch(config, lambda *line: self.lines.append(line))

    def notes(self, index: int) -> list[str]:
        return (self.folder / f"{index}").read_text().split()


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path)


def test_workers_know_each_other_and_their_output_is_shown(recorder: Recorder) -> None:
    script = "print(index, os.environ['TF_CONFIG']); print('a note', file=sys.stderr)"
    assert recorder.run(3, script) == Launched(workers=3, restarts=0)
    printed = sorted(line for line in recorder.lines if line[1] == "stdout")
    configs = [json.loads(line.partition(" ")[2]) for _, _, line in printed]
    assert [config["task"]["index"] for config in configs] == [0, 1, 2]
    addresses = configs[0]["cluster"]["worker"]
    assert len({*addresses}) == 3
    assert all(config["cluster"]["worker"] == addresses for config in configs)
    notes = sorted(line for line in recorder.lines if line[1] == "stderr")
    assert notes == [(index, "stderr", "a note\n") for index in range(3)]


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ("sys.exit(3)", JobError, "worker 2 of 3 failed with exit code 3, so all were stopped"),
        ("sys.exit(2)", InputError, "worker 2 of 3 failed with exit code 2, so all were stopped"),
        ("os.kill(os.getpid(), signal.SIGKILL)", JobError, "worker 2 of 3 was killed by SIGKILL"),
    ],
)
def test_a_worker_that_fails_ends_all(
    recorder: Recorder, how: str, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        recorder.run(3, f"if index != 1: wait()\nothers_wait()\n{how}")
    assert recorder.notes(0) == recorder.notes(2) == ["waits", "stopped"]


def test_the_failed_worker_is_named_not_those_that_lost_it(recorder: Recorder) -> None:
    # The survivors fail before the launcher can tell them to stop.
    script = "if index: sys.exit(1)\nos.kill(os.getpid(), signal.SIGKILL)"
    with pytest.raises(JobError, match="worker 1 of 2 was killed by SIGKILL"):
        recorder.run(2, script)


def test_a_training_may_take_hours(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(step=7200.0)  # two hours pass between any two looks at the clock
    monkeypatch.setattr(launcher, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    assert recorder.run(2, 'note("finished")') == Launched(2, 0)
    assert recorder.notes(0) == recorder.notes(1) == ["finished"]


def test_a_worker_that_does_not_stop_is_killed(recorder: Recorder) -> None:
    script = (
        "signal.signal(signal.SIGTERM, lambda *_: note('stays'))\n"
        "if index: wait()\nothers_wait()\nsys.exit(3)"
    )
    with pytest.raises(JobError, match="worker 1 of 2 failed with exit code 3"):
        recorder.run(2, script, grace_secs=0.5)
    assert recorder.notes(1)[0] == "waits"


def test_workers_are_restarted_on_other_ports(recorder: Recorder) -> None:
    script = (
        "note(config['cluster']['worker'][index])\n"
        "if len((folder / f'{index}').read_text().split()) > 3 or count == 1: sys.exit(0)\n"
        "if index: wait()\nothers_wait()\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    assert recorder.run(2, script, restart=3) == Launched(workers=2, restarts=3)
    assert len({*recorder.notes(0)}) == 4


def test_restarts_are_used_up(recorder: Recorder) -> None:
    with pytest.raises(JobError, match="worker 1 of 1 failed with exit code 1"):
        recorder.run(1, "note('starts')\nsys.exit(1)", restart=2)
    assert recorder.notes(0) == ["starts"] * 3


def test_bad_input_is_not_started_again(recorder: Recorder) -> None:
    with pytest.raises(InputError, match="worker 1 of 1 failed with exit code 2"):
        recorder.run(1, "note('starts')\nsys.exit(2)", restart=2)
    assert recorder.notes(0) == ["starts"]


def test_a_signal_to_a_worker_stops_all(recorder: Recorder) -> None:
    """Workers agree to stop: one of them got SIGTERM, and all end with exit code 130."""
    with pytest.raises(KeyboardInterrupt):
        recorder.run(2, "sys.exit(130)", restart=5)


@pytest.mark.usefixtures("obeys_hang_up")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_all_workers_once(recorder: Recorder, number: int) -> None:
    script = f"if index: wait()\nothers_wait()\nos.kill(os.getppid(), {int(number)})\nwait()"
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        recorder.run(2, script, restart=5)
    assert recorder.notes(1) == ["waits", "stopped"]
    # The launcher may stop worker 0 before it waits: the signal comes from it.
    assert recorder.notes(0) in (["waits", "stopped"], ["stopped"])
    assert signal.getsignal(number) is before


def test_a_second_signal_kills(recorder: Recorder) -> None:
    script = (
        "def again(*_): os.kill(os.getppid(), signal.SIGTERM)\n"
        "signal.signal(signal.SIGTERM, again)\n"
        "if index: wait()\nothers_wait()\nos.kill(os.getppid(), signal.SIGTERM)\nwait()"
    )
    with pytest.raises(
        JobError, match=r"interrupted, but worker \d of 2 was killed by SIGKILL: the"
    ):
        recorder.run(2, script)


def test_workers_stop_if_the_launcher_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys; from model.training.launcher import launch\n"
        "from model.training.config import LaunchConfig\n"
        "command = (sys.executable, '-c', sys.argv[1], sys.argv[2])\n"
        "launch(LaunchConfig(command=command, workers=2), print)"
    )
    script = PREPARE + "wait()"
    launcher = subprocess.Popen([sys.executable, "-c", code, script, str(tmp_path)], cwd=ROOT)
    wait_for_notes(tmp_path, "waits")
    launcher.kill()
    launcher.wait()
    wait_for_notes(tmp_path, "stopped")


SUPERVISE = """
import logging, sys
from model.training.config import LaunchConfig
from model.training.launcher import launch
logging.basicConfig(level="INFO", format="%(message)s")
command = (sys.executable, "-c", sys.argv[1], sys.argv[2])
print(launch(LaunchConfig(command=command, restart=2, worker_timeout_secs=12, grace_secs=3,
                          shared_examples=int(sys.argv[3])), print))
"""


def supervised(folder: Path, workers: int, shared: int, script: str) -> list[tuple[int, str]]:
    """Run a supervisor for each worker, as on several machines; return exit codes and outputs."""
    addresses = tuple(f"localhost:{port}" for port in free_ports(workers))
    supervisors = [
        subprocess.Popen(
            [sys.executable, "-c", SUPERVISE, PREPARE + script, str(folder), str(shared)],
            cwd=ROOT,
            env={**os.environ, "TF_CONFIG": Cluster(addresses, index).tf_config},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(workers)
    ]
    said = [supervisor.communicate(timeout=300)[0] for supervisor in supervisors]
    return [(each.returncode, text) for each, text in zip(supervisors, said, strict=True)]


LOSE_THE_LAST = """
note(f"{index}of{count}")
if count < NEEDED: sys.exit(0)
while not all((folder / f"{each}").exists() for each in range(count)): time.sleep(0.01)
if index == count - 1:
    DIE
time.sleep(0.1)
sys.exit(1)
"""
DIE_WITH_SUPERVISOR = "os.kill(os.getppid(), signal.SIGKILL); os.kill(os.getpid(), signal.SIGKILL)"


@pytest.mark.slow
@pytest.mark.parametrize(("shared", "left"), [(12, 2), (3, 1)])
def test_training_continues_with_the_surviving_machines(
    tmp_path: Path, shared: int, left: int
) -> None:
    """Of three, or fewer if their number must divide the batch."""
    script = LOSE_THE_LAST.replace("NEEDED", "3").replace("DIE", DIE_WITH_SUPERVISOR)
    first, second, lost = supervised(tmp_path, 3, shared, script)
    assert lost[0] == -signal.SIGKILL
    assert (first[0], second[0]) == (0, 0), (first, second)
    assert f"Launched(workers={left}, restarts=1)" in first[1]
    expected = f"Launched(workers={2 if left == 2 else 0}, restarts=1)"
    assert expected in second[1]
    assert ("continue without it" in second[1]) is (left == 1)
    notes = [(tmp_path / f"{index}").read_text().split() for index in range(3)]
    assert notes[2][0] == "2of3"
    assert "stopped" not in notes[2]  # it would have stopped the others, too
    assert notes[0] == ["0of3", f"0of{left}"]


def test_a_lost_worker_that_returns_is_one_of_them(tmp_path: Path) -> None:
    script = (
        "note(f'{index}of{count}')\n"
        "while not all((folder / f'{each}').exists() for each in range(count)): time.sleep(0.01)\n"
        "if len((folder / f'{index}').read_text().split()) > 1: sys.exit(0)\n"
        "if index == 0: os.kill(os.getpid(), signal.SIGKILL)\n"
        "time.sleep(0.1)\nsys.exit(1)"
    )
    for code, said in supervised(tmp_path, 3, 12, script):
        assert (code, "Launched(workers=3, restarts=1)" in said) == (0, True), said


def test_machines_that_arrived_start_without_the_missing_ones(tmp_path: Path) -> None:
    addresses = tuple(f"localhost:{port}" for port in free_ports(3))
    chosen = {}

    def come(index: int) -> None:
        chosen[index] = members_of(Cluster(addresses, index), 3, 12)

    threads = [threading.Thread(target=come, args=(index,)) for index in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert chosen == {1: Cluster(addresses[1:], 0), 2: Cluster(addresses[1:], 1)}


def test_one_that_joined_a_higher_supervisor_first_is_not_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The third joins the second; only then does the first one come, and the second joins it."""
    addresses = tuple(f"localhost:{port}" for port in free_ports(3))
    chosen, third_joined = {}, threading.Event()
    arrivals = rendezvous._arrivals

    def noted(*arguments: Any) -> rendezvous.Joined:
        joined = arrivals(*arguments)
        if 2 in joined:
            third_joined.set()
        return joined

    def come(index: int) -> None:
        chosen[index] = members_of(Cluster(addresses, index), 600, 12)

    monkeypatch.setattr(rendezvous, "_arrivals", noted)
    threads = [threading.Thread(target=come, args=(index,), daemon=True) for index in range(3)]
    threads[1].start()
    threads[2].start()
    assert third_joined.wait(60)
    threads[0].start()
    for thread in threads:
        thread.join(120)  # and not 600, when those that wait for each other would give up
    assert chosen == {index: Cluster(addresses, index) for index in range(3)}


def test_an_index_that_arrives_in_two_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "_TRY_SECS", 60.0)
    with (
        contextlib.ExitStack() as stack,
        socket.create_server(("localhost", 0)) as server,
        socket.create_connection(server.getsockname()) as supervisor,
    ):
        supervisor.sendall(b"clozeline rendezvous 1")
        rest = threading.Timer(0.2, supervisor.sendall, [b"2\n"])
        rest.start()
        assert [*rendezvous._arrivals(server, stack)] == [12]
        rest.join()


def test_an_address_that_another_process_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "_PORT_SECS", 0.0)
    with socket.create_server(("", 0)) as taken:
        cluster = Cluster((f"localhost:{taken.getsockname()[1]}",), 0)
        with pytest.raises(JobError, match=r"worker 1 of 1: cannot listen on port \d+: Addr"):
            members_of(cluster, 1, 0)


def wait_for_notes(folder: Path, text: str) -> None:
    deadline = time.monotonic() + 300
    while sum(text in path.read_text() for path in folder.iterdir()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_ports_are_free_and_differ() -> None:
    ports = free_ports(50)
    assert len({*ports}) == 50
    assert all(12_000 <= port < 32_000 for port in ports)
    assert os.environ.get("TF_CONFIG") is None
