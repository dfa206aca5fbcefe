"""Regression: a number for a text or text pair."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from model import served
from model.tasks.evaluation import Evaluation
from model.tasks.tables import check_size
from model.tasks.task_kind import HeadQuestion, Task, TaskSignature, named_outputs
from model.tasks.texts import CLASSIFIER_HEAD, TextKind, Texts, of_texts
from pipeline.errors import InputError
from pipeline.schema import Arrays, Tensors
from pipeline.storage.strict_json import JsonObject

if TYPE_CHECKING:
    from model.explaining.example import Example
    from model.tasks.encoded import Encoded
    from model.training.sums import Batch, Sums


class Regression(TextKind):
    """The kind `regression`."""

    name = "regression"
    metrics = ("pearson", "spearman", "mean_squared_error")
    lower_is_better = frozenset({"mean_squared_error"})
    label_dtype = np.float32
    takes_long = True
    has_soft_targets = True
    ranks_passages = True
    signature = TaskSignature(
        "score", view="number", playground=("What a wonderful film.", "I liked it.")
    )
    foreign_head = CLASSIFIER_HEAD

    def num_outputs(self, task: Task) -> int:
        """Return 1: the number."""
        del task
        return 1

    # ---- labels

    def task_of(self, examples: Texts) -> Task:
        """Return the task, with one or two texts as in the file."""
        return Task(self.name, (), takes_pairs=len(examples.texts[0]) == 2)

    def label_array(self, examples: Texts, task: Task) -> np.ndarray:
        """Return the numbers: float32 [N]."""
        del task
        numbers: list[float] = []
        for label, row in zip(examples.labels, examples.rows, strict=True):
            where = f"{examples.path}: line {row}: {label!r}"
            try:
                numbers.append(float(label))
            except ValueError:
                raise InputError(f"{where} is not a number") from None
            if not np.isfinite(numbers[-1]):
                raise InputError(f"{where} is not a finite number")
            check_size(where, numbers[-1])
        return np.array(numbers, np.float32)

    # ---- learning

    @property
    def sum_names(self) -> list[str]:
        """Names of the sums that `sums` returns; regression has no accuracy."""
        return ["task_loss", "task_weight"]

    def sums(self, logits: Any, batch: "Batch", weights: Any, task: Task) -> "Sums":
        """Return the sums of the squared errors and of the weights."""
        import tensorflow as tf

        del task
        squares = tf.square(logits[:, 0] - batch["task_labels"])
        return {
            "task_loss": tf.reduce_sum(squares * weights),
            "task_weight": tf.reduce_sum(weights),
        }

    def soft_loss(self, logits: Any, batch: "Batch", weights: Any, temperature: float) -> Any:
        """Return the squared differences from the teacher's numbers."""
        import tensorflow as tf

        del temperature
        squares = tf.square(logits[:, 0] - batch["teacher_logits"][:, 0])
        return tf.reduce_sum(squares * weights)

    def taught_labels(self, logits: np.ndarray, label: Any) -> float:
        """Return the teacher's number."""
        del label
        return float(logits[0])

    # ---- answers

    def mean_loss(
        self, examples: Texts, encoded: "Encoded", logits: Sequence[np.ndarray], task: Task
    ) -> float:
        """Return the mean squared error."""
        del examples, task
        averaged, labels = of_texts(encoded, logits)
        return float(np.mean(np.square(averaged[:, 0] - labels)))

    def evaluate(
        self, examples: Texts, encoded: "Encoded", logits: Sequence[np.ndarray], task: Task
    ) -> Evaluation:
        """Return the predicted numbers, and the metrics if labels are known."""
        del task
        averaged, labels = of_texts(encoded, logits)
        scores = averaged[:, 0]
        answers = [
            {
                **examples.given(index),
                **({"expected": float(labels[index])} if examples.labels else {}),
                "answer": float(score),
            }
            for index, score in enumerate(scores)
        ]
        if labels is None:
            return Evaluation({}, answers)
        errors = np.abs(scores - labels)
        measures = number_measures(labels, scores)
        return Evaluation(measures, answers, errors.tolist(), are_numbers=True)

    # ---- explanation

    def head_questions(self, task: Task, example: "Example") -> list[HeadQuestion]:
        """Return the question for the number."""
        del task, example
        return [
            HeadQuestion("score", "Which number?", "W p + b", "4.1", ("score",), is_number=True)
        ]

    # ---- serving

    def served_answers(self, task: Task, logits: Any, read: Any = None) -> Tensors:
        """Return the number of each text or text pair.

        Returns:
            score: float32 [B].
        """
        del task, read
        return {served.SCORE: logits[:, 0]}

    def relevance(self, task: Task, answers: "Tensors | Arrays") -> Any:
        """Return the number."""
        del task
        return answers[served.SCORE]

    def golden_answers(self, task: Task, logits: np.ndarray) -> Arrays:
        """Return the number."""
        del task
        return {served.SCORE: logits[0]}

    # ---- other libraries

    def fits_head(self, outputs: int, problem: str | None, *, takes_pairs: bool) -> bool:
        """Return whether a classifier has one output that is a number."""
        del takes_pairs
        return outputs == 1 and problem != "multi_label_classification"

    def hugging_face_settings(self, task: Task) -> JsonObject:
        """Return `problem_type`, and the name that `transformers` gives the output."""
        del task
        return {"problem_type": "regression", **named_outputs(["LABEL_0"])}


REGRESSION = Regression()


def number_measures(expected: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Return the regression metrics; correlations of constant numbers are 0.

    Args:
        expected: float [N]. True numbers.
        predicted: float [N]. Predicted numbers.
    """
    from scipy import stats
    from sklearn import metrics

    # The differences of numbers with a large mean, such as prices, are rounded away in float32.
    expected, predicted = expected.astype(np.float64), predicted.astype(np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        pearson = stats.pearsonr(expected, predicted).statistic if len(predicted) > 1 else 0.0
        spearman = stats.spearmanr(expected, predicted).statistic if len(predicted) > 1 else 0.0
    return {
        "pearson": float(np.nan_to_num(pearson)),
        "spearman": float(np.nan_to_num(spearman)),
        "mean_squared_error": float(metrics.mean_squared_error(expected, predicted)),
    }
