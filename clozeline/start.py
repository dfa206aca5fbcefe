"""Where a process starts: `clozeline` and `python -m clozeline`.

It imports nothing but what Python has imported already, so that Ctrl-C during the other imports
ends the command as it does later.
"""

import sys


def main(arguments: list[str] | None = None) -> int:
    """Run a command, by default that of this process's arguments; return its exit code."""
    try:
        from clozeline.main import main as run

        return run(arguments)
    except KeyboardInterrupt:
        print("clozeline: interrupted", file=sys.stderr)
        return 130
