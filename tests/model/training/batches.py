"""A batch of pretraining, as the trainer takes it."""

import tensorflow as tf


def batch_of_four() -> dict[str, tf.Tensor]:
    """Return 4 records of 16 positions, 3 of them masked."""
    return {
        "input_ids": tf.fill([4, 16], 7),
        "input_mask": tf.ones([4, 16], tf.int32),
        "segment_ids": tf.zeros([4, 16], tf.int32),
        "masked_lm_positions": tf.constant([[1, 2, 3]] * 4),
        "masked_lm_ids": tf.constant([[8, 9, 10]] * 4),
        "masked_lm_weights": tf.ones([4, 3]),
        "next_sentence_labels": tf.ones([4, 1], tf.int32),
        "example_weights": tf.ones([4]),
    }
