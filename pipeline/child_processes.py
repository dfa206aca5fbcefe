"""New processes: the command that runs one of our modules, and their end with their parent."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from functools import partial

_PR_SET_PDEATHSIG = 1  # of prctl(2)


def module_command(module: str) -> tuple[str, ...]:
    """Return the command that runs a module, to which its arguments are appended.

    Without `-P`, `python -m` imports from the working directory first: a file `proto.py` of the
    user would take the place of the package that Beam imports.
    """
    return (sys.executable, "-P", "-m", module)


def ending_with_parent(number: int) -> Callable[[], object]:
    """Return a `preexec_fn`: the kernel sends the new process a signal when its parent is gone.

    That it is killed by SIGKILL makes no difference. The parent is the thread that starts it.
    """
    return partial(ctypes.CDLL(None).prctl, _PR_SET_PDEATHSIG, number)


def end_with_parent(parent: int) -> None:
    """Let the kernel kill this process when its parent is gone, for parents that must not fork.

    Without a `preexec_fn` the parent starts it by `vfork`: gRPC complains of a fork in a
    process that has its threads.

    Args:
        parent: process id of the parent, which may be gone already.
    """
    ending_with_parent(signal.SIGKILL)()
    if os.getppid() != parent:
        os._exit(1)
