# /// script
# requires-python = "==3.11.*"
# dependencies = ["numpy==2.4.6", "torch==2.15.0", "transformers==5.23.0"]
# ///
"""Write `bert.npz`: what Hugging Face's BERT in PyTorch computes, and how it learns.

A small BERT whose every weight, LayerNorms and biases too, is random, so that none can stand for
another. The project's tests need only the file:

    uv run tests/golden/make_bert_golden.py
"""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertForPreTraining

GOLDEN = Path(__file__).parent / "bert.npz"
SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 24,
    "type_vocab_size": 2,
}
ACTIVATIONS = ("gelu", "gelu_new")
STEPS, WARMUP_STEPS, LEARNING_RATE, WEIGHT_DECAY, EPSILON = 50, 10, 3e-3, 0.01, 1e-6
BATCH, LENGTH, PREDICTIONS = 6, 20, 4


def build(activation: str) -> BertForPreTraining:
    """Return a model without dropout, with weights drawn by NumPy."""
    config = BertConfig(
        **SIZES,
        hidden_act=activation,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        attn_implementation="eager",
    )
    model = BertForPreTraining(config).train()
    rng = np.random.default_rng(7)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            centre = 1.0 if name.endswith("LayerNorm.weight") else 0.0
            values = rng.normal(centre, 0.2, weight.shape).astype(np.float32)
            weight.copy_(torch.from_numpy(values))
    return model


def batches() -> dict[str, np.ndarray]:
    """Return `STEPS` batches of records of different lengths, as our records are."""
    rng = np.random.default_rng(11)
    shape = (STEPS, BATCH)
    lengths = rng.integers(LENGTH // 2, LENGTH + 1, shape)
    inside = np.arange(LENGTH) < lengths[..., None]
    splits = rng.integers(3, LENGTH // 2, shape)
    used = rng.integers(1, PREDICTIONS + 1, shape)
    positions = np.sort(
        rng.permuted(np.tile(np.arange(LENGTH // 2), (*shape, 1)), axis=-1)[..., :4]
    )
    counted = np.arange(PREDICTIONS) < used[..., None]
    return {
        "input_ids": rng.integers(1, SIZES["vocab_size"], (*shape, LENGTH)) * inside,
        "input_mask": inside.astype(np.int64),
        "segment_ids": ((np.arange(LENGTH) > splits[..., None]) & inside).astype(np.int64),
        "masked_lm_positions": positions * counted,
        "masked_lm_ids": rng.integers(1, SIZES["vocab_size"], (*shape, PREDICTIONS)) * counted,
        "masked_lm_weights": counted.astype(np.float32),
        "next_sentence_labels": rng.integers(0, 2, (*shape, 1)),
    }


def forward(model: BertForPreTraining, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return everything the model computes on a batch, logits at the masked positions only."""
    inputs = {
        "input_ids": batch["input_ids"],
        "attention_mask": batch["input_mask"],
        "token_type_ids": batch["segment_ids"],
    }
    encoded = model.bert(**inputs, output_hidden_states=True, output_attentions=True)
    sequence, pooled = encoded.last_hidden_state, encoded.pooler_output
    index = batch["masked_lm_positions"][..., None].expand(-1, -1, sequence.shape[-1])
    masked_lm, next_sentence = model.cls(torch.gather(sequence, 1, index), pooled)
    return {
        "sequence_output": sequence,
        "pooled_output": pooled,
        "masked_lm_logits": masked_lm,
        "next_sentence_logits": next_sentence,
        "hidden_states": torch.stack(encoded.hidden_states),
        "attention_scores": torch.stack(encoded.attentions),
    }


def losses(outputs: dict, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean cross-entropy over the masked pieces, and that over the examples."""
    nats = torch.nn.functional.cross_entropy(
        outputs["masked_lm_logits"].flatten(0, 1),
        batch["masked_lm_ids"].flatten(),
        reduction="none",
    )
    weights = batch["masked_lm_weights"].flatten()
    next_sentence = torch.nn.functional.cross_entropy(
        outputs["next_sentence_logits"], batch["next_sentence_labels"][:, 0]
    )
    return (nats * weights).sum() / weights.sum(), next_sentence


def rate(step: int) -> float:
    """Return the learning rate: a linear rise, then a linear fall."""
    if step < WARMUP_STEPS:
        return LEARNING_RATE * (step + 1) / WARMUP_STEPS
    return LEARNING_RATE * (STEPS - step) / (STEPS - WARMUP_STEPS)


def train(model: BertForPreTraining, data: list[dict[str, torch.Tensor]]) -> np.ndarray:
    """Train with PyTorch's AdamW; return both losses of every step, [STEPS, 2]."""
    groups: dict[bool, list] = {True: [], False: []}
    for name, weight in model.named_parameters():
        groups[not name.endswith(("bias", "LayerNorm.weight"))].append(weight)
    optimizer = torch.optim.AdamW(
        [
            {"params": weights, "weight_decay": WEIGHT_DECAY if decayed else 0.0}
            for decayed, weights in groups.items()
        ],
        betas=(0.9, 0.999),
        eps=EPSILON,
    )
    found = []
    for step, batch in enumerate(data):
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        masked_lm, next_sentence = losses(forward(model, batch), batch)
        optimizer.zero_grad()
        (masked_lm + next_sentence).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        found.append([masked_lm.item(), next_sentence.item()])
    return np.array(found)


def main() -> None:
    """Write the file."""
    arrays = batches()
    data = [
        {name: torch.from_numpy(values[step]) for name, values in arrays.items()}
        for step in range(STEPS)
    ]
    golden: dict[str, np.ndarray] = {f"batch/{name}": values for name, values in arrays.items()}
    for activation in ACTIVATIONS:
        with torch.no_grad():
            outputs = forward(build(activation), data[0])
        golden |= {f"{activation}/{name}": values.numpy() for name, values in outputs.items()}
    model = build("gelu")
    golden |= {f"weight/{n}": w.detach().numpy().copy() for n, w in model.named_parameters()}
    golden["losses"] = train(model, data)
    golden |= {f"trained/{n}": w.detach().numpy() for n, w in model.named_parameters()}
    golden["made_with"] = np.array(
        [f"torch {version('torch')}, transformers {version('transformers')}"]
    )
    np.savez_compressed(GOLDEN, **golden)
    print(golden["losses"][[0, 1, -1]], sum(v.nbytes for v in golden.values()))


if __name__ == "__main__":
    main()
