"""Measure what packing gains on short documents: real positions, and CPU time of an epoch.

    make bench                             # with all other benchmarks
    python -m benchmarks.packing --quick   # a small corpus and a few steps, a smoke test

Every paragraph of the corpus is a document. The same pairs are written unpacked and packed, with
the same number of positions per step. CPU time is measured, since other work on the machine does
not count in it; that of a few steps is subtracted from that of more, so that start and compilation
do not count either.
"""

import json
import lzma
import shutil
from pathlib import Path

import tyro

from benchmarks.commands import BUILD, CLOZELINE, run
from benchmarks.corpus import read_paragraphs
from benchmarks.preprocessing import PUBLISHED
from clozeline.show.terminal import results, table
from pipeline.text.sentences import split_sentences

FOLDER = BUILD / "packing"
LENGTH, BATCH_SIZE = 512, 8
FEWEST_SENTENCES = 2


def main(*, quick: bool = False, model: str = "mini", steps: int = 40) -> None:
    """Measure, print, and write the figures to build/bench/packing.json.

    Args:
        quick: use a small corpus and a few steps, as a smoke test.
        model: size of the model.
        steps: number of training steps.
    """
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    (FOLDER / "vocab.txt").write_bytes(lzma.decompress(PUBLISHED.read_bytes()))
    write_documents(FOLDER / "corpus.txt", 300_000 if quick else 8_000_000)
    figures = {
        name: measured(name, flags, model, 5 if quick else steps)
        for name, flags in (("unpacked", ()), ("packed", ("--packing",)))
    }
    rows = [
        [what, *(figures[name][what] for name in figures),
         f"{figures['packed'][what] / figures['unpacked'][what]:.2f} ×"]
        for what in figures["packed"]
    ]  # fmt: skip
    results.print(table(f"Paragraphs as documents, {LENGTH} positions", ["", *figures, ""], rows))
    path = BUILD / "packing.json"
    path.write_text(json.dumps(figures, indent=1) + "\n")
    results.print(f"figures: {path}")


def write_documents(path: Path, size_bytes: int) -> None:
    """Write paragraphs of some sentences as documents, one sentence per line."""
    documents: list[str] = []
    left = size_bytes
    for paragraph in read_paragraphs():
        sentences = split_sentences(paragraph)
        if len(sentences) >= FEWEST_SENTENCES:
            documents.append("\n".join(sentences))
            left -= len(documents[-1].encode())
        if left <= 0:
            break
    path.write_text("\n\n".join(documents) + "\n", encoding="utf-8")


def measured(name: str, flags: tuple[str, ...], model: str, steps: int) -> dict[str, float]:
    """Write the dataset and train on it; return the figures."""
    dataset = FOLDER / name
    made = run([
        CLOZELINE, "preprocess", "--input", FOLDER / "corpus.txt", "--input-format", "lines",
        "--vocab", FOLDER / "vocab.txt", "--output", dataset, "--max-seq-length", str(LENGTH),
        *flags,
    ])  # fmt: skip
    manifest = json.loads((dataset / "manifest.json").read_text())
    total = manifest["statistics"]["train"]
    pairs = total.get("pairs", total["examples"])
    few = max(steps // 8, 1)
    start, trained = (
        run([
            CLOZELINE, "pretrain", "--dataset", dataset, "--run", FOLDER / f"run-{name}-{count}",
            "--model", model, "--steps", str(count), "--batch-size", str(BATCH_SIZE),
            "--eval-every-steps", str(count + 1),  # no evaluation in between
        ]).cpu_seconds
        for count in (few, steps)
    )  # fmt: skip
    secs_per_step = (trained - start) / (steps - few)
    steps_per_epoch = -(-total["examples"] // BATCH_SIZE)
    return {
        "real positions, %": round(100 * total["real_positions"] / total["positions"], 1),
        "pairs": pairs,
        "records": total["examples"],
        "preprocess, CPU s": round(made.cpu_seconds, 1),
        "dataset, MB": round(sum(f.stat().st_size for f in dataset.iterdir()) / 1e6, 1),
        "a step, CPU s": round(secs_per_step, 3),
        "steps per epoch": steps_per_epoch,
        "an epoch, CPU s": round(secs_per_step * steps_per_epoch),
    }


if __name__ == "__main__":
    tyro.cli(main)
