"""Batches of tensors by name, sums over them, and the means of the sums."""

from collections.abc import Mapping

import tensorflow as tf

Batch = Mapping[str, tf.Tensor]

Sums = dict[str, tf.Tensor]


def means(sums: Mapping[str, float]) -> dict[str, float]:
    """Return the mean of every metric, and the heads' total `loss`, from their sums."""
    averaged = {}
    for name, value in sums.items():
        head, _, what = name.rpartition("_")
        if what in ("loss", "accuracy"):
            averaged[name] = value / max(sums[f"{head}_weight"], 1.0)
    total = sum(value for name, value in averaged.items() if name.endswith("_loss"))
    return {"loss": total, **averaged}
