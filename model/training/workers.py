"""The processes that train together, as they agree on what only one of them knows."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import tensorflow as tf

from model.training.strategy import is_on_cpu
from pipeline.errors import JobError


def device_count(strategy: tf.distribute.Strategy) -> int:
    """Return how many times the first device's matrix units there are; a process has one CPU."""
    if is_on_cpu(strategy):
        return Workers(strategy).count
    return int(strategy.num_replicas_in_sync)


class Workers:
    """The processes of a strategy, as they agree on what only one of them knows.

    Attributes:
        count: how many there are.
        index: number of this one; a task of type chief comes first.
        strategy: theirs.
    """

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        self.count, self.index = 1, 0
        if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            resolver = strategy.cluster_resolver
            tasks = resolver.cluster_spec().as_dict()
            self.count = max(1, sum(map(len, tasks.values())))
            after_chief = "chief" in tasks and resolver.task_type != "chief"
            self.index = (resolver.task_id or 0) + after_chief
        self.strategy = strategy

    @property
    def is_chief(self) -> bool:
        """Whether this is the process that writes the run's files and talks."""
        return self.index == 0

    def __str__(self) -> str:
        """Return which one this is."""
        return f"worker {self.index + 1} of {self.count}"

    def sums(self, values: Sequence[float]) -> list[float]:
        """Return the sums over the workers of some numbers, the same everywhere.

        Every worker must call it as often, with as many numbers.

        Args:
            values: each below 2^53 in all.
        """
        if self.count == 1:
            return list(values)
        local_replicas = self.strategy.num_replicas_in_sync // self.count
        shares = tf.constant(values, tf.float64) / local_replicas
        return self._all_reduced(shares).numpy().tolist()

    def of_chief(self, value: float) -> float:
        """Return the chief's number."""
        return self.sums([value if self.is_chief else 0.0])[0]

    def any(self, value: bool) -> bool:
        """Return whether it is true of any worker."""
        return self.sums([float(value)])[0] > 0

    def check_same(self, number: float, message: str) -> None:
        """Raise `JobError` with a message unless every worker has the same number."""
        if self.any(self.of_chief(number) != number):  # all of them end, not only the odd one
            raise JobError(message)

    @contextmanager
    def lost_ones_named(self) -> Iterator[None]:
        """Turn TensorFlow's errors about a worker that is gone into a `JobError`."""
        try:
            yield
        except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.InternalError) as e:
            if self.count == 1:
                raise
            raise JobError(
                f"{self}: another one is gone; start all of them again: "
                "they go on from the last checkpoint"
            ) from e

    @tf.function
    def _all_reduced(self, values: tf.Tensor) -> tf.Tensor:
        def replica_sum() -> tf.Tensor:
            replica = tf.distribute.get_replica_context()
            # What is computed here has the replica's device, which the reduction looks at.
            return replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(values))

        return self.strategy.experimental_local_results(self.strategy.run(replica_sum))[0]
