"""Which devices train in step: one, all of this machine's, those of several machines, or a TPU."""

import ctypes
import json
import os
import platform
from typing import get_args

import tensorflow as tf

from model.commands import StrategyName
from pipeline.errors import InputError

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
