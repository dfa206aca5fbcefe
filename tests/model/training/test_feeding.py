"""Datasets that a thread of Python feeds: their threads end, and nothing hangs."""

import gc
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import clozeline
from model.training.feeding import fed
from pipeline.errors import InputError

SIGNATURE = {"number": tf.TensorSpec([], tf.int64), "text": tf.TensorSpec([2], tf.string)}


def counted() -> Iterator[dict]:
    number = 0
    while True:
        yield {"number": number, "text": np.array([b"a" * number, b"\0"], object)}
        number += 1


def test_elements_in_order() -> None:
    read = list(fed(counted, SIGNATURE, ahead=2).take(50).as_numpy_iterator())
    assert [element["number"] for element in read] == list(range(50))
    assert read[3]["text"].tolist() == [b"aaa", b"\0"]


def test_the_thread_ends_with_the_dataset() -> None:
    threads: list[threading.Thread] = []

    def noted() -> Iterator[dict]:
        threads.append(threading.current_thread())
        yield from counted()

    iterator = iter(fed(noted, SIGNATURE, ahead=2).prefetch(2))
    next(iterator)
    (thread,) = threads
    assert thread.is_alive()
    del iterator
    gc.collect()
    thread.join(60)
    assert not thread.is_alive()


def test_an_error_ends_the_dataset() -> None:
    def damaged() -> Iterator[dict]:
        yield from (element for element, _ in zip(counted(), range(3), strict=False))
        raise InputError("a damaged file")

    iterator = iter(fed(damaged, SIGNATURE, ahead=2).prefetch(1))
    assert [int(next(iterator)["number"]) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(tf.errors.InvalidArgumentError):
        next(iterator)


def test_a_dataset_may_be_collected_while_a_graph_is_traced() -> None:
    dropped = [fed(counted, SIGNATURE, ahead=2)]

    @tf.function
    def traced() -> tf.Tensor:
        dropped.clear()
        gc.collect()
        return tf.constant(5)

    assert int(traced()) == 5
    assert [op.type for op in traced.get_concrete_function().graph.get_operations()] == [
        "Const",
        "Identity",
    ]


DROP_ITERATORS = """
import time, tensorflow as tf
from model.training.feeding import fed
def slow():
    while True:
        yield {"number": sum(range(20_000))}
for number in range(200):
    dataset = fed(slow, {"number": tf.TensorSpec([], tf.int64)}, ahead=2)
    iterator = iter(dataset.map(lambda element: element["number"]).prefetch(2))
    for _ in range(number % 5):
        next(iterator)
    del dataset, iterator
print("done")
"""


@pytest.mark.slow
def test_an_iterator_can_be_dropped_while_it_reads_ahead() -> None:
    """With Python in TensorFlow's threads, a process hung."""
    done = subprocess.run(
        [sys.executable, "-c", DROP_ITERATORS],
        cwd=Path(clozeline.__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout == "done\n", done.stderr[-2000:]
