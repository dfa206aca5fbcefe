"""Choose the distribution strategy: one device, all local GPUs, several workers, or a TPU."""

import ctypes
import json
import os
import platform
from typing import get_args

import tensorflow as tf

from model.training.config import Strategy
from pipeline.errors import InputError

STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)

TF_CONFIG = "TF_CONFIG"
"""Environment variable with the addresses of all workers and the index of this one:
https://www.tensorflow.org/guide/distributed_training#setting_up_the_tf_config_environment_variable"""

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
            logical CPUs without a GPU. `multi-worker`: all devices of the workers in `TF_CONFIG`.
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
        _check_tf_config()
        keep_freed_memory()
        # Must be created before any other TensorFlow operation: it sets up the collectives.
        return tf.distribute.MultiWorkerMirroredStrategy()
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
    """Return the strategy's name for `auto`: from TF_CONFIG, TPU_NAME and the hardware."""
    if os.environ.get(TF_CONFIG):
        return "multi-worker"
    if os.environ.get(TPU_NAME) or tf.config.list_physical_devices("TPU"):
        return "tpu"
    return "mirrored" if len(tf.config.list_physical_devices("GPU")) > 1 else "one"


def _check_tf_config() -> None:
    """Raise `InputError` unless `TF_CONFIG` contains the workers and the index of this one."""
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
            f"`strategy` multi-worker: the environment's {TF_CONFIG} must name the workers, and "
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
        raise InputError(f"`strategy` tpu: {TPU_NAME}={name} cannot be reached: {why}") from error
    return tf.distribute.TPUStrategy(resolver)


def is_on_cpu(strategy: tf.distribute.Strategy) -> bool:
    """Return whether a strategy's replicas run on CPUs."""
    on_tpu = isinstance(strategy, tf.distribute.TPUStrategy)
    return not (on_tpu or tf.config.list_logical_devices("GPU"))
