"""What importing TensorFlow brings into a process and prints."""

import subprocess
import sys

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
