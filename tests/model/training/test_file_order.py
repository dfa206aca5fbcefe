"""The order of datasets without streams stays what it was, so that runs begun with it resume.

What holds for datasets of both orders is tested in `test_input.py`.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from model.training import file_order
from model.training.input import eval_batches, train_batches
from pipeline.manifest import read_manifest

TRAIN, EVAL = 40, 11  # the fixture's records

Markers = Callable[[np.ndarray], np.ndarray]


@pytest.fixture
def take(old_dataset: Path, markers: Markers) -> Callable[..., list[int]]:
    """Return the markers of some examples of the train stream."""

    def of(examples: int, *, seed: int = 3, skip: int = 0, batch_size: int = 1) -> list[int]:
        stream = train_batches(
            old_dataset,
            read_manifest(old_dataset),
            batch_size=batch_size,
            seed=seed,
            skip_examples=skip,
        )
        batches = stream.take(examples // batch_size)
        return [int(m) for batch in batches for m in markers(batch["input_ids"].numpy())]

    return of


def test_both_files_are_mixed(take: Callable) -> None:
    # The longer one has the numbers up to 22.
    assert {number <= 22 for number in take(16)} == {True, False}


def test_the_order_does_not_depend_on_the_batch_size(take: Callable) -> None:
    assert take(TRAIN, batch_size=8) == take(TRAIN)


@pytest.mark.parametrize("skip", [39, 41])
def test_older_datasets_can_be_skipped_to_any_example(take: Callable, skip: int) -> None:
    assert take(30, skip=skip) == take(skip + 30)[skip:]


def test_skipping_is_exact_with_several_windows(
    take: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_order, "WINDOW_EXAMPLES", 7)
    stream = take(2 * TRAIN)
    assert sorted(stream[:TRAIN]) == sorted(stream[TRAIN:]) == list(range(TRAIN))
    assert take(20, skip=33) == stream[33:53]


def test_every_window_has_an_order_of_its_own(
    tmp_path: Path, make_dataset: Callable, markers: Markers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_order, "WINDOW_EXAMPLES", 10)
    manifest = make_dataset(tmp_path / "one-file", train=(30,), streams=None)
    stream = train_batches(tmp_path / "one-file", manifest, batch_size=10, seed=3, skip_examples=0)
    windows = [markers(batch["input_ids"].numpy()) for batch in stream.take(3)]
    orders = [tuple(window - 10 * index) for index, window in enumerate(windows)]
    assert [sorted(order) for order in orders] == [list(range(10))] * 3
    assert len(set(orders)) == 3


RECORDED = [
    29, 14, 23, 3, 2, 30, 0, 34, 27, 25, 33, 2, 1, 21, 29, 39, 30, 22, 6, 20, 4, 16, 8, 10,
    9, 12, 19, 5, 11, 17, 14, 36, 28, 15, 34, 31, 0, 7, 3, 38, 37, 23, 32, 24, 18, 26, 13, 35,
]  # fmt: skip
"""Markers of the examples 32 to 79 with seed 3, as release 0.1.0 read them."""


def test_a_run_of_the_first_release_resumes_with_the_same_examples(take: Callable) -> None:
    assert take(48, skip=32, batch_size=8) == RECORDED


def test_eval_split_is_in_the_order_of_its_files(old_dataset: Path, markers: Markers) -> None:
    batches = eval_batches(old_dataset, read_manifest(old_dataset), "eval", batch_size=4)
    found = list(batches.as_numpy_iterator())
    numbers = np.concatenate([markers(batch["input_ids"]) for batch in found])
    weights = np.concatenate([batch["example_weights"] for batch in found])
    assert numbers.tolist() == [*range(TRAIN, TRAIN + EVAL), TRAIN]
    assert weights.tolist() == [1] * EVAL + [0]
