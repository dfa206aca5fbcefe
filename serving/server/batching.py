"""Requests of several clients run as one batch, as TensorFlow Serving's batching session does it.

Tasks of one signature whose inner shapes agree queue up together. A batch leaves its queue when it
is full, or its first task has waited long enough, and a thread is free. Differences on purpose:
what has no rows never gets here, so it never waits; if a batch fails its halves are run again, so
that a request which fails does so alone; and short inputs are padded with zeros (the real server
repeats the first element), which is what masks and ids of ours mean by padding.
"""

import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from concurrent import futures
from dataclasses import dataclass, field

import numpy as np
from grpc import StatusCode

from pipeline.errors import InputError
from serving.server.metrics import Metrics
from serving.server.signature import Arrays, Signature
from serving.server.status import ServingError, invalid

RunNow = Callable[[Signature, Arrays], Arrays]


@dataclass(frozen=True)
class BatchingOptions:
    """TensorFlow Serving's `BatchingParameters`, with its defaults."""

    # Rows of the largest request that is accepted.
    max_batch_size: int = 1000
    # How long the first request of a batch waits for others while a thread is free.
    batch_timeout_micros: int = 0
    # Batches that wait for a thread, per signature; a request over that is told to come back later.
    max_enqueued_batches: int = 10
    # Batches that run at a time.
    num_batch_threads: int = os.cpu_count() or 1
    # Sizes that batches are filled up to, in rising order; () fills none up.
    allowed_batch_sizes: tuple[int, ...] = ()
    # Whether inputs of different inner shapes are padded to one, or else not batched together.
    pad_variable_length_inputs: bool = False
    # Rows at which a batch is closed; None: at max_batch_size. A larger request runs as a batch of
    # its own, or split if that is enabled.
    max_execution_batch_size: int | None = None
    enable_large_batch_splitting: bool = False
    # The label of this server's batches in metrics.
    thread_pool_name: str = "batch_threads"

    def __post_init__(self) -> None:
        """Check what the types do not say.

        Raises:
            InputError: a number is out of range; TensorFlow Serving's words where it has some.
        """
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name}: expected {least} or more, received {value}")
        sizes = self.allowed_batch_sizes
        if any(low >= high for low, high in zip((0, *sizes), sizes, strict=False)):
            raise InputError(
                f"allowed_batch_sizes entries must be monotonically increasing; received "
                f"{list(sizes)}"
            )
        if sizes and sizes[-1] != self.execution_size:
            raise InputError(
                f"Last entry in allowed_batch_sizes must match max_batch_size; last entry was "
                f"{sizes[-1]}; expected {self.execution_size}"
            )

    @property
    def execution_size(self) -> int:
        """Rows at which a batch is closed."""
        return self.max_execution_batch_size or self.max_batch_size


_LEAST = {
    "max_batch_size": 1,
    "batch_timeout_micros": 0,
    "max_enqueued_batches": 1,
    "num_batch_threads": 1,
    "max_execution_batch_size": 1,
}

# What `serve` does without a file: batches only what waits anyway, so a lone client waits for none.
# One batch at a time, which all cores share: while it runs the next one fills. With a thread for
# each core, batches of 32 clients' texts had 7 rows, not 15, and a text took a fifth more CPU.
SERVE_DEFAULT = BatchingOptions(
    max_execution_batch_size=32, max_enqueued_batches=128, num_batch_threads=1
)


@dataclass(frozen=True)
class _Task:
    """One request, or a piece of one."""

    inputs: Arrays
    rows: int
    enqueued_secs: float
    done: futures.Future[Arrays]


@dataclass
class _Batch:
    tasks: list[_Task] = field(default_factory=list)
    rows: int = 0


@dataclass
class _Queue:
    signature: Signature
    batches: deque[_Batch] = field(default_factory=deque)


class Batcher:
    """Takes requests from many threads and runs them in batches in a few of its own."""

    def __init__(self, run: RunNow, options: BatchingOptions, metrics: Metrics) -> None:
        self._run = run
        self._options = options
        self._metrics = metrics
        self._changed = threading.Condition()
        self._queues: OrderedDict[Hashable, _Queue] = OrderedDict()
        self._closing = False
        for number in range(options.num_batch_threads):
            threading.Thread(target=self._work, name=f"batch-{number}", daemon=True).start()

    def close(self) -> None:
        """Run what is queued without more waiting, then end the threads."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def run(self, signature: Signature, inputs: Arrays) -> Arrays:
        """Return the outputs for one request, whose inputs all have the same number of rows > 0.

        Raises:
            ServingError: INVALID_ARGUMENT, too many rows; UNAVAILABLE, the queue is full; else
                what running it raises.
        """
        rows = len(next(iter(inputs.values())))
        if rows > self._options.max_batch_size:
            raise invalid(
                f"Task size {rows} is larger than maximum input batch size "
                f"{self._options.max_batch_size}"
            )
        tasks = self._pieces(inputs, rows)
        self._enqueue(signature, tasks)
        results = [task.done.result() for task in tasks]
        if len(results) == 1:
            return results[0]
        try:
            return {
                name: np.concatenate([result[name] for result in results]) for name in results[0]
            }
        except ValueError:  # the longest text of a piece decides its outputs' shapes
            return self._run(signature, inputs)

    def _pieces(self, inputs: Arrays, rows: int) -> list[_Task]:
        step = self._options.execution_size
        if rows <= step or not self._options.enable_large_batch_splitting:
            step = rows
        now = time.monotonic()
        return [
            _Task(
                _rows(inputs, start, start + step), min(step, rows - start), now, futures.Future()
            )
            for start in range(0, rows, step)
        ]

    def _enqueue(self, signature: Signature, tasks: list[_Task]) -> None:
        key = (id(signature), self._shapes(tasks[0].inputs))  # the queue keeps the signature alive
        with self._changed:
            queue = self._queues.get(key) or _Queue(signature)
            batches = queue.batches
            open_rows = batches[-1].rows if batches else self._options.execution_size
            placed = self._placed(open_rows, tasks)
            if len(batches) + sum(placed) > self._options.max_enqueued_batches:
                raise ServingError(
                    StatusCode.UNAVAILABLE,
                    "The batch scheduling queue to which this task was submitted is full; "
                    f"currently {len(batches)} batches enqueued and max_enqueued_batches is "
                    f"{self._options.max_enqueued_batches}",
                )
            for task, opens_batch in zip(tasks, placed, strict=True):
                if opens_batch:
                    batches.append(_Batch())
                batches[-1].tasks.append(task)
                batches[-1].rows += task.rows
            self._queues[key] = queue
            self._changed.notify(len(tasks))

    def _placed(self, open_rows: int, tasks: list[_Task]) -> list[bool]:
        """Return for each task whether it begins a new batch, or else joins the last one."""
        placed = []
        for task in tasks:
            opens_batch = open_rows + task.rows > self._options.execution_size
            open_rows = task.rows + (0 if opens_batch else open_rows)
            placed.append(opens_batch)
        return placed

    def _shapes(self, inputs: Arrays) -> Hashable:
        """Return what must agree for inputs to share a batch: inner shapes, or else ranks."""
        padded = self._options.pad_variable_length_inputs
        return tuple(
            (name, array.ndim if padded else array.shape[1:])
            for name, array in sorted(inputs.items())
        )

    def _work(self) -> None:
        while (found := self._next()) is not None:
            self._process(*found)

    def _next(self) -> tuple[Signature, list[_Task]] | None:
        """Return a batch as soon as one is due; None once all are done and no more will come."""
        with self._changed:
            while self._queues or not self._closing:
                waits = []
                for key, queue in self._queues.items():
                    wait_secs = self._wait_secs(queue)
                    if wait_secs <= 0:
                        return queue.signature, self._take(key, queue)
                    waits.append(wait_secs)
                self._changed.wait(min(waits, default=None))
        return None

    def _wait_secs(self, queue: _Queue) -> float:
        first = queue.batches[0]
        is_closed = len(queue.batches) > 1 or first.rows >= self._options.execution_size
        if is_closed or self._closing:
            return 0.0
        due = first.tasks[0].enqueued_secs + self._options.batch_timeout_micros / 1e6
        return due - time.monotonic()

    def _take(self, key: Hashable, queue: _Queue) -> list[_Task]:
        batch = queue.batches.popleft()
        if queue.batches:
            self._queues.move_to_end(key)  # every queue has its turn
        else:
            del self._queues[key]
        return batch.tasks

    def _process(self, signature: Signature, tasks: list[_Task]) -> None:
        """Run tasks as one batch; if that fails, each half of them, down to the one that fails."""
        now = time.monotonic()
        total = sum(task.rows for task in tasks)
        size = min(
            (size for size in self._options.allowed_batch_sizes if size >= total), default=total
        )
        try:
            outputs = self._run(signature, _merged([task.inputs for task in tasks], size))
            if len(tasks) > 1 or size != total:
                _check_rows(outputs, size)
        except Exception as error:
            if len(tasks) == 1:
                tasks[0].done.set_exception(error)
                return
            middle = len(tasks) // 2
            self._process(signature, tasks[:middle])
            self._process(signature, tasks[middle:])
            return
        waited = [now - task.enqueued_secs for task in tasks]
        self._metrics.batch(self._options.thread_pool_name, waited, total, size)
        start = 0
        for task in tasks:
            task.done.set_result(_rows(outputs, start, start + task.rows))
            start += task.rows


def _rows(arrays: Arrays, start: int, stop: int) -> Arrays:
    return {name: array[start:stop] for name, array in arrays.items()}


def _check_rows(outputs: Arrays, rows: int) -> None:
    if any(array.ndim == 0 or len(array) != rows for array in outputs.values()):
        raise ServingError(
            StatusCode.FAILED_PRECONDITION,
            "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension "
            "sizes of the input tensors",
        )


def _merged(parts: Sequence[Arrays], rows: int) -> Arrays:
    """Return the parts one under another, the last row repeated until there are `rows` rows."""
    return {name: _stacked([part[name] for part in parts], rows) for name in parts[0]}


def _stacked(arrays: Sequence[np.ndarray], rows: int) -> np.ndarray:
    shape = np.max([array.shape[1:] for array in arrays], axis=0).astype(int)
    if any(array.shape[1:] != tuple(shape) for array in arrays):
        arrays = [_padded(array, shape) for array in arrays]
    missing = rows - sum(map(len, arrays))
    if missing:
        arrays = [*arrays, np.repeat(arrays[-1][-1:], missing, axis=0)]
    return np.concatenate(arrays) if len(arrays) > 1 else arrays[0]


def _padded(array: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Return the array with its inner axes filled up at their ends: zeros, False or empty text."""
    widths = [(0, 0), *((0, size - old) for size, old in zip(shape, array.shape[1:], strict=True))]
    value = b"" if array.dtype == np.object_ else 0
    return np.pad(array, widths, constant_values=value)
