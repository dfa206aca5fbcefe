"""Choose the distribution strategy: one device, all local GPUs, several workers, or a TPU."""

import contextlib
import ctypes
import os
import platform
import re
from collections.abc import Iterator
from typing import get_args

import tensorflow as tf

from model.training.cluster import Cluster, cluster_from, names_workers
from model.training.config import START_FACTOR, ExecutionConfig, Strategy
from pipeline.errors import InputError, JobError, reason

STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)

TPU_NAME = "TPU_NAME"

_WORKER = "worker"

# Parameters of mallopt(3), in bytes. M_MMAP_THRESHOLD: blocks of this size or more are mapped
# separately; set to the largest value that glibc accepts. M_TRIM_THRESHOLD: how much free memory a
# heap may keep at its end. M_TOP_PAD: other threads than the first have heaps of 64 MB; glibc frees
# an unused last heap unless it and the free memory before it are smaller than M_TOP_PAD, so this is
# two heaps.
_GLIBC_SIZES = {-3: 32 << 20, -1: 1 << 30, -2: 128 << 20}


def make_strategy(
    name: str, worker_timeout_secs: float = ExecutionConfig.worker_timeout_secs
) -> tf.distribute.Strategy:
    """Return the strategy with this name.

    Args:
        name: `one`: a single device (the first GPU, if any). `mirrored`: all local GPUs, or the
            logical CPUs without a GPU. `multi-worker`: all devices of the workers that the
            environment names (see `model.training.cluster`).
            `tpu`: the TPU named by `TPU_NAME`, or the local one. `auto`: chosen from the hardware
            and the environment (see `_detected`).
        worker_timeout_secs: time without a heartbeat after which a worker counts as lost; at the
            start, workers wait for each other `START_FACTOR` times as long.

    Raises:
        InputError: the name is unknown, the strategy's devices are not available, or the
            environment names no workers.
        JobError: the other workers did not start in time.
    """
    if name not in STRATEGIES:
        raise InputError(f"`strategy` {name}: expected one of {', '.join(STRATEGIES)}")
    if name == "auto":
        name = _detected()
    if name == "multi-worker":
        return _multi_worker_strategy(cluster_from(os.environ), worker_timeout_secs)
    if name == "tpu":
        return _tpu_strategy()
    if name == "mirrored":
        gpus = tf.config.list_logical_devices("GPU")
        devices = gpus or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    # TensorFlow's default strategy uses the first GPU, or the CPU, without distribution overhead.
    return tf.distribute.get_strategy()


def keep_freed_memory() -> None:
    """Make glibc reuse large freed blocks instead of returning them to the kernel.

    gRPC copies gradients in blocks of megabytes; glibc would request new pages for each of them,
    12,000 page faults in a step of size mini. Other C libraries are left unchanged.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    for parameter, size in _GLIBC_SIZES.items():
        libc.mallopt(parameter, size)


def _detected() -> str:
    """Return the strategy's name for `auto`: from the environment and the hardware."""
    if names_workers(os.environ):
        return "multi-worker"
    if os.environ.get(TPU_NAME) or tf.config.list_physical_devices("TPU"):
        return "tpu"
    return "mirrored" if len(tf.config.list_physical_devices("GPU")) > 1 else "one"


def _multi_worker_strategy(cluster: Cluster, timeout_secs: float) -> tf.distribute.Strategy:
    keep_freed_memory()
    _set_timeouts(len(cluster.addresses), timeout_secs)
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({_WORKER: cluster.addresses}),
        task_type=_WORKER,
        task_id=cluster.index,
        rpc_layer="grpc",
    )
    with _start_faults_named(cluster, timeout_secs):
        # Must be created before any other TensorFlow operation: it sets up the collectives.
        return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)


@contextlib.contextmanager
def _start_faults_named(cluster: Cluster, timeout_secs: float) -> Iterator[None]:
    """Convert TensorFlow's errors while the workers connect to each other."""
    try:
        yield
    except tf.errors.DeadlineExceededError as error:
        names = "the first worker"
        if cluster.index == 0:  # which counts the others
            late = str(error).rpartition("timed out task names:")[2]
            names = ", ".join(
                f"worker {index + 1} ({cluster.addresses[index]})"
                for index in sorted({int(task) for task in re.findall(r"/task:(\d+)", late)})
            )
        raise JobError(
            f"{cluster}: {names or 'another worker'} did not start within "
            f"{START_FACTOR * timeout_secs:g} s, or cannot be reached; check its address and its "
            "messages, or give a longer `worker_timeout_secs`"
        ) from error
    except tf.errors.UnknownError as error:
        address = cluster.addresses[cluster.index]
        if "start gRPC server" not in str(error):
            raise
        raise InputError(
            f"{cluster}: cannot listen on the port of {address}; stop the process that has it, or "
            "choose another port"
        ) from error
    except tf.errors.OpError as error:
        raise JobError(f"{cluster}: cannot connect to the others: {reason(error)}") from error


def _set_timeouts(workers: int, timeout_secs: float) -> None:
    """Set how long TensorFlow's workers wait for each other.

    Each worker sends heartbeats to a coordination service in the first one. If they stop, the
    collectives of all workers end with an error. TensorFlow's strategy keeps a configuration that
    is set before it is created; there is no public interface for that.
    """
    from tensorflow.compiler.xla.tsl.protobuf import coordination_config_pb2
    from tensorflow.python.eager import context

    jobs = [coordination_config_pb2.CoordinatedJob(name=_WORKER, num_tasks=workers)]
    context.context().configure_coordination_service(
        service_type="standalone",
        service_leader=f"/job:{_WORKER}/replica:0/task:0",
        heartbeat_timeout_in_ms=round(timeout_secs * 1000),
        cluster_register_timeout_in_ms=round(START_FACTOR * timeout_secs * 1000),
        coordinated_jobs=jobs,
    )
    # Without a barrier, the first collective would wait forever for a worker that never starts.
    context.context().coordination_service.cluster_register_with_barrier = True


def _tpu_strategy() -> tf.distribute.Strategy:
    name = os.environ.get(TPU_NAME, "local")
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect(name)
    except (ValueError, RuntimeError, tf.errors.OpError) as error:
        why = str(error).splitlines()[0]
        raise InputError(f"`strategy` tpu: {TPU_NAME}={name} cannot be reached: {why}") from error
    return tf.distribute.TPUStrategy(resolver)


def is_on_cpu(strategy: tf.distribute.Strategy) -> bool:
    """Return whether a strategy's replicas run on CPUs."""
    on_tpu = isinstance(strategy, tf.distribute.TPUStrategy)
    return not (on_tpu or tf.config.list_logical_devices("GPU"))
