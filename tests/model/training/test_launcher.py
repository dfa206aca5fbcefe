"""Workers as processes of one machine; small scripts stand for the training."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import clozeline
from model.training.config import LaunchConfig
from model.training.launcher import Launched, launch
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


def test_the_cause_is_named_and_not_those_who_lost_it(recorder: Recorder) -> None:
    # The survivors fail before the launcher can tell them to stop.
    script = "if index: sys.exit(1)\nos.kill(os.getpid(), signal.SIGKILL)"
    with pytest.raises(JobError, match="worker 1 of 2 was killed by SIGKILL"):
        recorder.run(2, script)


def test_a_worker_that_does_not_stop_is_killed(recorder: Recorder) -> None:
    script = (
        "signal.signal(signal.SIGTERM, lambda *_: note('stays'))\n"
        "if index: wait()\nothers_wait()\nsys.exit(3)"
    )
    with pytest.raises(JobError, match="worker 1 of 2 failed with exit code 3"):
        recorder.run(2, script, grace_secs=0.5)
    assert recorder.notes(1)[0] == "waits"


def test_all_are_started_again_and_on_other_ports(recorder: Recorder) -> None:
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
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


def wait_for_notes(folder: Path, text: str) -> None:
    deadline = time.monotonic() + 120
    while sum(text in path.read_text() for path in folder.iterdir()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_ports_are_free_and_differ() -> None:
    from model.training.launcher import free_ports

    ports = free_ports(50)
    assert len({*ports}) == 50
    assert all(12_000 <= port < 32_000 for port in ports)
    assert os.environ.get("TF_CONFIG") is None
