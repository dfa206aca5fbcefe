"""Which devices train: one, or every GPU (or logical CPU) of this machine in step."""

import tensorflow as tf

from pipeline.errors import InputError

STRATEGIES = ("auto", "one", "mirrored")


def make_strategy(name: str) -> tf.distribute.Strategy:
    """Return the strategy of this name.

    Args:
        name: `one` device (the first GPU where there is one); `mirrored` over all GPUs, or over the
            logical CPUs where there is none; `auto` is `mirrored` where there are several GPUs.

    Raises:
        InputError: there is no strategy of this name.
    """
    if name not in STRATEGIES:
        raise InputError(f"--strategy {name}: expected one of {', '.join(STRATEGIES)}")
    gpus = tf.config.list_logical_devices("GPU")
    if name == "mirrored" or (name == "auto" and len(gpus) > 1):
        devices = gpus or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    # TensorFlow's default strategy: the first GPU, or the CPU, without the cost of distribution.
    return tf.distribute.get_strategy()
