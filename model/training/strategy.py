"""Which devices train in step: one, all of this machine's, those of several machines, or a TPU."""

import ctypes
import json
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import get_args

import tensorflow as tf

from model.commands import StrategyName
from pipeline.errors import InputError, JobError

STRATEGIES: tuple[StrategyName, ...] = get_args(StrategyName)

TF_CONFIG = "TF_CONFIG"
"""The variable that tells a worker who the others are, and which one it is:
https://www.tensorflow.org/guide/distributed_training#setting_up_the_tf_config_environment_variable"""

TPU_NAME = "TPU_NAME"

# Parameters of mallopt(3), in bytes: M_MMAP_THRESHOLD, from where a block is mapped on its own, the
# largest that is taken; M_TRIM_THRESHOLD, how much may be free at the end of a heap; M_TOP_PAD. A
# thread other than the first has heaps of 64 MB, of which the last is given back when nothing in it
# is used, unless it and what is free before it are smaller than M_TOP_PAD: so, two heaps.
_GLIBC_SIZES = {-3: 32 << 20, -1: 1 << 30, -2: 128 << 20}


def make_strategy(name: str) -> tf.distribute.Strategy:
    """Return the strategy of this name.

    Args:
        name: `one` device (the first GPU where there is one); `mirrored` over all GPUs, or over the
            logical CPUs where there is none; `multi-worker` over all devices of the workers that
            `TF_CONFIG` names; `tpu`, the one that `TPU_NAME` names, or this machine's; `auto` is
            the first of multi-worker, tpu and mirrored that there is reason for, else one.

    Raises:
        InputError: there is no strategy of this name, or none of its devices.
    """
    if name not in STRATEGIES:
        raise InputError(f"--strategy {name}: expected one of {', '.join(STRATEGIES)}")
    if name == "auto":
        name = _found()
    if name == "multi-worker":
        _check_tf_config()
        keep_freed_memory()
        # Before anything else is computed: collectives must be set up first.
        return tf.distribute.MultiWorkerMirroredStrategy()
    if name == "tpu":
        return _tpu_strategy()
    if name == "mirrored":
        gpus = tf.config.list_logical_devices("GPU")
        devices = gpus or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    # TensorFlow's default strategy: the first GPU, or the CPU, without the cost of distribution.
    return tf.distribute.get_strategy()


def keep_freed_memory() -> None:
    """Let the C library keep large blocks that are freed for the next ones of their size.

    gRPC copies gradients in blocks of megabytes, and for each glibc would ask Linux for new pages:
    12,000 page faults in a step of mini. Other libraries stay as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    for parameter, size in _GLIBC_SIZES.items():
        libc.mallopt(parameter, size)


def _found() -> str:
    """Return the strategy that the surroundings ask for."""
    if os.environ.get(TF_CONFIG):
        return "multi-worker"
    if os.environ.get(TPU_NAME) or tf.config.list_physical_devices("TPU"):
        return "tpu"
    return "mirrored" if len(tf.config.list_physical_devices("GPU")) > 1 else "one"


def _check_tf_config() -> None:
    """Raise `InputError` unless `TF_CONFIG` names the workers and which one this is."""
    text = os.environ.get(TF_CONFIG, "")
    example = (
        '{"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, '
        '"task": {"type": "worker", "index": 0}}'
    )
    try:
        config = json.loads(text)
        kind, index = config["task"]["type"], config["task"]["index"]
        known = isinstance(config["cluster"][kind][index], str) and index >= 0
    except (ValueError, TypeError, LookupError):
        known = False
    if not known:
        raise InputError(
            f"--strategy multi-worker: the environment's {TF_CONFIG} must name the workers, and "
            f"which one this is, as {example}; received {text or 'nothing'}"
        )
    if set(config["cluster"]) - {"chief", "worker"}:
        raise InputError(
            f"{TF_CONFIG}: only tasks of type chief and worker train; received "
            f"{', '.join(config['cluster'])}"
        )


def _tpu_strategy() -> tf.distribute.Strategy:
    name = os.environ.get(TPU_NAME, "local")
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect(name)
    except (ValueError, RuntimeError, tf.errors.OpError) as error:
        why = str(error).splitlines()[0]
        raise InputError(f"--strategy tpu: {TPU_NAME}={name} cannot be reached: {why}") from error
    return tf.distribute.TPUStrategy(resolver)


def is_on_cpu(strategy: tf.distribute.Strategy) -> bool:
    """Return whether the replicas of a strategy compute on CPUs."""
    on_tpu = isinstance(strategy, tf.distribute.TPUStrategy)
    return not (on_tpu or tf.config.list_logical_devices("GPU"))


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
