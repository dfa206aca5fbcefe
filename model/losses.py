"""The two pretraining losses and their accuracies, as sums and weights to divide once, at the end.

Every function returns (sum, weight): summed over batches and replicas first and divided then, the
mean is exact whatever the batches' sizes.

Shapes: B batch, P masked positions, V vocabulary size, C classes.

Source: google-research/bert, run_pretraining.py (get_masked_lm_output, get_next_sentence_output).
"""

from collections.abc import Mapping

import tensorflow as tf

SUMS = (
    "masked_lm_loss",
    "masked_lm_accuracy",
    "next_sentence_loss",
    "next_sentence_accuracy",
)
"""What is measured, by name; each has the weight of its head in `WEIGHT_OF`."""

WEIGHTS = ("masked_lm_weight", "next_sentence_weight")
"""Masked pieces and examples."""

WEIGHT_OF = {name: WEIGHTS[0] if name.startswith("masked_lm") else WEIGHTS[1] for name in SUMS}


def cross_entropy(
    logits: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the summed cross-entropy in nats and the summed weight, float32 [] each.

    Args:
        logits: float [..., C]. Computed on in float32 whatever they come as.
        labels: int32 [...]. Right class, 0 to C - 1.
        weights: float32 [...]. 1 = counts, 0 = does not.
    """
    nats = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, tf.cast(logits, tf.float32))
    return tf.reduce_sum(nats * weights), tf.reduce_sum(weights)


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


def batch_weights(batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Return the number of masked pieces and of examples that count, by `WEIGHTS` name."""
    counted = (batch["masked_lm_weights"], batch["example_weights"])
    return {name: tf.reduce_sum(weights) for name, weights in zip(WEIGHTS, counted, strict=True)}


def pretraining_sums(
    outputs: Mapping[str, tf.Tensor], batch: Mapping[str, tf.Tensor]
) -> dict[str, tf.Tensor]:
    """Return every sum of `SUMS` and weight of `WEIGHTS` over a batch, float32 [] each.

    Args:
        outputs: the pretraining model's: masked_lm_logits [B, P, V], next_sentence_logits [B, 2].
        batch: the batch's features, and example_weights float32 [B]: 1 = counts, 0 = filler.
    """
    masked_lm = (
        outputs["masked_lm_logits"],
        batch["masked_lm_ids"],
        batch["masked_lm_weights"],
    )
    next_sentence = (
        outputs["next_sentence_logits"],
        batch["next_sentence_labels"][:, 0],
        batch["example_weights"],
    )
    sums = {}
    for head, arguments in (("masked_lm", masked_lm), ("next_sentence", next_sentence)):
        sums[f"{head}_loss"], sums[f"{head}_weight"] = cross_entropy(*arguments)
        sums[f"{head}_accuracy"], _ = accuracy(*arguments)
    return sums


def global_loss(
    sums: Mapping[str, tf.Tensor], global_weights: Mapping[str, tf.Tensor]
) -> tf.Tensor:
    """Return a replica's share of the batch's loss, MLM + NSP; the shares of all replicas add up.

    Args:
        sums: this replica's `pretraining_sums`.
        global_weights: `batch_weights` summed over the replicas. A batch without a masked piece
            has weight 0 and loss 0.
    """
    return tf.add_n(
        [
            sums[name] / tf.maximum(global_weights[WEIGHT_OF[name]], 1.0)
            for name in ("masked_lm_loss", "next_sentence_loss")
        ]
    )


def means(sums: Mapping[str, float]) -> dict[str, float]:
    """Return the mean of every measure of `SUMS`, and their `loss`, from sums and weights."""
    averaged = {name: sums[name] / max(sums[WEIGHT_OF[name]], 1.0) for name in SUMS}
    return {"loss": averaged["masked_lm_loss"] + averaged["next_sentence_loss"], **averaged}
