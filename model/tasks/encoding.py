"""Labelled examples as a model takes them: pieces in positions, and a label for each to learn from.

Shapes: N examples, L positions of one of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from model.tasks.examples import Examples, Questions, Texts, Words
from model.tasks.kinds import Task
from model.training.config import DOC_STRIDE
from pipeline.errors import InputError
from pipeline.text.tokenizer import Tokenizer, Vocabulary, build_tokenizer, combine

NO_LABEL = -1
"""Label of a position that nothing is learned from."""

MAX_QUESTION_PIECES = 64
"""Pieces of a question that are read, as in google-research/bert (run_squad.py)."""

SHORTEST_WINDOW = 5
"""Positions of [CLS] A [SEP] B [SEP] with a piece of each text."""


def question_room(max_seq_length: int) -> int:
    """Return how many pieces of a question are read; a piece of its passage always has room."""
    return min(MAX_QUESTION_PIECES, max(max_seq_length - SHORTEST_WINDOW + 1, 0))


def windows(length: int, room: int, stride: int) -> list[tuple[int, int]]:
    """Return the first and end piece of each window of a passage; together they cover it.

    Args:
        length: pieces of the passage.
        room: most pieces of a window.
        stride: pieces between the starts of two windows; a window's room where that is less.

    Raises:
        ValueError: `room` or `stride` is below 1, so no window would follow the first one.
    """
    if room < 1 or stride < 1:
        raise ValueError(f"room and stride must be at least 1, received {room} and {stride}")
    step = min(stride, room)
    starts = range(0, max(length - room, 0) + step, step)
    return [(start, min(start + room, length)) for start in starts]


@dataclass
class Encoded:
    """Examples of any task; a long sentence or passage may have become several.

    Attributes:
        input_ids: int32 [L] each. [CLS] A [SEP], or [CLS] A [SEP] B [SEP].
        first_lengths: int32 [N]. Positions of [CLS] A [SEP].
        labels: int32 [N] classes; float32 [N] numbers; int32 [N, 2] first and last position of an
            answer, 0 and 0 without; or int32 [L] each, a tag's at a word's first piece and
            `NO_LABEL` elsewhere. None where nothing is known.
        sources: int32 [N]. Which example of the file it is, or is a part of.
        words: of a span task, int32 [L] each: which word of the passage stands at a position;
            `NO_LABEL` where none does.
        word_bytes: of a span task, int64 [W, 2] for each example of the file: the byte of the
            passage where each of its W words begins, and the byte after its end.
        counts: what happened on the way, by name: `truncated`, `empty`, `in parts`, …
    """

    input_ids: list[np.ndarray]
    first_lengths: np.ndarray
    labels: Any
    sources: np.ndarray
    words: list[np.ndarray] = field(default_factory=list)
    word_bytes: list[np.ndarray] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return N."""
        return len(self.input_ids)


class Encoder:
    """Turns examples into pieces and labels.

    Attributes:
        vocabulary: the pieces.
        max_seq_length: most positions of an example, at least `SHORTEST_WINDOW`.
        doc_stride: pieces between the starts of two windows of a long passage, at least 1.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        lower_case: bool,
        max_seq_length: int,
        doc_stride: int = DOC_STRIDE,
    ) -> None:
        """Build the tokenizer.

        Raises:
            InputError: `max_seq_length` is too small.
            ValueError: `doc_stride` is below 1.
        """
        if max_seq_length < SHORTEST_WINDOW:
            raise InputError(
                f"the model reads {max_seq_length} positions; at least {SHORTEST_WINDOW} "
                "are needed for two texts"
            )
        if doc_stride < 1:
            raise ValueError(f"doc_stride must be at least 1, received {doc_stride}")
        self.vocabulary = vocabulary
        self.max_seq_length = max_seq_length
        self.doc_stride = doc_stride
        self._tokenizer: Tokenizer = build_tokenizer(vocabulary.pieces, lower_case=lower_case)

    def encode(self, examples: Examples, task: Task) -> Encoded:
        """Return the examples as the model takes them.

        Raises:
            InputError: a label is not the task's.
        """
        if isinstance(examples, Texts):
            return self._texts(examples, task)
        if isinstance(examples, Words):
            return self._words(examples, task)
        return self._questions(examples)

    # ---- texts

    def _texts(self, examples: Texts, task: Task) -> Encoded:
        columns = [list(column) for column in zip(*examples.texts, strict=True)]
        pieces = [self._tokenizer.tokenize(tf.constant(column)) for column in columns]
        input_ids, segment_ids, truncated = combine(self.vocabulary, pieces, self.max_seq_length)
        first_lengths = tf.reduce_sum(1 - segment_ids, axis=1)
        empty = sum(any(not text.strip() for text in texts) for texts in examples.texts)
        return Encoded(
            _rows(input_ids),
            first_lengths.numpy().astype(np.int32),
            _text_labels(examples, task) if examples.labels else None,
            np.arange(len(examples), dtype=np.int32),
            counts={"truncated": int(tf.reduce_sum(tf.cast(truncated, tf.int32))), "empty": empty},
        )

    # ---- words and tags

    def _words(self, examples: Words, task: Task) -> Encoded:
        """Encode sentences; one that is too long becomes several of whole words."""
        numbers = {label: index for index, label in enumerate(task.labels)}
        pieces = self._word_pieces([word for words in examples.words for word in words])
        room = self.max_seq_length - 2
        made = Encoded([], np.zeros(0, np.int32), [], np.zeros(0, np.int32))
        sources: list[int] = []
        next_word = in_parts = 0
        for index, (words, tags) in enumerate(zip(examples.words, examples.tags, strict=True)):
            for tag in tags:
                if tag not in numbers:
                    raise InputError(
                        f"{examples.path}: line {examples.rows[index]}: the tag {tag!r} of this "
                        "sentence is not in the training file"
                    )
            of_words = [part[:room] for part in pieces[next_word : next_word + len(words)]]
            next_word += len(words)
            parts = _in_parts([len(part) for part in of_words], room)
            in_parts += len(parts) > 1
            for first, end in parts:
                chosen = of_words[first:end]
                labels = [
                    [numbers[tag], *[NO_LABEL] * (len(part) - 1)]
                    for tag, part in zip(tags[first:end], chosen, strict=True)
                ]
                made.input_ids.append(self._closed(np.concatenate(chosen)))
                made.labels.append(
                    np.array([NO_LABEL, *np.concatenate(labels), NO_LABEL], np.int32)
                )
                sources.append(index)
        made.sources = np.array(sources, np.int32)
        made.first_lengths = np.array([len(ids) for ids in made.input_ids], np.int32)
        made.counts = {"in parts": in_parts}
        return made

    def _word_pieces(self, words: Sequence[str]) -> list[np.ndarray]:
        """Return the pieces of every word, at least one each."""
        return _rows(
            self._tokenizer.tokenize_words(tf.constant(list(words), tf.string), self.vocabulary)
        )

    def _closed(self, *segments: np.ndarray) -> np.ndarray:
        """Return [CLS], then the segments with [SEP] after each."""
        parts: list[Any] = [[self.vocabulary.cls_id]]
        for segment in segments:
            parts += [segment, [self.vocabulary.sep_id]]
        return np.concatenate(parts).astype(np.int32)

    # ---- questions and passages

    def _questions(self, examples: Questions) -> Encoded:
        """Encode questions with parts of their passages, which overlap."""
        asked = examples.questions
        questions = _rows(self._tokenizer.tokenize(tf.constant([each.question for each in asked])))
        # Questions about one passage stand together, and it is split once.
        passages = {each.passage: index for index, each in enumerate(asked)}
        split = {passage: self._passage(passage) for passage in passages}
        made = Encoded([], np.zeros(0, np.int32), [], np.zeros(0, np.int32))
        first_lengths, sources = [], []
        in_parts = truncated = 0
        for index, each in enumerate(asked):
            pieces, words, word_bytes = split[each.passage]
            made.word_bytes.append(word_bytes)
            question = questions[index][: question_room(self.max_seq_length)]
            truncated += len(questions[index]) > len(question)
            room = self.max_seq_length - len(question) - 3
            answer = _answer_pieces(each.passage, each.answers, words, word_bytes)
            parts = windows(len(pieces), room, self.doc_stride)
            in_parts += len(parts) > 1
            for first, end in parts:
                part = slice(first, end)
                made.input_ids.append(self._closed(question, pieces[part]))
                offset = len(question) + 2
                made.words.append(
                    np.concatenate(
                        [np.full(offset, NO_LABEL), words[part], [NO_LABEL]], dtype=np.int32
                    )
                )
                made.labels.append(_answer_positions(answer, first, len(words[part]), offset))
                first_lengths.append(offset)
                sources.append(index)
        made.labels = np.array(made.labels, np.int32).reshape(-1, 2)
        made.first_lengths = np.array(first_lengths, np.int32)
        made.sources = np.array(sources, np.int32)
        made.counts = {
            "in parts": in_parts,
            "question truncated": truncated,
            "answer not in its passage": len(examples.misplaced),
        }
        return made

    def _passage(self, passage: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return a passage's pieces, the word of each, and the words' first and end bytes."""
        words, starts, limits = self._tokenizer.split_words(tf.constant([passage]))
        pieces = self._word_pieces(words[0].numpy().tolist())
        numbers = np.repeat(np.arange(len(pieces)), [len(part) for part in pieces])
        flat = np.concatenate([np.zeros(0, np.int32), *pieces])
        return flat, numbers, np.stack([starts[0], limits[0]], axis=-1)


def _rows(ragged: Any) -> list[np.ndarray]:
    """Return the rows of a ragged int tensor."""
    values = ragged.flat_values.numpy().astype(np.int32)
    return np.split(values, ragged.row_splits.numpy()[1:-1])


def _text_labels(examples: Texts, task: Task) -> np.ndarray:
    """Return classes int32 [N], or numbers float32 [N].

    Raises:
        InputError: a label is no number, or no class of the task.
    """
    numbers = {label: index for index, label in enumerate(task.labels)}
    found: list[float] = []
    for label, row in zip(examples.labels, examples.rows, strict=True):
        try:
            found.append(numbers[label] if task.has_classes else float(label))
        except KeyError:
            raise InputError(
                f"{examples.path}: line {row}: the label {label!r} is not in the training file "
                f"({', '.join(task.labels[:10])})"
            ) from None
        except ValueError:
            raise InputError(f"{examples.path}: line {row}: {label!r} is not a number") from None
        if not np.isfinite(found[-1]):
            raise InputError(f"{examples.path}: line {row}: {label!r} is not a finite number")
        if abs(found[-1]) > float(np.finfo(np.float32).max):  # NumPy would compare in float32
            raise InputError(
                f"{examples.path}: line {row}: {label!r} is beyond float32, which the model "
                "computes in; scale the numbers"
            )
    return np.array(found, np.int32 if task.has_classes else np.float32)


def _in_parts(lengths: Sequence[int], room: int) -> list[tuple[int, int]]:
    """Return first and end of as few runs of words as fit, taken from the start."""
    parts, first, used = [], 0, 0
    for index, length in enumerate(lengths):
        if used + length > room:
            parts.append((first, index))
            first, used = index, 0
        used += length
    return [*parts, (first, len(lengths))]


def _answer_pieces(
    passage: str,
    answers: Sequence[tuple[str, int]],
    words: np.ndarray,
    word_bytes: np.ndarray,
) -> tuple[int, int] | None:
    """Return the first and the last piece of the first answer's words; None without an answer."""
    if not answers or not len(words):
        return None
    text, first = answers[0]
    first_byte = len(passage[:first].encode())
    end_byte = first_byte + len(text.encode())
    inside = np.flatnonzero((word_bytes[:, 1] > first_byte) & (word_bytes[:, 0] < end_byte))
    if not len(inside):
        return None
    pieces = np.flatnonzero((words >= inside[0]) & (words <= inside[-1]))
    return int(pieces[0]), int(pieces[-1])


def _answer_positions(
    answer: tuple[int, int] | None, first: int, length: int, offset: int
) -> tuple[int, int]:
    """Return an answer's first and last position in a part of the passage; 0 and 0 outside of it.

    Args:
        answer: its first and last piece in the passage.
        first: the part's first piece.
        length: pieces of the part.
        offset: position of the part's first piece.
    """
    if answer is None or answer[0] < first or answer[1] >= first + length:
        return 0, 0
    return answer[0] - first + offset, answer[1] - first + offset
