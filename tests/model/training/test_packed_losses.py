"""Packed records have the losses and gradients of their pairs, one by one."""

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from model.bert.config import BertConfig
from model.bert.kernels import fused_on_cpu
from model.bert.network import build_model, weights_by_name
from model.tasks.kinds import heads
from model.training.config import RelationsConfig
from model.training.input import eval_batches, train_batches
from model.training.losses import Pretraining, StudentPretraining, global_loss
from tests.fork_server import FORKS
from tests.model.training.packed_pairs import packed_batch, plain_batch


@pytest.fixture(scope="module")
def config(small_config: BertConfig) -> BertConfig:
    off = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0)
    return dataclasses.replace(small_config, **off)


def student_of(config: BertConfig) -> StudentPretraining:
    wider = dataclasses.replace(config, hidden_size=24, num_attention_heads=4)
    tf.keras.utils.set_random_seed(4)
    values = weights_by_name(build_model(wider, None))

    def fill(weights: Any) -> None:
        for name, weight in weights.items():
            weight.assign(values[name])

    relations = RelationsConfig("", "", 2, 3)
    return StudentPretraining(heads("nsp"), relations, wider, fill, packed=True)


@pytest.mark.slow
@pytest.mark.parametrize("is_student", [False, True])
@pytest.mark.parametrize("is_fused", [False, True])
def test_sums_and_gradients_are_those_of_unpacked_pairs(
    config: BertConfig, is_student: bool, is_fused: bool
) -> None:
    objective = student_of(config) if is_student else Pretraining(heads("nsp"), packed=True)
    tf.keras.utils.set_random_seed(5)
    model = objective.build_model(config)

    def sums_and_gradients(batch: dict[str, tf.Tensor]) -> tuple[dict, list]:
        weights = objective.weights(batch)
        compacted = objective.compacted(batch) if is_fused else batch
        with fused_on_cpu(is_fused), tf.GradientTape() as tape:
            sums = objective.sums(objective.outputs(model, compacted, training=True), compacted)
            loss = global_loss(sums, weights)
        return sums, tape.gradient(loss, [weight.value for weight in model.trainable_variables])

    plain, packed = plain_batch(), packed_batch()
    assert len(packed["input_ids"]) < 0.6 * len(plain["input_ids"])
    expected, found = sums_and_gradients(plain), sums_and_gradients(packed)
    assert set(found[0]) == set(expected[0]) == set(objective.sum_names)
    for name, value in expected[0].items():
        assert found[0][name].numpy() == pytest.approx(value.numpy(), rel=1e-5), name
    for weight, right, own in zip(model.trainable_variables, expected[1], found[1], strict=True):
        right, own = (tf.convert_to_tensor(each).numpy() for each in (right, own))
        np.testing.assert_allclose(own, right, atol=1e-5, err_msg=weight.path)


def test_a_pair_does_not_see_the_others_of_its_record(config: BertConfig) -> None:
    tf.keras.utils.set_random_seed(5)
    model = Pretraining(heads("nsp"), packed=True).build_model(config)
    batch = packed_batch()
    before = model.packed_variants.whole({n: batch[n] for n in model.packed_variants.whole.input})
    # Change everything but the first pair of each record.
    in_first = np.cumsum(batch["position_ids"].numpy() == 0, axis=1) == 1
    ids = np.where(in_first, batch["input_ids"].numpy(), 7)
    changed = batch | {"input_ids": tf.constant(ids)}
    after = model.packed_variants.whole({n: changed[n] for n in model.packed_variants.whole.input})
    first, others = (
        np.abs(before["next_sentence_logits"] - after["next_sentence_logits"])[:, part]
        for part in (slice(1), slice(1, 2))
    )
    assert first.max() < 1e-6
    assert others.max() > 1e-3


@pytest.mark.slow
def test_steps_on_one_and_two_devices_are_those_of_unpacked_pairs() -> None:
    script = Path(__file__).with_name("packed_steps.py")
    done = FORKS.run([sys.executable, str(script)])
    assert done.returncode == 0, done.stderr[-2000:]
    cases = json.loads(done.stdout)
    expected = cases.pop("plain one")
    assert {case["replicas"] for case in cases.values()} == {1, 2}
    for name, case in cases.items():
        for right, own in zip(expected["sums"], case["sums"], strict=True):
            for what, value in right.items():
                assert own[what] == pytest.approx(value, rel=1e-5), (name, what)


def take(dataset: Path, read: Callable[..., tf.data.Dataset], **how: Any) -> dict[str, np.ndarray]:
    """Return two batches, joined."""
    from pipeline.manifest import read_manifest

    batches = list(read(dataset, read_manifest(dataset), **how).take(2).as_numpy_iterator())
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


@pytest.mark.parametrize("masking", ["whole-word", "span"])
def test_dynamic_masks_of_packed_records(
    prose_corpus: Path, vocab_path: Path, tmp_path: Path, masking: str
) -> None:
    from tests.pipeline.records.made_datasets import make

    flags = ["--masking", masking, "--masks", "dynamic", "--packing", "--max-seq-length", "160"]
    made = make(prose_corpus / "*.txt", vocab_path, tmp_path / "ds", *flags)
    how = {"batch_size": 8, "seed": 3}
    found = take(tmp_path / "ds", train_batches, skip_examples=0, **how)
    again = take(tmp_path / "ds", train_batches, skip_examples=8, **how)
    for name in found:  # masks depend on the record, not on the batch
        np.testing.assert_array_equal(found[name][8:], again[name][:8], err_msg=name)
    assert {name: values.shape[1] for name, values in found.items() if values.ndim == 2} == {
        feature.name: feature.length for feature in made.masked_features
    }
    positions, weights = found["masked_lm_positions"], found["masked_lm_weights"]
    for row in range(16):
        used = positions[row][weights[row] > 0]
        assert (np.diff(used) > 0).all()
        assert found["input_mask"][row][used].all()
        # Each pair has predictions of its own, about 15% of it.
        pair = np.cumsum(found["position_ids"][row] == 0)
        sizes = np.bincount(pair[found["input_mask"][row] > 0])[1:]
        assert len(sizes) == found["next_sentence_weights"][row].sum()
        predicted = np.bincount(pair[used], minlength=len(sizes) + 1)[1:]
        assert (predicted <= np.rint(0.15 * (sizes - 3))).all()
        assert predicted.sum() > 0.08 * sizes.sum()
    held_out = take(tmp_path / "ds", eval_batches, split="eval", batch_size=2)
    assert held_out["masked_lm_weights"].any(axis=1).all()
