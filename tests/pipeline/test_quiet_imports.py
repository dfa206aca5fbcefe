"""What importing TensorFlow brings into a process and prints."""

import os
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
