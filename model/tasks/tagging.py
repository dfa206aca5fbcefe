"""Tagging: the class of every word of a sentence, as in named entity recognition."""

import dataclasses
import itertools
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from model import served
from model.tasks.conll import read_conll
from model.tasks.encoded import NO_LABEL, Encoded
from model.tasks.evaluation import Evaluation, confusion_matrix, mean_cross_entropy
from model.tasks.examples import Examples
from model.tasks.labels import changed_names
from model.tasks.reference_model import PLACES, farther
from model.tasks.tables import Columns
from model.tasks.tag_schemes import Scheme, entities, tag_scheme
from model.tasks.task_kind import (
    TABLE_FIELDS,
    ForeignHead,
    HeadQuestion,
    Task,
    TaskKind,
    TaskSignature,
)
from model.tasks.windows import (
    ReadTexts,
    half_windows,
    window_count,
    window_with_most_context,
)
from pipeline.errors import InputError
from pipeline.schema import Arrays, Tensors
from pipeline.storage.strict_json import JsonObject

if TYPE_CHECKING:
    from model.explaining.example import Example
    from model.tasks.encoder import Encoder
    from model.tasks.reference_model import ReferenceModel
    from model.training.sums import Batch, Sums


@dataclass
class TaggedSentences(Examples):
    """Sentences of tagged words.

    Attributes:
        path: the file.
        words: words of each sentence.
        tags: tags of each sentence's words; empty if unknown.
        rows: line number of each sentence's first word.
    """

    path: Path
    words: list[list[str]] = field(default_factory=list)
    tags: list[list[str]] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        """Return the number of sentences."""
        return len(self.words)

    @property
    def are_labelled(self) -> list[bool]:
        """Whether each sentence has tags."""
        return [bool(tags) for tags in self.tags]

    def select(self, are_chosen: Sequence[bool]) -> Self:
        """Return the sentences for which `are_chosen` is True."""
        return dataclasses.replace(
            self,
            words=list(itertools.compress(self.words, are_chosen)),
            tags=list(itertools.compress(self.tags, are_chosen)),
            rows=list(itertools.compress(self.rows, are_chosen)),
        )

    @property
    def label_hint(self) -> str:
        """Hint for the error message if the file has no tags."""
        return " (its lines have one column; tabs or spaces separate columns)"


class Tagging(TaskKind[TaggedSentences]):
    """The kind `tagging`."""

    name = "tagging"
    has_classes = True
    takes_pairs = False
    is_per_position = True
    labels_per_position = True
    has_soft_targets = True
    signature = TaskSignature("tag", reads="words")
    foreign_head = ForeignHead("BertForTokenClassification", "classifier")
    window_dtypes = MappingProxyType({"classes": "int32", "probabilities": "float32"})
    metrics = ("entity_f1", "entity_precision", "entity_recall", "accuracy")

    @property
    def refused_fields(self) -> list[tuple[str, tuple[str, ...]]]:
        """Fields for tables, which a CoNLL file is not."""
        return [(f"the files of a {self.name} task are not tables", TABLE_FIELDS)]

    def read(self, path: Path, columns: Columns, *, takes_pairs: bool | None) -> TaggedSentences:
        """Read the columns of a CoNLL file."""
        del takes_pairs
        sentences = read_conll(path, columns.word_column, columns.tag_column)
        return TaggedSentences(
            path,
            [sentence.words for sentence in sentences],
            [sentence.tags for sentence in sentences],
            [sentence.line for sentence in sentences],
        )

    # ---- labels

    def task_of(self, examples: TaggedSentences) -> Task:
        """Return the task with the tags of the file."""
        labels = {tag for tags in examples.tags for tag in tags}
        return self.task_of_classes(examples.path, labels, takes_pairs=False)

    def with_labels_of(
        self, examples: TaggedSentences, task: Task, named: Mapping[str, str]
    ) -> tuple[TaggedSentences, dict[str, str]]:
        """Return the sentences with the tags renamed as in `named`."""
        del task
        tags = [[named.get(tag, tag) for tag in sentence] for sentence in examples.tags]
        return dataclasses.replace(examples, tags=tags), changed_names(named)

    def label_summary(self, examples: TaggedSentences, task: Task) -> list[str]:
        """Return the tag scheme."""
        return [f"tag scheme {scheme_of(examples, task)}"]

    # ---- encoding

    def encode_unlabelled(
        self, encoder: "Encoder", examples: TaggedSentences, task: Task
    ) -> Encoded:
        """Encode sentences without tags.

        A tag of the task is used for all words: `labels` marks the first pieces of words, whose
        logits are the words' answers.
        """
        tags = [[task.labels[0]] * len(words) for words in examples.words]
        return self.encode(encoder, dataclasses.replace(examples, tags=tags), task)

    def encode(self, encoder: "Encoder", examples: TaggedSentences, task: Task) -> Encoded:
        """Encode sentences; one that is too long, in windows that overlap.

        A word is labelled in the window where it has the most context, and only there.
        """
        numbers = {label: index for index, label in enumerate(task.labels)}
        _check_tags(examples, numbers)
        pieces = encoder.word_pieces([word for words in examples.words for word in words])
        # The same windows as in the served graph.
        room, step = half_windows(encoder.max_seq_length)
        rows: list[np.ndarray] = []
        all_labels: list[np.ndarray] = []
        sources: list[int] = []
        next_word = in_parts = 0
        for index, (words, tags) in enumerate(zip(examples.words, examples.tags, strict=True)):
            of_words = pieces[next_word : next_word + len(words)]
            next_word += len(words)
            ids = np.concatenate(of_words)
            first = np.cumsum([0, *map(len, of_words[:-1])])
            labels = np.full(len(ids), NO_LABEL, np.int32)
            # A word's tag is that of its first piece (Devlin et al. 2018, section 5.3).
            labels[first] = [numbers[tag] for tag in tags]
            count = int(window_count(len(ids), room, step))
            in_parts += count > 1
            windows = np.full(len(ids), NO_LABEL)
            # One of the windows that a word is in decides, so that no word counts twice.
            windows[first] = window_with_most_context(first, room, step, count)
            for window in range(count):
                part = slice(window * step, window * step + room)
                mine = np.where(windows[part] == window, labels[part], NO_LABEL)
                rows.append(ids[part])
                # For [CLS] and [SEP].
                all_labels.append(np.array([NO_LABEL, *mine, NO_LABEL], np.int32))
                sources.append(index)
        input_ids = encoder.sequences(rows)
        return Encoded(
            input_ids,
            np.array([len(ids) for ids in input_ids], np.int32),
            all_labels,
            np.array(sources, np.int32),
            counts={"in parts": in_parts},
        )

    def padded_labels(self, labels: Any, rows: np.ndarray, length: int) -> np.ndarray:
        """Return the tags of a batch, padded with `NO_LABEL`: int32 [B, L]."""
        padded = np.full((len(rows), length), NO_LABEL, np.int32)
        for place, row in enumerate(rows):
            padded[place, : len(labels[row])] = labels[row]
        return padded

    # ---- learning

    def label_weights(self, batch: "Batch") -> Any:
        """Return the weight of each position, 0 for positions without a tag: float32 [B, L]."""
        import tensorflow as tf

        is_tagged = tf.cast(batch["task_labels"] != NO_LABEL, tf.float32)
        return batch["example_weights"][:, tf.newaxis] * is_tagged

    def sums(self, logits: Any, batch: "Batch", weights: Any, task: Task) -> "Sums":
        """Return the sums of the cross-entropy, the accuracy and the weights."""
        from model.tasks.objective import class_sums

        del task
        return class_sums(logits, batch["task_labels"], weights)

    def soft_loss(self, logits: Any, batch: "Batch", weights: Any, temperature: float) -> Any:
        """Return the divergence of the tags' probabilities."""
        from model.training.distillation import soft_cross_entropy

        return soft_cross_entropy(logits, batch["teacher_logits"], weights, temperature)

    def taught_labels(self, logits: np.ndarray, label: Any) -> np.ndarray:
        """Return the teacher's most probable tags, at the positions that have one."""
        return np.where(label == NO_LABEL, NO_LABEL, logits.argmax(axis=-1)).astype(np.int32)

    # ---- answers

    def mean_loss(
        self, examples: TaggedSentences, encoded: Encoded, logits: Sequence[np.ndarray], task: Task
    ) -> float:
        """Return the mean cross-entropy over all words."""
        del examples, task
        both = list(zip(logits, encoded.labels, strict=True))
        scores = np.concatenate([score[label != NO_LABEL] for score, label in both])
        return mean_cross_entropy(
            scores, np.concatenate([label[label != NO_LABEL] for _, label in both])
        )

    def evaluate(
        self,
        examples: TaggedSentences,
        encoded: Encoded,
        logits: Sequence[np.ndarray],
        task: Task,
    ) -> Evaluation:
        """Return the tags of every sentence, and the metrics if tags are known."""
        tags = word_tags(examples, encoded, logits, task)
        rows = zip(examples.rows, examples.words, examples.tags, tags, strict=True)
        answers: list[JsonObject] = [
            {
                "line": row,
                "words": words,
                **({"expected": right} if right else {}),
                "answer": answer,
            }
            for row, words, right, answer in rows
        ]
        if not any(examples.tags):
            return Evaluation({}, answers)
        numbers = {label: index for index, label in enumerate(task.labels)}
        expected, answered = (
            np.array([numbers[tag] for sentence in side for tag in sentence])
            for side in (examples.tags, tags)
        )
        scheme = scheme_of(examples, task)
        return Evaluation(
            tag_measures(examples.tags, tags, scheme),
            answers,
            _sentence_errors(len(examples), encoded, logits),
            confusion_matrix(expected, answered, len(task.labels)),
            scheme,
        )

    # ---- explanation

    def head_questions(self, task: Task, example: "Example") -> list[HeadQuestion]:
        """Return a question for each word; the tag is computed at the word's first piece."""
        return [
            HeadQuestion(
                "tag",
                f"Which tag has “{''.join(example.written[i] for i in word)}”?",
                f"softmax(W z_{word[0]} + b)",
                "5.3",
                task.labels,
                position=word[0],
            )
            for word in example.tagged_words
        ]

    # ---- serving

    def window_outputs(self, task: Task, logits: Any, at: Any, most: Any) -> Tensors:
        """Return the class of each word that the windows decide on, and its probability."""
        import tensorflow as tf

        del task, most
        scores = tf.boolean_mask(logits, at != NO_LABEL)  # [words, C]
        return {
            "classes": tf.argmax(scores, axis=-1, output_type=tf.int32),
            "probabilities": tf.reduce_max(tf.nn.softmax(scores), axis=-1),
        }

    def served_answers(self, task: Task, logits: Any, read: ReadTexts | None = None) -> Tensors:
        """Return the tag of every word of each text.

        Returns:
            words: string [B, W]. Words of each text, padded with "".
            start, end, …: int32 [B, W]. Place of each word, see `ReadTexts.places`.
            labels: string [B, W]. Tag of each word; "" for words that were not read.
            probabilities: float32 [B, W]. Probability of each tag.
        """
        import tensorflow as tf

        assert read is not None
        texts = read.words.words.to_tensor()
        size = tf.shape(texts, tf.int64)
        numbers = tf.broadcast_to(tf.range(size[1]), size)
        # -1 pads the rows of shorter texts; `places` gives it the place 0 to 0.
        numbers = tf.where(numbers < read.words.words.row_lengths()[:, tf.newaxis], numbers, -1)
        rows = tf.broadcast_to(tf.range(size[0])[:, tf.newaxis], size)

        def by_text(values: Any) -> Any:
            """Return a value for each word that was read as [B, W]."""
            ragged = tf.RaggedTensor.from_row_lengths(values, read.counts, validate=False)
            return ragged.to_tensor(shape=[None, None])

        labels = by_text(tf.gather(tf.constant(task.labels), logits["classes"]))
        probabilities = by_text(logits[served.PROBABILITIES])
        # Words beyond the last window that is read have no label, but are in `words`.
        missing = [[0, 0], [0, size[1] - tf.shape(labels, tf.int64)[1]]]
        return {
            served.WORDS: texts,
            **read.places(rows, numbers, numbers),
            served.LABELS: tf.pad(labels, missing, constant_values=""),
            served.PROBABILITIES: tf.pad(probabilities, missing),
        }

    def golden_row(self, reference: "ReferenceModel", task: Task, texts: Sequence[str]) -> Arrays:
        """Return the words; `by_label` has the probabilities of each word that is read."""
        del task
        words, starts, limits = reference.words(texts[0], "whitespace")
        pieces = reference.word_pieces(words)
        ids = [piece for word in pieces for piece in word]
        first = np.cumsum([0, *map(len, pieces)])[:-1]
        room = reference.max_seq_length - 2
        begins = [0]
        while begins[-1] + room < len(ids) and len(begins) < reference.max_windows:
            begins.append(begins[-1] + max(room // 2, 1))
        logits = reference.logits([[ids[begin : begin + room]] for begin in begins])
        of_words = []
        for position in first[first < begins[-1] + room]:
            # How far the piece is from the middle; of two windows, the later one.
            from_middle = [abs(2 * (position - begin) - (room - 1)) for begin in begins[::-1]]
            window = len(begins) - 1 - int(np.argmin(from_middle))
            of_words.append(logits[window][1 + position - begins[window]])
        text = texts[0].encode()
        return {
            served.WORDS: words,
            **{
                side + unit: np.array([count(text[:offset]) for offset in offsets], np.int32)
                for side, offsets in ((served.START, starts), (served.END, limits))
                for unit, count in PLACES.items()
            },
            "by_label": _probabilities(np.array(of_words).reshape(-1, logits[0].shape[1])),
            served.TRUNCATED: np.array(begins[-1] + room < len(ids)),
        }

    def expected_answer(
        self, task: Task, row: Mapping[str, np.ndarray], answer: Mapping[str, np.ndarray]
    ) -> Arrays:
        """Return the expected probabilities of the answered labels, or of the best ones.

        The best label of the Python model may differ if two probabilities are almost equal.
        """
        probabilities = row["by_label"]  # [W, C], without truncated words
        count = len(probabilities)
        answered = answer[served.PROBABILITIES][:count]
        numbers = {label.encode(): index for index, label in enumerate(task.labels)}
        chosen = np.array([numbers.get(label, -1) for label in answer[served.LABELS][:count]], int)
        # An answer that is no label: expect a text that it cannot have.
        if (chosen < 0).any():
            return {
                served.LABELS: np.array([b"a label of the task"], object),
                served.PROBABILITIES: answered,
            }
        of_chosen = probabilities[np.arange(count), chosen]
        best = probabilities.max(axis=1, initial=0.0)
        return {
            served.LABELS: answer[served.LABELS][:count],
            served.PROBABILITIES: farther(best, of_chosen, answered),
        }


TAGGING = Tagging()


def scheme_of(examples: TaggedSentences, task: Task) -> Scheme:
    """Return the tag scheme of a file.

    Raises:
        InputError: the tags follow no known scheme.
    """
    try:
        return tag_scheme(examples.tags, task.labels)
    except ValueError as error:
        raise InputError(f"{examples.path}: {error}") from error


# ---- encoding


def _check_tags(examples: TaggedSentences, known: Container[str]) -> None:
    for tags, row in zip(examples.tags, examples.rows, strict=True):
        for tag in tags:
            if tag not in known:
                raise InputError(
                    f"{examples.path}: line {row}: the tag {tag!r} of this sentence is not in the "
                    "training file"
                )


# ---- answers


def word_tags(
    examples: TaggedSentences, encoded: Encoded, logits: Sequence[np.ndarray], task: Task
) -> list[list[str]]:
    """Return the tag of every word, by sentence.

    A word's tag is computed at its first piece (BERT, section 5.3), in one of the windows of a long
    sentence.
    """
    tags: list[list[str]] = [[] for _ in examples.words]
    for source, score, label in zip(encoded.sources, logits, encoded.labels, strict=True):
        best = score[label != NO_LABEL].argmax(axis=-1)
        # Windows of a sentence follow each other, and each decides on words after the one before.
        tags[source] += [task.labels[index] for index in best]
    return tags


def _sentence_errors(count: int, encoded: Encoded, logits: Sequence[np.ndarray]) -> list[float]:
    """Return the cross-entropy of each sentence, summed over all its words."""
    from scipy.special import log_softmax

    errors = np.zeros(count)
    for source, score, label in zip(encoded.sources, logits, encoded.labels, strict=True):
        at = np.flatnonzero(label != NO_LABEL)
        # Summed and not averaged, so that one wrong word of a long sentence is seen.
        errors[source] -= log_softmax(score[at], axis=-1)[range(len(at)), label[at]].sum()
    return errors.tolist()


def tag_measures(
    expected: Sequence[Sequence[str]],
    predicted: Sequence[Sequence[str]],
    scheme: Scheme | None = None,
) -> dict[str, float]:
    """Return the entity-level metrics and the accuracy of words.

    Args:
        expected: true tags of every sentence.
        predicted: predicted tags.
        scheme: tag scheme; None = detect.

    Raises:
        ValueError: the tags follow no known scheme.
    """
    if scheme is None:
        scheme = tag_scheme(expected, {tag for tags in predicted for tag in tags})
    # As sets of (sentence, type, first, last): an entity is right only as a whole (CoNLL-2003).
    gold, system = (
        {(i, *entity) for i, tags in enumerate(side) for entity in entities(tags, scheme)}
        for side in (expected, predicted)
    )
    right = len(gold & system)
    precision, recall = right / max(len(system), 1), right / max(len(gold), 1)
    words = [
        a == b for x, y in zip(expected, predicted, strict=True) for a, b in zip(x, y, strict=True)
    ]
    return {
        # 0, not NaN, where no entity is right.
        "entity_f1": 2 * precision * recall / max(precision + recall, 1e-9),
        "entity_precision": precision,
        "entity_recall": recall,
        "accuracy": float(np.mean(words)),
    }


# ---- serving


def _probabilities(logits: np.ndarray) -> np.ndarray:
    from scipy.special import softmax

    probabilities: np.ndarray = softmax(logits, axis=-1)
    return probabilities
