"""The line of the log: means over all updates since the line before."""

import pytest
import tensorflow as tf

from model.training.window import Window


def test_means_over_two_calls() -> None:
    window = Window(lambda step: tf.cast(step, tf.float32) / 100.0)
    first = {"task_loss": 6.0, "task_accuracy": 2.0, "task_weight": 4.0, "gradient_norm": 3.0}
    second = {"task_loss": 2.0, "task_accuracy": 4.0, "task_weight": 4.0, "gradient_norm": 9.0}
    positions = {"positions": 64.0, "real_positions": 48.0}
    window.add({**first, **positions, "data_secs": 0.25}, steps=1, secs=1.0)
    window.add({**second, **positions, "data_secs": 0.5}, steps=3, secs=2.0)
    assert window.values(7) == pytest.approx(
        {
            "loss": 1.0,
            "task_loss": 1.0,
            "task_accuracy": 0.75,
            "gradient_norm": 3.0,
            "padding_rate": 0.25,
            "data_wait_rate": 0.25,
            "learning_rate": 0.06,
        }
    )
