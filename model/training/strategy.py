"""Choose the distribution strategy: one device, all local GPUs, several workers, or a TPU."""

import ctypes
import os
import platform
from typing import get_args

import tensorflow as tf

from model.training.cluster import Cluster, cluster_from, names_workers
from model.training.config import Strategy
from pipeline.errors import InputError

STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)

TPU_NAME = "TPU_NAME"

# Parameters of mallopt(3), in bytes. M_MMAP_THRESHOLD: blocks of this size or more are mapped
# separately; set to the largest value that glibc accepts. M_TRIM_THRESHOLD: how much free memory a
# heap may keep at its end. M_TOP_PAD: other threads than the first have heaps of 64 MB; glibc frees
# an unused last heap unless it and the free memory before it are smaller than M_TOP_PAD, so this is
# two heaps.
_GLIBC_SIZES = {-3: 32 << 20, -1: 1 << 30, -2: 128 << 20}


def make_strategy(name: str) -> tf.distribute.Strategy:
    """Return the strategy with this name.

    Args:
        name: `one`: a single device (the first GPU, if any). `mirrored`: all local GPUs, or the
            logical CPUs without a GPU. `multi-worker`: all devices of the workers that the
            environment names (see `model.training.cluster`).
            `tpu`: the TPU named by `TPU_NAME`, or the local one. `auto`: chosen from the hardware
            and the environment (see `_detected`).

    Raises:
        InputError: the name is unknown, or the strategy's devices are not available.
    """
    if name not in STRATEGIES:
        raise InputError(f"`strategy` {name}: expected one of {', '.join(STRATEGIES)}")
    if name == "auto":
        name = _detected()
    if name == "multi-worker":
        return _multi_worker_strategy(cluster_from(os.environ))
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


def _multi_worker_strategy(cluster: Cluster) -> tf.distribute.Strategy:
    keep_freed_memory()
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": cluster.addresses}),
        task_type="worker",
        task_id=cluster.index,
        rpc_layer="grpc",
    )
    # Must be created before any other TensorFlow operation: it sets up the collectives.
    return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)


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
