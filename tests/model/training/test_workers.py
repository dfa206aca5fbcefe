"""Several worker processes, as the command starts them: the same run as one process's."""

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import clozeline
from model.training.strategy import make_strategy
from pipeline.errors import InputError
from tests.fork_server import FORKS

ROOT = Path(clozeline.__file__).parents[1]
STEPS = 200
Start = Callable[..., list[subprocess.Popen]]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, make_dataset: Callable) -> Path:
    """Four streams: two workers read two each, and three share them. The shards are uneven."""
    path = tmp_path_factory.mktemp("workers") / "dataset"
    make_dataset(path, train=(93, 60), streams=4)
    return path


@pytest.fixture
def start(
    dataset: Path, small_model: str, tmp_path: Path, free_ports: Callable[[int], list[int]]
) -> Iterator[Start]:
    """Start this many workers on a run without one, the last one with additional flags."""

    def start(
        workers: int,
        run: Path,
        *last: str,
        steps: int = STEPS,
        precision: str = "float32",
        timeout_secs: float = 60,
        absent: int | None = None,
        code_of_last: Path = ROOT,
        path_of_last: str = "",
        restart: int | None = None,
        xla: bool = False,  # each worker would compile for as long as it trains
        new: bool = False,  # with string hashes of different seeds
    ) -> list[subprocess.Popen]:
        addresses = [f"localhost:{port}" for port in free_ports(workers)]
        flags = {
            "dataset": dataset, "run": run, "model": small_model, "steps": steps,
            "batch-size": 12, "learning-rate": 1e-4, "precision": precision,
            "checkpoint-every-steps": 50, "worker-timeout": timeout_secs,
        }  # fmt: skip
        command = [sys.executable, "-m", "clozeline"]
        command += [] if restart is None else ["launch", f"--restart={restart}", "--"]
        command += ["pretrain"]
        command += [f"--{name}={value}" for name, value in flags.items()]
        command += ["--xla" if xla else "--no-xla"]
        started = []
        for index in {*range(workers)} - {absent}:
            config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
            if workers > 1:
                environment["TF_CONFIG"] = json.dumps(config)
            is_last = index == workers - 1
            more = last if is_last else ()
            if is_last and path_of_last:
                environment["PYTHONPATH"] = path_of_last
            process = (subprocess.Popen if new else FORKS.popen)(
                [*command, *more],
                cwd=code_of_last if is_last else ROOT,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            started.append(process)
        processes.extend(started)
        return started

    processes: list[subprocess.Popen] = []
    yield start
    for process in processes:
        process.kill()
        process.communicate()


def ended(processes: list[subprocess.Popen]) -> tuple[list[int], list[str]]:
    """Return the exit codes and the output of workers."""
    # Seconds on an idle machine. On one with ten times more to do than cores, 300 s were too short.
    said = [process.communicate(timeout=1200)[1] for process in processes]
    return [process.returncode for process in processes], said


def losses_of(run: Path) -> dict[tuple[int, str], float]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return {(line["step"], line["split"]): line["loss"] for line in lines}


def wait_for_step(run: Path, step: int) -> None:
    deadline = time.monotonic() + 300
    while not (run / "metrics.jsonl").exists() or max(losses_of(run), default=(0, ""))[0] < step:
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_two_workers_resumed_by_three_equal_a_run_of_one(start: Start, tmp_path: Path) -> None:
    codes, said = ended(start(1, tmp_path / "one", xla=True, new=True))
    assert codes == [0], said
    two = start(2, tmp_path / "several", xla=True, new=True)
    wait_for_step(tmp_path / "several", 20)
    two[1].send_signal(signal.SIGTERM)
    codes, said = ended(two)
    assert codes == [130, 130], said
    assert "stopped and saved at step" in said[0]
    assert said[1].splitlines() == [
        "worker 2 of 2: the first one shows the progress and writes the run",
        "clozeline: interrupted",
    ]
    # More workers than shards.
    codes, said = ended(start(3, tmp_path / "several", xla=True, new=True))
    assert codes == [0, 0, 0], said
    assert "resuming from step" in said[0]
    expected, found = losses_of(tmp_path / "one"), losses_of(tmp_path / "several")
    assert len(expected) == 101
    assert len({round(loss, 4) for loss in expected.values()}) > 50
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_workers_end_together_where_the_run_is_being_written(
    start: Start, tmp_path: Path, writer_of: Callable[[Path], subprocess.Popen]
) -> None:
    other = writer_of(tmp_path / "run")
    codes, said = ended(start(2, tmp_path / "run"))
    assert codes == [2, 1], said
    assert f"is being written by process {other.pid}, since " in said[0].splitlines()[-1]
    assert said[1].splitlines()[-1] == (
        "clozeline: the first worker cannot write --run; its message says why"
    )
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


@pytest.mark.slow
def test_two_workers_with_bfloat16_gradients_follow_one_worker(
    start: Start, tmp_path: Path
) -> None:
    measures = {}
    for count in (1, 2):
        run = tmp_path / f"{count}"
        codes, said = ended(start(count, run, steps=40, precision="bfloat16"))
        assert codes == [0] * count, said
        lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        measures[count] = [
            (line["loss"], line["gradient_norm"]) for line in lines if line["split"] == "train"
        ]
    assert len(measures[1]) == 40
    for one, two in zip(measures[1], measures[2], strict=True):
        assert two == pytest.approx(one, rel=0.01)


@pytest.mark.slow
def test_a_worker_that_is_killed_ends_the_others_with_a_line(start: Start, tmp_path: Path) -> None:
    workers = start(2, tmp_path / "run", steps=1_000_000)
    wait_for_step(tmp_path / "run", 50)
    workers[1].kill()
    codes, said = ended(workers)
    assert codes == [1, -signal.SIGKILL]
    assert said[0].splitlines()[-1] == (
        "clozeline: worker 1 of 2: lost the connection to another worker; start all workers "
        "again, they resume from the last checkpoint"
    )
    assert "Traceback" not in said[0]


@pytest.mark.slow
def test_workers_end_with_a_line_if_one_never_starts(start: Start, tmp_path: Path) -> None:
    for absent, named in ((1, r"worker 2 \(localhost:\d+\)"), (0, "the first worker")):
        codes, said = ended(start(2, tmp_path / "run", timeout_secs=1, absent=absent))
        assert codes == [1], said
        (line,) = said[0].splitlines()
        assert re.search(rf"{named} did not start within 10 s, or cannot be reached; check", line)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_different_flags_on_one_worker_stop_all_workers(start: Start, tmp_path: Path) -> None:
    codes, said = ended(start(2, tmp_path / "run", "--seed=77"))
    assert codes == [1, 1]
    for words in said:
        assert "the workers were started with different settings or data" in words
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_surviving_machine_continues(start: Start, tmp_path: Path) -> None:
    codes, said = ended(start(1, tmp_path / "one"))
    assert codes == [0], said
    supervisors = start(2, tmp_path / "run", timeout_secs=10, restart=1)
    wait_for_step(tmp_path / "run", 60)
    supervisors[1].kill()
    codes, said = ended(supervisors)
    assert codes == [0, -signal.SIGKILL], said
    assert "worker 1 of 2: continues as worker 1 of 1" in said[0]
    assert "[1] " in said[0]
    expected, found = losses_of(tmp_path / "one"), losses_of(tmp_path / "run")
    assert len(expected) == 101
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_workers_with_another_clock_or_other_code(start: Start, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import time\nright = time.time\ntime.time = lambda: right() - 5000\n"
    )
    codes, said = ended(start(2, tmp_path / "run", steps=2, path_of_last=str(tmp_path)))
    assert codes == [0, 0], said
    (line,) = [line for line in said[0].splitlines() if line.startswith("warning")]
    assert re.match(r"warning: the clock of worker 2 of 2 is 5,0\d\d s behind the first", line)
    for room in ("clozeline", "model", "pipeline", "serving"):
        shutil.copytree(ROOT / room, tmp_path / "copy" / room)
    with (tmp_path / "copy" / "pipeline" / "schema.py").open("a") as file:
        file.write("# a change\n")
    codes, said = ended(start(2, tmp_path / "other", code_of_last=tmp_path / "copy"))
    assert codes == [2, 2], said
    for words in said:
        assert re.fullmatch(
            r"clozeline: worker 2 of 2 has other software than the first one: code \w{12} instead "
            r"of code \w{12}; install the same on every machine",
            words.splitlines()[-1],
        )
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_a_launched_training_is_interrupted_and_resumed(
    dataset: Path, small_model: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = [
        sys.executable, "-m", "clozeline", "launch", "--workers=2", "--", "pretrain",
        f"--dataset={dataset}", f"--run={run}", f"--model={small_model}", "--batch-size=12",
        "--precision=float32", "--no-xla", "--json",
    ]  # fmt: skip
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    first = subprocess.Popen(
        [*command, "--steps=1000000"], env=environment, stderr=subprocess.PIPE, text=True
    )
    wait_for_step(run, 1)
    first.send_signal(signal.SIGTERM)
    _, said = first.communicate(timeout=300)
    assert first.returncode == 130, said
    assert "[1] stopped and saved at step" in said
    assert "[2] worker 2 of 2: the first one shows the progress and writes the run" in said
    assert said.splitlines()[-1] == "clozeline: interrupted"
    steps = max(int(path.name.split("-")[1]) for path in (run / "checkpoints").glob("step-*")) + 3
    done = subprocess.run(
        [*command, f"--steps={steps}"], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == steps


@pytest.mark.slow
def test_the_collectives_of_a_step_do_not_grow_with_the_model(
    free_ports: Callable[[int], list[int]],
) -> None:
    """Each costs two delays of the network and more, so the gradients of all weights share one."""
    script = Path(__file__).with_name("collectives.py")
    cluster = {"worker": [f"localhost:{port}" for port in free_ports(2)]}
    workers = []
    for index in range(2):
        task = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
        workers.append(
            subprocess.Popen(
                [sys.executable, str(script)],
                env={**environment, "TF_CONFIG": task},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        printed = [worker.communicate(timeout=1200) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    assert [worker.returncode for worker in workers] == [0, 0], printed
    for counts, _ in printed:
        small, *others = json.loads(counts).values()
        assert max(each["variables"] for each in others) > 2 * small["variables"]
        for each in (small, *others):
            # The weights of the losses, all gradients, and the sums for the log.
            assert (each["train"], each["evaluate"]) == (3, 1)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
@pytest.mark.slow
def test_a_worker_keeps_the_memory_of_large_blocks(
    free_ports: Callable[[int], list[int]],
) -> None:
    # As gRPC does with gradients, step after step, in threads of its own. Three blocks are more
    # than one of the heaps that such threads have.
    code = (
        "import ctypes, resource, threading; from model.training.strategy import make_strategy\n"
        "make_strategy('multi-worker')\n"
        "libc = ctypes.CDLL(None); libc.malloc.restype = ctypes.c_void_p\n"
        "def use(size):\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    blocks = [ctypes.c_void_p(libc.malloc(ctypes.c_size_t(size))) for _ in range(3)]\n"
        "    for block in blocks: ctypes.memset(block, 1, size)\n"
        "    for block in blocks: libc.free(block)\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "def use_often(): faults.append([use(25_000_000) for _ in range(4)])\n"
        "faults = []; use_often()\n"
        "thread = threading.Thread(target=use_often); thread.start(); thread.join()\n"
        "print(faults)\n"
    )
    config = {
        "cluster": {"worker": [f"localhost:{free_ports(1)[0]}"]},
        "task": {"type": "worker", "index": 0},
    }
    environment = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "",
        "TF_CONFIG": json.dumps(config),
        "MALLOC_ARENA_MAX": "1000",  # so that the thread shares its heaps with none of TensorFlow's
    }
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, check=True
    )
    for first, *others in json.loads(done.stdout):
        assert first > 1000
        assert max(others) < 100


def test_an_environment_without_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("SLURM", "CLOZELINE")) or name == "TF_CONFIG":
            monkeypatch.delenv(name)
    with pytest.raises(InputError, match="`strategy` multi-worker: the environment names no"):
        make_strategy("multi-worker")


def test_a_missing_tpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TPU_NAME", "local")
    with pytest.raises(InputError, match="`strategy` tpu: TPU_NAME=local cannot be reached: "):
        make_strategy("tpu")
