"""FLOPs of a training step, and the machine's peak FLOP rate, for model FLOP utilization."""

import time
from functools import cache

import tensorflow as tf

from model.bert.config import BertConfig

PEAK_SIZE = 2048
PEAK_TRIES = 5


def step_flops(config: BertConfig, examples: int, length: float, predictions: int) -> float:
    """Return the floating-point operations of the matrix products of one training step.

    A product of [m, k] and [k, n] has 2·m·k·n operations, and its two gradients twice as many
    (Chowdhery et al. 2022, https://arxiv.org/abs/2204.02311, appendix B). Recomputation by gradient
    checkpointing does not count.

    Args:
        config: hyperparameters of the model.
        examples: number of examples in the step.
        length: L, positions per example.
        predictions: P, masked positions per example.
    """
    hidden = config.hidden_size
    gathered_from = 2 * hidden**2  # per position: keys and values
    # Per position: query, attention scores, weighted sum, and the three dense layers after it.
    gathering = 2 * hidden**2 + 2 * length * hidden + 2 * hidden * config.intermediate_size
    masked_lm = hidden**2 + hidden * config.vocab_size
    products = config.num_hidden_layers * length * gathered_from
    products += (config.num_hidden_layers - 1) * length * gathering
    # The last layer computes only the masked positions and [CLS], which a product selects.
    products += (predictions + 1) * (gathering + length * hidden)
    products += predictions * masked_lm + hidden**2 + 2 * hidden  # and the pooler and its head
    return 3.0 * 2.0 * examples * products


@cache  # measured once per process: it takes as long as the start of a tiny model's training
def matrix_peak(precision: str) -> float:
    """Measure the FLOP rate of large matrix products on the first device, per second.

    The best of a few attempts, in a fraction of a second: the achievable rate of this machine, not
    that of its data sheet.
    """
    a = tf.cast(tf.random.stateless_normal([PEAK_SIZE, PEAK_SIZE], [1, 2]), precision)
    multiply = tf.function(tf.matmul)
    multiply(a, a)
    best = float("inf")
    for _ in range(PEAK_TRIES):
        began = time.perf_counter()
        _ = multiply(a, a)[0, 0].numpy()  # reading a value waits for the device
        best = min(best, time.perf_counter() - began)
    return 2.0 * PEAK_SIZE**3 / best
