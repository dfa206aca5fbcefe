"""Compare the speed of `clozeline pretrain` with Hugging Face's and KerasHub's, in the same run.

    make bench                              # with all other benchmarks
    python -m benchmarks.training --quick   # a few steps each, a smoke test

Full training steps including the optimizer, after compilation, on the same batches of real text:
30,522 pieces, records of 128 positions. Hugging Face's model also computes the next-sentence loss,
KerasHub's does not.
"""

import json
import lzma
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any

import tyro
from rich.progress import track

from benchmarks.commands import BUILD, CLOZELINE, PEERS, environment
from benchmarks.corpus import read_paragraphs, write_lines
from benchmarks.learning import SEED, clozeline, write_batches
from benchmarks.preprocessing import PUBLISHED, Row
from clozeline.show.terminal import results, table
from pipeline.quiet_imports import import_quietly

FOLDER = BUILD / "training"
LENGTH = 128


class Bench:
    """Creates the datasets and runs the trainings."""

    def __init__(self, *, quick: bool) -> None:
        self.quick = quick
        shutil.rmtree(FOLDER, ignore_errors=True)
        FOLDER.mkdir(parents=True)
        (FOLDER / "vocab.txt").write_bytes(lzma.decompress(PUBLISHED.read_bytes()))
        write_lines(FOLDER / "corpus.txt", 4_000_000, read_paragraphs())

    def dataset(self, length: int) -> Path:
        """Create (once) a dataset with records of this length."""
        path = FOLDER / f"dataset-{length}"
        if not path.exists():
            clozeline("preprocess", "--input", FOLDER / "corpus.txt", "--input-format", "lines",
                      "--vocab", FOLDER / "vocab.txt", "--output", path,
                      "--max-seq-length", length)  # fmt: skip
        return path

    def ours(self, model: str, batch_size: int, steps: int, length: int = LENGTH) -> dict[str, Any]:
        """Train with the command; return its result with `peak_bytes`, its peak memory."""
        shutil.rmtree(FOLDER / "run", ignore_errors=True)
        command = [
            CLOZELINE, "pretrain", "--dataset", self.dataset(length), "--run", FOLDER / "run",
            "--model", model, "--batch-size", batch_size, "--steps", steps, "--json",
        ]  # fmt: skip
        process = subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, text=True,
                                   stderr=subprocess.DEVNULL)  # fmt: skip
        with process:
            assert process.stdout
            text = process.stdout.read()
            # `wait4` gives the peak memory of this child alone; `getrusage` has that of all
            # children.
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{' '.join(map(str, command))} failed")
        return json.loads(text) | {"peak_bytes": usage.ru_maxrss * 1024}

    def peer(
        self, name: str, batch_size: int, steps: int, *, bfloat16: bool, compile: bool
    ) -> float:
        """Train a peer's model with our last run's config; return its tokens per second."""
        batches = FOLDER / f"batches-{batch_size}.npz"
        if not batches.exists():
            write_batches(self.dataset(LENGTH), batches, "train", 24, batch_size)
        config = json.loads((FOLDER / "run" / "config.json").read_text(encoding="utf-8"))["model"]
        settings = {
            "train": str(batches), "eval": str(batches), "model": config, "bfloat16": bfloat16,
            "compile": compile, "steps": steps, "learning_rate": 1e-4, "warmup_steps": 2,
            "seed": SEED, "threads": os.cpu_count(), "log_every_steps": steps, "evaluate": False,
            "score_masked_only": False, "save": None,
        }  # fmt: skip
        file = FOLDER / "settings.json"
        file.write_text(json.dumps(settings), encoding="utf-8")
        # KerasHub is a dependency of ours; PyTorch is not.
        python = sys.executable if name == "keras_hub" else environment("hugging_face_training")
        script = [python, PEERS / f"{name}_training.py", file]
        done = subprocess.run([*map(str, script)], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{name} failed:\n{done.stderr[-2000:]}")
        return float(json.loads(done.stdout.splitlines()[-1])["tokens_per_sec"])


def main(*, quick: bool = False, only: tuple[str, ...] = ()) -> None:
    """Measure, print, and write the figures to build/bench/training.json.

    Args:
        quick: run a few steps each, as a smoke test.
        only: some of mini, base, input-alone, workers and sizes; empty = all.
    """
    bench = Bench(quick=quick)
    parts: dict[str, Callable[[Bench], list[Row]]] = {
        "mini": mini, "base": base, "input-alone": input_alone, "workers": workers, "sizes": sizes
    }  # fmt: skip
    chosen = [parts[name] for name in only or parts]
    rows = [row for part in track(chosen, description="measuring") for row in part(bench)]
    cells = [[*astuple(row)[:-1], "yes" if row.reached else "no"] for row in rows]
    columns = ("pretrain", "measured", "compared with", "ratio", "target", "met")
    results.print(table("", columns, cells))
    figures = BUILD / "training.json"
    figures.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    results.print(f"figures: {figures}")


MODES = {
    "Hugging Face, eager": ("hugging_face", False, False),
    "Hugging Face, bf16": ("hugging_face", True, False),
    "Hugging Face, compiled": ("hugging_face", False, True),
    "Hugging Face, compiled, bf16": ("hugging_face", True, True),
    "KerasHub fit": ("keras_hub", False, False),
    "KerasHub fit, XLA": ("keras_hub", False, True),
    "KerasHub fit, bf16": ("keras_hub", True, False),
}


def mini(bench: Bench) -> list[Row]:
    """Measure tokens per second of size mini, batches of 32 × 128."""
    # Ours recompiles for a few different numbers of masked pieces; enough steps amortize that.
    return _compared(bench, "mini", 32, 2.0, list(MODES), steps=150, peer_steps=14)


def base(bench: Bench) -> list[Row]:
    """Measure tokens per second of size base, batches of 8 × 128."""
    # Only the peers that are fastest with mini; the others take minutes to compile.
    fastest = ["Hugging Face, bf16", "Hugging Face, compiled, bf16", "KerasHub fit, bf16"]
    return _compared(bench, "base", 8, 1.2, fastest, steps=16, peer_steps=8)


def _compared(
    bench: Bench,
    model: str,
    batch_size: int,
    target: float,
    modes: list[str],
    steps: int,
    peer_steps: int,
) -> list[Row]:
    if bench.quick:
        steps, peer_steps = 6, 5
    # Measure ours before and after the peers, since the machine's speed varies over time.
    ours = [bench.ours(model, batch_size, steps)["tokens_per_sec"]]
    peers = {}
    for words in modes:
        name, bfloat16, compile = MODES[words]
        peers[words] = bench.peer(name, batch_size, peer_steps, bfloat16=bfloat16, compile=compile)
    last = bench.ours(model, batch_size, steps)
    best, best_peer = max(*ours, last["tokens_per_sec"]), max(peers.values())
    title = f"{model}, {batch_size} × {LENGTH}"
    rows = [
        Row(f"{title}: {words}", f"{best:,.0f} tokens/s", f"{speed:,.0f}", f"{best / speed:.2f} ×",
            f"≥ {target:g} × the best" if speed == best_peer else "",
            speed != best_peer or best / speed >= target)
        for words, speed in peers.items()
    ]  # fmt: skip
    mfu = f"{last['mfu']:.0%} of the matrix peak"
    return [Row(title, f"{best:,.0f} tokens/s", "", mfu, "", True), *rows]


def input_alone(bench: Bench) -> list[Row]:
    """Measure tokens per second of the input pipeline on one core, compared with the step's."""
    step = bench.ours("mini", 32, 6 if bench.quick else 40)["tokens_per_sec"]
    code = (
        "import os, sys, time; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from pathlib import Path; from pipeline.quiet_imports import import_quietly\n"
        "import_quietly('tensorflow'); from model.training.input import train_batches\n"
        "from pipeline.manifest import read_manifest\n"
        "path = Path(sys.argv[1]); manifest = read_manifest(path)\n"
        "it = iter(train_batches(path, manifest, batch_size=32, seed=1, skip_examples=0))\n"
        # The first batches wait for threads to start and buffers to fill.
        "[next(it) for _ in range(50)]; t = time.perf_counter()\n"
        "[next(it) for _ in range(1000)]\n"
        "print(1000 * 32 * manifest.max_seq_length / (time.perf_counter() - t))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(bench.dataset(LENGTH))],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    speed = float(done.stdout)
    ratio = speed / step
    measured = f"{speed / 1e6:.2f} M tokens/s, {speed / LENGTH:,.0f} records/s"
    return [Row("input pipeline alone, one core", measured,
                f"{step:,.0f} (the step)", f"{ratio:.0f} ×", "≥ 20 ×", ratio >= 20)]  # fmt: skip


def workers(bench: Bench) -> list[Row]:
    """Measure the speed-up of two worker processes, one core each, over one process."""
    steps = 6 if bench.quick else 200
    dataset, cores = bench.dataset(LENGTH), sorted(os.sched_getaffinity(0))

    def train(count: int) -> float:
        shutil.rmtree(FOLDER / "run", ignore_errors=True)
        addresses = [f"localhost:{23456 + index}" for index in range(count)]
        started = []
        for index in range(count):
            task = {"type": "worker", "index": index}
            config = {"cluster": {"worker": addresses}, "task": task}
            more = {"TF_CONFIG": json.dumps(config)} if count > 1 else {}
            command = [CLOZELINE, "pretrain", "--dataset", dataset, "--run", FOLDER / "run",
                       "--batch-size", 32 * count, "--steps", steps, "--json"]  # fmt: skip
            pinned = ["taskset", "--cpu-list", str(cores[index]), *map(str, command)]
            started.append(
                subprocess.Popen(pinned, env=os.environ | more, stdout=subprocess.PIPE,
                                 stderr=subprocess.DEVNULL, text=True)
            )  # fmt: skip
        texts = [process.communicate()[0] for process in started]
        return float(json.loads(texts[0])["tokens_per_sec"])

    one, two = train(1), train(2)
    # Before and after, since the machine's speed varies over time.
    again = train(1)
    ratio = two / max(one, again)
    return [Row("2 workers, one core each, vs. 1", f"{two:,.0f} tokens/s",
                f"{max(one, again):,.0f}", f"{ratio:.2f} ×", "≥ 1.7 ×", ratio >= 1.7)]  # fmt: skip


def sizes(bench: Bench) -> list[Row]:
    """Measure step time and memory by length and batch size, compared with the FLOP count."""
    import_quietly("tensorflow")
    from model.bert.config import SIZES
    from model.bert.flops import step_flops

    rows = []
    first: tuple[float, float] | None = None
    for length, batch_size in ((128, 8), (128, 32), (128, 64), (256, 16), (512, 8)):
        result = bench.ours("mini", batch_size, 6 if bench.quick else 60, length)
        seconds = batch_size * length / result["tokens_per_sec"]
        flops = step_flops(SIZES["mini"].config(30522), batch_size, length, 20)
        # The first shape calibrates FLOP/s, and the others are compared with it.
        first = first or (seconds, flops)
        theory = first[0] * flops / first[1]
        rows.append(
            Row(f"mini, {batch_size} × {length}: a step", f"{seconds * 1e3:,.0f} ms",
                f"{theory * 1e3:,.0f} ms by its FLOPs", f"{seconds / theory:.2f} ×",
                f"{result['peak_bytes'] / 1e6:,.0f} MB", True)
        )  # fmt: skip
    return rows


if __name__ == "__main__":
    tyro.cli(main)
