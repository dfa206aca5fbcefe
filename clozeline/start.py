"""Where a process starts: `clozeline` and `python -m clozeline`.

It imports nothing but what Python has imported already, so that Ctrl-C during the other imports
ends the command as it does later.
"""

import atexit
import gc
import os
import sys


def main(arguments: list[str] | None = None) -> int:
    """Run a command, by default that of this process's arguments; return its exit code."""
    _open_standard_streams()
    # At its end Python looks for garbage among all objects: a second with those of TensorFlow. The
    # system takes their memory anyway. Registered first, so that it is the last thing to run.
    atexit.register(gc.freeze)
    try:
        from clozeline.main import main as run

        return run(arguments)
    except KeyboardInterrupt as interrupt:
        from pipeline.standard_streams import Unfailing
        from pipeline.stop_signals import Stopped

        said, code = "interrupted", 130
        if isinstance(interrupt, Stopped):
            said, code = str(interrupt), 128 + interrupt.number
        print(f"clozeline: {said}", file=Unfailing(sys.stderr))
        Unfailing(sys.stdout).flush()  # else Python does when it exits, and its code may be 120
        return code
    finally:
        import signal

        # A further Ctrl-C would raise an exception in each function that Python calls at its end.
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # in a script's background jobs
            signal.signal(signal.SIGINT, signal.SIG_DFL)


def _open_standard_streams() -> None:
    """Let closed standard streams lead nowhere.

    Otherwise the next file that is opened gets the number of standard error, to which TensorFlow's
    native code writes.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
            mode = "w" if descriptor else "r"
            file = open(descriptor, mode, encoding="utf-8", closefd=False)  # noqa: SIM115  (stays open)
            setattr(sys, name, file)
