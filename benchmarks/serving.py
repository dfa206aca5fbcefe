"""Compare the in-process latency of an exported model with PyTorch, ONNX Runtime and OpenVINO.

    make bench                               # with all other benchmarks
    python -m benchmarks.serving --one-core  # CPU time on one core, for a shared machine

BERT-base with random weights and 30,522 pieces, with 128 and with 16 positions. Our model takes raw
strings, the peers take ids; all return the last layer and the pooled vector. Ours runs as with
`clozeline serve --frozen-weights`. All models are loaded, and answer in turns.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, astuple
from pathlib import Path
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

PRECISIONS = ("float32", "bfloat16", "int8")

TARGETS = {"ONNX Runtime, dynamic int8": (1.7, 1.3, 1.3), "OpenVINO, bf16": (0.85,) * 3,
           "OpenVINO, int8": (0.85,) * 3}  # fmt: skip
"""Least ratio for each of `SHAPES`; 1 for the other peers."""

ROUNDS = 8
BATCHES = 4
"""Batches of a model in a round; the first is not timed, since the caches hold another model."""

OURS = """\
import json, sys, time
import tensorflow as tf, tensorflow_text
from benchmarks.models import words
embed = tf.saved_model.load(sys.argv[1]).signatures["embed"]
known = words(4096)
for line in sys.stdin:
    batch, length, count = json.loads(line)
    texts = tf.constant([" ".join(known[row : row + length - 2]) for row in range(batch)])
    taken = []
    for _ in range(count):
        wall, cpu = time.perf_counter(), time.process_time()
        embed(texts)["pooled"].numpy()
        taken.append([1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu)])
    print(json.dumps(taken), flush=True)
"""

Times = dict[str, float]
"""Median latency of a batch, in milliseconds, by its shape."""


class Model:
    """A process that answers batches when it is asked to, and is stopped in between.

    Threads of some runtimes spin for a while after their work, on cores that the next model needs.

    Args:
        command: program that reads a batch size, a length and a number of batches from each line of
            its standard input, and prints the wall and CPU time of each batch.
        variables: environment variables of ours.
        one_core: whether to run on one core and measure CPU time.
    """

    def __init__(
        self, command: list, variables: Mapping[str, str] | None = None, *, one_core: bool
    ) -> None:
        pinned = ["taskset", "--cpu-list", str(min(os.sched_getaffinity(0)))] if one_core else []
        self._column = 1 if one_core else 0
        self._command = [*pinned, *map(str, command)]
        descriptor, self._log = tempfile.mkstemp()
        with os.fdopen(descriptor, "w") as errors:
            self._process = subprocess.Popen(
                self._command,
                env=os.environ | dict(variables or {}),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
            )  # fmt: skip
        for shape in SHAPES:  # what is compiled is so before the first round
            self.ask(*shape, 2)

    def ask(self, batch: int, length: int, count: int) -> list[float]:
        """Return the milliseconds of each batch but the first."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.send_signal(signal.SIGCONT)
        print(json.dumps([batch, length, count]), file=self._process.stdin, flush=True)
        for line in self._process.stdout:
            if line.startswith("[["):  # libraries print here, too
                self._process.send_signal(signal.SIGSTOP)
                return [each[self._column] for each in json.loads(line)[1:]]
        errors = Path(self._log).read_text(encoding="utf-8", errors="replace")
        raise RuntimeError(f"{self._command} failed:\n{errors[-2000:]}")

    def stop(self) -> None:
        """End the process."""
        self._process.send_signal(signal.SIGCONT)
        self._process.communicate()
        Path(self._log).unlink()


def ours(precision: str, *, one_core: bool) -> Model:
    """Start our exported model."""
    folder = FOLDER / precision
    if not (folder / "models" / "base" / "1").is_dir():
        code = (
            "import sys; from pathlib import Path\n"
            "from benchmarks.models import export_random\n"
            "export_random(Path(sys.argv[1]), 'base', sys.argv[2])"
        )
        subprocess.run([sys.executable, "-c", code, str(folder), precision], check=True)
    command = [sys.executable, "-c", OURS, folder / "models" / "base" / "1"]
    # As with `clozeline serve --frozen-weights`.
    return Model(command, FROZEN_WEIGHTS | CALLER_THREAD | shared_cores(), one_core=one_core)


def peer(mode: str, *, one_core: bool) -> Model:
    """Start a peer's model."""
    settings = {
        "mode": mode, "max_length": max(length for _, length in SHAPES),
        "threads": 1 if one_core else os.cpu_count(),
        "model": SIZES["base"].config(30_522).to_dict(),
    }  # fmt: skip
    FOLDER.mkdir(parents=True, exist_ok=True)
    file = FOLDER / "settings.json"
    file.write_text(json.dumps(settings), encoding="utf-8")
    python = environment("hugging_face_serving")
    return Model([python, PEERS / "hugging_face_serving.py", file], one_core=one_core)


def measured(models: Mapping[str, Model], rounds: int) -> dict[str, Times]:
    """Return the times of each model. They are asked in turns: the machine's speed varies."""
    found: dict[str, Times] = {name: {} for name in models}
    for shape in SHAPES:
        taken: dict[str, list[float]] = {name: [] for name in models}
        for _ in range(rounds):
            for name, model in models.items():
                taken[name] += model.ask(*shape, BATCHES)
        for name, each in taken.items():
            found[name]["{} x {}".format(*shape)] = median(each)
    return found


def main(*, quick: bool = False, one_core: bool = False, only: tuple[str, ...] = ()) -> None:
    """Measure, print, and write the figures to build/bench/serving.json.

    Args:
        quick: run a few rounds, as a smoke test.
        one_core: run on one core and measure CPU time, which other processes disturb least.
        only: names of the peers to run; empty = all.
    """
    models = {precision: ours(precision, one_core=one_core) for precision in PRECISIONS}
    for name, mode in MODES.items():
        if not only or name in only:
            models[name] = peer(mode, one_core=one_core)
    times = measured(models, 2 if quick else ROUNDS)
    for model in models.values():
        model.stop()
    of = {precision: times.pop(precision) for precision in PRECISIONS}
    peers = times
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
