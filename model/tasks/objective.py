"""What fine-tuning minimises, for every kind of task.

Shapes: B batch, L positions, C outputs of the task's head.
"""

from dataclasses import dataclass

import keras
import tensorflow as tf

from model.bert.config import BertConfig
from model.bert.kernels import HIDDEN
from model.bert.network import build_task_model
from model.tasks.encoding import NO_LABEL
from model.tasks.kinds import Task
from model.training.losses import Batch, Sums, accuracy, cross_entropy, model_outputs
from pipeline import schema

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
        has_accuracy = [] if self.task.kind == "regression" else ["task_accuracy"]
        return ["task_loss", *has_accuracy, "task_weight"]

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
        weights, labels = batch["example_weights"], batch["task_labels"]
        if self.task.kind == "tagging":
            weights = weights[:, tf.newaxis] * tf.cast(labels != NO_LABEL, tf.float32)
        if self.class_weights:
            weights *= tf.gather(tf.constant(self.class_weights), tf.maximum(labels, 0))
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
        logits, labels = tf.cast(outputs["task_logits"], tf.float32), batch["task_labels"]
        weights = self._weights(batch)
        total = tf.reduce_sum(weights)
        if self.task.kind == "regression":
            squares = tf.square(logits[:, 0] - labels)
            return {"task_loss": tf.reduce_sum(squares * weights), "task_weight": total}
        if self.task.kind == "span":
            return self._span_sums(logits, batch, weights)
        labels = tf.maximum(labels, 0)
        loss, _ = cross_entropy(logits, labels, weights)
        right, _ = accuracy(logits, labels, weights)
        return {"task_loss": loss, "task_accuracy": right, "task_weight": total}

    def _span_sums(self, logits: tf.Tensor, batch: Batch, weights: tf.Tensor) -> Sums:
        """Return the mean of the losses of start and end, and how often both are right."""
        hidden = (1.0 - tf.cast(batch[schema.INPUT_MASK], tf.float32)) * HIDDEN
        scores = [logits[:, :, side] + hidden for side in (0, 1)]  # [B, L]
        labels = tf.unstack(batch["task_labels"], num=2, axis=1)
        losses = [cross_entropy(*pair, weights)[0] for pair in zip(scores, labels, strict=True)]
        right = [
            tf.argmax(score, axis=-1, output_type=label.dtype) == label
            for score, label in zip(scores, labels, strict=True)
        ]
        both = tf.cast(right[0] & right[1], tf.float32)
        return {
            "task_loss": tf.add_n(losses) / 2.0,
            "task_accuracy": tf.reduce_sum(both * weights),
            "task_weight": tf.reduce_sum(weights),
        }
