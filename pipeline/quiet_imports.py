"""Import modules whose native code greets on standard error."""

import contextlib
import importlib
import os
import tempfile


def import_quietly(*modules: str) -> None:
    """Import modules while hiding what their native code prints to standard error.

    If an import fails, the hidden output is printed after all.
    """
    with tempfile.TemporaryFile() as captured:
        # Native code writes to file descriptor 2, which replacing sys.stderr would not catch.
        stderr = os.dup(2)
        os.dup2(captured.fileno(), 2)
        try:
            for module in modules:
                importlib.import_module(module)
        except BaseException:
            captured.seek(0)
            with contextlib.suppress(OSError):
                os.write(stderr, captured.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
