"""How much a training step computes, and how much this machine could."""

import time

import tensorflow as tf

from model.bert.config import BertConfig

PEAK_SIZE = 2048
PEAK_TRIES = 5


def step_flops(config: BertConfig, examples: int, length: float, predictions: int) -> float:
    """Return the floating-point operations of the matrix products of one training step.

    Two for each number of a matrix and each row that it is multiplied with, and twice as many
    again for the gradients (Chowdhery et al. 2022, https://arxiv.org/abs/2204.02311, appendix B).
    What is recomputed does not count.

    Args:
        config: the model.
        examples: in the step.
        length: L, positions of an example.
        predictions: P, masked positions of an example.
    """
    hidden = config.hidden_size
    gathered_from = 2 * hidden**2  # a position's keys and values
    # Its queries, their scores, what is gathered with them, and three dense layers after that.
    gathering = 2 * hidden**2 + 2 * length * hidden + 2 * hidden * config.intermediate_size
    masked_lm = hidden**2 + hidden * config.vocab_size
    products = config.num_hidden_layers * length * gathered_from
    products += (config.num_hidden_layers - 1) * length * gathering
    # In the last layer the masked positions gather, and the first one, picked by a product.
    products += (predictions + 1) * (gathering + length * hidden)
    products += predictions * masked_lm + hidden**2 + 2 * hidden  # and the pooler and its head
    return 3.0 * 2.0 * examples * products


def matrix_peak(precision: str) -> float:
    """Return the floating-point operations a second of large products on the first device.

    The best of a few, in a fraction of a second: the machine's rate, whatever its data sheet says.
    """
    a = tf.cast(tf.random.stateless_normal([PEAK_SIZE, PEAK_SIZE], [1, 2]), precision)
    multiply = tf.function(tf.matmul)
    multiply(a, a)
    best = float("inf")
    for _ in range(PEAK_TRIES):
        began = time.perf_counter()
        _ = multiply(a, a)[0, 0].numpy()  # waits for the device
        best = min(best, time.perf_counter() - began)
    return 2.0 * PEAK_SIZE**3 / best
