"""Run requests of several clients as one batch, like TensorFlow Serving's batching session.

Tasks of one signature with equal inner shapes share a queue. A batch leaves its queue when a thread
is free and the batch is full or its first task has reached the timeout. Intended differences:
requests without rows bypass the queue, so they never wait; if a batch fails, its halves are run
again, so that a faulty request fails alone.
"""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from grpc import StatusCode

from pipeline.schema import Arrays
from serving.server.answer_size import check_answer
from serving.server.batching_options import BatchingOptions
from serving.server.callers import current_caller
from serving.server.metrics import Metrics
from serving.server.signature_spec import ServableSignature, check_rows, size_bytes
from serving.server.status import ServingError
from serving.tf_serving import MAX_MESSAGE_BYTES

RunNow = Callable[[ServableSignature, Arrays], Arrays]

_Shapes = dict[tuple[str, int], int]  # size by (output, axis), except for the axis of rows


@dataclass(frozen=True, eq=False)
class _BatchTask:
    """One request, or a piece of one."""

    inputs: Arrays
    size: "_RowsAndWork"
    done: futures.Future[Arrays] = field(default_factory=futures.Future)
    enqueued_secs: float = field(default_factory=time.monotonic)

    @property
    def rows(self) -> int:
        return self.size.rows


@dataclass(frozen=True)
class _RowsAndWork:
    """Size of a task or batch, in rows and in work (see `BatchingOptions`)."""

    rows: int = 0
    work: int = 0

    def __add__(self, other: "_RowsAndWork") -> "_RowsAndWork":
        return _RowsAndWork(self.rows + other.rows, self.work + other.work)


@dataclass
class _Batch:
    tasks: list[_BatchTask] = field(default_factory=list)

    @property
    def size(self) -> _RowsAndWork:
        return sum((task.size for task in self.tasks), _RowsAndWork())

    @property
    def rows(self) -> int:
        return self.size.rows


@dataclass
class _Queue:
    signature: ServableSignature
    batches: deque[_Batch] = field(default_factory=deque)


class Batcher:
    """Accepts requests from many threads and runs them in batches on its own threads."""

    def __init__(
        self,
        run: RunNow,
        options: BatchingOptions,
        metrics: Metrics,
        max_output_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        self.most_rows = options.max_batch_size
        self._run = run
        self._max_output_bytes = max_output_bytes
        self._options = options
        self._metrics = metrics
        self._changed = threading.Condition()
        self._queues: OrderedDict[Hashable, _Queue] = OrderedDict()
        self._closing = False
        for number in range(options.num_batch_threads):
            threading.Thread(target=self._work, name=f"batch-{number}", daemon=True).start()

    def close(self) -> None:
        """Run queued requests without further waiting, then end the threads."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def run(self, signature: ServableSignature, inputs: Arrays) -> Arrays:
        """Return the outputs for one request; all inputs must have the same number of rows > 0.

        Raises:
            ServingError: INVALID_ARGUMENT: too many rows, or outputs too large. UNAVAILABLE: the
                queue is full. Also if the client disconnected, or the run failed.
        """
        rows = len(next(iter(inputs.values())))
        check_rows(rows, self.most_rows)
        tasks = self._pieces(inputs, rows)
        caller = current_caller()
        with caller.on_leaving(lambda: self._forget(tasks)):
            try:
                results = self._results(signature, tasks)
            except futures.CancelledError:
                caller.check()
                raise
        if len(results) == 1:
            return results[0]
        shapes = [_inner_shapes(result) for result in results]
        if any(each != shapes[0] for each in shapes):
            results = self._at_one_shape(signature, tasks, shapes)
        return {name: np.concatenate([result[name] for result in results]) for name in results[0]}

    def _results(self, signature: ServableSignature, tasks: list[_BatchTask]) -> list[Arrays]:
        """Queue tasks and wait for them; stop when their outputs exceed the memory limit."""
        results: list[Arrays] = []
        total_bytes = 0
        step = self._options.max_enqueued_pieces or len(tasks)
        for start in range(0, len(tasks), step):
            self._enqueue(signature, tasks[start : start + step])
            for task in tasks[start : start + step]:
                results.append(task.done.result())
                total_bytes += size_bytes(results[-1])
                # The rest of the request is not computed: its answer would be refused anyway.
                if total_bytes > self._max_output_bytes:
                    self._forget(tasks)
                check_answer(total_bytes, self._max_output_bytes)
        return results

    def _at_one_shape(
        self, signature: ServableSignature, tasks: list[_BatchTask], shapes: list[_Shapes]
    ) -> list[Arrays]:
        """Run the pieces again, each together with the rows that produce the largest shapes.

        The longest text of a run determines the output shapes, so the pieces' outputs cannot be
        concatenated. One run with all rows would solve that, but needs the memory that splitting is
        meant to save.
        """
        largest = {key: max(each[key] for each in shapes) for key in shapes[0]}
        longest: list[Arrays] = []
        for key, size in largest.items():
            if not any(self._sizes(signature, row)[key] == size for row in longest):
                piece = next(t for t, each in zip(tasks, shapes, strict=True) if each[key] == size)
                longest.append(self._longest_row(signature, piece.inputs, key, size))
        again = []
        for task in tasks:
            parts = [task.inputs, *longest]
            outputs = self._run(signature, _merged(parts, task.rows + len(longest)))
            if _inner_shapes(outputs) != largest:
                raise ServingError(
                    StatusCode.FAILED_PRECONDITION,
                    "Output shapes of a large batch depend on more than its longest rows; "
                    f"send at most {self._options.execution_size} rows",
                )
            again.append(_rows(outputs, 0, task.rows))
        return again

    def _longest_row(
        self, signature: ServableSignature, inputs: Arrays, key: tuple[str, int], size: int
    ) -> Arrays:
        """Find by bisection a row whose run produces this size."""
        while (rows := len(next(iter(inputs.values())))) > 1:
            half = _rows(inputs, 0, rows // 2)
            is_in_half = self._sizes(signature, half)[key] == size
            inputs = half if is_in_half else _rows(inputs, rows // 2, rows)
        return inputs

    def _sizes(self, signature: ServableSignature, inputs: Arrays) -> _Shapes:
        return _inner_shapes(self._run(signature, inputs))

    def _pieces(self, inputs: Arrays, rows: int) -> list[_BatchTask]:
        """Split a request into tasks of at most a batch's size, if splitting is enabled."""
        work = _work_of_rows(inputs, rows)
        whole = _RowsAndWork(rows, sum(work))
        if not self._options.enable_large_batch_splitting or self._fits(whole):
            return [_BatchTask(inputs, whole)]
        tasks, start, size = [], 0, _RowsAndWork()
        # One row more than there are, to close the last piece.
        for row, row_work in enumerate([*work, 0]):
            grown = size + _RowsAndWork(1, row_work)
            if row == rows or (size.rows and not self._fits(grown)):
                tasks.append(_BatchTask(_rows(inputs, start, row), size))
                start, grown = row, _RowsAndWork(1, row_work)
            size = grown
        return tasks

    def _fits(self, size: _RowsAndWork) -> bool:
        """Return whether this size is within the limits of one batch."""
        most_work = self._options.max_execution_work
        has_few_rows = size.rows <= self._options.execution_size
        return has_few_rows and (most_work is None or size.work <= most_work)

    def _enqueue(self, signature: ServableSignature, tasks: list[_BatchTask]) -> None:
        # The queue keeps the signature alive.
        key = (id(signature), self._shapes(signature, tasks[0].inputs))
        with self._changed:
            tasks = [task for task in tasks if not task.done.cancelled()]
            queue = self._queues.get(key) or _Queue(signature)
            batches = queue.batches
            placed = self._placed(batches[-1].size if batches else None, tasks)
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
            if batches:
                self._queues[key] = queue
            # One thread for each task at most; a notified thread without a due batch waits again.
            self._changed.notify(len(tasks))

    def _forget(self, tasks: list[_BatchTask]) -> None:
        """Remove tasks that are not running yet from their queues."""
        with self._changed:
            # A running task cannot be cancelled; its batch has left the queue.
            dropped = {task for task in tasks if task.done.cancel()}
            for key, queue in list(self._queues.items()):
                for batch in queue.batches:
                    batch.tasks = [task for task in batch.tasks if task not in dropped]
                queue.batches = deque(batch for batch in queue.batches if batch.tasks)
                if not queue.batches:
                    del self._queues[key]

    def _placed(self, last: _RowsAndWork | None, tasks: list[_BatchTask]) -> list[bool]:
        """Return for each task whether it starts a new batch instead of joining the last one."""
        placed = []
        for task in tasks:
            opens_batch = last is None or not self._fits(last + task.size)
            last = task.size if opens_batch or last is None else last + task.size
            placed.append(opens_batch)
        return placed

    def _shapes(self, signature: ServableSignature, inputs: Arrays) -> Hashable:
        """Return the properties that inputs must share to be in one batch.

        Without padding, that is their inner shapes. With it, the sizes that the signature fixes and
        those of 0, and which of the others equal each other or which is larger: else padding could
        make equal what the graph refuses because it differs, such as a mask of 1 column for 6 ids.
        """
        arrays = sorted(inputs.items())
        if not self._options.pad_variable_length_inputs:
            return tuple((name, array.shape[1:]) for name, array in arrays)
        axes = [
            (size, not size or _is_fixed(signature, name, axis))
            for name, array in arrays
            for axis, size in enumerate(array.shape[1:], 1)
        ]
        padded = sorted({size for size, is_exact in axes if not is_exact})
        order = [
            (size, True) if is_exact else (padded.index(size), False) for size, is_exact in axes
        ]
        return tuple((name, array.ndim) for name, array in arrays), tuple(order)

    def _work(self) -> None:
        while (batch := self._next()) is not None:
            self._process(*batch)
            del batch  # its tasks hold their outputs, and the next batch may come in an hour

    def _next(self) -> tuple[ServableSignature, list[_BatchTask]] | None:
        """Wait for a due batch and return it; None after `close`, when all queues are empty."""
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
        # A later batch is opened only when this one is full.
        is_closed = len(queue.batches) > 1 or not self._fits(first.size + _RowsAndWork(1, 1))
        if is_closed or self._closing:
            return 0.0
        due = first.tasks[0].enqueued_secs + self._options.batch_timeout_micros / 1e6
        return due - time.monotonic()

    def _take(self, key: Hashable, queue: _Queue) -> list[_BatchTask]:
        batch = queue.batches.popleft()
        for task in batch.tasks:
            task.done.set_running_or_notify_cancel()  # from here on it cannot be cancelled
        if queue.batches:
            self._queues.move_to_end(key)  # round-robin over the queues
        else:
            del self._queues[key]
        return batch.tasks

    def _process(self, signature: ServableSignature, tasks: list[_BatchTask]) -> None:
        """Run tasks as one batch; if it fails, bisect it down to the task that fails."""
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
            # Bisection: one faulty task among n costs about 2 log n runs instead of n.
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


def _is_fixed(signature: ServableSignature, name: str, axis: int) -> bool:
    """Return whether the signature says which size an input's axis has."""
    info = signature.inputs.get(name)
    shape = info.shape if info else None
    return shape is not None and axis < len(shape) and shape[axis] is not None


def _inner_shapes(arrays: Arrays) -> _Shapes:
    return {
        (name, axis): size
        for name, array in arrays.items()
        for axis, size in enumerate(array.shape[1:], 1)
    }


def _work_of_rows(inputs: Arrays, rows: int) -> list[int]:
    """Return each row's work: bytes of text plus count of numbers, over all inputs."""
    work = [0] * rows
    for array in inputs.values():
        if array.dtype == np.object_:
            flat = array.reshape(rows, -1)
            work = [have + sum(map(len, row)) for have, row in zip(work, flat, strict=True)]
        else:
            work = [have + array.size // rows for have in work]
    return work


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
    """Concatenate the parts' rows, and repeat the last row up to `rows` rows."""
    return {name: _stacked([part[name] for part in parts], rows) for name in parts[0]}


def _stacked(arrays: Sequence[np.ndarray], rows: int) -> np.ndarray:
    shape = np.max([array.shape[1:] for array in arrays], axis=0).astype(int)
    if any(array.shape[1:] != tuple(shape) for array in arrays):
        arrays = [_padded(array, shape) for array in arrays]
    missing = rows - sum(map(len, arrays))
    if missing:
        # A row that is valid for the graph; zeros might not be.
        arrays = [*arrays, np.repeat(arrays[-1][-1:], missing, axis=0)]
    return np.concatenate(arrays) if len(arrays) > 1 else arrays[0]


def _padded(array: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Pad an array's inner axes at their ends with its first element, like TensorFlow Serving."""
    widths = [(0, 0), *((0, size - old) for size, old in zip(shape, array.shape[1:], strict=True))]
    empty: Any = b"" if array.dtype == np.object_ else 0
    return np.pad(array, widths, constant_values=array.flat[0] if array.size else empty)
