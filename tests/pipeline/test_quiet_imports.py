"""What importing TensorFlow brings into a process and prints."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import sys
from pipeline.quiet_imports import UNUSED, import_quietly
import_quietly("tensorflow")
assert "keras" in sys.modules and not {*UNUSED, "scipy.stats"} & set(sys.modules)
from sklearn.metrics import f1_score
import matplotlib.pyplot
before = [sys.modules[name] for name in UNUSED]
import_quietly("json")
assert before == [sys.modules[name] for name in UNUSED]
"""


def test_unused_imports_of_keras_are_skipped_and_possible_later() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("error", "expected"), [("KeyboardInterrupt", ""), ("ValueError", "noise")]
)
def test_what_an_import_printed_is_shown_if_it_failed_not_if_the_user_ended_it(
    error: str, expected: str, tmp_path: Path
) -> None:
    (tmp_path / "noisy.py").write_text(f"import os\nos.write(2, b'noise')\nraise {error}")
    code = (
        "from pipeline.quiet_imports import import_quietly\n"
        f"try: import_quietly('noisy')\nexcept {error}: pass"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", expected)


# What Python says of TensorFlow's library under `ulimit -v 1000000`.
TOO_LARGE = "libtensorflow_cc.so.2: failed to map segment from shared object"


@pytest.mark.parametrize(
    ("limit", "error", "message"),
    [
        (2**44, "JobError", f"out of memory while large was imported: {TOO_LARGE}; raise the li"),
        (resource.RLIM_INFINITY, "ImportError", TOO_LARGE),  # on a file system with `noexec`
    ],
)
def test_a_library_that_does_not_fit_into_the_memory(
    limit: int, error: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "large.py").write_text(f"raise ImportError({TOO_LARGE!r})")
    code = (
        "import resource\n"
        f"resource.setrlimit(resource.RLIMIT_AS, ({limit}, resource.RLIM_INFINITY))\n"
        "from pipeline.quiet_imports import import_quietly\n"
        "try: import_quietly('large')\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert done.stdout.startswith(f"{error} {message}")
