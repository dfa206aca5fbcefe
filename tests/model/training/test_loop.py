"""One device or two, XLA or not: the same losses. Dropout: of (seed, step, example) alone."""

import dataclasses
import json
import math
import os
import re
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from model.bert.config import BertConfig
from model.tasks.kinds import heads
from model.training.config import TrainingConfig
from model.training.input import train_batches
from model.training.loop import Trainer
from model.training.loss_scale import LossScale
from model.training.losses import Pretraining
from model.training.strategy import make_strategy
from pipeline.errors import InputError
from pipeline.manifest import read_manifest
from tests.fork_server import FORKS
from tests.model.training.batches import batch_of_four

Losses = dict[str, dict[str, Any]]
"""Sums, weights and loss scale by strategy and case, such as "one xla 0.2"."""


@pytest.fixture(scope="module")
def losses_on(
    old_dataset: Path, once: Callable[[str, Callable[[Path], None]], Path]
) -> Callable[[int], Losses]:
    """Train the cases on a number of devices.

    The tolerances below were chosen with the batches of this dataset. With others, AdamW makes the
    rounding of a gradient near 0 large, and a float16 gradient is just at the overflow.
    """

    def on(devices: int) -> Losses:
        fill = partial(device_losses, old_dataset, devices)
        found = json.loads((once(f"losses-{devices}", fill) / "losses.json").read_text())
        assert {values["replicas"] for values in found.values()} == {devices}
        return found

    return on


def device_losses(dataset: Path, devices: int, folder: Path) -> None:
    """Write what `device_losses.py` prints."""
    script = Path(__file__).with_name("device_losses.py")
    command = [sys.executable, str(script), str(dataset), str(devices)]
    finished = FORKS.run(command, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    assert finished.returncode == 0, finished.stderr[-3000:]
    (folder / "losses.json").write_text(finished.stdout)


SAME = {
    "one xla 0.2": (
        "mirrored xla 0.2",
        "one graph 0.2",
        "mirrored graph 0.2",
        "one in parts 0.2",
        "mirrored in parts 0.2",
        "one recompute 0.2",
        "mirrored recompute 0.2",
    ),
    "one lamb 0.2": ("mirrored lamb 0.2",),
    "one xla 0": ("mirrored xla 0",),
    "one recipe 0": ("mirrored recipe 0",),
}


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Compare the sums of each step, and the weights at the end."""
    for step, other in zip(found["sums"], expected["sums"], strict=True):
        assert step == pytest.approx(other, rel=1e-5)
    for path, weight in expected["weights"].items():
        if path.endswith("key/bias"):
            continue  # its gradient is 0 but for rounding, which AdamW makes large
        np.testing.assert_allclose(
            found["weights"][path], weight, rtol=1e-4, atol=1e-5, err_msg=path
        )


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 4])
def test_the_same_losses_and_weights_on_any_devices_with_xla_and_without(
    losses_on: Callable[[int], Losses], devices: int
) -> None:
    losses = losses_on(1) | losses_on(devices)
    for case, others in SAME.items():
        sums = losses[case]["sums"]
        assert len({step["masked_lm_loss"] / step["masked_lm_weight"] for step in sums}) == 5
        assert sums[-1]["next_sentence_weight"] == 11  # every eval example, no filler
        for other in others:
            assert_same(losses[other], losses[case])
    first, *rest = (losses[case]["sums"] for case in SAME)
    assert first not in rest


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 4])
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_bfloat16_products_are_close_to_float32_on_any_devices(
    losses_on: Callable[[int], Losses], precision: str, devices: int
) -> None:
    losses = losses_on(1) | losses_on(devices)
    one, mirrored = losses[f"one {precision}"], losses[f"mirrored {precision}"]
    exact = losses["one xla 0"]["sums"]
    for step, other, expected in zip(one["sums"], mirrored["sums"], exact, strict=True):
        for name in ("masked_lm_loss", "next_sentence_loss"):
            assert step[name] != expected[name]
            assert step[name] == pytest.approx(expected[name], rel=0.05)
            assert other[name] == pytest.approx(step[name], rel=0.02)
    assert one["scale"] == mirrored["scale"]


def make_trainer(
    config: BertConfig, *, seed: int = 3, xla: bool = False, recompute: bool = False, **others: Any
) -> Trainer:
    training = TrainingConfig(
        steps=9, batch_size=4, learning_rate=0.01, warmup_steps=2, weight_decay=0.1, seed=seed,
        **others,
    )  # fmt: skip
    settings = {"xla": xla, "recompute": recompute}
    return Trainer(config, training, Pretraining(heads("nsp")), make_strategy("one"), **settings)


def a_batch() -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
    """Return a batch of 4 and its weights by head."""
    return batch_of_four(), {"masked_lm": tf.constant(12.0), "next_sentence": tf.constant(4.0)}


def test_next_sentences_count_less_after_twice_the_warm_up(small_config: BertConfig) -> None:
    batch, weights = a_batch()
    config = dataclasses.replace(
        small_config, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    trainer = make_trainer(config, next_sentence_weight=0.25)
    seeds = trainer._dropout_seeds(0)

    def pooler_gradient(step: int) -> np.ndarray:
        """Return the gradient of the pooler's bias, which next sentences alone have."""
        trainer.step.assign(step)
        gradients, _ = trainer._gradients(batch, trainer._in_loss(weights), seeds, tf.ones([]))
        paths = [weight.path for weight in trainer.model.trainable_variables]
        return gradients[paths.index("pooled_dense/bias")].numpy()

    first, last_full, reduced = (pooler_gradient(step) for step in (0, 3, 4))
    assert np.abs(first).max() > 1e-3
    np.testing.assert_allclose(last_full, first, rtol=1e-6)
    np.testing.assert_allclose(reduced, first / 4, rtol=1e-5)
    plain = make_trainer(config)
    assert plain._in_loss(weights) == weights


def test_a_step_begins_after_the_wait_for_its_batch_was_measured(small_config: BertConfig) -> None:
    """With one core, TensorFlow may run a step that is ready before a clock that is ready."""
    trainer = make_trainer(dataclasses.replace(small_config, num_hidden_layers=1))
    batch, _ = a_batch()
    batches = iter(tf.data.Dataset.from_tensors(batch).repeat())
    traced = trainer.train.get_concrete_function(batches, tf.constant(1))
    (body,) = (
        graph
        for graph in (f.graph for f in traced.graph._functions.values() if hasattr(f, "graph"))
        if any(op.type == "Timestamp" for op in graph.get_operations())
    )
    clocks = {op.name for op in body.get_operations() if op.type == "Timestamp"}
    assert len(clocks) == 2
    (gradients,) = (
        op for op in body.get_operations()
        if "PartitionedCall" in op.type and "gradients_and_sums" in str(op.get_attr("f").name)
    )  # fmt: skip
    assert clocks <= ancestors(gradients)


def ancestors(op: tf.Operation) -> set[str]:
    """Return the names of the operations that end before this one begins."""
    found: set[str] = set()
    waiting = [op]
    while waiting:
        each = waiting.pop()
        for earlier in (*(tensor.op for tensor in each.inputs), *each.control_inputs):
            if earlier.name not in found:
                found.add(earlier.name)
                waiting.append(earlier)
    return found


def dropout_rates(trainer: Trainer) -> set[float]:
    """Return the rates above 0: Keras's attention layer has one that is not used."""
    layers = trainer.model._flatten_layers()
    return {each.rate for each in layers if isinstance(each, keras.layers.Dropout) and each.rate}


def test_a_training_has_its_own_dropout_rate_or_the_models(small_config: BertConfig) -> None:
    assert dropout_rates(make_trainer(small_config)) == {0.15, 0.25}
    assert dropout_rates(make_trainer(small_config, dropout=0.4)) == {0.4}


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
def test_dropout_follows_the_seeds_given(small_config: BertConfig, xla: bool) -> None:
    config = dataclasses.replace(small_config, num_hidden_layers=1)  # compiling takes seconds
    trainer = make_trainer(config, xla=xla)
    batch, weights = a_batch()

    def loss(seeds: tf.Tensor) -> float:
        return float(trainer._gradients(batch, weights, seeds, tf.ones([]))[1]["masked_lm_loss"])

    first = trainer._dropout_seeds(0)
    assert loss(first) == loss(first)
    for layer in range(1 + 3):  # embeddings; attention, its output and feed-forward
        other = tf.tensor_scatter_nd_add(first, [[layer, 0]], [1])
        assert loss(other) != loss(first)


def test_xla_does_not_undo_recomputation(small_config: BertConfig) -> None:
    # In one program, as for a GPU or TPU, it would take the two computations of a layer for one.
    config = dataclasses.replace(small_config, num_hidden_layers=1)  # compiling takes seconds

    def products(*, recompute: bool) -> int:
        trainer = make_trainer(config, recompute=recompute)
        step = tf.function(trainer._gradients_and_sums, jit_compile=True, autograph=False)
        inputs = (*a_batch(), trainer._dropout_seeds(0), tf.ones([]))
        program: str = step.experimental_get_compiler_ir(*inputs)(stage="optimized_hlo")
        return program.count(" dot(")

    # Queries, keys, values, scores, what is gathered, the block's end, intermediate; the last
    # product of a layer is needed for no gradient.
    assert products(recompute=True) - products(recompute=False) >= 7


def test_the_loss_scale_halves_and_doubles() -> None:
    scale = LossScale()
    assert float(scale.value()) == 2**15
    assert float(scale.updated(tf.constant(math.inf))) == 0.0  # left out, and not added up
    assert float(scale.updated(tf.constant(math.nan))) == 0.0
    assert float(scale.value()) == 2**13
    for _ in range(scale.STEPS_TO_DOUBLE - 1):
        scale.state["steps"].assign_add(1)
    assert float(scale.updated(tf.constant(7.0))) == 7.0
    assert float(scale.value()) == 2**14
    assert int(scale.state["steps"]) == 0
    scale.state["power"].assign(0)
    # It cannot help any more: this is for someone else to see.
    assert math.isinf(float(scale.updated(tf.constant(math.inf))))


@pytest.mark.parametrize("optimizer", ["adamw", "lamb", "muon"])
def test_a_step_whose_gradients_overflow_changes_nothing(
    small_config: BertConfig, dataset: Path, optimizer: str
) -> None:
    training = TrainingConfig(
        steps=9, batch_size=4, learning_rate=0.01, warmup_steps=2, weight_decay=0.1, seed=3,
        optimizer=optimizer, precision="float16",
    )  # fmt: skip
    config = dataclasses.replace(small_config, num_hidden_layers=1)
    trainer = Trainer(config, training, Pretraining(heads("nsp")), make_strategy("one"), xla=False)
    batches = train_batches(dataset, read_manifest(dataset), batch_size=4, seed=1, skip_examples=0)
    iterator = iter(batches)

    def state() -> dict[str, np.ndarray]:
        parts = (trainer.weights, trainer.optimizer.momentum, trainer.optimizer.velocity)
        return {f"{i}{k}": v.numpy() for i, part in enumerate(parts) for k, v in part.items()}

    trainer.train(iterator, tf.constant(1))
    before = state()
    trainer.loss_scale.state["power"].assign(40)
    sums = trainer.train(iterator, tf.constant(1))
    assert all(np.array_equal(value, before[name]) for name, value in state().items())
    assert float(sums["gradient_norm"]) == 0
    assert math.isfinite(float(sums["masked_lm_loss"]))
    assert int(trainer.loss_scale.state["power"]) == 39
    trainer.loss_scale.state["power"].assign(10)
    trainer.train(iterator, tf.constant(1))
    assert not any(np.array_equal(value, before[name]) for name, value in state().items())


def converted() -> set[str]:
    """Functions that AutoGraph has written to files, which a killed process leaves."""
    modules = [name for name in sys.modules if name.startswith("__autograph_generated_file")]
    sources = [Path(str(sys.modules[name].__file__)).read_text() for name in modules]
    return {name for source in sources for name in re.findall(r"def tf__(\w+)", source)}


def test_only_functions_with_loops_are_written_to_the_temporary_folder(
    small_config: BertConfig, dataset: Path
) -> None:
    trainer = make_trainer(small_config)
    for size in (4, 8):  # whole batches, and chunks of several
        batches = train_batches(
            dataset, read_manifest(dataset), batch_size=size, seed=1, skip_examples=0
        )
        trainer.train(iter(batches), tf.constant(1))
        trainer.evaluate(iter(batches), tf.constant(1))
    seen = {"parse", "split", "_parse_examples", "_narrow", "_now", "_first", "train", "evaluate"}
    assert converted() & seen == {"train", "evaluate"}


def test_the_time_spent_waiting_for_batches_is_measured(
    small_config: BertConfig, dataset: Path
) -> None:
    trainer = make_trainer(small_config)
    batches = train_batches(dataset, read_manifest(dataset), batch_size=4, seed=1, skip_examples=0)

    def late(values: np.ndarray) -> np.ndarray:
        time.sleep(0.2)
        return values

    def delayed(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        weights = tf.numpy_function(late, [batch["example_weights"]], tf.float32)
        return {**batch, "example_weights": tf.ensure_shape(weights, [4])}

    quick, slow = iter(batches), iter(batches.map(delayed))
    trainer.train(quick, tf.constant(1))
    assert float(trainer.train(slow, tf.constant(5))["data_secs"]) > 0.9
    # Once at least: batches are late on a busy machine, too.
    assert any(float(trainer.train(quick, tf.constant(5))["data_secs"]) < 0.5 for _ in range(50))


def test_unknown_strategy() -> None:
    with pytest.raises(InputError, match="`strategy` ps: expected one of auto, one, mirrored"):
        make_strategy("ps")
