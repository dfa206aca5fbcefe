"""Import copies of a checkpoint, each with one damaged file; print what the command said of each.

    python import_mutated.py CHECKPOINT FILE SEEDS FOLDER

A program of its own: a damaged file may crash the process, hang it or exhaust its memory.
"""

import contextlib
import io
import json
import resource
import shutil
import signal
import struct
import sys
from pathlib import Path
from random import Random

import tensorflow as tf

from clozeline.main import main

CASE_SECS = 60
MEMORY_BYTES = 1 << 30  # more than the process has after its imports
DEEP = 20_000


def mutate(data: bytes, rng: Random) -> bytes:
    """Damage some bytes: half of the time near the beginning, where headers are."""
    size = len(data)
    start = rng.randrange(min(size, 512) if rng.random() < 0.5 else size)
    end = min(size, start + rng.choice([1, 1, 2, 4, 8, 64, size]))
    part = data[start:end]
    kinds = {
        "flip": bytes(byte ^ (1 << rng.randrange(8)) for byte in part[:2]) + part[2:],
        "zeros": bytes(len(part)),
        "ones": b"\xff" * len(part),
        "noise": rng.randbytes(len(part)),
        "removed": b"",
        "twice": part * 2,
        "number": rng.choice([b"-1", b"1e999", b"9" * 30, b"NaN", b"null", b"[]", b'"\\ud800"']),
        "deep": b"[" * DEEP,
        "length": struct.pack("<Q", rng.choice([2**40, 2**63, 2**64 - 1, size, size + 1])),
    }
    return data[:start] + rng.choice(list(kinds.values())) + data[end:]


def said_of(checkpoint: Path, run: Path) -> tuple[int, str]:
    """Return the exit code of `import`, and what it printed on standard error."""
    with contextlib.redirect_stderr(io.StringIO()) as printed, contextlib.redirect_stdout(None):
        code = main(["import", "--from", str(checkpoint), "--run", str(run)])
    return code, printed.getvalue()


def import_mutated(checkpoint: Path, name: str, seeds: int, folder: Path) -> None:
    """Damage one file in `seeds` ways."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, also within a library
    run, copy = folder / "run", folder / "checkpoint"
    assert said_of(checkpoint, run) == (0, "")
    used_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used_bytes + MEMORY_BYTES,) * 2)
    for seed in range(seeds):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(checkpoint, copy)
        (copy / name).write_bytes(mutate((copy / name).read_bytes(), Random(f"{name} {seed}")))
        signal.alarm(CASE_SECS)
        code, said = said_of(copy, run)
        signal.alarm(0)
        print(json.dumps({"seed": seed, "code": code, "said": said}), flush=True)
        tf.keras.backend.clear_session()


if __name__ == "__main__":
    import_mutated(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
