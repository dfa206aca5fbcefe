"""Beam's flags, and worker processes of the real command."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import apache_beam as beam
import grpc
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline.errors import InputError, JobError
from pipeline.jobs import local_runner
from pipeline.jobs.beam_options import (
    beam_options,
    describe_workers,
    is_local,
    running_pipeline,
)
from tests.fork_server import CLOZELINE, FORKS

PROCESSES = "--direct_running_mode=multi_processing"


def test_beam_leaves_nothing_in_the_temporary_directory() -> None:
    with running_pipeline(PipelineOptions(["--runner=FnApiRunner"])) as pipeline:
        # A killed process leaves what exists now.
        assert Path(pipeline.local_tempdir).name.startswith("beam-pipeline-temp")
        assert not Path(pipeline.local_tempdir).exists()
        assert pipeline | beam.Create([])
    assert not Path(pipeline.local_tempdir).exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--direct_num_workers=4"], "add --direct_running_mode=multi_processing"),
        ([PROCESSES], "say how many workers with --direct_num_workers"),
        ([PROCESSES, "--direct_num_workers=-1"], "--direct_num_workers -1: must be 1 or more"),
        (["--num_workers=3"], "--num_workers 3: FnApiRunner ignores it; it is for DataflowRunner"),
        (["--parallelism=2"], "--parallelism 2: FnApiRunner ignores it"),
        (["--runner=flink", PROCESSES, "--direct_num_workers=2"], "FlinkRunner ignores it"),
        (["--runner=FlinkRunner", "--max_num_workers=2"], "FlinkRunner ignores it"),
        (["--runner=SparkRunner", "--parallelism=2"], "SparkRunner ignores it"),
        (["--direct_num_workers=many"], "invalid int value: 'many'"),
        (["--runer=FlinkRunner"], "unknown flag --runer=FlinkRunner"),
    ],
)
def test_a_worker_count_without_effect_is_refused(flags: list[str], said: str) -> None:
    with pytest.raises(InputError) as error:
        beam_options(flags)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("flags", "local", "said"),
    [
        ([], True, "FnApiRunner, in this process"),
        (["--direct_num_workers=1"], True, "FnApiRunner, in this process"),
        ([PROCESSES, "--direct_num_workers=3"], True, "FnApiRunner, 3 worker processes"),
        ([PROCESSES, "--direct_num_workers=0"], True,
         f"FnApiRunner, {len(os.sched_getaffinity(0))} worker processes"),
        (["--direct_running_mode=multi_threading", "--direct_num_workers=2"], True,
         "FnApiRunner, 2 threads"),
        (["--runner=flink", "--parallelism=2"], False, "FlinkRunner"),
        (["--runner=PortableRunner", "--environment_type=EXTERNAL"], False,
         "PortableRunner, workers: EXTERNAL"),
        (["--runner=a.b.OwnRunner"], False, "OwnRunner"),
    ],
)  # fmt: skip
def test_the_runner_is_reported(flags: list[str], local: bool, said: str) -> None:
    options = beam_options(flags)
    assert is_local(options) == local
    assert describe_workers(options) == said


@contextlib.contextmanager
def started(
    corpus: Path,
    vocab: Path,
    output: Path,
    popen: Callable[..., subprocess.Popen[str]] = FORKS.popen,
) -> Iterator[subprocess.Popen[str]]:
    """Begin to preprocess with two worker processes, which are new, in a session of its own."""
    where = ["--input", corpus / "*.txt", "--vocab", vocab, "--output", output]
    command = [CLOZELINE, "preprocess", *where, "--shards", "2"]
    with popen(
        [*command, PROCESSES, "--direct_num_workers=2"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as job:
        try:
            yield job
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(job.pid, signal.SIGKILL)


def workers(session: int) -> list[int]:
    """Process ids of the workers in a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if (
                b"pipeline.jobs.worker" in path.read_bytes()
                and os.getsid(int(path.parent.name)) == session
            ):
                found.append(int(path.parent.name))
        except OSError:
            continue  # it has ended
    return found


def awake(session: int) -> list[int]:
    """Process ids of the workers in a session, once both have loaded TensorFlow."""
    found = workers(session)
    maps = [Path(f"/proc/{process}/maps").read_text() for process in found]
    return found if len(found) == 2 and all("tensorflow" in text for text in maps) else []


LOOPBACK = {
    "0100007F",  # 127.0.0.1
    "00000000000000000000000001000000",  # ::1
    "0000000000000000FFFF00000100007F",  # ::ffff:127.0.0.1
}
"""Addresses as Linux lists them in /proc/net/tcp and tcp6."""


def listening(process: int) -> set[str]:
    """The addresses that a process listens on."""
    sockets = set()
    for file in Path(f"/proc/{process}/fd").glob("*"):
        with contextlib.suppress(OSError):  # closed meanwhile
            sockets.add(str(file.readlink()))
    lines = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/{process}/net/{table}").read_text().splitlines()[1:]
    ]
    return {
        fields[1].partition(":")[0]
        for fields in lines
        if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets
    }


@pytest.mark.slow
def test_workers_are_quiet_and_their_ports_on_loopback(
    prose_corpus: Path, vocab_path: Path, tmp_path: Path
) -> None:
    seen: set[str] = set()
    # A new process: a fork would not show what imports print.
    with started(prose_corpus, vocab_path, tmp_path / "ds", subprocess.Popen) as job:
        while job.poll() is None:
            with contextlib.suppress(OSError):  # ended meanwhile
                for process in [job.pid, *workers(job.pid)]:
                    seen |= listening(process)
            time.sleep(0.1)  # leave the processor to the job
        _, said = job.communicate()
    assert job.returncode == 0
    assert seen
    assert seen <= LOOPBACK
    assert "runner: FnApiRunner, 2 worker processes" in said
    assert not [word for word in ("INFO", "WARNING", "I0000", "oneDNN") if word in said], said


def ignore_interrupts() -> None:
    """As a shell script does for a command that it starts with `&`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


in_the_background = partial(subprocess.Popen, preexec_fn=ignore_interrupts)


@pytest.mark.parametrize(
    ("death", "popen", "code", "said"),
    [
        (
            signal.SIGKILL,
            FORKS.popen,
            1,
            "the Beam job failed: Worker subprocess exited with return code",
        ),
        (signal.SIGKILL, in_the_background, 1, "the Beam job failed: Worker subprocess exited"),
        (signal.SIGINT, FORKS.popen, 130, "interrupted"),
    ],
    ids=["killed", "killed in the background", "interrupted"],
)  # fmt: skip
def test_a_worker_that_dies_ends_the_job(
    death: int,
    popen: Callable[..., subprocess.Popen[str]],
    code: int,
    said: str,
    prose_corpus: Path,
    vocab_path: Path,
    tmp_path: Path,
) -> None:
    with started(prose_corpus, vocab_path, tmp_path / "ds", popen) as job:
        # One is killed while the other starts. Ctrl-C reaches all, long after their start.
        chosen = workers if death == signal.SIGKILL else awake
        while not (running := chosen(job.pid)):
            assert job.poll() is None
            time.sleep(0.1)
        for process in running[: 1 if death == signal.SIGKILL else None]:
            os.kill(process, death)
        _, errors = job.communicate(timeout=300)
    assert job.returncode == code
    assert errors.splitlines()[-1].startswith(f"clozeline: {said}")
    assert "Traceback" not in errors
    assert not (tmp_path / "ds").exists()
    assert workers(job.pid) == []


@pytest.mark.parametrize("death", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGHUP])
def test_a_job_that_ends_ends_its_workers(
    death: int, prose_corpus: Path, vocab_path: Path, tmp_path: Path
) -> None:
    with started(prose_corpus, vocab_path, tmp_path / "ds") as job:
        while not awake(job.pid):
            assert job.poll() is None
            time.sleep(0.1)
        os.kill(job.pid, death)
        _, errors = job.communicate(timeout=300)  # until the workers have closed it, too
    is_killed = death == signal.SIGKILL
    assert job.returncode == (-death if is_killed else 128 + death)
    assert (tmp_path / "ds").exists() == is_killed  # half-written files
    assert not [word for word in ("Traceback", "fork", "grpc") if word in errors], errors
    assert workers(job.pid) == []


JOB_SERVER = """
import signal
from apache_beam.utils.subprocess_server import SubprocessServer
from pipeline.jobs.local_runner import ending_with_its_workers
with ending_with_its_workers():
    server, _ = SubprocessServer(None, ["sleep", "600"], port=1).start_process()
    print(server.pid, flush=True)
    signal.pause()
"""
"""A job, of which only the server that Beam starts for it matters."""


def test_a_job_that_is_killed_ends_its_job_server() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", JOB_SERVER], stdout=subprocess.PIPE, text=True
    ) as job:
        assert job.stdout
        server = os.pidfd_open(int(job.stdout.readline()))
        job.kill()
    try:
        has_ended, _, _ = select.select([server], [], [], 60)
        assert has_ended
    finally:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(server, signal.SIGKILL)
        os.close(server)


def test_a_worker_death_ends_a_job_that_swallows_an_interrupt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(local_runner, "INTERRUPT_EVERY_SECS", 0.3)

    def die() -> None:
        raise RuntimeError("Worker subprocess exited with return code -9")

    def job() -> None:
        dying = [threading.Thread(target=die, name="run_worker") for _ in range(2)]
        with local_runner.ending_with_its_workers():
            try:
                for thread in dying:
                    thread.start()
                time.sleep(100)
            except KeyboardInterrupt:
                swallowed_at.append(time.monotonic())
            time.sleep(100)

    swallowed_at: list[float] = []
    with pytest.raises(JobError, match="return code -9; was it killed"):
        job()
    # One interrupt for both deaths, and then another.
    assert 0.1 < time.monotonic() - swallowed_at[0] < 90


def test_a_connection_closed_by_an_engine_is_not_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """gRPC raises subclasses of its `RpcError`, in threads of Beam's worker in this process."""

    class LostError(grpc.RpcError):
        pass

    def end(error: Exception) -> None:
        ours.here = True
        raise error

    reported: list[str] = []
    ours, others = threading.local(), threading.excepthook

    def report(failure: threading.ExceptHookArgs) -> None:
        if hasattr(ours, "here"):
            reported.append(str(failure.exc_value))
        else:
            others(failure)

    monkeypatch.setattr(threading, "excepthook", report)
    with local_runner.ending_with_its_workers():
        for error in (grpc.RpcError("a"), LostError("b"), ValueError("ours")):
            thread = threading.Thread(target=end, args=(error,), name="run_worker_3-1")
            thread.start()
            thread.join()
    assert reported == ["ours"]


def test_a_notebook_needs_no_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beam imports pandas where it finds itself in IPython."""
    monkeypatch.setattr("IPython.get_ipython", lambda: object())
    monkeypatch.setitem(sys.modules, "pandas", None)  # even where it is installed
    with running_pipeline(beam_options([])) as pipeline:
        _ = pipeline | beam.Create([1]) | beam.Map(lambda number: number + 1)
