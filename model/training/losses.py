"""Losses and accuracies as (sum, weight) pairs, and the objective of pretraining.

Every function returns (sum, weight). Both are summed over batches and replicas and divided once at
the end, so the mean is exact for any batch sizes.

Shapes: B batch, K pairs of a packed record, P masked positions, S used slots of B·P, V vocabulary
size, C classes.

Source: google-research/bert, run_pretraining.py (get_masked_lm_output, get_next_sentence_output).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import keras
import tensorflow as tf

from model.bert.config import BertConfig
from model.bert.kernels import fused
from model.bert.layers import attention_mask
from model.bert.network import (
    SLOTS,
    PretrainingVariants,
    build_encoder,
    build_pretraining_model,
    encoder_layers,
    inputs_of_layer,
    weights_by_name,
)
from model.tasks.kinds import Head
from model.training.config import RelationsConfig
from model.training.distillation import relation_loss
from model.training.optimizer import same_for_all
from model.training.sums import Batch, Sums
from pipeline import schema

SLOTS_AT_ONCE = 32
"""See `Pretraining.compacted`."""


class Objective(Protocol):
    """The objective of a training: a model and the losses of its heads.

    The sums of a head are its `loss`, its `weight` (the number of predictions) and often its
    `accuracy` (the number of correct predictions).
    """

    @property
    def sum_names(self) -> list[str]:
        """Names of the results of `sums`: `HEAD_loss`, `HEAD_weight` and so on."""

    @property
    def needs_whole_batch(self) -> bool:
        """Whether an example's loss depends on the other examples of the global batch.

        Then the outputs of all devices and accumulation steps are gathered before `sums`.
        """

    def build_model(self, config: BertConfig) -> keras.Model:
        """Return the model; frozen weights are not trainable."""

    def weights(self, batch: Batch) -> Sums:
        """Return the weight of a batch by head, float32 [] each."""

    def compacted(self, batch: Batch) -> Batch:
        """Drop positions with zero weight; output shapes vary per batch."""

    def outputs(self, model: keras.Model, batch: Batch, *, training: bool) -> Batch:
        """Return the model's outputs for a batch, compacted or not."""

    def sums(self, outputs: Batch, batch: Batch) -> Sums:
        """Return every sum over a batch, compacted or not, by name, float32 [] each."""

    def learning_rate_factor(self, path: str) -> float:
        """Return the learning-rate multiplier for this weight."""


def texts_per_example(batch: Batch) -> int:
    """Return T if the model's inputs are [B, T, L]; 1 if they are [B, L]."""
    shape = batch[schema.INPUT_IDS].shape
    return int(shape[1]) if shape.rank == 3 else 1


def model_outputs(model: keras.Model, batch: Batch, *, training: bool) -> Batch:
    """Call a model on those features of a batch that are its inputs."""
    return model({name: batch[name] for name in model.input}, training=training)


def cross_entropy(
    logits: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the summed cross-entropy in nats and the summed weight, float32 [] each.

    Args:
        logits: float [..., C]. The computation is in float32 for every dtype.
        labels: int32 [...]. Correct class, 0 to C - 1.
        weights: float32 [...]. 1 = counts, 0 = does not.
    """
    return tf.reduce_sum(_nats(logits, labels) * weights), tf.reduce_sum(weights)


@tf.custom_gradient
def _nats(logits: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, Any]:
    """Return the cross-entropy of each row, float32 [...].

    With V columns, memory bandwidth dominates: logits are read three times, gradients included.
    """
    # The accuracy uses the same argmax; TensorFlow merges the two and computes it once.
    highest, chosen = (_at(logits, classes) for classes in (_best(logits, labels.dtype), labels))
    log_sums = _log_sums(logits, highest)

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, None]:
        return _logit_gradients(logits, log_sums, labels, upstream), None

    return log_sums - chosen, gradient


def _best(logits: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    return tf.argmax(logits, axis=-1, output_type=dtype)


def _at(logits: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
    """Return the logit of a class in each row, float32 [...]."""
    return tf.cast(tf.gather(logits, classes, batch_dims=classes.shape.rank), tf.float32)


@fused
def _log_sums(logits: tf.Tensor, highest: tf.Tensor) -> tf.Tensor:
    """Return the log-sum-exp of each row, given the highest logit of each row (for stability)."""
    shifted = tf.cast(logits, tf.float32) - highest[..., tf.newaxis]
    return highest + tf.math.log(tf.reduce_sum(tf.exp(shifted), axis=-1))


@fused
def _logit_gradients(
    logits: tf.Tensor, log_sums: tf.Tensor, labels: tf.Tensor, upstream: tf.Tensor
) -> tf.Tensor:
    """Return (softmax - one_hot(label)) · upstream, in the dtype of the logits."""
    # The softmax is computed again: stored, it would need as much memory as the logits.
    shares = tf.exp(tf.cast(logits, tf.float32) - log_sums[..., tf.newaxis])
    # A comparison instead of a one-hot array, so that XLA fuses it into the same pass.
    is_label = tf.range(tf.shape(logits)[-1], dtype=labels.dtype) == labels[..., tf.newaxis]
    gradients = (shares - tf.cast(is_label, tf.float32)) * upstream[..., tf.newaxis]
    return tf.cast(gradients, logits.dtype)


def accuracy(
    logits: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the summed weight of correct predictions and the summed weight, float32 [] each.

    Args:
        logits: float [..., C].
        labels: int32 [...]. Correct class, 0 to C - 1.
        weights: float32 [...]. 1 = counts, 0 = does not.
    """
    right = tf.equal(_best(logits, labels.dtype), labels)
    return tf.reduce_sum(tf.cast(right, tf.float32) * weights), tf.reduce_sum(weights)


def _labels_and_weights(head: Head, batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
    """Return a head's labels and their weights, float32 of the same shape.

    The labels of the masked LM are int32 [B, P], or [S]; those of next sentences [B], or of packed
    records [B, K].
    """
    if head == "masked_lm":
        return batch[schema.MASKED_LM_IDS], batch[schema.MASKED_LM_WEIGHTS]
    labels, weights = batch[schema.NEXT_SENTENCE_LABELS], batch["example_weights"]
    if not is_packed(batch):
        return labels[:, 0], weights
    return labels, batch[schema.NEXT_SENTENCE_WEIGHTS] * weights[:, tf.newaxis]


def is_packed(batch: Batch) -> bool:
    """Return whether the records of a batch hold several pairs."""
    return schema.POSITION_IDS in batch


def _variants(model: keras.Model, batch: Batch) -> PretrainingVariants:
    """Return the pretraining models for a batch."""
    return model.packed_variants if is_packed(batch) else model.variants


@dataclass(frozen=True)
class Pretraining:
    """The objective of pretraining: masked LM and, for paired data, next-sentence prediction.

    Attributes:
        heads: the heads to train.
        packed: whether some batches are of packed records.
    """

    heads: Sequence[Head]
    packed: bool = field(default=False, kw_only=True)
    needs_whole_batch = False

    @property
    def sum_names(self) -> list[str]:
        """Names of the results of `sums`.

        A head's `weight` is the number of masked pieces, or of pairs.
        """
        return [f"{head}_{what}" for head in self.heads for what in ("loss", "accuracy", "weight")]

    def build_model(self, config: BertConfig) -> keras.Model:
        """Return the pretraining model."""
        return build_pretraining_model(config, packed=self.packed)

    def weights(self, batch: Batch) -> Sums:
        """Return the number of masked pieces and of pairs (without filler), by head."""
        return {head: tf.reduce_sum(_labels_and_weights(head, batch)[1]) for head in self.heads}

    def compacted(self, batch: Batch) -> Batch:
        """Drop prediction slots that are unused, keeping S of the B·P slots.

        About an eighth of the slots is unused, since texts may be shorter than their record.

        Returns:
            The batch, with masked_lm_ids int32 [S], masked_lm_weights float32 [S] and
            masked_lm_slots int32 [S], flat indices into the B·P slots. The last few may be unused:
            S is rounded up to a multiple of `SLOTS_AT_ONCE`, or of a twentieth of B·P if that is
            larger, to limit the number of shapes that XLA compiles for.
        """
        names = (schema.MASKED_LM_IDS, schema.MASKED_LM_WEIGHTS)
        ids, weights = (tf.reshape(batch[name], [-1]) for name in names)
        # Stable: the slots that are kept stay in their order.
        masked_first = tf.argsort(weights, direction="DESCENDING", stable=True)
        count = tf.math.count_nonzero(weights, dtype=tf.int32)
        step = tf.maximum(SLOTS_AT_ONCE, tf.size(weights) // 20)
        # At least one step of slots, so that no array of a batch without masks is empty.
        size = -(-tf.maximum(count, 1) // step) * step
        slots = masked_first[:size]  # slicing clips at B·P
        kept = dict(zip(names, (tf.gather(ids, slots), tf.gather(weights, slots)), strict=True))
        return {**batch, **kept, SLOTS: slots}

    def outputs(self, model: keras.Model, batch: Batch, *, training: bool) -> Batch:
        """Return the model's outputs; for a compacted batch masked_lm_logits are [S, V]."""
        variants = _variants(model, batch)
        called = variants.at_slots if SLOTS in batch else variants.whole
        return model_outputs(called, batch, training=training)

    def sums(self, outputs: Batch, batch: Batch) -> Sums:
        """Return every sum over a batch, float32 [] each.

        Args:
            outputs: outputs of the pretraining model: masked_lm_logits [B, P, V] or [S, V],
                next_sentence_logits [B, 2], or of packed records [B, K, 2].
            batch: the batch's features, and example_weights float32 [B]: 1 = counts, 0 = filler.
        """
        sums = {}
        for head in self.heads:
            arguments = (outputs[f"{head}_logits"], *_labels_and_weights(head, batch))
            sums[f"{head}_loss"], sums[f"{head}_weight"] = cross_entropy(*arguments)
            sums[f"{head}_accuracy"], _ = accuracy(*arguments)
        return sums

    learning_rate_factor = staticmethod(same_for_all)


RELATIONS = "relation"
"""Name of the loss of a student's relations, next to those of the heads."""


@dataclass(frozen=True)
class StudentPretraining(Pretraining):
    """Pretraining with the relations of queries, keys and values of a teacher's layer.

    The student's last layer learns them (MiniLMv2, see `distillation.relation_loss`), with the
    heads or instead of them.

    Attributes:
        relations: teacher's layer, and number of relation heads.
        teacher: config of the teacher.
        fill: assigns the teacher's weights to variables by name.
        built: the teacher's encoder, once `build_model` has built it on the devices.
    """

    relations: RelationsConfig
    teacher: BertConfig
    fill: Callable[[Mapping[str, Any]], object]
    built: dict[str, keras.layers.Layer] = field(default_factory=dict, compare=False)

    @property
    def sum_names(self) -> list[str]:
        """Names of the results of `sums`; `relation_weight` is the number of real positions."""
        return [*super().sum_names, f"{RELATIONS}_loss", f"{RELATIONS}_weight"]

    def build_model(self, config: BertConfig) -> keras.Model:
        """Return the student's model, and build the teacher's, which is not part of it."""
        encoder = build_encoder(self.teacher)
        self.fill(weights_by_name(encoder))
        index = self.relations.layer - 1
        self.built["below"] = inputs_of_layer(encoder, index)
        if self.packed:
            self.built["below_packed"] = inputs_of_layer(encoder, index, packed=True)
        self.built["layer"] = encoder_layers(encoder)[index]
        return super().build_model(config)

    def weights(self, batch: Batch) -> Sums:
        """Return the weights of the heads, and the number of real positions."""
        return {**super().weights(batch), RELATIONS: tf.reduce_sum(_real_positions(batch))}

    def outputs(self, model: keras.Model, batch: Batch, *, training: bool) -> Batch:
        """Return the model's outputs, and queries, keys and values of student and teacher."""
        variants = _variants(model, batch)
        student = variants.for_students_at_slots if SLOTS in batch else variants.for_students
        outputs = model_outputs(student, batch, training=training)
        teacher = self.built["below_packed" if is_packed(batch) else "below"]
        below = model_outputs(teacher, batch, training=False)["layer_inputs"]
        vectors = {
            "student": encoder_layers(model.encoder)[-1].projections(outputs["last_inputs"]),
            "teacher": self.built["layer"].projections(below),
        }
        return dict(outputs) | {
            # The teacher is no part of the model; its layers must get no gradients.
            f"{side} {name}": tf.stop_gradient(values) if side == "teacher" else values
            for side, of_side in vectors.items()
            for name, values in of_side.items()
        }

    def sums(self, outputs: Batch, batch: Batch) -> Sums:
        """Return the sums of the heads and of the relations: those of queries, keys and values."""
        mask = _real_positions(batch)
        seen = None
        if is_packed(batch):
            seen = attention_mask(batch[schema.INPUT_MASK], batch[schema.POSITION_IDS])
        losses = [
            relation_loss(
                outputs[f"student {name}"],
                outputs[f"teacher {name}"],
                mask,
                self.relations.heads,
                seen,
            )
            for name in ("queries", "keys", "values")
        ]
        return {
            **super().sums(outputs, batch),
            f"{RELATIONS}_loss": tf.add_n(losses),
            f"{RELATIONS}_weight": tf.reduce_sum(mask),
        }


def _real_positions(batch: Batch) -> tf.Tensor:
    """Return 1 for real positions of examples that count, else 0: float32 [B, L]."""
    mask = tf.cast(batch[schema.INPUT_MASK], tf.float32)
    return mask * batch["example_weights"][:, tf.newaxis]


def global_loss(sums: Batch, global_weights: Batch) -> tf.Tensor:
    """Return a replica's share of the total loss; the loss is the sum of all replicas' shares.

    Args:
        sums: this replica's sums of an `Objective`.
        global_weights: the weights summed over all replicas. A batch without a masked piece has
            weight 0 and loss 0.
    """
    return tf.add_n(
        [sums[f"{head}_loss"] / tf.maximum(w, 1.0) for head, w in global_weights.items()]
    )
