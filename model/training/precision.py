"""Compute dtypes of matrix multiplications; weights, sums and optimizer stay float32."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import keras
import tensorflow as tf

from model.training.config import Precision
from model.training.strategy import is_on_cpu

POLICIES: dict[Precision, str] = {
    "float32": "float32",
    "bfloat16": "mixed_bfloat16",
    "float16": "mixed_float16",
}
"""Keras dtype policies by our names."""

CPU_FLAGS = {"amx_bf16", "avx512_bf16"}
"""Linux's names of CPU extensions for bfloat16. With either, a training step of size mini took
about 0.6 of the time in float32: AMX on an Intel Xeon (57 %), AVX-512 on an AMD EPYC of Zen 4
(64 %)."""

AMPERE = 8
"""Major compute capability of NVIDIA's first GPUs with bfloat16 support."""


def fastest(strategy: tf.distribute.Strategy) -> Precision:
    """Return bfloat16 if every device has hardware support for it, else float32."""
    if isinstance(strategy, tf.distribute.TPUStrategy):
        return "bfloat16"
    if is_on_cpu(strategy):
        return "bfloat16" if CPU_FLAGS.intersection(_cpu_flags()) else "float32"
    gpus = map(tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU"))
    new = all(gpu.get("compute_capability", (0, 0))[0] >= AMPERE for gpu in gpus)
    return "bfloat16" if new else "float32"


def _cpu_flags() -> list[str]:
    """Return the CPU's feature flags from Linux; empty on other systems."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0].split()
    except OSError:
        return []


@contextmanager
def dtype_policy(precision: Precision) -> Iterator[None]:
    """Inside the context, Keras layers are built with this compute dtype."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(POLICIES[precision])
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
