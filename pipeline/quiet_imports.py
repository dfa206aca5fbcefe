"""Import TensorFlow and modules that need it: quietly, and without what nothing here uses."""

import contextlib
import importlib
import os
import sys
import tempfile
from collections.abc import Iterator
from types import ModuleType

UNUSED = ("sklearn", "matplotlib")
"""Keras, which TensorFlow imports, imports these if they are installed, for scikit-learn wrappers
and image galleries. They take a quarter of the CPU time of importing TensorFlow."""


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
    """
    with tempfile.TemporaryFile() as captured:
        # Native code writes to file descriptor 2, which replacing sys.stderr would not catch.
        stderr = os.dup(2)
        os.dup2(captured.fileno(), 2)
        try:
            with _hidden(UNUSED):
                for module in modules:
                    importlib.import_module(module)
        except Exception:  # not Ctrl-C, which ends the command with a line of its own
            captured.seek(0)
            with contextlib.suppress(OSError):
                os.write(stderr, captured.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
