"""A lack of memory, in real allocations that no machine can make."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from model.start import only_writer_of_runs
from model.training.memory import shortage_named
from model.training.workers import Workers
from pipeline.errors import JobError

NUMBERS = 2**46
"""In float32, 256 TiB: twice the addresses of a process."""


@tf.function(autograph=False)
def in_a_graph(size: tf.Tensor) -> tf.Tensor:
    return tf.random.uniform([size])


@pytest.mark.parametrize(
    ("allocate", "message"),
    [
        (lambda: tf.zeros([NUMBERS]), r"OOM when allocating .*shape\[70368744177664\]"),
        (lambda: np.zeros(NUMBERS, np.float32), "Unable to allocate 256. TiB"),
        (lambda: in_a_graph(tf.constant(NUMBERS)), "OOM when allocating"),
    ],
    ids=["eager", "NumPy", "graph"],
)
def test_a_shortage_is_one_line_with_a_remedy(allocate, message: str) -> None:
    pattern = f"^out of memory: {message}[^\n]*; close the other program$"
    with pytest.raises(JobError, match=pattern), shortage_named("close the other program"):
        allocate()


def test_other_errors_pass() -> None:
    with pytest.raises(tf.errors.InvalidArgumentError), shortage_named("close the other program"):
        tf.reshape(tf.zeros([3]), [2])


def test_a_training_names_its_remedies_and_leaves_no_lock(tmp_path: Path) -> None:
    run = tmp_path / "run"
    writing = only_writer_of_runs([run], Workers(tf.distribute.get_strategy()))
    with (
        pytest.raises(JobError, match="; add `accumulation_steps` or `recompute`, or give a "),
        writing,
    ):
        tf.zeros([NUMBERS])
    assert not run.exists()
