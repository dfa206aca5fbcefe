"""The losses against numbers worked out by hand and in NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from model.tasks.kinds import heads
from model.training.losses import (
    SLOTS_AT_ONCE,
    Pretraining,
    accuracy,
    cross_entropy,
    global_loss,
)
from model.training.sums import means


def test_cross_entropy_by_hand() -> None:
    logits = tf.math.log([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7], [0.9, 0.05, 0.05]])
    found, weight = cross_entropy(logits, tf.constant([0, 2, 1]), tf.constant([1.0, 1.0, 0.0]))
    assert float(found) == pytest.approx(-np.log(0.5) - np.log(0.7))
    assert float(weight) == 2


def test_cross_entropy_of_bfloat16_logits_is_computed_in_float32() -> None:
    logits = tf.cast(tf.random.stateless_normal([4, 1000], [1, 2]), tf.bfloat16)
    labels, weights = tf.constant([1, 2, 3, 4]), tf.ones([4])
    found, _ = cross_entropy(logits, labels, weights)
    expected, _ = cross_entropy(tf.cast(logits, tf.float32), labels, weights)
    assert found.dtype == tf.float32
    assert float(found) == float(expected)


def test_accuracy_counts_only_what_has_weight() -> None:
    logits = tf.constant([[1.0, 3.0], [2.0, 0.0], [0.0, 5.0]])
    found, weight = accuracy(logits, tf.constant([1, 1, 1]), tf.constant([1.0, 1.0, 0.0]))
    assert (float(found), float(weight)) == (1, 2)


def make_batch(rows: int, seed: int) -> tuple[dict, dict]:
    rng = np.random.default_rng(seed)
    outputs = {
        "masked_lm_logits": rng.normal(size=(rows, 3, 7)).astype(np.float32),
        "next_sentence_logits": rng.normal(size=(rows, 2)).astype(np.float32),
    }
    batch = {
        "masked_lm_ids": rng.integers(0, 7, (rows, 3)).astype(np.int32),
        "masked_lm_weights": rng.integers(0, 2, (rows, 3)).astype(np.float32),
        "next_sentence_labels": rng.integers(0, 2, (rows, 1)).astype(np.int32),
        "example_weights": np.array([1] * (rows - 1) + [0], np.float32),
    }
    return outputs, {name: tf.constant(values) for name, values in batch.items()}


def test_pretraining_sums_against_numpy() -> None:
    outputs, batch = make_batch(5, seed=2)
    found = Pretraining(heads("nsp")).sums(outputs, batch)

    def nats(logits: np.ndarray, label: int) -> float:
        return float(np.log(np.exp(logits.astype(np.float64)).sum()) - logits[label])

    pieces = [
        (outputs["masked_lm_logits"][i, j], int(batch["masked_lm_ids"][i, j]))
        for i, j in np.argwhere(batch["masked_lm_weights"].numpy() == 1)
    ]
    pairs = [
        (outputs["next_sentence_logits"][i], int(batch["next_sentence_labels"][i, 0]))
        for i in range(4)
    ]
    for head, predictions in (("masked_lm", pieces), ("next_sentence", pairs)):
        assert found[f"{head}_weight"] == len(predictions)
        right = sum(logits.argmax() == label for logits, label in predictions)
        assert found[f"{head}_accuracy"] == right
        total = sum(nats(logits, label) for logits, label in predictions)
        assert float(found[f"{head}_loss"]) == pytest.approx(total, rel=1e-6)


def test_shares_of_unequal_replicas_add_up_to_the_mean_over_the_batch() -> None:
    parts = [make_batch(rows, seed) for rows, seed in ((4, 1), (2, 8))]
    sums = [Pretraining(heads("nsp")).sums(*part) for part in parts]
    weights = [Pretraining(heads("nsp")).weights(batch) for _, batch in parts]
    assert float(weights[0]["masked_lm"]) != float(weights[1]["masked_lm"])
    total_weights = {name: weights[0][name] + weights[1][name] for name in weights[0]}
    shares = [float(global_loss(part, total_weights)) for part in sums]
    totals = {name: float(sums[0][name] + sums[1][name]) for name in sums[0]}
    assert sum(shares) == pytest.approx(means(totals)["loss"], rel=1e-6)


def test_a_batch_without_masked_pieces_has_no_masked_loss() -> None:
    outputs, batch = make_batch(3, seed=4)
    batch["masked_lm_weights"] *= 0
    sums = Pretraining(heads("nsp")).sums(outputs, batch)
    assert float(global_loss(sums, Pretraining(heads("nsp")).weights(batch))) == pytest.approx(
        float(sums["next_sentence_loss"]) / 2
    )


@pytest.mark.parametrize(("rows", "step"), [(50, SLOTS_AT_ONCE), (400, 60)])
def test_a_compacted_batch_has_the_sums_of_the_whole_one(rows: int, step: int) -> None:
    objective = Pretraining(heads("nsp"))
    outputs, batch = make_batch(rows, seed=6)
    compacted = objective.compacted(batch)
    slots = compacted["masked_lm_slots"].numpy()
    masked = int(batch["masked_lm_weights"].numpy().sum())
    assert masked < len(slots) < 3 * rows  # some of those left out, some to fill up
    assert len(slots) % step == 0
    assert len(slots) - masked < step
    assert len(set(slots)) == len(slots)
    at_slots = {**outputs, "masked_lm_logits": outputs["masked_lm_logits"].reshape(-1, 7)[slots]}
    found = objective.sums(at_slots, compacted)
    for name, value in objective.sums(outputs, batch).items():
        assert float(found[name]) == pytest.approx(float(value), rel=1e-6)


@pytest.mark.parametrize("masked", [0, 1])
def test_a_compacted_batch_has_some_slots_and_no_more_than_there_are(masked: int) -> None:
    _, batch = make_batch(3, seed=4)
    batch["masked_lm_weights"] = batch["masked_lm_weights"] * 0 + masked
    assert len(Pretraining(heads("nsp")).compacted(batch)["masked_lm_slots"]) == 9


def test_without_pairs_only_the_masked_lm_loss_counts() -> None:
    outputs, batch = make_batch(4, seed=3)
    both = Pretraining(heads("nsp")).sums(outputs, batch)
    del batch["next_sentence_labels"]
    sums = Pretraining(heads("none")).sums(outputs, batch)
    assert sums == {name: both[name] for name in Pretraining(["masked_lm"]).sum_names}
    share = global_loss(sums, Pretraining(heads("none")).weights(batch))
    found = means({name: float(value) for name, value in sums.items()})
    assert float(share) == pytest.approx(found["masked_lm_loss"], rel=1e-6)
    assert found["loss"] == found["masked_lm_loss"]
    assert "next_sentence_loss" not in found
