"""The two pretraining losses and their accuracies, as sums and weights to divide once, at the end.

Every function returns (sum, weight): summed over batches and replicas first and divided then, the
mean is exact whatever the batches' sizes.

Shapes: B batch, P masked positions, V vocabulary size, C classes.

Source: google-research/bert, run_pretraining.py (get_masked_lm_output, get_next_sentence_output).
"""

from collections.abc import Iterable, Mapping

import tensorflow as tf

from model.functions import fused
from model.tasks import Head


def sum_names(trained: Iterable[Head]) -> list[str]:
    """Return the names of everything that `pretraining_sums` adds up for some heads.

    A head's `weight` is the number of masked pieces, or of examples.
    """
    return [f"{head}_{what}" for head in trained for what in ("loss", "accuracy", "weight")]


def cross_entropy(
    logits: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the summed cross-entropy in nats and the summed weight, float32 [] each.

    Args:
        logits: float [..., C]. Computed on in float32 whatever they come as.
        labels: int32 [...]. Right class, 0 to C - 1.
        weights: float32 [...]. 1 = counts, 0 = does not.
    """
    return _summed_nats(logits, labels, weights), tf.reduce_sum(weights)


@fused
def _summed_nats(logits: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    nats = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, tf.cast(logits, tf.float32))
    return tf.reduce_sum(nats * weights)


def accuracy(
    logits: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the weight of what the highest logit gets right and the summed weight.

    Args:
        logits: float [..., C].
        labels: int32 [...]. Right class, 0 to C - 1.
        weights: float32 [...]. 1 = counts, 0 = does not.
    """
    right = tf.equal(tf.argmax(logits, axis=-1, output_type=labels.dtype), labels)
    return tf.reduce_sum(tf.cast(right, tf.float32) * weights), tf.reduce_sum(weights)


def labels_and_weights(head: Head, batch: Mapping[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """Return a head's labels, int32 [B, P] or [B], and their weights, float32 of the same shape."""
    if head == "masked_lm":
        return batch["masked_lm_ids"], batch["masked_lm_weights"]
    return batch["next_sentence_labels"][:, 0], batch["example_weights"]


def batch_weights(trained: Iterable[Head], batch: Mapping[str, tf.Tensor]) -> dict[Head, tf.Tensor]:
    """Return the number of masked pieces and of examples that count, by head."""
    return {head: tf.reduce_sum(labels_and_weights(head, batch)[1]) for head in trained}


def pretraining_sums(
    trained: Iterable[Head], outputs: Mapping[str, tf.Tensor], batch: Mapping[str, tf.Tensor]
) -> dict[str, tf.Tensor]:
    """Return every sum of `sum_names` over a batch, float32 [] each.

    Args:
        trained: the heads.
        outputs: the pretraining model's: masked_lm_logits [B, P, V], next_sentence_logits [B, 2].
        batch: the batch's features, and example_weights float32 [B]: 1 = counts, 0 = filler.
    """
    sums = {}
    for head in trained:
        arguments = (outputs[f"{head}_logits"], *labels_and_weights(head, batch))
        sums[f"{head}_loss"], sums[f"{head}_weight"] = cross_entropy(*arguments)
        sums[f"{head}_accuracy"], _ = accuracy(*arguments)
    return sums


def global_loss(
    sums: Mapping[str, tf.Tensor], global_weights: Mapping[Head, tf.Tensor]
) -> tf.Tensor:
    """Return a replica's share of the heads' losses, added; the shares of all replicas add up.

    Args:
        sums: this replica's `pretraining_sums`.
        global_weights: `batch_weights` summed over the replicas. A batch without a masked piece
            has weight 0 and loss 0.
    """
    return tf.add_n(
        [sums[f"{head}_loss"] / tf.maximum(w, 1.0) for head, w in global_weights.items()]
    )


def means(sums: Mapping[str, float]) -> dict[str, float]:
    """Return the mean of every measure, and the heads' `loss` together, from `sum_names`."""
    averaged = {}
    for name, value in sums.items():
        head, _, what = name.rpartition("_")
        if what in ("loss", "accuracy"):
            averaged[name] = value / max(sums[f"{head}_weight"], 1.0)
    total = sum(value for name, value in averaged.items() if name.endswith("_loss"))
    return {"loss": total, **averaged}
