"""Encode the texts of examples as model inputs, for all kinds of task.

Shapes: N examples, L positions of an example.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from model.tasks.encoded import SHORTEST_WINDOW, Encoded
from model.tasks.examples import Examples
from model.tasks.kinds import Task
from model.training.config import DOC_STRIDE
from pipeline.errors import InputError
from pipeline.text.tokenizer import Tokenizer, Vocabulary, build_tokenizer, combine


class Encoder:
    """Encodes examples.

    Attributes:
        vocabulary: vocabulary of the model.
        max_seq_length: maximum number of positions of an example, at least `SHORTEST_WINDOW`.
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
        """Return the encoded examples of a task.

        Raises:
            InputError: a label is not one of the task's.
        """
        return task.definition.encode(self, examples, task)

    def join(self, texts: Sequence[tuple[str, ...]]) -> tuple[list[np.ndarray], np.ndarray, int]:
        """Encode texts or text pairs.

        Returns:
            input_ids: N arrays int32 [L], [CLS] A [SEP] or [CLS] A [SEP] B [SEP]; the number of
            positions in [CLS] A [SEP], int32 [N]; and the number of rows that were truncated.
        """
        columns = [list(column) for column in zip(*texts, strict=True)]
        pieces = [self._tokenizer.tokenize(tf.constant(column)) for column in columns]
        input_ids, segment_ids, truncated = combine(self.vocabulary, pieces, self.max_seq_length)
        first_lengths = tf.reduce_sum(1 - segment_ids, axis=1)
        count = int(tf.reduce_sum(tf.cast(truncated, tf.int32)))
        return _rows(input_ids), first_lengths.numpy().astype(np.int32), count

    def pieces(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the piece ids of each text: int32 [pieces]."""
        return _rows(self._tokenizer.tokenize(tf.constant(list(texts), tf.string)))

    def word_pieces(self, words: Sequence[str]) -> list[np.ndarray]:
        """Return the piece ids of each word, at least one per word: int32 [pieces]."""
        return _rows(
            self._tokenizer.tokenize_words(tf.constant(list(words), tf.string), self.vocabulary)
        )

    def closed(self, *segments: np.ndarray) -> np.ndarray:
        """Return [CLS] and the segments, with [SEP] after each segment: int32 [L]."""
        parts: list[Any] = [[self.vocabulary.cls_id]]
        for segment in segments:
            parts += [segment, [self.vocabulary.sep_id]]
        return np.concatenate(parts).astype(np.int32)

    def passage(self, passage: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return a passage's piece ids, the word index of each, and the words' byte offsets.

        Returns:
            int32 [pieces], int64 [pieces], and int64 [W, 2]: start and end of each of the W words.
        """
        words, starts, limits = self._tokenizer.split_words(tf.constant([passage]))
        pieces = self.word_pieces(words[0].numpy().tolist())
        numbers = np.repeat(np.arange(len(pieces)), [len(part) for part in pieces])
        flat = np.concatenate([np.zeros(0, np.int32), *pieces])
        return flat, numbers, np.stack([starts[0], limits[0]], axis=-1)


def _rows(ragged: Any) -> list[np.ndarray]:
    """Return the rows of a ragged int tensor."""
    values = ragged.flat_values.numpy().astype(np.int32)
    return np.split(values, ragged.row_splits.numpy()[1:-1])
