"""Batches: every example once an epoch, similar lengths, the same on any number of devices."""

import numpy as np
import pytest
import tensorflow as tf

from model.tasks.batches import Batches
from model.tasks.encoded import NO_LABEL, Encoded
from model.tasks.task_kind import Task

ALONE = tf.distribute.InputContext()
PAIR = Task("pair", ("a", "b", "c"), takes_pairs=True)


def make(count: int = 50, batch_size: int = 6, **more) -> Batches:
    rng = np.random.default_rng(5)
    lengths = rng.integers(4, 60, count)
    # The number of the example stands in position 1.
    ids = [np.array([2, 100 + i, *[7] * (n - 2)], np.int32) for i, n in enumerate(lengths)]
    encoded = Encoded(
        ids, lengths.astype(np.int32) // 2, np.arange(count, dtype=np.int32) % 3, np.arange(count)
    )
    return Batches(encoded, PAIR, batch_size, pad_id=9, max_seq_length=64, **more)


def taken(dataset: tf.data.Dataset, count: int) -> list[dict[str, np.ndarray]]:
    return list(dataset.take(count).as_numpy_iterator())


def numbers(batches: list[dict[str, np.ndarray]]) -> list[int]:
    return [int(n) - 100 for batch in batches for n in batch["input_ids"][:, 1]]


def test_each_epoch_has_every_example_once_in_another_order() -> None:
    found = numbers(taken(make().train(ALONE, seed=1, skip_examples=0), 25))  # 150 = 3 epochs
    epochs = [found[first : first + 50] for first in (0, 50, 100)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert found != numbers(taken(make().train(ALONE, seed=2, skip_examples=0), 25))


def test_what_a_batch_holds() -> None:
    batches = make()
    for batch in taken(batches.train(ALONE, seed=1, skip_examples=0), 10):
        for place, ids in enumerate(batch["input_ids"]):
            number = ids[1] - 100
            length = len(batches.encoded.input_ids[number])
            first = batches.encoded.first_lengths[number]
            assert batch["input_mask"][place].tolist() == [1] * length + [0] * (len(ids) - length)
            segments = [0] * first + [1] * (length - first) + [0] * (len(ids) - length)
            assert batch["segment_ids"][place].tolist() == segments
            assert (ids[length:] == 9).all()
            assert batch["task_labels"][place] == number % 3
        assert batch["example_weights"].tolist() == [1] * 6


def test_examples_of_a_batch_have_similar_lengths() -> None:
    batches = make(480, 8)
    found = taken(batches.train(ALONE, seed=1, skip_examples=0), 180)
    assert {batch["input_ids"].shape[1] for batch in found} == {16, 32, 48, 64}
    positions = sum(batch["input_mask"].size for batch in found)
    real = sum(batch["input_mask"].sum() for batch in found)
    shuffled = np.mean([len(ids) for ids in batches.encoded.input_ids]) / 64
    assert 1 - real / positions < 0.5 * (1 - shuffled)


def test_training_resumes_at_any_batch() -> None:
    whole = taken(make().train(ALONE, seed=3, skip_examples=0), 20)
    rest = taken(make().train(ALONE, seed=3, skip_examples=7 * 6), 13)
    for a, b in zip(whole[7:], rest, strict=True):
        for name, values in a.items():
            np.testing.assert_array_equal(values, b[name])


@pytest.mark.parametrize(("pipelines", "devices"), [(1, 2), (2, 2), (3, 3), (2, 6)])
def test_any_number_of_devices_has_the_same_global_batches(pipelines: int, devices: int) -> None:
    whole = taken(make(batch_size=12).train(ALONE, seed=3, skip_examples=24), 9)
    each = devices // pipelines
    shares = [
        taken(
            make(batch_size=12).train(
                tf.distribute.InputContext(pipelines, index, devices), seed=3, skip_examples=24
            ),
            9 * each,
        )
        for index in range(pipelines)
    ]
    for step, batch in enumerate(whole):
        parts = [share[step * each + device] for share in shares for device in range(each)]
        for name, values in batch.items():
            np.testing.assert_array_equal(values, np.concatenate([part[name] for part in parts]))


def test_evaluation_has_every_example_once() -> None:
    batches = make()
    found = taken(batches.evaluation(ALONE), 99)
    assert len(found) == batches.evaluation_count == 9
    weights = np.concatenate([batch["example_weights"] for batch in found])
    assert weights.tolist() == [1] * 50 + [0] * 4
    assert numbers(found)[:50] == batches.by_length.tolist()
    assert sorted(numbers(found)[:50]) == list(range(50))


def test_fixed_length() -> None:
    dataset = make(fixed_length=True).train(ALONE, seed=1, skip_examples=0)
    assert dataset.element_spec["input_ids"].shape == [6, 64]
    assert taken(dataset, 1)[0]["input_mask"].shape == (6, 64)


def test_tags_are_padded() -> None:
    ids = [np.array([2, 5, 3], np.int32), np.array([2, 3], np.int32)]
    labels = [np.array([NO_LABEL, 1, NO_LABEL], np.int32), np.array([NO_LABEL] * 2, np.int32)]
    encoded = Encoded(ids, np.array([3, 2], np.int32), labels, np.arange(2))
    task = Task("tagging", ("a", "b"), takes_pairs=False)
    batches = Batches(encoded, task, 2, pad_id=0, max_seq_length=5)
    found = taken(batches.evaluation(ALONE), 1)[0]["task_labels"]
    assert found.tolist() == [[NO_LABEL] * 5, [NO_LABEL, 1, *[NO_LABEL] * 3]]
