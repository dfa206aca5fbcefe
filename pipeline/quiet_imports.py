"""Import TensorFlow and modules that need it: quietly, and without what nothing here uses."""

import contextlib
import importlib
import os
import resource
import sys
import tempfile
from collections.abc import Iterator
from types import ModuleType

from pipeline.errors import JobError, reason

UNUSED = ("sklearn", "matplotlib")
"""Keras, which TensorFlow imports, imports these if they are installed, for scikit-learn wrappers
and image galleries. They take a quarter of the CPU time of importing TensorFlow."""

_NO_MEMORY = ("failed to map segment", "cannot allocate memory")
"""What the dynamic loader says of a library that does not fit into the memory, ld.so(8)."""


def _is_limited() -> bool:
    """Return whether the size of this process is limited; a file system may refuse to map, too."""
    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY


@contextlib.contextmanager
def _hidden(names: tuple[str, ...]) -> Iterator[None]:
    """Make imports of these modules fail in the body, unless they were imported before."""
    modules: dict[str, ModuleType | None] = sys.modules  # type: ignore[assignment]
    hidden = [name for name in names if name not in modules]
    modules.update(dict.fromkeys(hidden))  # the import system's mark for "cannot be imported"
    try:
        yield
    finally:
        for name in hidden:
            del modules[name]


def import_quietly(*modules: str) -> None:
    """Import modules while hiding what their native code prints to standard error.

    Modules of `UNUSED` are left out meanwhile; they can be imported afterwards.

    If an import fails, the hidden output is printed after all.

    Raises:
        JobError: there is too little memory to load a library.
    """
    with tempfile.TemporaryFile() as captured:
        # Native code writes to file descriptor 2, which replacing sys.stderr would not catch.
        stderr = os.dup(2)
        os.dup2(captured.fileno(), 2)
        try:
            with _hidden(UNUSED):
                for module in modules:
                    importlib.import_module(module)
        except Exception as error:  # not Ctrl-C, which ends the command with a line of its own
            if _is_limited() and any(said in str(error) for said in _NO_MEMORY):
                raise JobError(
                    f"out of memory while {module} was imported: {reason(error)}; "
                    "raise the limit on memory (ulimit -v)"
                ) from error
            captured.seek(0)
            with contextlib.suppress(OSError):
                os.write(stderr, captured.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
