"""The worker processes of a strategy, and how they agree on values that only one of them knows."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import tensorflow as tf

from model.training.strategy import is_on_cpu
from pipeline.errors import JobError


def device_count(strategy: tf.distribute.Strategy) -> int:
    """Return the number of devices for the peak FLOP rate; a process counts as one CPU device."""
    if is_on_cpu(strategy):
        return Workers(strategy).count
    return int(strategy.num_replicas_in_sync)


TEXT_BYTES = 256
"""Size of a text that workers send to each other."""

_LOSSES = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
    tf.errors.UnavailableError,
)


def _is_loss(error: tf.errors.OpError) -> bool:
    """Return whether TensorFlow's error means that a worker is lost."""
    return isinstance(error, _LOSSES) or "Collective ops is aborted" in str(error)


class Workers:
    """The worker processes of a strategy.

    Attributes:
        count: number of workers.
        index: index of this worker.
        strategy: their distribution strategy.
    """

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        self.count, self.index = 1, 0
        if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            resolver = strategy.cluster_resolver
            self.count = resolver.cluster_spec().num_tasks("worker")
            self.index = resolver.task_id
        self.strategy = strategy

    @property
    def is_chief(self) -> bool:
        """Whether this is the worker that writes the run's files and prints."""
        return self.index == 0

    def __str__(self) -> str:
        """Return for example `worker 2 of 4`."""
        return f"worker {self.index + 1} of {self.count}"

    def sums(self, values: Sequence[float]) -> list[float]:
        """Return the sums of some numbers over all workers, equal on every worker.

        A collective: all workers must call it equally often, with equally many numbers.

        Args:
            values: this worker's numbers; sums below 2^53 are exact.
        """
        if self.count == 1:
            return list(values)
        local_replicas = self.strategy.num_replicas_in_sync // self.count
        # Every replica of a worker adds the same numbers, so each adds its share of them.
        shares = tf.constant(values, tf.float64) / local_replicas
        return self._all_reduced(shares).numpy().tolist()

    def gathered(self, value: float) -> list[float]:
        """Return the value of each worker, on every worker (an all-gather)."""
        return self.sums([value if index == self.index else 0.0 for index in range(self.count)])

    def gathered_texts(self, text: str) -> list[str]:
        """Return the text of each worker, on every worker (an all-gather).

        Args:
            text: its first `TEXT_BYTES` bytes in UTF-8 are sent.
        """
        # Bytes as numbers, each worker's at a place of its own: the only collective here is a sum.
        data = text.encode()[:TEXT_BYTES].ljust(TEXT_BYTES, b"\0")
        sent = [0.0] * (self.count * TEXT_BYTES)
        sent[self.index * TEXT_BYTES : (self.index + 1) * TEXT_BYTES] = map(float, data)
        received = bytes(map(round, self.sums(sent)))
        starts = range(0, len(received), TEXT_BYTES)
        texts = (received[start : start + TEXT_BYTES].rstrip(b"\0") for start in starts)
        return [each.decode(errors="replace") for each in texts]

    def of_chief(self, value: float) -> float:
        """Return the chief's value on every worker (a broadcast)."""
        return self.sums([value if self.is_chief else 0.0])[0]

    def any(self, value: bool) -> bool:
        """Return whether the value is true on any worker."""
        return self.sums([float(value)])[0] > 0

    def check_same(self, number: float, message: str) -> None:
        """Raise `JobError` with a message unless all workers have the same number."""
        if self.any(self.of_chief(number) != number):  # every worker raises, not only the odd one
            raise JobError(message)

    @contextmanager
    def lost_ones_named(self) -> Iterator[None]:
        """Convert TensorFlow's errors about a lost worker into a `JobError`."""
        try:
            yield
        except tf.errors.OpError as e:
            if self.count == 1 or not _is_loss(e):
                raise
            raise JobError(
                f"{self}: lost the connection to another worker; start all workers again, they "
                "resume from the last checkpoint"
            ) from e

    @tf.function(autograph=False)
    def _all_reduced(self, values: tf.Tensor) -> tf.Tensor:
        def replica_sum() -> tf.Tensor:
            replica = tf.distribute.get_replica_context()
            # `identity` places the values on the replica's device, which the all-reduce requires.
            return replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(values))

        return self.strategy.experimental_local_results(self.strategy.run(replica_sum))[0]
