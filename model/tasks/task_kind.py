"""What every kind of task must say of itself: the interface that one object per kind implements."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import numpy as np

from model.tasks.kinds import Task
from pipeline.errors import InputError

if TYPE_CHECKING:
    from model.explaining.example import Example
    from model.tasks.asked import Asked
    from model.tasks.encoded import Encoded
    from model.tasks.encoding import Encoder
    from model.tasks.evaluation import Evaluation
    from model.tasks.examples import Examples
    from model.tasks.tables import Columns
    from model.training.losses import Batch, Sums

TABLE_FLAGS = ("text_column", "text_pair_column", "label_column", "skip_incomplete_rows")
"""Options that name columns of a table."""

WORD_FLAGS = ("word_column", "tag_column")
"""Options that name columns of words and their tags."""

E = TypeVar("E", bound="Examples")


@dataclass(frozen=True)
class ForeignHead:
    """What other libraries call the head of a kind of task.

    Attributes:
        architecture: the model's class in `transformers`.
        hugging_face: its module of the head.
        google: the variable scope of the head in google-research/bert, "" = none around it; None =
            it has no such head.
        keras_hub: the head's group in KerasHub's HDF5 files, below `layers`; None = no such head.
    """

    architecture: str
    hugging_face: str
    google: str | None = None
    keras_hub: str | None = None


@dataclass(frozen=True)
class HeadQuestion:
    """What a tuned model's head can be asked about an example, and how it computes the answer.

    Attributes:
        kind: what is asked, in a word.
        title: the question in words.
        formula: how the answers' probabilities, or the number, follow from the encoder's vectors:
            z the last layer's, p the pooled one.
        section: of Devlin et al. 2018, where the formula comes from.
        answers: the possible ones by index.
        position: of the vector that the head reads; None = the pooled one, or with `output` all.
        output: number of the head's output whose scores at all positions are the answers'; None =
            the head's outputs are the answers'.
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
    """The signature of a served model that answers a kind of task.

    Attributes:
        name: of the signature.
        reads: how the served model reads its inputs. texts: one text, or two as one; words: a text
            word by word; question: a question and the beginning of its passage.
        view: how people are shown the answer. classes: the outputs labels and probabilities as a
            table; number: the output score; None: every output by name.
        playground: a text for each field of the playground at first, where it has the signature
            among what it classifies; empty = it has not.
    """

    name: str
    reads: Literal["texts", "words", "question"] = "texts"
    view: Literal["classes", "number"] | None = None
    playground: tuple[str, ...] = ()


class TaskKind(ABC, Generic[E]):
    """A kind of task: how examples are read and encoded, and how a model learns and answers them.

    A kind is one object in one file of this package, listed by its name in `kinds.KINDS`. These
    files import neither TensorFlow nor scikit-learn at their top: the flags of a command are
    checked against a kind before the heavy imports.

    Attributes:
        name: as in `KINDS`, in flags and in a run's config.
        has_classes: whether the answers are classes, which have names.
        takes_pairs: whether two texts make an example; None = an example has one text or two.
        is_per_position: whether the head answers at every position, not once per text.
        metrics: metrics of the kind by name; the first one selects the best checkpoint by default.
        lower_is_better: metrics of which a lower value is better.
        labels_per_position: whether an example's labels are as many as its positions.
        label_dtype: of the labels in a batch.
        signature: of the served model.
        foreign_head: what other libraries call its head; None = they have no such model.
        has_picture: whether an evaluation can be drawn.
        uses_windows: whether a long text is read in windows, a stride apart.
        default_length: positions of an example unless a flag says; None = all that the encoder has.
        least_length: fewest positions that a flag may name.
    """

    name: str
    has_classes: bool = False
    takes_pairs: bool | None = None
    is_per_position: bool = False
    metrics: tuple[str, ...]
    lower_is_better: frozenset[str] = frozenset()
    labels_per_position: bool = False
    label_dtype: type[np.generic] = np.int32
    signature: TaskSignature
    foreign_head: ForeignHead | None = None
    has_picture: bool = True
    uses_windows: bool = False
    default_length: int | None = None
    least_length: int = 8

    def num_outputs(self, task: Task) -> int:
        """Return C, the number of outputs of the head: one per class."""
        return len(task.labels)

    def metrics_of(self, task: Task) -> tuple[str, ...]:
        """Return the loss and the names of the metrics that a task of this kind has."""
        del task
        return ("loss", *self.metrics)

    def is_higher_better(self, metric: str) -> bool:
        """Return whether a higher value of a metric is better."""
        return metric != "loss" and metric not in self.lower_is_better

    # ---- reading

    @property
    def refused_flags(self) -> list[tuple[str, tuple[str, ...]]]:
        """Flags of columns that the kind's files do not have: a reason, and the options' names."""
        return []

    @abstractmethod
    def read(self, path: Path, columns: "Columns", *, takes_pairs: bool | None) -> E:
        """Read a file of examples.

        Args:
            path: the file.
            columns: which columns are what.
            takes_pairs: whether an example has two texts, where the kind leaves it open; None =
                detected.

        Raises:
            InputError: it is no file of such examples, or leaves open which columns are what.
            OSError: it cannot be read; `UnicodeDecodeError`: it is not in UTF-8.
        """

    # ---- labels

    @abstractmethod
    def task_of(self, examples: E) -> Task:
        """Return the task that the labels of a training file make.

        Raises:
            InputError: there is only one class.
        """

    def task_of_classes(self, path: Path, labels: set[str], *, takes_pairs: bool) -> Task:
        """Return the task of these classes, in the order of their names.

        Raises:
            InputError: there is only one.
        """
        if len(labels) < 2:
            raise InputError(
                f"--train {path}: all examples have the label {min(labels)!r}; "
                "give examples of at least two classes"
            )
        return Task(self.name, tuple(sorted(labels)), takes_pairs)

    def without_unknown(self, examples: E, task: Task) -> E:
        """Return the examples, with no label where the file marks it as unknown."""
        del task
        return examples

    def with_labels_of(
        self, examples: E, task: Task, named: Mapping[str, str]
    ) -> tuple[E, dict[str, str]]:
        """Return the examples with the run's labels, and how labels with another name were read.

        Args:
            examples: of a file.
            task: the run's.
            named: the run's label by the file's, for some or all.

        Raises:
            InputError: a label is none of the run's.
        """
        del task, named
        return examples, {}

    def learnable(self, examples: E) -> E:
        """Return those of the labelled examples that a model can learn from.

        Raises:
            InputError: there are none.
        """
        return examples

    def label_summary(self, examples: E, task: Task) -> list[str]:
        """Return what a user should know of the labels, a few words each."""
        del examples, task
        return []

    # ---- encoding

    def encode_unlabelled(self, encoder: "Encoder", examples: E, task: Task) -> "Encoded":
        """Return examples without labels as the model takes them."""
        return self.encode(encoder, examples, task)

    @abstractmethod
    def encode(self, encoder: "Encoder", examples: E, task: Task) -> "Encoded":
        """Return examples as the model takes them.

        Raises:
            InputError: a label is not the task's.
        """

    def without_empty(self, examples: E, encoded: "Encoded") -> "Encoded":
        """Return the encoded training examples that have a piece.

        Raises:
            InputError: there are none.
        """
        del examples
        return encoded

    # ---- batches

    def padded_labels(self, labels: Any, rows: np.ndarray, length: int) -> np.ndarray:
        """Return the labels of some examples as one array.

        Args:
            labels: of `Encoded`.
            rows: int [B]. Numbers of the examples; -1 is filler, which takes the last one's.
            length: L, positions of the batch.

        Returns:
            `label_dtype` [B, ...], or [B, L] where the labels are per position.
        """
        del length
        padded: np.ndarray = labels[rows]
        return padded

    # ---- learning

    @property
    def sum_names(self) -> list[str]:
        """Names of everything that `sums` adds up."""
        return ["task_loss", "task_accuracy", "task_weight"]

    def label_weights(self, batch: "Batch") -> Any:
        """Return the weight of everything that has a label: float32 [B] or [B, L].

        Args:
            batch: example_weights float32 [B] and task_labels, of `padded_labels`.
        """
        return batch["example_weights"]

    @abstractmethod
    def sums(self, logits: Any, batch: "Batch", weights: Any) -> "Sums":
        """Return the sums of the loss and of other measures over a batch: float32 [] each.

        Args:
            logits: float32 [B, C] or [B, L, C].
            batch: the model's inputs, and task_labels of `padded_labels`.
            weights: of `label_weights`, times the class weights.
        """

    # ---- answers

    @abstractmethod
    def mean_loss(self, examples: E, encoded: "Encoded", logits: Sequence[np.ndarray]) -> float:
        """Return the mean loss over all labelled examples, every class counting the same.

        Args:
            examples: of a file.
            encoded: the same, encoded.
            logits: float32 [C] or [L, C] for each encoded example.
        """

    @abstractmethod
    def evaluate(
        self, examples: E, encoded: "Encoded", logits: Sequence[np.ndarray], task: Task
    ) -> "Evaluation":
        """Return the answers, and with known labels the metrics; arguments as of `mean_loss`."""

    # ---- other libraries

    def fits_head(self, outputs: int, problem: str | None, *, takes_pairs: bool) -> bool:
        """Return whether a checkpoint with this kind's `foreign_head` is of this kind.

        Args:
            outputs: of the head.
            problem: `problem_type` in `transformers`, where the checkpoint has one.
            takes_pairs: whether the checkpoint says that it takes two texts.
        """
        del outputs, problem, takes_pairs
        return True

    def imported_task(self, labels: tuple[str, ...], *, takes_pairs: bool = False) -> Task:
        """Return the task of a checkpoint.

        Args:
            labels: a name for each output of its head.
            takes_pairs: whether it says that it takes two texts, where the kind leaves it open.
        """
        is_pair = takes_pairs if self.takes_pairs is None else self.takes_pairs
        return Task(self.name, labels if self.has_classes else (), is_pair)

    @property
    def name_for_pairs(self) -> str | None:
        """The name of the kind with two texts to an example; None = there is none."""
        return None if self.takes_pairs is False else self.name

    def hugging_face_settings(self, task: Task) -> dict[str, Any]:
        """Return what of `config.json` depends on the task: the outputs' names by index."""
        if not self.has_classes:
            return {}
        return {"id2label": {str(index): label for index, label in enumerate(task.labels)}}

    # ---- explanation

    @abstractmethod
    def head_questions(self, task: Task, example: "Example") -> list[HeadQuestion]:
        """Return what the model can be asked about an example.

        Args:
            task: what the model was tuned for.
            example: one text, or two, as the model reads them.
        """

    # ---- serving

    @abstractmethod
    def served_answers(
        self, task: Task, logits: Any, words: Any = None, passage: Any = None
    ) -> dict[str, Any]:
        """Return the signature's outputs, in the served graph: tensors with the batch B first.

        Args:
            task: what the model was tuned for.
            logits: float32 [B, C] or [B, L, C].
            words: where the signature reads words: their `texts` string [B, W], `starts` and
                `limits` int32 [B, W], bytes of the text, and `at` int32 [B, L], the number of the
                word at each position, `NO_LABEL` where there is none.
            passage: string [B]. The second text, where the signature reads questions.
        """

    def golden_row(self, asked: "Asked", task: Task, texts: Sequence[str]) -> dict[str, Any]:
        """Return what is right about the answer to one or two texts, by the Python model.

        The gate holds the served model to it, so nothing of `served_answers` is used.

        Returns:
            Outputs of the signature by name, without padding, and what `expected_answer` needs.
        """
        row = asked.about(*texts)
        return row | self.golden_answers(task, row["task_logits"])

    def golden_answers(self, task: Task, logits: np.ndarray) -> dict[str, Any]:
        """Return outputs of the signature that follow from the logits of one text, float32 [C]."""
        del task, logits
        return {}

    def expected_answer(
        self, task: Task, row: Mapping[str, Any], answer: Mapping[str, np.ndarray]
    ) -> dict[str, Any]:
        """Return the outputs where what is right depends on which of several equals was answered.

        Args:
            task: what the model was tuned for.
            row: of `golden_row`.
            answer: the served model's outputs for the row.
        """
        del task, row, answer
        return {}
