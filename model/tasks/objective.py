"""What fine-tuning minimises, for every kind of task.

Shapes: B batch, L positions, C outputs of the task's head.
"""

from dataclasses import dataclass

import keras
import tensorflow as tf

from model.bert.config import BertConfig
from model.bert.network import build_task_model
from model.tasks.kinds import Task
from model.training.losses import Batch, Sums, accuracy, cross_entropy, model_outputs

LAYER = "transformer_layer_"


@dataclass(frozen=True)
class Tuning:
    """The loss of a task, and which weights learn how fast.

    Attributes:
        task: the task.
        num_layers: Transformer layers of the encoder.
        layer_decay: times which a layer's learning rate is that of the layer above it.
        frozen_layers: layers, from below, that stay as they are; with any, embeddings do too.
        class_weights: what an example of each class counts; none: all the same.
    """

    task: Task
    num_layers: int
    layer_decay: float = 1.0
    frozen_layers: int = 0
    class_weights: tuple[float, ...] = ()

    @property
    def sum_names(self) -> list[str]:
        """Names of everything that `sums` adds up."""
        return self.task.definition.sum_names

    def build_model(self, config: BertConfig) -> keras.Model:
        """Return the task's model, with the layers that are to stay as they are not trainable."""
        model = build_task_model(config, self.task)
        for layer in model.get_layer("encoder").layers:
            if self.frozen_layers and self._depth(layer.name) <= self.frozen_layers:
                layer.trainable = False
        return model

    def learning_rate_factor(self, path: str) -> float:
        """Return times which the learning rate holds for the weight of this name."""
        return self.layer_decay ** (self.num_layers + 1 - self._depth(path))

    def _depth(self, path: str) -> int:
        """Return 0 for the embeddings, n for the nth layer, and one more for what is above."""
        name = path.split("/", 1)[0]
        if name.startswith(LAYER):
            return int(name.removeprefix(LAYER)) + 1
        is_embedding = "embedding" in name
        return 0 if is_embedding else self.num_layers + 1

    def weights(self, batch: Batch) -> Sums:
        """Return what the batch's examples, or tagged words, count together."""
        return {"task": tf.reduce_sum(self._weights(batch))}

    def _weights(self, batch: Batch) -> tf.Tensor:
        """Return what everything that has a label counts: float32 [B] or [B, L]."""
        weights = self.task.definition.label_weights(batch)
        if self.class_weights:
            labels = tf.maximum(batch["task_labels"], 0)
            weights *= tf.gather(tf.constant(self.class_weights), labels)
        return weights

    def packed(self, batch: Batch) -> Batch:
        """Return the batch: all of it counts."""
        return batch

    def outputs(self, model: keras.Model, batch: Batch, *, training: bool) -> Batch:
        """Return the task's model's outputs."""
        return model_outputs(model, batch, training=training)

    def sums(self, outputs: Batch, batch: Batch) -> Sums:
        """Return every sum over a batch, float32 [] each.

        Args:
            outputs: task_logits [B, C] or [B, L, C].
            batch: task_labels, see `Encoded`, and example_weights float32 [B]: 1 = counts.
        """
        logits = tf.cast(outputs["task_logits"], tf.float32)
        return self.task.definition.sums(logits, batch, self._weights(batch))


def class_sums(logits: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor) -> Sums:
    """Return the sums of the cross-entropy, of what is right and of the weight: float32 [] each.

    Args:
        logits: float32 [..., C].
        labels: int32 [...]. Negative where there is none.
        weights: float32 [...]; 0 where there is no label.
    """
    labels = tf.maximum(labels, 0)
    loss, total = cross_entropy(logits, labels, weights)
    right, _ = accuracy(logits, labels, weights)
    return {"task_loss": loss, "task_accuracy": right, "task_weight": total}
