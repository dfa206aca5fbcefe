"""Compare the in-process latency of an exported model with PyTorch, ONNX Runtime and OpenVINO.

    make bench                               # with all other benchmarks
    python -m benchmarks.serving --one-core  # CPU time on one core, for a shared machine

BERT-base with random weights and 30,522 pieces, with 128 and with 16 positions. Our model takes raw
strings, the peers take ids; all return the last layer and the pooled vector. Ours runs as with
`clozeline serve --frozen-weights`.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, astuple
from statistics import median

import tyro

from benchmarks.commands import BUILD, PEERS, environment
from benchmarks.preprocessing import Row
from clozeline.show.terminal import results, table
from model.bert.config import SIZES
from serving.export.choices import CALLER_THREAD, FROZEN_WEIGHTS, shared_cores

FOLDER = BUILD / "serving"
SHAPES = ((8, 128), (1, 128), (8, 16))

MODES = {
    "PyTorch, bf16": "torch",
    "PyTorch, compiled, bf16": "torch compiled",
    "ONNX Runtime, float32": "onnx",
    "ONNX Runtime, dynamic int8": "onnx int8",
    "OpenVINO, bf16": "openvino bf16",
    "OpenVINO, int8": "openvino int8",
}

TARGETS = {"ONNX Runtime, dynamic int8": (1.7, 1.3, 1.3), "OpenVINO, bf16": (0.85,) * 3,
           "OpenVINO, int8": (0.85,) * 3}  # fmt: skip
"""Least ratio for each of `SHAPES`; 1 for the other peers."""

OURS = """\
import json, sys, time
import tensorflow as tf, tensorflow_text
from benchmarks.models import words
path, shapes, repeats = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
embed = tf.saved_model.load(path).signatures["embed"]
known, found = words(4096), {}
for batch, length in shapes:
    texts = [" ".join(known[row : row + length - 2]) for row in range(batch)]
    taken = []
    for _ in range(repeats + 3):
        wall, cpu = time.perf_counter(), time.process_time()
        embed(tf.constant(texts))["pooled"].numpy()
        taken.append([1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu)])
    found[f"{batch} x {length}"] = taken[3:]
print(json.dumps(found))
"""

Times = dict[str, float]
"""Median latency of a batch, in milliseconds, by its shape."""


class Bench:
    """Runs our model and the peers', each in a separate process.

    Attributes:
        repeats: number of timed batches per shape.
        one_core: whether to run on one core and measure CPU time.
    """

    def __init__(self, *, repeats: int, one_core: bool) -> None:
        self.repeats = repeats
        self.one_core = one_core

    def ours(self, precision: str) -> Times:
        """Time our exported model."""
        folder = FOLDER / precision
        if not (folder / "models" / "base" / "1").is_dir():
            code = (
                "import sys; from pathlib import Path\n"
                "from benchmarks.models import export_random\n"
                "export_random(Path(sys.argv[1]), 'base', sys.argv[2])"
            )
            subprocess.run([sys.executable, "-c", code, str(folder), precision], check=True)
        model = folder / "models" / "base" / "1"
        command = [sys.executable, "-c", OURS, model, json.dumps(SHAPES), self.repeats]
        # As with `clozeline serve --frozen-weights`.
        return self._run(command, FROZEN_WEIGHTS | CALLER_THREAD | shared_cores())

    def peer(self, mode: str) -> Times:
        """Time a peer's model."""
        settings = {
            "mode": mode, "shapes": SHAPES, "repeats": self.repeats,
            "threads": 1 if self.one_core else os.cpu_count(),
            "model": SIZES["base"].config(30_522).to_dict(),
        }  # fmt: skip
        FOLDER.mkdir(parents=True, exist_ok=True)
        file = FOLDER / "settings.json"
        file.write_text(json.dumps(settings), encoding="utf-8")
        python = environment("hugging_face_serving")
        return self._run([python, PEERS / "hugging_face_serving.py", file])

    def _run(self, command: list, variables: Mapping[str, str] | None = None) -> Times:
        core = str(min(os.sched_getaffinity(0)))
        pinned = ["taskset", "--cpu-list", core] if self.one_core else []
        done = subprocess.run(
            [*pinned, *map(str, command)], env=os.environ | dict(variables or {}),
            capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{command[1]} failed:\n{done.stderr[-2000:]}")
        # Each run reports (wall time, CPU time).
        column = 1 if self.one_core else 0
        found = json.loads(done.stdout.splitlines()[-1])
        return {shape: median(each[column] for each in taken) for shape, taken in found.items()}


def main(*, quick: bool = False, one_core: bool = False, only: tuple[str, ...] = ()) -> None:
    """Measure, print, and write the figures to build/bench/serving.json.

    Args:
        quick: run a few batches each, as a smoke test.
        one_core: run on one core and measure CPU time, which other processes disturb least.
        only: names of the peers to run; empty = all.
    """
    bench = Bench(repeats=3 if quick else 15, one_core=one_core)
    # Measure ours before and after the peers, since the machine's speed varies over time.
    of = {precision: bench.ours(precision) for precision in ("float32", "bfloat16", "int8")}
    peers = {name: bench.peer(mode) for name, mode in MODES.items() if not only or name in only}
    for precision in ("bfloat16", "int8"):
        last = bench.ours(precision)
        of[precision] = {shape: min(once, last[shape]) for shape, once in of[precision].items()}
    rows = [row for index in range(len(SHAPES)) for row in _rows(index, of, peers)]
    rows.append(_short_texts(of["bfloat16"]))
    unit = "ms of CPU time, one core" if one_core else "ms"
    cells = [[*astuple(row)[:-1], "yes" if row.reached else "no"] for row in rows]
    columns = (f"BERT-base in process, {unit}", "ours", "compared with", "ratio", "target", "met")
    results.print(table("", columns, cells))
    file = BUILD / "serving.json"
    file.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    results.print(f"figures: {file}")


def _rows(index: int, ours: dict[str, Times], peers: dict[str, Times]) -> list[Row]:
    """Return the rows of a shape: against our float32 model, and against each peer.

    Args:
        index: index in `SHAPES`.
        ours: our times by precision.
        peers: the peers' times by name.
    """
    shape = "{} x {}".format(*SHAPES[index])
    others: list[tuple[str, str, Times, float | None]] = [
        ("bfloat16", "ours in float32", ours["float32"], None),
        ("int8", "ours in bfloat16", ours["bfloat16"], 1.0),
    ]
    for name, times in peers.items():
        precision = "int8" if name.endswith("int8") else "bfloat16"
        others.append((precision, name, times, TARGETS.get(name, (1.0,) * 3)[index]))
    rows = []
    for precision, name, times, target in others:
        mine, theirs = ours[precision][shape], times[shape]
        rows.append(
            Row(f"{shape}: {precision} vs. {name}", f"{mine:,.0f}", f"{theirs:,.0f}",
                f"{theirs / mine:.2f} ×", f"≥ {target:g} ×" if target else "",
                target is None or theirs / mine >= target)
        )  # fmt: skip
    return rows


def _short_texts(ours: Times) -> Row:
    """Return a row that checks that 16 positions cost little more than an eighth of 128."""
    ratio = ours["8 x 16"] / ours["8 x 128"]
    return Row("8 x 16 vs. 8 x 128", f"{ours['8 x 16']:,.0f}", f"{ours['8 x 128']:,.0f}",
               f"{ratio:.2f} ×", "≤ 0.25 ×", ratio <= 0.25)  # fmt: skip


if __name__ == "__main__":
    tyro.cli(main)
