"""The machine's peak FLOP rate, for model FLOP utilization."""

import time
from functools import cache

import tensorflow as tf

PEAK_SIZE = 2048
PEAK_TRIES = 5


@cache  # measured once per process: it takes as long as the start of a tiny model's training
def matrix_peak(precision: str) -> float:
    """Measure the FLOP rate of large matrix products on the first device, per second.

    The best of a few attempts, in a fraction of a second: the achievable rate of this machine, not
    that of its data sheet.
    """
    a = tf.cast(tf.random.stateless_normal([PEAK_SIZE, PEAK_SIZE], [1, 2]), precision)
    multiply = tf.function(tf.matmul)
    multiply(a, a)  # compiles
    best = float("inf")
    for _ in range(PEAK_TRIES):
        began = time.perf_counter()
        _ = multiply(a, a)[0, 0].numpy()  # reading a value waits for the device
        best = min(best, time.perf_counter() - began)
    # A product of n × n matrices has n³ multiplications and as many additions.
    return 2.0 * PEAK_SIZE**3 / best
