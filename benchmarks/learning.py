"""Compare the losses of pretraining on books with those of Hugging Face's model on the same data.

    python -m benchmarks.learning     # an hour: ours, then theirs

The text is tokenized with a vocabulary of 16,000 pieces into records of 128 positions, and both
train a model of size mini with the same settings. Our run is in `build/bench/learning/run`; the
loss curves of both are in `losses.png` in the same folder.
"""

import json
import shutil
import subprocess
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks.commands import BUILD, CLOZELINE, PEERS, environment
from benchmarks.corpus import read_paragraphs, write_prose
from clozeline.show.terminal import results, table
from pipeline.manifest import read_manifest
from pipeline.quiet_imports import import_quietly

FOLDER = BUILD / "learning"
BATCH_SIZE = 32
SEED = 12345
PEER_LOSSES = "hugging_face.jsonl"
MEASURES = (
    "masked_lm_loss",
    "masked_lm_accuracy",
    "next_sentence_loss",
    "next_sentence_accuracy",
    "tokens_per_sec",
)


def main(*, steps: int = 2000, learning_rate: float = 1e-3, megabytes: float = 17) -> None:
    """Train both models and print their metrics.

    Args:
        steps: optimizer steps; the batch size is 32 × 128 positions.
        learning_rate: peak learning rate, reached after a tenth of the steps.
        megabytes: size of the corpus.
    """
    dataset = make_dataset(FOLDER, megabytes)
    flags = {"steps": steps, "learning-rate": learning_rate, "warmup-steps": steps // 10}
    run = FOLDER / "run"
    shutil.rmtree(run, ignore_errors=True)
    ours = clozeline(
        "pretrain", "--dataset", dataset, "--run", run, "--batch-size", BATCH_SIZE, "--seed", SEED,
        *(f"--{name}={value}" for name, value in flags.items()),
    )  # fmt: skip
    batches = {
        "train": write_batches(dataset, FOLDER / "train.npz", "train", steps, BATCH_SIZE),
        "eval": write_batches(dataset, FOLDER / "eval.npz", "eval", None, BATCH_SIZE),
    }
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    theirs = hugging_face(
        FOLDER,
        batches,
        model=config["model"],
        bfloat16=config["training"]["precision"] == "bfloat16",
        compile=True,
        steps=steps,
        learning_rate=learning_rate,
        warmup_steps=steps // 10,
    )
    rows = [(name, f"{ours[name]:.4f}", f"{theirs[name]:.4f}") for name in MEASURES]
    results.print(table("held out, after the last step", ("", "ours", "Hugging Face"), rows))
    picture = FOLDER / "losses.png"
    draw(picture, run / "metrics.jsonl", FOLDER / PEER_LOSSES)
    results.print(f"curves: {picture}")


def draw(picture: Path, ours: Path, theirs: Path) -> None:
    """Draw the training losses of both, from JSON Lines files."""
    import_quietly("tensorflow")
    from model.training.curves import draw_curves

    lines = []
    for who, file in (("ours", ours), ("Hugging Face", theirs)):
        for text in file.read_text(encoding="utf-8").splitlines():
            line = json.loads(text)
            if "step" in line and line.get("split", "train") == "train":
                losses = {name: line[name] for name in MEASURES if name.endswith("_loss")}
                lines.append({"step": line["step"], "split": who, **losses})
    thin = {"linewidth": 1}
    draw_curves(picture, lines, "in training", {"ours": thin, "Hugging Face": thin})


def make_dataset(folder: Path, megabytes: float, more: Sequence[str] = ()) -> Path:
    """Create (once) a dataset of the books: 16,000 pieces, records of 128 positions.

    Args:
        folder: directory of the corpus, the vocabulary and the dataset.
        megabytes: size of the corpus.
        more: further paragraphs, after those of the books.
    """
    dataset = folder / "dataset"
    if not (dataset / "manifest.json").exists():
        write_prose(folder / "corpus", int(megabytes * 1e6), [*read_paragraphs(), *more])
        corpus, vocab = folder / "corpus" / "*.txt", folder / "vocab.txt"
        clozeline("vocab", "--input", corpus, "--output", vocab, "--size", 16_000)
        clozeline("preprocess", "--input", corpus, "--vocab", vocab, "--output", dataset,
                  "--eval-rate", 0.03)  # fmt: skip
    return dataset


def clozeline(*arguments: Any) -> dict[str, Any]:
    """Run a clozeline command, and return its JSON result."""
    command = [*map(str, (CLOZELINE, *arguments)), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def write_batches(
    dataset: Path, path: Path, split: str, count: int | None, batch_size: int
) -> Path:
    """Write the batches of our input pipeline to a file, so that a peer trains on the same ones."""
    import_quietly("tensorflow")
    from model.training.input import eval_batches, train_batches

    manifest = read_manifest(dataset)
    if split == "train":
        batches = train_batches(
            dataset, manifest, batch_size=batch_size, seed=SEED, skip_examples=0
        )
    else:
        batches = eval_batches(dataset, manifest, split, batch_size=batch_size)
    kept = list(islice(batches.as_numpy_iterator(), count))
    # Piece ids and positions fit in 16 bits, and weights are 0 or 1.
    arrays: dict[str, Any] = {
        name: np.stack([b[name] for b in kept]).astype(np.uint16) for name in kept[0]
    }
    np.savez(path, **arrays)
    return path


def hugging_face(folder: Path, batches: dict[str, Path], **settings: Any) -> dict[str, float]:
    """Train Hugging Face's model; return its speed and metrics, and write its losses to a file."""
    defaults = {
        "seed": SEED,
        "threads": 2,
        "log_every_steps": 40,
        "evaluate": True,
        "save": None,
        "score_masked_only": True,  # computes the same losses in a third of the time
    }
    paths = {name: str(path) for name, path in batches.items()}
    file = folder / "hugging_face.json"
    file.write_text(json.dumps(defaults | paths | settings), encoding="utf-8")
    python = environment("hugging_face_training")
    log = folder / PEER_LOSSES
    with log.open("w") as output:
        script = [python, PEERS / "hugging_face_training.py", file]
        subprocess.run([*map(str, script)], stdout=output, stderr=subprocess.DEVNULL, check=True)
    result: dict[str, float] = json.loads(log.read_text().splitlines()[-1])
    return result


if __name__ == "__main__":
    tyro.cli(main)
