"""Interface of a kind of task, and the task of a fine-tuned model, which knows its kind."""

import dataclasses
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from model import served
from model.tasks.kinds import KINDS
from model.tasks.vectors import VectorConfig, VectorSettings
from pipeline.errors import InputError
from pipeline.schema import Arrays, Tensors
from pipeline.storage.strict_json import JsonObject

if TYPE_CHECKING:
    import numpy as np
    import tensorflow as tf
    from numpy.typing import DTypeLike

    from model.explaining.example import Example
    from model.tasks.encoded import Encoded
    from model.tasks.encoder import Encoder
    from model.tasks.evaluation import Evaluation
    from model.tasks.examples import Examples
    from model.tasks.reference_model import ReferenceModel
    from model.tasks.tables import Columns
    from model.tasks.windows import ReadTexts
    from model.training.sums import Batch, Sums

TABLE_FIELDS = (
    *("text_column", "text_pair_column", "label_column", "negative_column"),
    "skip_incomplete_rows",
)
"""Fields of `Columns` that name the columns of a table."""

WORD_FIELDS = ("word_column", "tag_column")
"""Fields of `Columns` that name the columns of words and tags."""

E = TypeVar("E", bound="Examples")


@dataclass(frozen=True)
class ForeignHead:
    """Names of a task head in other libraries.

    Attributes:
        architecture: model class in `transformers`.
        hugging_face: module of the head in that class.
        google: variable scope of the head in google-research/bert, "" = top level; None = the
            library has no such head.
        keras_hub: group of the head in KerasHub's HDF5 files, below `layers`; None = the library
            has no such head.
    """

    architecture: str
    hugging_face: str
    google: str | None = None
    keras_hub: str | None = None


@dataclass(frozen=True)
class HeadQuestion:
    """A question that a task head answers about an example, for explanations.

    Attributes:
        kind: type of the question: class, score, tag, start or end.
        title: the question as text.
        formula: formula of the answers' probabilities, or of the number, from the encoder's
            outputs: z = vector of the last layer, p = pooled vector.
        section: section of Devlin et al. 2018 with the formula.
        answers: possible answers by index.
        position: position whose vector the head reads; None = the pooled vector, or all positions
            if `output` is set.
        output: index of the head's output whose scores over all positions are the answers' scores;
            None = the head's outputs are the answers' scores.
        is_number: whether the answer is the output itself, instead of a choice.
    """

    kind: str
    title: str
    formula: str
    section: str
    answers: Sequence[str]
    position: int | None = None
    output: int | None = None
    is_number: bool = False


@dataclass(frozen=True)
class TaskSignature:
    """Serving signature of a kind of task.

    Attributes:
        name: name of the signature.
        reads: inputs of the signature. texts: a text or text pair; words: a text, split into words;
            question: a question and a passage. Words and passages are read in windows.
        view: how `query` and the playground show the answer. classes: a table of labels and
            probabilities; number: the output `score`; passage: the answer in its passage; None:
            every output by name.
        playground: initial texts of the playground's fields; empty = not in the playground.
        n_best: name of a second signature, which also takes the number of answers; "" = there is
            none.
    """

    name: str
    reads: Literal["texts", "words", "question"] = "texts"
    view: Literal["classes", "number", "passage"] | None = None
    playground: tuple[str, ...] = ()
    n_best: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the signatures."""
        return (self.name, self.n_best) if self.n_best else (self.name,)


@dataclass(frozen=True)
class Task:
    """The task of a fine-tuned model.

    Attributes:
        kind: name of the kind of task, a key of `KINDS`.
        labels: class names by index; empty for kinds without classes.
        takes_pairs: whether an example has two texts (for a span task, question and passage).
        vectors: settings of a model that turns a text into a vector; None for other kinds.
    """

    kind: str
    labels: tuple[str, ...]
    takes_pairs: bool
    vectors: VectorSettings | None = None

    def __post_init__(self) -> None:
        """Check that the fields are consistent.

        Raises:
            ValueError: the kind is unknown, labels are missing, duplicate or not allowed, or
                `takes_pairs` contradicts the kind.
        """
        kind = self.definition
        if kind.has_classes != bool(self.labels) or len(set(self.labels)) < len(self.labels):
            needed = "different labels" if kind.has_classes else "no labels"
            raise ValueError(f"a {self.kind} task has {needed}, received {self.labels}")
        if kind.takes_pairs not in (None, self.takes_pairs):
            raise ValueError(
                f"takes_pairs must be {kind.takes_pairs} for {self.kind}, "
                f"received {self.takes_pairs}"
            )
        if kind.has_vectors != (self.vectors is not None):
            needed = "vectors" if kind.has_vectors else "no vectors"
            raise ValueError(f"a {self.kind} task has {needed}, received {self.vectors}")

    @property
    def definition(self) -> "TaskKind[Any]":
        """Definition of the task's kind."""
        return kind_named(self.kind)

    @property
    def has_classes(self) -> bool:
        """Whether the answers are classes."""
        return self.definition.has_classes

    @property
    def is_per_position(self) -> bool:
        """Whether the head has outputs for every position, instead of one per text."""
        return self.definition.is_per_position

    @property
    def ranks_passages(self) -> bool:
        """Whether the model ranks passages by a query, with a head that reads both."""
        return self.takes_pairs and self.definition.ranks_passages

    @property
    def signature_names(self) -> tuple[str, ...]:
        """Names of the signatures that only a model of this task has."""
        kind = self.definition
        ranking = (served.RERANK,) if self.ranks_passages else ()
        return (*kind.signature.names, *kind.more_signatures, *ranking)

    @property
    def num_outputs(self) -> int:
        """Number of outputs of the head: one per class, 1 (regression) or 2 (span)."""
        return self.definition.num_outputs(self)

    def to_dict(self) -> JsonObject:
        """Return the JSON fields."""
        settings = dataclasses.asdict(self)
        return settings if self.vectors else {k: v for k, v in settings.items() if k != "vectors"}

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> "Task":
        """Return the task from its JSON fields."""
        parts = {**settings, "labels": tuple(settings["labels"])}
        if "vectors" in parts:
            parts["vectors"] = VectorSettings.from_dict(parts["vectors"])
        return cls(**parts)


@dataclass(frozen=True)
class InitialModel:
    """A model that a fine-tuning starts from.

    Attributes:
        task: its task; None = pretrained.
        hidden_size: H, size of its vectors.
    """

    task: Task | None
    hidden_size: int


class TaskKind(ABC, Generic[E]):
    """A kind of task: how examples are read, encoded, trained on, evaluated and served.

    A kind is one object in one file of this package, listed in `kinds.KINDS`. These files import
    TensorFlow and scikit-learn only inside functions, because a command's config is checked against
    the kind before the slow imports; this file imports no NumPy, because `--help` imports it.

    Attributes:
        name: name in `KINDS`, in `FinetuneConfig` and in a run's config.
        has_classes: whether the answers are classes.
        has_vectors: whether the answers are vectors; then a task has `vectors`.
        takes_pairs: whether an example has two texts; None = one or two.
        is_per_position: whether the head has outputs for every position, instead of one per text.
        metrics: names of the metrics; the first one selects the best checkpoint by default.
        lower_is_better: metrics for which lower values are better.
        labels_per_position: whether an example has a label for every position.
        label_dtype: dtype of the labels in a batch.
        signature: serving signature.
        more_signatures: names of further signatures of such a model.
        ranks_passages: whether a model of text pairs can rank passages by a query, see `relevance`.
        foreign_head: names of the head in other libraries; None = they have no such model.
        has_picture: whether an evaluation can be plotted.
        uses_windows: whether long texts are split into overlapping windows.
        takes_long: whether an example may be one text that is read otherwise than from its
            beginning, see `model.training.config.Long`.
        has_soft_targets: whether a student can learn a teacher's answers, see `soft_loss`.
        window_dtypes: dtypes of `window_outputs` by name.
        default_length: default of `max_seq_length`; None = the encoder's number of positions.
        least_length: minimum of `max_seq_length`.
        has_head_weights: whether the head has weights of its own, beyond the encoder's.
    """

    name: str
    has_classes: bool = False
    has_vectors: bool = False
    takes_pairs: bool | None = None
    is_per_position: bool = False
    metrics: tuple[str, ...]
    lower_is_better: frozenset[str] = frozenset()
    labels_per_position: bool = False
    label_dtype: "DTypeLike" = "int32"
    signature: TaskSignature
    more_signatures: tuple[str, ...] = ()
    ranks_passages: bool = False
    foreign_head: ForeignHead | None = None
    has_picture: bool = True
    uses_windows: bool = False
    takes_long: bool = False
    has_soft_targets: bool = False
    window_dtypes: Mapping[str, str] = MappingProxyType({})
    default_length: int | None = None
    least_length: int = 8
    has_head_weights: bool = True

    def num_outputs(self, task: Task) -> int:
        """Return C, the number of outputs of the head: one per class."""
        return len(task.labels)

    def metrics_of(self, task: Task) -> tuple[str, ...]:
        """Return "loss" and the names of a task's metrics."""
        del task
        return ("loss", *self.metrics)

    def metrics_on(self, examples: E, task: Task) -> tuple[str, ...]:
        """Return "loss" and the names of the metrics that can be measured on a file."""
        del examples
        return self.metrics_of(task)

    def is_higher_better(self, metric: str) -> bool:
        """Return whether higher values of a metric are better."""
        return metric != "loss" and metric not in self.lower_is_better

    # ---- reading

    @property
    def refused_fields(self) -> list[tuple[str, tuple[str, ...]]]:
        """Fields for columns that the kind's files do not have: (reason, names of fields)."""
        return []

    @abstractmethod
    def read(self, path: Path, columns: "Columns", *, takes_pairs: bool | None) -> E:
        """Read a file of examples.

        Args:
            path: the file.
            columns: names or numbers of the columns.
            takes_pairs: whether an example has two texts, for kinds that allow one or two; None =
                detect.

        Raises:
            InputError: the file has another format, or its columns are ambiguous.
            OSError: it cannot be read; `UnicodeDecodeError`: it is not in UTF-8.
        """

    # ---- labels

    @abstractmethod
    def task_of(self, examples: E) -> Task:
        """Return the task defined by the labels of a training file.

        Raises:
            InputError: there is only one class.
        """

    def task_of_classes(self, path: Path, labels: set[str], *, takes_pairs: bool) -> Task:
        """Return the task with these classes, sorted by name.

        Raises:
            InputError: there is only one.
        """
        if len(labels) < 2:
            raise InputError(
                f"`train` {path}: all examples have the label {min(labels)!r}; "
                "give examples of at least two classes"
            )
        return Task(self.name, tuple(sorted(labels)), takes_pairs)

    def with_settings(
        self, task: Task, settings: "VectorConfig", examples: E, initial: "InitialModel"
    ) -> Task:
        """Return the task with the settings that only this kind has.

        Args:
            task: the task of the training file.
            settings: settings that the user gave; the others are the initial model's, or defaults.
            examples: examples of the training file.
            initial: the model that the training starts from.

        Raises:
            InputError: a setting does not fit the examples or the model.
        """
        del settings, examples, initial
        return task

    def without_unknown(self, examples: E, task: Task) -> E:
        """Return the examples with labels removed that mean "unknown"."""
        del task
        return examples

    def with_labels_of(
        self, examples: E, task: Task, named: Mapping[str, str]
    ) -> tuple[E, dict[str, str]]:
        """Return the examples with the run's labels, and the labels that were renamed.

        Args:
            examples: examples of a file.
            task: task of the run.
            named: run's label by file's label, for some or all labels.

        Raises:
            InputError: a label is not one of the run's.
        """
        del task, named
        return examples, {}

    def learnable(self, examples: E) -> E:
        """Return the labelled examples that can be used for training.

        Raises:
            InputError: there are none.
        """
        return examples

    def label_summary(self, examples: E, task: Task) -> list[str]:
        """Return a summary of the labels, as short phrases."""
        del examples, task
        return []

    # ---- encoding

    def encode_unlabelled(self, encoder: "Encoder", examples: E, task: Task) -> "Encoded":
        """Return encoded examples without labels."""
        return self.encode(encoder, examples, task)

    @abstractmethod
    def encode(self, encoder: "Encoder", examples: E, task: Task) -> "Encoded":
        """Return encoded examples.

        Raises:
            InputError: a label is not one of the task's.
        """

    def without_empty(self, examples: E, encoded: "Encoded") -> "Encoded":
        """Return the encoded training examples without those that have no pieces.

        Raises:
            InputError: there are none.
        """
        del examples
        return encoded

    # ---- batches

    def padded_labels(self, labels: Any, rows: "np.ndarray", length: int) -> "np.ndarray":
        """Return the labels of a batch.

        Args:
            labels: `Encoded.labels`.
            rows: int [B]. Indices of the examples; -1 = filler, with the last example's label.
            length: L, positions in the batch.

        Returns:
            `label_dtype` [B, ...], or [B, L] if `labels_per_position`.
        """
        del length
        padded: np.ndarray = labels[rows]
        return padded

    # ---- the network

    def head_layer(self, task: Task) -> Any:
        """Return the Keras layer of a head that has no weights; None = dropout and a dense layer.

        The layer takes the encoder's outputs, float [B, L, H], and the mask, int32 [B, L]. The
        dense layer takes the pooled output or, for outputs per position, all positions, as in
        google-research/bert (run_classifier.py, run_squad.py).
        """
        del task

    # ---- learning

    def needs_whole_batch(self, task: Task) -> bool:
        """Return whether an example's loss depends on the other examples of the global batch."""
        del task
        return False

    @property
    def sum_names(self) -> list[str]:
        """Names of the sums that `sums` returns."""
        return ["task_loss", "task_accuracy", "task_weight"]

    def label_weights(self, batch: "Batch") -> Any:
        """Return the weight of each label: float32 [B] or [B, L].

        Args:
            batch: example_weights float32 [B] and task_labels, see `padded_labels`.
        """
        return batch["example_weights"]

    @abstractmethod
    def sums(self, logits: Any, batch: "Batch", weights: Any, task: Task) -> "Sums":
        """Return the sums of the loss and the metrics over a batch: float32 [] each.

        Args:
            logits: outputs of the head: float32 [B, C] or [B, L, C].
            batch: model inputs, and task_labels, see `padded_labels`.
            weights: `label_weights` times the class weights.
            task: task of the model.
        """

    def soft_loss(
        self, logits: Any, batch: "Batch", weights: Any, temperature: float
    ) -> "tf.Tensor":
        """Return the summed difference of a student's answers from its teacher's: float32 [].

        Args:
            logits: float32 [B, C] or [B, L, C]. Outputs of the student's head.
            batch: model inputs, and teacher_logits, like `logits`.
            weights: see `sums`.
            temperature: temperature of the distributions; numbers have none.
        """
        raise NotImplementedError

    def taught_labels(self, logits: "np.ndarray", label: Any) -> Any:
        """Return a teacher's answer to an example in the form of a label.

        Args:
            logits: float32 [C] or [L, C]. The teacher's outputs.
            label: the example's entry in `Encoded.labels`; for tags it marks their positions.
        """
        raise NotImplementedError

    # ---- answers

    @abstractmethod
    def mean_loss(
        self, examples: E, encoded: "Encoded", logits: Sequence["np.ndarray"], task: Task
    ) -> float:
        """Return the mean loss over all labelled examples, without class weights.

        Args:
            examples: examples of a file.
            encoded: the encoded examples.
            logits: float32 [C] or [L, C] for each encoded example.
            task: task of the model.
        """

    @abstractmethod
    def evaluate(
        self, examples: E, encoded: "Encoded", logits: Sequence["np.ndarray"], task: Task
    ) -> "Evaluation":
        """Return the answers, and the metrics if labels are known. Arguments: see `mean_loss`."""

    # ---- other libraries

    def fits_head(self, outputs: int, problem: str | None, *, takes_pairs: bool) -> bool:
        """Return whether a checkpoint with a `foreign_head` of this kind is a model of this kind.

        Args:
            outputs: number of outputs of the head.
            problem: `problem_type` in `transformers`; None if the checkpoint has none.
            takes_pairs: whether the checkpoint declares text pairs as inputs.
        """
        del outputs, problem, takes_pairs
        return True

    def imported_task(self, labels: tuple[str, ...], *, takes_pairs: bool = False) -> Task:
        """Return the task of an imported checkpoint.

        Args:
            labels: names of the head's outputs.
            takes_pairs: whether an example has two texts, for kinds that allow one or two.
        """
        is_pair = takes_pairs if self.takes_pairs is None else self.takes_pairs
        return Task(self.name, labels if self.has_classes else (), is_pair)

    @property
    def name_for_pairs(self) -> str | None:
        """Name of the corresponding kind with two texts per example; None = there is none."""
        return None if self.takes_pairs is False else self.name

    def hugging_face_settings(self, task: Task) -> JsonObject:
        """Return the task's entries of `config.json`, see `named_outputs`."""
        if not self.has_classes:
            return {}
        return named_outputs(task.labels)

    # ---- explanation

    @abstractmethod
    def head_questions(self, task: Task, example: "Example") -> list[HeadQuestion]:
        """Return the questions that the head answers about an example.

        Args:
            task: task of the model.
            example: tokenized text or text pair.
        """

    # ---- serving

    def window_outputs(self, task: Task, logits: Any, at: Any, most: Any) -> Tensors:
        """Return the inputs of `served_answers` from some windows, for signatures with windows.

        Args:
            task: task of the model.
            logits: float32 [K, L, C]. Outputs of the head for K windows.
            at: int32 [K, L]. Index of the word at each position, `NO_LABEL` at other positions; for
                tags, of the words that the window decides on, at their first pieces.
            most: int32 [B]. Requested number of answers to each text; None = one.

        Returns:
            Tensors of one axis by name; those of all windows are joined, in the order of the texts.
        """
        raise NotImplementedError

    @abstractmethod
    def served_answers(self, task: Task, logits: Any, read: "ReadTexts | None" = None) -> Tensors:
        """Return the outputs of the serving signature: tensors whose first dimension is the batch.

        Args:
            task: task of the model.
            logits: float32 [B, C] or [B, L, C]; for signatures that read windows, the joined
                `window_outputs` by name.
            read: the texts, for signatures that read windows.
        """

    def relevance(self, task: Task, answers: "Tensors | Arrays") -> Any:
        """Return the relevance of passages, for kinds with `ranks_passages`.

        Args:
            task: task of the model.
            answers: outputs of the serving signature by name, of a batch or of one pair.

        Returns:
            Scores, float32 [B], or [] of one pair; higher is more relevant.
        """
        raise NotImplementedError

    def golden_row(self, reference: "ReferenceModel", task: Task, texts: Sequence[str]) -> Arrays:
        """Return the reference answer to one or two texts, computed by the Python model.

        The export gate compares the served model with it, so it must not share code with
        `served_answers`.

        Returns:
            Outputs of the signature by name, without padding, and the data for `expected_answer`.
        """
        row = reference.about(*texts)
        return row | self.golden_answers(task, row[served.TASK_LOGITS])

    def golden_answers(self, task: Task, logits: "np.ndarray") -> Arrays:
        """Return the signature's outputs that depend only on the logits of a text, float32 [C]."""
        del task, logits
        return {}

    def expected_answer(
        self, task: Task, row: Mapping[str, "np.ndarray"], answer: Mapping[str, "np.ndarray"]
    ) -> Arrays:
        """Return the expected outputs that depend on which of nearly equal answers was returned.

        Args:
            task: task of the model.
            row: the reference answer, see `golden_row`.
            answer: outputs of the served model for the same texts.
        """
        del task, row, answer
        return {}


def named_outputs(names: Sequence[str]) -> JsonObject:
    """Return the names of a head's outputs by index, and the reverse, as in `config.json`."""
    return {
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
    }


def kind_named(name: str) -> TaskKind[Any]:
    """Return the kind of task with this name.

    Raises:
        ValueError: there is no such kind.
    """
    if name not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, received {name!r}")
    kind: TaskKind[Any] = pkgutil.resolve_name(KINDS[name].path)
    return kind


def all_kinds() -> list[TaskKind[Any]]:
    """Return every kind of task, in the order of the table."""
    return [kind_named(name) for name in KINDS]


def vector_task(vectors: VectorSettings) -> Task:
    """Return the task of a model that turns a text into a vector."""
    kind = next(kind for kind in all_kinds() if kind.has_vectors)
    return Task(kind.name, (), takes_pairs=False, vectors=vectors)
