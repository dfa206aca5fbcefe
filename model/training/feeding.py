"""Feed a `tf.data` pipeline from Python, without Python in TensorFlow's threads.

`Dataset.from_generator` and `tf.numpy_function` call Python in the threads that read ahead. Whoever
drops an iterator holds Python's lock while TensorFlow waits for these threads, and they wait for
the lock: the process hangs. Here a thread of Python puts elements into a queue, and the pipeline
takes them out, which needs no lock and can be cancelled.
"""

import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import tensorflow as tf

from pipeline.errors import InputError, JobError

END_SECS = 10.0
"""How long to wait for a thread at most; it ends after the element that it is reading."""


def fed(
    elements: Callable[[], Iterator[Mapping[str, Any]]],
    signature: Mapping[str, tf.TensorSpec],
    *,
    ahead: int,
) -> tf.data.Dataset:
    """Return a dataset of the elements of a Python iterator; it may be iterated once.

    Args:
        elements: returns the iterator, which has no end. It runs in a thread that ends when the
            dataset and its iterators are gone. If it raises an error, the dataset raises an
            `InvalidArgumentError`, without the text.
        signature: dtypes and static shapes of an element's tensors, by name.
        ahead: number of elements to keep ready.
    """
    names = list(signature)
    queue = tf.queue.FIFOQueue(
        ahead,
        [signature[name].dtype for name in names],
        [signature[name].shape for name in names],
        names=names,
    )
    take = tf.autograph.experimental.do_not_convert(lambda _: queue.dequeue())
    dataset = tf.data.Dataset.counter().map(take)
    thread = threading.Thread(target=_fill, args=(queue, elements), name="feeding", daemon=True)
    weakref.finalize(dataset, _stop, queue, thread)
    thread.start()
    return dataset


def _fill(queue: tf.queue.FIFOQueue, elements: Callable[[], Iterator[Mapping[str, Any]]]) -> None:
    try:
        for element in elements():
            queue.enqueue(element)
    except (tf.errors.CancelledError, InputError, JobError):
        pass  # nobody reads on; or the reader of the files keeps the error
    finally:
        with suppress(tf.errors.CancelledError):  # it is closed
            queue.close()


def _stop(queue: tf.queue.FIFOQueue, thread: threading.Thread) -> None:
    # Python may collect the dataset while it traces a graph, which this must not get into.
    with tf.init_scope():
        queue.close(cancel_pending_enqueues=True)
    if thread is not threading.current_thread():  # whose turn it may be to collect
        thread.join(END_SECS)
