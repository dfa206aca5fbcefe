"""Our model and trainer against Hugging Face's in PyTorch (`tests/golden/make_bert_golden.py`)."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from model.bert.config import BertConfig
from model.bert.network import build_pretraining_model, weights_by_name, with_intermediates
from model.tasks.kinds import heads
from model.training.config import TrainingConfig
from model.training.loop import Trainer
from model.training.losses import Pretraining
from model.training.strategy import make_strategy

GOLDEN: dict[str, np.ndarray] = dict(np.load(Path(__file__).parents[2] / "golden" / "bert.npz"))
STEPS = len(GOLDEN["losses"])

LAYERS = {
    "self_attention_layer/query": "attention.self.query",
    "self_attention_layer/key": "attention.self.key",
    "self_attention_layer/value": "attention.self.value",
    "self_attention_layer/attention_output": "attention.output.dense",
    "self_attention_layer_norm": "attention.output.LayerNorm",
    "feedforward_intermediate_dense": "intermediate.dense",
    "feedforward_output_dense": "output.dense",
    "feedforward_layer_norm": "output.LayerNorm",
}
NAMES = {
    "token_embedding": "bert.embeddings.word_embeddings",
    "position_embedding": "bert.embeddings.position_embeddings",
    "segment_embedding": "bert.embeddings.token_type_embeddings",
    "embeddings_layer_norm": "bert.embeddings.LayerNorm",
    **{
        f"transformer_layer_{index}/{ours}": f"bert.encoder.layer.{index}.{theirs}"
        for index in range(2)
        for ours, theirs in LAYERS.items()
    },
    "pooled_dense": "bert.pooler.dense",
    "masked_lm": "cls.predictions",
    "masked_lm/intermediate_dense": "cls.predictions.transform.dense",
    "masked_lm/intermediate_layer_norm": "cls.predictions.transform.LayerNorm",
    "next_sentence": "cls.seq_relationship",
}
KINDS = {
    "embeddings": "weight", "kernel": "weight", "gamma": "weight",
    "beta": "bias", "bias": "bias", "output_bias": "bias",
}  # fmt: skip


def theirs(path: str, shape: tuple[int, ...], when: str) -> np.ndarray:
    """The weight of Hugging Face's model that has this path and shape in ours."""
    layer, _, kind = path.rpartition("/")
    weight = GOLDEN[f"{when}/{NAMES[layer]}.{KINDS[kind]}"]
    return (weight.T if kind == "kernel" else weight).reshape(shape)


def config(activation: str) -> BertConfig:
    return BertConfig(
        vocab_size=97,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        hidden_act=activation,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=24,
    )


def load(model: Any) -> None:
    """Give a model the golden weights, every one of them."""
    weights = weights_by_name(model)
    for path, weight in weights.items():
        weight.assign(theirs(path, tuple(weight.shape), "weight"))
    assert len(weights) == sum(name.startswith("weight/") for name in GOLDEN)


def batch(step: int) -> dict[str, tf.Tensor]:
    """The golden batch of a step, as the input pipeline gives it."""
    found = {}
    for name, values in GOLDEN.items():
        if name.startswith("batch/"):
            kind = tf.int32 if values.dtype == np.int64 else tf.float32
            found[name.removeprefix("batch/")] = tf.constant(values[step], kind)
    return {**found, "example_weights": tf.ones(len(found["input_ids"]))}


@pytest.mark.parametrize("activation", ["gelu", "gelu_new"])
def test_outputs(activation: str) -> None:
    model = build_pretraining_model(config(activation))
    load(model)
    inputs = {name: batch(0)[name] for name in model.input}
    encoder = model.get_layer("encoder")
    encoder_inputs = {name: inputs[name] for name in encoder.input}
    outputs = model(inputs) | with_intermediates(encoder)(encoder_inputs)
    for name, values in encoder(encoder_inputs).items():
        np.testing.assert_array_equal(values, outputs[name])
    assert len(outputs) == 6
    for name, values in outputs.items():
        wanted = GOLDEN[f"{activation}/{name}"]
        assert np.abs(wanted).max() > 0.5
        np.testing.assert_allclose(np.stack(values), wanted, atol=1e-5, rtol=0, err_msg=name)


@pytest.mark.parametrize(("accumulation_steps", "xla"), [(1, True), (3, False)])
def test_fifty_steps(accumulation_steps: int, xla: bool) -> None:
    training = TrainingConfig(
        steps=STEPS, batch_size=6, learning_rate=3e-3, warmup_steps=10, weight_decay=0.01, seed=1
    )
    trainer = Trainer(
        config("gelu"),
        training,
        Pretraining(heads("nsp")),
        make_strategy("one"),
        xla=xla,
        accumulation_steps=accumulation_steps,
    )
    load(trainer.model)
    batches = tf.data.Dataset.from_tensor_slices(
        {name: tf.stack([batch(step)[name] for step in range(STEPS)]) for name in batch(0)}
    )
    iterator = iter(batches)
    found = []
    for _ in range(STEPS):
        sums = trainer.train(iterator, tf.constant(1))
        found.append(
            [
                float(sums[f"{head}_loss"] / sums[f"{head}_weight"])
                for head in ("masked_lm", "next_sentence")
            ]
        )
    np.testing.assert_allclose(found, GOLDEN["losses"], atol=1e-4, rtol=0)
    for path, weight in trainer.weights.items():
        wanted = theirs(path, tuple(weight.shape), "trained")
        np.testing.assert_allclose(weight, wanted, atol=1e-4, rtol=0, err_msg=path)
