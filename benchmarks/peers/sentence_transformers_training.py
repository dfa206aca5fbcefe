"""Train sentence vectors with sentence-transformers' own trainer.

    python sentence_transformers_training.py settings.json

CoSENT on scored pairs, AdamW, linear warm-up and decay, gradients clipped to norm 1. Prints a JSON
object with Spearman's correlation of cosines and scores on the held-out pairs, and the trainer's
own examples per second.
"""

import csv
import json
import sys
import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from scipy.stats import spearmanr
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import CoSENTLoss


def main(settings: dict) -> None:
    """Train if there are steps, evaluate, and print."""
    torch.set_num_threads(settings["threads"])
    model = SentenceTransformer(settings["model"], device="cpu")
    speed = train(model, settings) if settings["steps"] else None
    correlated = correlation(model, read(settings["dev"]))
    print(json.dumps({"spearman": correlated, "examples_per_sec": speed}))


def train(model: SentenceTransformer, settings: dict) -> float:
    """Train on the scored pairs; return the examples per second."""
    steps = settings["steps"]
    with tempfile.TemporaryDirectory() as folder:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=settings["batch_size"],
            learning_rate=settings["learning_rate"],
            warmup_steps=round(settings["warmup_rate"] * steps),
            lr_scheduler_type="linear",
            weight_decay=0.01,
            seed=settings["seed"],
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            use_cpu=True,
            bf16=settings["bfloat16"],
            disable_tqdm=True,
        )
        pairs = Dataset.from_dict(read(settings["train"]))
        loss = CoSENTLoss(model)
        trainer = SentenceTransformerTrainer(
            model=model, args=arguments, train_dataset=pairs, loss=loss
        )
        return trainer.train().metrics["train_samples_per_second"]


def correlation(model: SentenceTransformer, pairs: dict[str, list]) -> float:
    """Return Spearman's correlation of cosines and scores."""
    first, second = (
        model.encode(pairs[name], normalize_embeddings=True) for name in ("sentence1", "sentence2")
    )
    return float(spearmanr(pairs["score"], (first * second).sum(axis=1)).statistic)


def read(file: str) -> dict[str, list]:
    """Return the columns of a table of scored pairs."""
    with Path(file).open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    texts = {name: [row[name] for row in rows] for name in ("sentence1", "sentence2")}
    return {**texts, "score": [float(row["label"]) for row in rows]}


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
