"""One device or two, XLA or not: the same losses. Dropout: of (seed, step, example) alone."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from model.config import BertConfig, TrainingConfig
from model.layers import FIRST_EXAMPLE, random_dropout
from model.loop import Trainer
from model.losses import heads
from model.strategy import make_strategy
from pipeline.errors import InputError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def losses(dataset: Path) -> dict[str, dict[str, Any]]:
    """What `device_losses.py` prints: sums by strategy and compiler."""
    script = Path(__file__).with_name("device_losses.py")
    finished = subprocess.run(
        [sys.executable, str(script), str(dataset)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    return json.loads(finished.stdout)


@pytest.mark.slow
def test_losses_differ_from_step_to_step_and_the_eval_split_is_whole(losses: dict) -> None:
    sums = losses["one xla 0.2"]["sums"]
    assert len({step["masked_lm_loss"] / step["masked_lm_weight"] for step in sums}) == 5
    assert sums[-1]["next_sentence_weight"] == 11  # every eval example, no filler


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "same"),
    [
        ("mirrored xla 0.2", "one xla 0.2"),
        ("one in parts 0.2", "one xla 0.2"),
        ("mirrored in parts 0.2", "one xla 0.2"),
        ("mirrored lamb 0.2", "one lamb 0.2"),
        ("mirrored graph 0.2", "one graph 0.2"),
        ("one graph 0", "one xla 0"),  # their random numbers differ
    ],
)
def test_the_same_losses_on_one_device_and_on_two_with_xla_and_without(
    losses: dict, case: str, same: str
) -> None:
    assert losses[case]["replicas"] == (2 if case.startswith("mirrored") else 1)
    for step, expected in zip(losses[case]["sums"], losses[same]["sums"], strict=True):
        assert step == pytest.approx(expected, rel=1e-5)
    assert losses["one xla 0.2"]["sums"] != losses["one xla 0"]["sums"]
    assert losses["one xla 0.2"]["sums"] != losses["one lamb 0.2"]["sums"]


def make_trainer(config: BertConfig, *, seed: int = 3, xla: bool = False) -> Trainer:
    training = TrainingConfig(
        steps=9, batch_size=4, learning_rate=0.01, warmup_steps=2, weight_decay=0.1, seed=seed
    )
    return Trainer(config, training, heads("nsp"), make_strategy("one"), xla=xla)


def test_dropout_seeds_differ_by_layer_step_and_seed(small_config: BertConfig) -> None:
    trainer = make_trainer(small_config)
    found = []
    for step in (0, 1):
        trainer.step.assign(step)
        found.append(trainer._dropout_seeds(0).numpy())
    found.append(make_trainer(small_config, seed=4)._dropout_seeds(0).numpy())
    # Embeddings, and attention, attention output and feed-forward of both layers.
    assert found[0].shape == (1 + 2 * 3, 2)
    assert len(np.unique(np.concatenate(found), axis=0)) == 3 * 7
    np.testing.assert_array_equal(found[0], make_trainer(small_config)._dropout_seeds(0))


@pytest.mark.parametrize("xla", [True, False])
@pytest.mark.parametrize("shape", [(8, 6, 12), (8, 3, 5, 7)])
def test_a_part_of_a_batch_is_dropped_from_as_in_the_whole(
    shape: tuple[int, ...], xla: bool
) -> None:
    class Seeds:
        def __init__(self, first_example: tf.Tensor) -> None:
            self.state = tf.stack([tf.constant(71, tf.int64), first_example * FIRST_EXAMPLE + 83])

        def next(self) -> tf.Tensor:
            return self.state

    def drop(first: int, end: int) -> np.ndarray:
        part = tf.ones((end - first, *shape[1:]))
        return compiled(part, tf.constant(first)).numpy()

    @tf.function(jit_compile=xla)
    def compiled(x: tf.Tensor, first: tf.Tensor) -> tf.Tensor:
        return random_dropout(x, 0.25, Seeds(tf.cast(first, tf.int64)))

    whole = drop(0, 8)
    np.testing.assert_array_equal(whole, np.concatenate([drop(0, 3), drop(3, 7), drop(7, 8)]))
    assert len(np.unique(whole.reshape(8, -1), axis=0)) == 8
    assert 0.15 < np.mean(whole == 0) < 0.35
    assert set(np.unique(whole)) == {np.float32(0), np.float32(1 / 0.75)}


@pytest.mark.parametrize("xla", [True, False])
def test_dropout_follows_the_seeds_given(small_config: BertConfig, xla: bool) -> None:
    trainer = make_trainer(small_config, xla=xla)
    batch = {
        "input_ids": tf.fill([4, 16], 7),
        "input_mask": tf.ones([4, 16], tf.int32),
        "segment_ids": tf.zeros([4, 16], tf.int32),
        "masked_lm_positions": tf.constant([[1, 2, 3]] * 4),
        "masked_lm_ids": tf.constant([[8, 9, 10]] * 4),
        "masked_lm_weights": tf.ones([4, 3]),
        "next_sentence_labels": tf.ones([4, 1], tf.int32),
        "example_weights": tf.ones([4]),
    }
    weights = {"masked_lm": tf.constant(12.0), "next_sentence": tf.constant(4.0)}

    def loss(seeds: tf.Tensor) -> float:
        return float(trainer._gradients(batch, weights, seeds)[1]["masked_lm_loss"])

    first = trainer._dropout_seeds(0)
    assert loss(first) == loss(first)
    for layer in range(7):
        other = tf.tensor_scatter_nd_add(first, [[layer, 0]], [1])
        assert loss(other) != loss(first)


def test_unknown_strategy() -> None:
    with pytest.raises(InputError, match="--strategy tpu: expected one of auto, one, mirrored"):
        make_strategy("tpu")
