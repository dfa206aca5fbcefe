"""Print what this process has of the one that started it, and end with exit code 7; or wait."""

import os
import resource
import signal
import sys

sys.stdout.reconfigure(errors="backslashreplace")  # as commands do; it asks for the position
if sys.argv[1:] == ["wait"]:
    try:
        print("waiting", flush=True)  # the signal may come as soon as this is read
        sys.stdin.read()
    except KeyboardInterrupt:
        sys.exit(130)
print("arguments", sys.argv[1:])
print("program", sys.argv[0], __name__, sys.path[0])
print("parent", os.getppid())
print("group", os.getpgid(0), os.getsid(0))
print("folder", os.getcwd())  # noqa: PTH109
print("input", sys.stdin.read())
print("environment", sorted(os.environ.items()))
print("umask", os.umask(0))
limits = [name for name in dir(resource) if name.startswith("RLIMIT_")]
print("limits", [resource.getrlimit(getattr(resource, name)) for name in limits])
print("signals", [signal.getsignal(number) for number in sorted(signal.valid_signals())])
print("blocked", signal.pthread_sigmask(signal.SIG_BLOCK, []))
print("files", sorted(map(int, os.listdir("/proc/self/fd"))))  # noqa: PTH208
print("buffering", sys.stdout.line_buffering, sys.stderr.line_buffering, sys.stdout.encoding)
print("to standard error", file=sys.stderr)
sys.exit(7)
