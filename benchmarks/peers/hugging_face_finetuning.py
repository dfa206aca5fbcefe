"""Fine-tune Hugging Face's BertForSequenceClassification in a plain PyTorch loop.

    python hugging_face_finetuning.py settings.json

AdamW, linear warm-up and decay, gradients clipped to norm 1. Prints a JSON object with the metric
on the held-out texts, and the examples per second of training and evaluation together.
"""

import csv
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import (
    AutoTokenizer,
    BertForSequenceClassification,
    get_linear_schedule_with_warmup,
)


def main(settings: dict) -> None:
    """Train, evaluate, and print."""
    torch.set_num_threads(settings["threads"])
    torch.manual_seed(settings["seed"])
    texts, labels = read(settings["train"])
    held_out, expected = read(settings["dev"])
    is_regression = settings["task"] == "regression"
    model = BertForSequenceClassification.from_pretrained(
        settings["model"], num_labels=1 if is_regression else len(set(labels))
    )
    tokenizer = AutoTokenizer.from_pretrained(settings["model"])

    def outputs(rows: list, **more: torch.Tensor) -> object:
        encoded = tokenizer(
            *map(list, zip(*rows, strict=True)),
            truncation=True,
            max_length=settings["length"],
            padding=settings["padding"],
            return_tensors="pt",
        )
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=settings["bfloat16"]):
            return model(**encoded, **more)

    started = time.perf_counter()
    seen = _train(model, outputs, texts, labels, settings)
    if seen < len(texts) * settings["epochs"]:
        seconds = time.perf_counter() - started
        print(json.dumps({"examples_per_sec": seen / seconds}))
        return
    batch_size = settings["batch_size"]
    model.eval()
    with torch.no_grad():
        logits = np.concatenate(
            [
                outputs(held_out[first : first + batch_size]).logits.float().numpy()
                for first in range(0, len(held_out), batch_size)
            ]
        )
    seconds = time.perf_counter() - started
    if is_regression:
        measure = np.corrcoef(logits[:, 0], expected)[0, 1]
    else:
        measure = np.mean(logits.argmax(axis=1) == expected)
    speed = (seen + len(held_out)) / seconds
    print(json.dumps({"measure": float(measure), "examples_per_sec": speed}))


def _train(
    model: BertForSequenceClassification,
    outputs: Callable,
    texts: list,
    labels: list,
    settings: dict,
) -> int:
    """Train for the epochs, or the steps if there are fewer; return the number of examples seen."""
    rng = np.random.default_rng(settings["seed"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings["learning_rate"])
    batch_size = settings["batch_size"]
    steps = -(-len(texts) // batch_size) * settings["epochs"]
    schedule = get_linear_schedule_with_warmup(optimizer, round(0.1 * steps), steps)
    target_type = torch.float if settings["task"] == "regression" else torch.long
    model.train()
    for _ in range(settings["epochs"]):
        order = rng.permutation(len(texts))
        for first in range(0, len(order), batch_size):
            rows = order[first : first + batch_size]
            targets = torch.tensor([labels[i] for i in rows], dtype=target_type)
            outputs([texts[i] for i in rows], labels=targets).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            if settings["max_steps"] and (settings["max_steps"] <= schedule.last_epoch):
                return schedule.last_epoch * batch_size
    return len(texts) * settings["epochs"]


def read(path: str) -> tuple[list, list]:
    """Return the texts and the label of each row of a table; the label is the last column."""
    with Path(path).open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]
    labels = [float(row[-1]) if "." in row[-1] else int(row[-1]) for row in rows]
    return [row[:-1] for row in rows], labels


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
