"""Commands that run one of our modules in a new process."""

import sys


def module_command(module: str) -> tuple[str, ...]:
    """Return the command that runs a module, to which its arguments are appended.

    Without `-P`, `python -m` imports from the working directory first: a file `proto.py` of the
    user would take the place of the package that Beam imports.
    """
    return (sys.executable, "-P", "-m", module)
