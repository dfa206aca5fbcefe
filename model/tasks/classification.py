"""Classification of texts and of text pairs."""

import dataclasses
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from model import served
from model.tasks.evaluation import Evaluation, confusion_matrix, mean_cross_entropy
from model.tasks.labels import UNKNOWN, changed_names, matching_names
from model.tasks.task_kind import HeadQuestion, Task, TaskSignature
from model.tasks.texts import CLASSIFIER_HEAD, TextKind, Texts, of_texts
from pipeline.errors import InputError
from pipeline.schema import Arrays, Tensors

if TYPE_CHECKING:
    from model.explaining.example import Example
    from model.tasks.encoded import Encoded
    from model.training.sums import Batch, Sums


RELEVANT = frozenset(
    {"entailment", "entails", "relevant", "related", "positive", "true", "yes", "match"}
    | {"duplicate", "is_duplicate", "paraphrase", "equivalent", "similar", "same"}
)
"""Names of the class of pairs that belong together, in lower case."""


class Classification(TextKind):
    """The kinds `single` (one text) and `pair` (two texts)."""

    has_classes = True
    has_soft_targets = True
    # As a cross-encoder: the probability of the last class ("relevant") orders the passages.
    ranks_passages = True
    signature = TaskSignature(
        "classify", view="classes", playground=("What a wonderful film.", "I liked it.")
    )
    foreign_head = CLASSIFIER_HEAD
    metrics = ("accuracy", "macro_f1", "f1", "matthews")

    def __init__(self, name: str, *, takes_pairs: bool) -> None:
        self.name = name
        self.takes_pairs = takes_pairs
        # In windows of a pair, it is unclear which parts of the two texts belong together.
        self.takes_long = not takes_pairs

    @property
    def refused_fields(self) -> list[tuple[str, tuple[str, ...]]]:
        """Fields for columns that files of this kind do not have."""
        if self.takes_pairs:
            return super().refused_fields
        reason = f"a {self.name} task takes one text; {PAIR.name} takes two"
        return [(reason, ("text_pair_column",)), *super().refused_fields]

    def metrics_of(self, task: Task) -> tuple[str, ...]:
        """Return the names of the metrics; only tasks with two classes have f1 (of the second)."""
        names = super().metrics_of(task)
        return names if len(task.labels) == 2 else tuple(name for name in names if name != "f1")

    # ---- labels

    def task_of(self, examples: Texts) -> Task:
        """Return the task with the classes of the file."""
        takes_pairs = len(examples.texts[0]) == 2
        labels = set(examples.labels) - {""}
        return self.task_of_classes(examples.path, labels, takes_pairs=takes_pairs)

    def with_labels_of(
        self, examples: Texts, task: Task, named: Mapping[str, str]
    ) -> tuple[Texts, dict[str, str]]:
        """Return the examples with the run's labels, and the labels that were renamed.

        Labels that `named` does not contain match the run's if they are equal, if they are numbers
        and the run's labels are LABEL_0, LABEL_1, … (or vice versa), or if only their case differs.
        """
        # The user's mapping comes last and wins.
        known = matching_names({*examples.labels} - {""} - named.keys(), task) | dict(named)
        for label, row in zip(examples.labels, examples.rows, strict=False):
            if label and label not in known:
                raise InputError(
                    f"{examples.path}: line {row}: the label {label!r} is not one of the run's "
                    f"({', '.join(task.labels[:10])}); map it with `label_map` {label}=NAME"
                )
        labels = [known.get(label, "") for label in examples.labels]
        return dataclasses.replace(examples, labels=labels), changed_names(known)

    def label_summary(self, examples: Texts, task: Task) -> list[str]:
        """Return the number of examples of each class, and warnings about suspicious classes."""
        parts = []
        counts = Counter(examples.labels)
        # A line of hundreds of classes is not read.
        if len(counts) <= 10:
            parts.append(" ".join(f"{label}: {counts[label]:,}" for label in task.labels))
        # Often a typing error in a label.
        once = [label for label in task.labels if counts[label] == 1]
        if once:
            parts.append(f"one example only: {', '.join(once[:5])}")
        # GLUE's test files have -1 for all labels; next to 0 and 1 it may be meant as unknown, too.
        if {UNKNOWN, "0"} <= {*task.labels}:
            parts.append(f"{UNKNOWN} is learned as a class; remove it if it means no label")
        return parts

    def label_array(self, examples: Texts, task: Task) -> np.ndarray:
        """Return the class index of each example: int32 [N]."""
        numbers = {label: index for index, label in enumerate(task.labels)}
        for label, row in zip(examples.labels, examples.rows, strict=True):
            if label not in numbers:
                raise InputError(
                    f"{examples.path}: line {row}: the label {label!r} is not in the training file "
                    f"({', '.join(task.labels[:10])})"
                )
        return np.array([numbers[label] for label in examples.labels], np.int32)

    # ---- learning

    def sums(self, logits: Any, batch: "Batch", weights: Any, task: Task) -> "Sums":
        """Return the sums of the cross-entropy, the accuracy and the weights."""
        from model.tasks.objective import class_sums

        del task
        return class_sums(logits, batch["task_labels"], weights)

    def soft_loss(self, logits: Any, batch: "Batch", weights: Any, temperature: float) -> Any:
        """Return the divergence of the classes' probabilities."""
        from model.training.distillation import soft_cross_entropy

        return soft_cross_entropy(logits, batch["teacher_logits"], weights, temperature)

    def taught_labels(self, logits: np.ndarray, label: Any) -> int:
        """Return the teacher's most probable class."""
        del label
        return int(logits.argmax())

    # ---- answers

    def mean_loss(
        self, examples: Texts, encoded: "Encoded", logits: Sequence[np.ndarray], task: Task
    ) -> float:
        """Return the mean cross-entropy."""
        del examples, task
        return mean_cross_entropy(*of_texts(encoded, logits))

    def evaluate(
        self, examples: Texts, encoded: "Encoded", logits: Sequence[np.ndarray], task: Task
    ) -> Evaluation:
        """Return the most probable class of each example, and the metrics if labels are known."""
        averaged, labels = of_texts(encoded, logits)
        probabilities = class_probabilities(averaged)
        best = probabilities.argmax(axis=-1)
        answers = [
            {
                **examples.given(index),
                **({"expected": examples.labels[index]} if examples.labels else {}),
                "answer": task.labels[label],
                "probability": float(probabilities[index, label]),
            }
            for index, label in enumerate(best)
        ]
        if labels is None:
            return Evaluation({}, answers)
        # 1e-30 keeps the error finite where float32 rounds a probability to 0.
        errors = -np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-30))
        return Evaluation(
            class_measures(task, labels, best),
            answers,
            errors.tolist(),
            confusion_matrix(labels, best, len(task.labels)),
        )

    # ---- explanation

    def head_questions(self, task: Task, example: "Example") -> list[HeadQuestion]:
        """Return the question for the class."""
        del example
        return [HeadQuestion("class", "Which class?", "softmax(W p + b)", "4.1", task.labels)]

    # ---- serving

    def served_answers(self, task: Task, logits: Any, read: Any = None) -> Tensors:
        """Return the class of each text or text pair.

        Returns:
            label: string [B]. The most probable class.
            labels: string [B, C]. Names of all classes, in the order of `probabilities`.
            probabilities: float32 [B, C].
        """
        import tensorflow as tf

        del read
        labels = tf.constant(task.labels)
        probabilities = tf.nn.softmax(logits)
        return {
            served.LABEL: tf.gather(labels, tf.argmax(probabilities, axis=1)),
            served.LABELS: tf.broadcast_to(labels, tf.shape(probabilities)),
            served.PROBABILITIES: probabilities,
        }

    def relevance(self, task: Task, answers: "Tensors | Arrays") -> Any:
        """Return the probability of the relevant class."""
        return answers[served.PROBABILITIES][..., relevant_class(task.labels)]

    def golden_answers(self, task: Task, logits: np.ndarray) -> Arrays:
        """Return the classes and their probabilities."""
        labels = np.array([label.encode() for label in task.labels], object)
        return {served.LABELS: labels, served.PROBABILITIES: class_probabilities([logits])[0]}

    def expected_answer(
        self, task: Task, row: Mapping[str, np.ndarray], answer: Mapping[str, np.ndarray]
    ) -> Arrays:
        """Return the class with the highest answered probability.

        The Python model's class may differ if two probabilities are almost equal.
        """
        del task
        best = answer[served.PROBABILITIES].argmax()
        return {served.LABEL: np.asarray(row[served.LABELS][best], object)}

    # ---- other libraries

    def fits_head(self, outputs: int, problem: str | None, *, takes_pairs: bool) -> bool:
        """Return whether a classifier has mutually exclusive classes (not labels, not a number)."""
        is_choice = problem not in ("regression", "multi_label_classification")
        return outputs > 1 and is_choice and takes_pairs == self.takes_pairs

    @property
    def name_for_pairs(self) -> str:
        """Name of the corresponding kind with two texts per example."""
        return PAIR.name


def relevant_class(labels: Sequence[str]) -> int:
    """Return the index of the class of texts that belong together: by its name, or the last one.

    In RTE and QNLI it is the first class, "entailment", in MRPC and QQP the last one, "1".
    """
    named = [index for index, label in enumerate(labels) if label.lower() in RELEVANT]
    return named[0] if len(named) == 1 else len(labels) - 1


SINGLE = Classification("single", takes_pairs=False)
PAIR = Classification("pair", takes_pairs=True)


def class_probabilities(logits: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """Return the probability of each class: float32 [N, C]."""
    from scipy.special import softmax

    # SciPy subtracts the maximum first, so large logits do not overflow.
    probabilities: np.ndarray = softmax(np.asarray(logits), axis=-1)
    return probabilities


def class_measures(task: Task, expected: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Return the classification metrics.

    Args:
        task: task with the classes.
        expected: int32 [N]. True classes.
        predicted: int32 [N]. Predicted classes.
    """
    from sklearn import metrics

    measured = {
        "accuracy": float(np.mean(expected == predicted)),
        # 0 for a class that is never predicted, instead of a warning for each.
        "macro_f1": metrics.f1_score(expected, predicted, average="macro", zero_division=0),
    }
    if len(task.labels) == 2:
        measured["f1"] = metrics.f1_score(expected, predicted, zero_division=0)
    with warnings.catch_warnings():
        # 0 if there is one class alone, instead of a warning.
        warnings.filterwarnings("ignore", "A single label was found", UserWarning)
        measured["matthews"] = metrics.matthews_corrcoef(expected, predicted)
    return {name: float(value) for name, value in measured.items()}
