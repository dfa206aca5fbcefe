"""A fork server: commands start as forks of a process that has imported TensorFlow.

    FORKS.run([sys.executable, "-m", "clozeline", "inspect", "dataset"])

A new Python takes seconds of CPU time to import TensorFlow, TF Text and Beam; a fork of one that
has imported them takes a third of a second. A fork has the process id, the parent, the signals, the
limits and the exit code that a new process would have, so that `subprocess.Popen` knows no
difference.

Some things a fork cannot show: imports, start-up, what imports print, what variables do that
libraries read when they are imported, and results that depend on the seed of Python's string
hashes, which all forks of a server share. Tests of these start new processes, or a second server
for another seed; `tests/test_end_to_end.py` starts new processes, too. `ForkServer.popen` itself
starts a new process where a fork would differ.
"""

import atexit
import ctypes
import gc
import json
import os
import re
import resource
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
CLOZELINE = Path(sys.executable).parent / "clozeline"
MODULES = ("clozeline", "pipeline.jobs.worker")
"""What can be run as a fork, besides programs in `tests/`."""
READ_BY_IMPORTS = re.compile(
    r"TF_(?!CONFIG$)|PYTHON|LANG|(KERAS|LD|OMP|ONEDNN|DNNL|OPENBLAS|MKL|XLA|GRPC|MALLOC|FSSPEC|LC)_"
)
"""Variables that Python, or a library when it is imported, may read. `serve` sets some itself."""
OPTIONS = {
    "args", "cwd", "env", "stdin", "stdout", "stderr", "text", "encoding", "close_fds",
    "start_new_session",
}  # fmt: skip
"""Options of `subprocess.Popen` that a fork honours."""
PR_SET_CHILD_SUBREAPER = 36
LIMITS = [getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")]


def _read_by_imports(environment: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if READ_BY_IMPORTS.match(name)}


class ForkServer:
    """The process to fork, which starts when it is first needed.

    Args:
        before: command and arguments that run it, such as `ip netns exec NAME` in a namespace.
    """

    def __init__(self, *before: str) -> None:
        self._before = before
        self._lock = threading.Lock()  # Beam starts its workers in threads
        self._socket: socket.socket | None = None  # its other end is the server's
        self._imported_with: dict[str, str] = {}

    def popen(self, args: Sequence[str | Path], **options: Any) -> subprocess.Popen:
        """Start a command as `subprocess.Popen` does: as a fork, if that makes no difference."""
        command = [os.fspath(word) for word in args]
        words = _program_and_arguments(command)
        cwd = Path(options.get("cwd") or ".")
        if (
            words
            and words[1:2] != ["serve"]
            and options.keys() <= OPTIONS
            and (cwd.resolve() == ROOT or not (cwd / "clozeline").exists())  # no other code
            and self._has_imported_with(options.get("env") or dict(os.environ))
        ):
            return _Fork(command, server=self, words=words, **options)
        return subprocess.Popen(command, **options)

    def run(
        self, args: Sequence[str | Path], *, timeout: float | None = None, **options: Any
    ) -> subprocess.CompletedProcess:
        """Run a command as `subprocess.run` does, with both outputs captured as text."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with self.popen(args, **pipes, **options) as process:
            try:
                out, err = process.communicate(timeout=timeout)
            except BaseException:
                process.kill()
                raise
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def fork(
        self, words: list[str], cwd: str, env: dict[str, str], files: list[int], session: bool
    ) -> int:
        """Return the process id of a new fork, which is a child of this process.

        Args:
            words: module or file, and its arguments.
            cwd: working directory.
            env: environment.
            files: standard input, output and error.
            session: whether it leads a session of its own.
        """
        status = Path("/proc/self/status").read_text()
        umask = int(re.search(r"^Umask:\s+(\d+)", status, re.MULTILINE)[1], 8)
        limits = [(number, *resource.getrlimit(number)) for number in LIMITS]
        order = {
            "words": words, "cwd": cwd, "env": env, "umask": umask, "limits": limits,
            "session": session,
        }  # fmt: skip
        with self._lock:
            assert self._socket
            prctl = ctypes.CDLL(None).prctl
            # While this is set, a process below this one whose parent has ended becomes its child.
            prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
            try:
                socket.send_fds(self._socket, [json.dumps(order).encode()], files)
                pid = int(self._socket.recv(64))
                self._socket.recv(64)  # after the end of the fork's parent
            finally:
                prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        # Raises ChildProcessError if it is not a child; `Popen` would say that it succeeded.
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return pid

    def _end(self) -> None:
        """End the server; forks go on."""
        assert self._socket
        self._socket.close()
        self._process.wait()

    def _has_imported_with(self, environment: dict[str, str]) -> bool:
        """Return whether the server has these variables; start it if there is none."""
        with self._lock:
            if not self._socket:
                self._imported_with = _read_by_imports(dict(os.environ))
                self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                with theirs:
                    self._process = subprocess.Popen(
                        [*self._before, sys.executable, __file__, str(theirs.fileno())],
                        cwd=ROOT,
                        pass_fds=[theirs.fileno()],
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                    )
                atexit.register(self._end)
        return _read_by_imports(environment) == self._imported_with


def _program_and_arguments(command: list[str]) -> list[str]:
    """Return a module or a file, and its arguments; nothing for a command that cannot be a fork."""
    if command[0] == str(CLOZELINE):
        return ["clozeline", *command[1:]]
    for python in ([sys.executable, "-m"], [sys.executable, "-P", "-m"]):
        module = command[len(python) :]
        if command[: len(python)] == python and module[0] in MODULES:
            return module
    is_ours = command[0] == sys.executable and Path(command[1]).is_relative_to(ROOT / "tests")
    return command[1:] if is_ours else []


class _Fork(subprocess.Popen):
    """A process of which `subprocess` knows everything but how it is started."""

    def __init__(self, command: list[str], *, server: ForkServer, words: list[str], **options: Any):
        self._server, self._words = server, words
        super().__init__(command, **options)

    def _execute_child(self, args: Any, *rest: Any) -> None:
        """Start it; the arguments are those of Python 3.11 to 3.13."""
        cwd, env, pipes, session = rest[4], rest[5], rest[9:15], rest[20]
        theirs = pipes[0], pipes[3], pipes[5]  # a pipe's end, or -1 for what this process has
        files = [number if end == -1 else end for number, end in enumerate(theirs)]
        environment = dict(os.environ if env is None else env)
        folder = str(cwd or Path.cwd())
        try:
            self.pid = self._server.fork(self._words, folder, environment, files, session)
            self._child_created = True
        finally:
            self._close_pipe_fds(*pipes)


FORKS = ForkServer()
"""The fork server of this process."""


# ---- in the server


def serve(channel: socket.socket) -> list[str]:
    """Fork for each order; return the words of the command in the fork.

    Raises:
        SystemExit: in the server, when the process that asks has ended.
    """
    while True:
        message, files, *_ = socket.recv_fds(channel, 1 << 20, 3)
        if not message:
            sys.exit()
        order = json.loads(message)
        with warnings.catch_warnings():
            # OpenBLAS and jemalloc, which have threads, take care of forks.
            warnings.simplefilter("ignore", DeprecationWarning)
            is_fork = _fork(channel, session=order["session"])
        if is_fork:
            channel.close()
            return become(order, files)
        for file in files:
            os.close(file)


def _fork(channel: socket.socket, *, session: bool) -> bool:
    """Return True in a fork whose parent has ended, and False in this process.

    Its process id is told when it has its session.
    """
    between = os.fork()
    if between:
        os.waitpid(between, 0)
        channel.send(b"its parent has ended")
        return False
    parent = os.getpid()
    has_session, writer = os.pipe()
    if fork := os.fork():
        os.close(writer)
        os.read(has_session, 1)  # until the fork has closed the other end
        channel.send(str(fork).encode())
        os._exit(0)
    if session:
        os.setsid()
    os.close(writer)
    os.close(has_session)
    while os.getppid() == parent:
        time.sleep(0.001)
    return True


def become(order: dict[str, Any], files: list[int]) -> list[str]:
    """Take over what a new process would have from the process that asks."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    for name in ("stdin", "stdout", "stderr"):
        _reopen(name)
    os.chdir(order["cwd"])
    os.umask(order["umask"])
    os.environ.clear()
    os.environ.update(order["env"])
    for number, *limits in order["limits"]:
        resource.setrlimit(number, tuple(limits))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    program = order["words"][0]
    sys.path[0] = order["cwd"] if program in MODULES else str(Path(program).parent)
    np.random.seed()  # Python's generator seeds itself in a fork
    return order["words"]


def preload() -> None:
    """Import what commands and workers import, as they do it."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    from clozeline.commands import COMMANDS, options_of
    from pipeline.quiet_imports import import_quietly

    import_quietly("tensorflow", "tensorflow_text")
    import_quietly("apache_beam", "apache_beam.runners.worker.sdk_worker_main")
    for name in COMMANDS:
        options_of(name)
    gc.freeze()


def _reopen(name: str) -> None:
    """Replace a standard stream of the server, whose file had a position, where a pipe has none."""
    old = getattr(sys, name)
    stream = open(  # noqa: SIM115  (as long as the process)
        old.fileno(), old.mode, encoding=old.encoding, errors=old.errors, closefd=False
    )
    stream.reconfigure(line_buffering=old.line_buffering)
    setattr(sys, name, stream)
    setattr(sys, f"__{name}__", stream)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the process that asks
    sys.path[0] = str(ROOT)
    preload()
    sys.argv = serve(socket.socket(fileno=int(sys.argv[1])))
    if sys.argv[0] in MODULES:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")
