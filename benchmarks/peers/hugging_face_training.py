"""Train Hugging Face's BertForPreTraining in PyTorch on batches that we wrote.

    python hugging_face_training.py settings.json

Prints JSON Lines: the losses every `log_every_steps` steps, finally the speed and the metrics on
the held-out batches. The script is self-contained, for an environment with only `torch` and
`transformers`.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertForPreTraining

NOT_DECAYED = ("bias", "LayerNorm.weight")
UNTIMED_STEPS = 3  # the first steps include compilation


def main(settings: dict) -> None:
    """Train, and print losses, speed and metrics."""
    torch.manual_seed(settings["seed"])
    torch.set_num_threads(settings["threads"])
    model = BertForPreTraining(BertConfig(**settings["model"]))
    # The full model computes logits at every position, but the loss needs only the masked ones.
    trained = model.bert if settings["score_masked_only"] else model
    forward = torch.compile(trained) if settings["compile"] else trained
    train, held_out = (_batches(settings[name]) for name in ("train", "eval"))

    def outputs(batch: dict) -> tuple:
        """Return both losses, the masked-LM logits and labels, and the next-sentence logits."""
        labels = batch["labels"]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=settings["bfloat16"]):
            result = forward(
                input_ids=batch["input_ids"],
                attention_mask=batch["input_mask"],
                token_type_ids=batch["segment_ids"],
            )
            if settings["score_masked_only"]:
                is_masked = labels != -100
                vectors, labels = result.last_hidden_state[is_masked], labels[is_masked]
                pieces, sentences = model.cls(vectors, result.pooler_output)
            else:
                pieces, sentences = result.prediction_logits, result.seq_relationship_logits
        pieces, labels = pieces.float().view(-1, model.config.vocab_size), labels.view(-1)
        masked = torch.nn.functional.cross_entropy(pieces, labels)
        following = torch.nn.functional.cross_entropy(
            sentences.float(), batch["next_sentence_labels"][:, 0]
        )
        return masked, following, pieces, labels, sentences

    result = {"tokens_per_sec": _train(model, train, outputs, settings)}
    measures = _evaluate(model, held_out, outputs) if settings["evaluate"] else {}
    if settings["save"]:
        model.save_pretrained(settings["save"])
    print(json.dumps(result | measures))


def _train(model: BertForPreTraining, train: dict, outputs: Callable, settings: dict) -> float:
    """Train, print the losses, and return the speed in tokens per second."""
    optimizer, schedule = _optimizer(model, settings)
    steps = settings["steps"]
    model.train()
    started, recent = time.perf_counter(), []
    for step in range(steps):
        masked, following, *_ = outputs(_batch(train, step))
        (masked + following).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        recent.append([masked.item(), following.item()])
        if step + 1 == min(UNTIMED_STEPS, steps - 1):
            started, first = time.perf_counter(), step + 1
        if (step + 1) % settings["log_every_steps"] == 0:
            means = np.mean(recent, axis=0).tolist()
            print(json.dumps({"step": step + 1, "masked_lm_loss": means[0],
                              "next_sentence_loss": means[1]}), flush=True)  # fmt: skip
            recent = []
    seconds = time.perf_counter() - started
    examples, length = train["input_ids"].shape[1:]
    return (steps - first) * examples * length / seconds


def _optimizer(model: BertForPreTraining, settings: dict) -> tuple:
    """Return AdamW and its schedule: linear warm-up, then linear decay to 0."""
    named = list(model.named_parameters())
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for name, p in named if not name.endswith(NOT_DECAYED)]},
            {"params": [p for name, p in named if name.endswith(NOT_DECAYED)], "weight_decay": 0},
        ],
        lr=settings["learning_rate"],
        weight_decay=0.01,
        eps=1e-6,
        fused=True,
    )
    warmup, steps = settings["warmup_steps"], settings["steps"]
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: (s + 1) / warmup if s < warmup else (steps - s) / (steps - warmup)
    )
    return optimizer, schedule


def _evaluate(model: BertForPreTraining, held_out: dict, outputs: object) -> dict:
    """Return the means over all masked pieces and over all examples that count."""
    model.eval()
    nats, right, counts = np.zeros(2), np.zeros(2), np.zeros(2)
    with torch.no_grad():
        for index in range(len(held_out["input_ids"])):
            batch = _batch(held_out, index)
            real = batch["example_weights"] > 0
            batch = {name: values[real] for name, values in batch.items()}
            masked, following, pieces, labels, sentences = outputs(batch)
            is_masked = labels != -100
            count = np.array([is_masked.sum().item(), len(batch["labels"])])
            nats += np.array([masked.item(), following.item()]) * count
            best = pieces.argmax(-1)[is_masked] == labels[is_masked]
            next_best = sentences.argmax(-1) == batch["next_sentence_labels"][:, 0]
            right += [best.sum().item(), next_best.sum().item()]
            counts += count
    (masked_loss, next_loss), (masked_right, next_right) = nats / counts, right / counts
    return {
        "masked_lm_loss": masked_loss, "masked_lm_accuracy": masked_right,
        "next_sentence_loss": next_loss, "next_sentence_accuracy": next_right,
    }  # fmt: skip


def _batches(path: str) -> dict:
    """Return the batches of a file, [steps, examples, length] each."""
    return dict(np.load(path))


def _batch(batches: dict, step: int) -> dict:
    """Return one batch with `labels`: the original pieces where masked, -100 elsewhere."""
    batch = {
        name: torch.from_numpy(values[step % len(values)].astype(np.int64))
        for name, values in batches.items()
    }
    labels = torch.full_like(batch["input_ids"], -100)
    used = batch["masked_lm_weights"] > 0
    rows = torch.arange(len(labels))[:, None].expand(used.shape)
    labels[rows[used], batch["masked_lm_positions"][used]] = batch["masked_lm_ids"][used]
    return {**batch, "labels": labels}


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
