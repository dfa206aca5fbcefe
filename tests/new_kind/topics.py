"""A kind of task that Clozeline lacks: several classes for a text at once, such as `sea+town`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from model.tasks.encoded import Encoded
from model.tasks.evaluation import Evaluation
from model.tasks.task_kind import HeadQuestion, Task, TaskSignature
from model.tasks.texts import TextKind, Texts


class Topics(TextKind):
    """The kind `topics`."""

    name = "topics"
    has_classes = True
    takes_pairs = False
    metrics = ("exact", "hamming")
    label_dtype = np.float32
    signature = TaskSignature("topics")

    def task_of(self, examples: Texts) -> Task:
        labels = {topic for label in examples.labels for topic in label.split("+")}
        return self.task_of_classes(examples.path, labels, takes_pairs=False)

    def label_array(self, examples: Texts, task: Task) -> np.ndarray:
        """Return 1 for each class of each text: float32 [N, C]."""
        return np.array(
            [[label in text.split("+") for label in task.labels] for text in examples.labels],
            np.float32,
        )

    def sums(self, logits: Any, batch: Any, weights: Any, task: Task) -> Any:
        import tensorflow as tf

        labels = batch["task_labels"]
        losses = tf.nn.sigmoid_cross_entropy_with_logits(labels, logits)
        right = tf.reduce_all((logits > 0) == (labels > 0), axis=-1)
        return {
            "task_loss": tf.reduce_sum(tf.reduce_mean(losses, axis=-1) * weights),
            "task_accuracy": tf.reduce_sum(tf.cast(right, tf.float32) * weights),
            "task_weight": tf.reduce_sum(weights),
        }

    def mean_loss(
        self, examples: Texts, encoded: Encoded, logits: Sequence[np.ndarray], task: Task
    ) -> float:
        scores = np.stack(logits)
        return float(np.mean(np.logaddexp(0, scores) - scores * encoded.labels))

    def evaluate(
        self, examples: Texts, encoded: Encoded, logits: Sequence[np.ndarray], task: Task
    ) -> Evaluation:
        chosen = np.stack(logits) > 0
        answers = [
            {**examples.given(row), "answer": "+".join(np.array(task.labels)[are_chosen])}
            for row, are_chosen in enumerate(chosen)
        ]
        if encoded.labels is None:
            return Evaluation({}, answers)
        for answer, label in zip(answers, examples.labels, strict=True):
            answer["expected"] = label
        wrong = chosen != (encoded.labels > 0)
        measures = {"exact": 1 - wrong.any(axis=1).mean(), "hamming": 1 - wrong.mean()}
        return Evaluation(measures, answers, wrong.mean(axis=1).tolist())

    def head_questions(self, task: Task, example: Any) -> list[HeadQuestion]:
        return [HeadQuestion("topics", "Topics?", "W p + b", "4.1", task.labels, is_number=True)]

    def served_answers(self, task: Task, logits: Any, read: Any = None) -> dict[str, Any]:
        import tensorflow as tf

        labels = tf.broadcast_to(tf.constant(task.labels), tf.shape(logits))
        return {"topics": tf.where(logits > 0, labels, ""), "shares": tf.sigmoid(logits)}

    def golden_answers(self, task: Task, logits: np.ndarray) -> dict[str, Any]:
        both = zip(logits, task.labels, strict=True)
        names = [label.encode() if logit > 0 else b"" for logit, label in both]
        return {"topics": np.array(names, object), "shares": 1 / (1 + np.exp(-logits))}


TOPICS = Topics()
