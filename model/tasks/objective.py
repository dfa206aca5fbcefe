"""Fine-tuning objective, for all kinds of task.

Shapes: B batch size, L positions, C outputs of the task's head; T texts of an example, if they are
encoded one by one, and D components of a text's vector.
"""

from dataclasses import dataclass

import keras
import tensorflow as tf

from model import served
from model.bert.config import BertConfig
from model.bert.network import LAYER, build_task_model
from model.tasks.task_kind import Task
from model.training.losses import accuracy, cross_entropy, model_outputs, texts_per_example
from model.training.sums import Batch, Sums
from pipeline import schema


@dataclass(frozen=True)
class Tuning:
    """Loss of a task, and layer-wise learning rates.

    Attributes:
        task: the task.
        num_layers: number of Transformer layers in the encoder.
        layer_decay: ratio of a layer's learning rate to that of the layer above.
        frozen_layers: number of lowest layers that are not trained; if above 0, the embeddings are
            not trained either.
        class_weights: weight of the examples of each class; empty = 1.
        teacher_weight: share of the teacher's answers in the loss, 0 to 1; 0 = no teacher.
        temperature: temperature of the soft targets, above 0.
    """

    task: Task
    num_layers: int
    layer_decay: float = 1.0
    frozen_layers: int = 0
    class_weights: tuple[float, ...] = ()
    teacher_weight: float = 0.0
    temperature: float = 1.0

    @property
    def sum_names(self) -> list[str]:
        """Names of the sums that `sums` returns."""
        return self.task.definition.sum_names

    def build_model(self, config: BertConfig) -> keras.Model:
        """Return the task's model, with the frozen layers not trainable."""
        model = build_task_model(config, self.task)
        for layer in model.get_layer("encoder").layers:
            # Not trainable, so that neither gradients nor optimizer slots are made for it.
            if self.frozen_layers and self._depth(layer.name) <= self.frozen_layers:
                layer.trainable = False
        return model

    def learning_rate_factor(self, path: str) -> float:
        """Return the learning-rate multiplier for this weight."""
        # Howard & Ruder 2018, https://arxiv.org/abs/1801.06146, section 3.2; the head has factor 1.
        return self.layer_decay ** (self.num_layers + 1 - self._depth(path))

    def _depth(self, path: str) -> int:
        """Return 0 for the embeddings, n for the nth layer, and num_layers + 1 for the head."""
        name = path.split("/", 1)[0]
        if name.startswith(LAYER):
            return int(name.removeprefix(LAYER)) + 1
        is_embedding = "embedding" in name
        return 0 if is_embedding else self.num_layers + 1

    def weights(self, batch: Batch) -> Sums:
        """Return the total weight of the examples, or of the tagged words, in the batch."""
        return {"task": tf.reduce_sum(self._weights(batch))}

    def _weights(self, batch: Batch) -> tf.Tensor:
        """Return the weight of each label: float32 [B] or [B, L]."""
        weights = self.task.definition.label_weights(batch)
        if self.class_weights:
            # NO_LABEL (-1) is no index; its weight is 0, so class 0 can stand in for it.
            labels = tf.maximum(batch["task_labels"], 0)
            weights *= tf.gather(tf.constant(self.class_weights), labels)
        return weights

    def compacted(self, batch: Batch) -> Batch:
        """Return the batch unchanged (fine-tuning has no prediction slots)."""
        return batch

    @property
    def needs_whole_batch(self) -> bool:
        """Whether an example's loss depends on the other examples of the global batch."""
        return self.task.definition.needs_whole_batch(self.task)

    def outputs(self, model: keras.Model, batch: Batch, *, training: bool) -> Batch:
        """Return the task's model's outputs; for examples of T texts, task_logits are [B, T, D]."""
        count = texts_per_example(batch)
        # In an evaluation, also texts that belong to an example run one by one.
        if batch[schema.INPUT_IDS].shape.rank == 2:
            return model_outputs(model, batch, training=training)
        texts = {
            name: tf.reshape(batch[name], [-1, tf.shape(batch[name])[-1]])
            for name in schema.ENCODER_INPUTS
        }
        logits = model_outputs(model, texts, training=training)[served.TASK_LOGITS]
        return {served.TASK_LOGITS: tf.reshape(logits, [-1, count, logits.shape[-1]])}

    def sums(self, outputs: Batch, batch: Batch) -> Sums:
        """Return the sums of the loss and the metrics over a batch: float32 [] each.

        Args:
            outputs: task_logits [B, C], [B, L, C] or [B, T, D].
            batch: task_labels, see `Encoded`, and example_weights float32 [B], 0 for filler; for
                students teacher_logits, like task_logits, and are_labelled float32 [B]. An example
                without a known label counts in the loss with its soft targets only.
        """
        logits = tf.cast(outputs[served.TASK_LOGITS], tf.float32)
        kind, weights = self.task.definition, self._weights(batch)
        sums = kind.sums(logits, batch, weights, self.task)
        if not self.teacher_weight:
            return sums
        known = batch["are_labelled"]
        if weights.shape.rank == 2:
            known = known[:, tf.newaxis]
        # Metrics count all labels, the teacher's too; the hard loss those of people alone.
        hard = kind.sums(logits, batch, weights * known, self.task)["task_loss"]
        soft = kind.soft_loss(logits, batch, weights, self.temperature)
        # (1 - w) hard + w soft, with `hard` 0 where only the teacher has answered.
        return sums | {"task_loss": hard + self.teacher_weight * (soft - hard)}


def class_sums(logits: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor) -> Sums:
    """Return the sums of the cross-entropy, the accuracy and the weights: float32 [] each.

    Args:
        logits: float32 [..., C].
        labels: int32 [...]. Negative = no label.
        weights: float32 [...]. 0 for positions without a label.
    """
    labels = tf.maximum(labels, 0)
    loss, total = cross_entropy(logits, labels, weights)
    right, _ = accuracy(logits, labels, weights)
    return {"task_loss": loss, "task_accuracy": right, "task_weight": total}
