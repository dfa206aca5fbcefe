"""Encode the texts of examples as model inputs, for all kinds of task.

Shapes: N examples, L positions of an example.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from model.tasks.encoded import SHORTEST_WINDOW
from model.training.config import DOC_STRIDE, Long
from pipeline.errors import InputError
from pipeline.text.inputs import (
    NO_B,
    PAIR_MARKS,
    Marks,
    join,
    tokenize_by_word,
    truncated,
)
from pipeline.text.tokenizer import Tokenizer, Vocabulary, build_tokenizer


class Encoder:
    """Encodes examples.

    Attributes:
        vocabulary: vocabulary of the model.
        lower_case: whether texts are lower-cased and stripped of accents.
        max_seq_length: maximum number of positions of an example, at least `SHORTEST_WINDOW`.
        doc_stride: pieces between the starts of two windows of a long passage, at least 1.
        long: parts that are read of a text that is too long, for tasks with one text.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        lower_case: bool,
        max_seq_length: int,
        doc_stride: int = DOC_STRIDE,
        long: Long = "first",
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
        self.lower_case = lower_case
        self.max_seq_length = max_seq_length
        self.doc_stride = doc_stride
        self.long = long
        self._tokenizer: Tokenizer = build_tokenizer(vocabulary.pieces, lower_case=lower_case)

    def join(self, texts: Sequence[tuple[str, ...]]) -> tuple[list[np.ndarray], np.ndarray, int]:
        """Encode texts or text pairs.

        Returns:
            input_ids: N arrays int32 [L], [CLS] A [SEP] or [CLS] A [SEP] B [SEP]; the number of
            positions in [CLS] A [SEP], int32 [N]; and the number of rows that were truncated.
        """
        columns = [list(column) for column in zip(*texts, strict=True)]
        rows = [self.pieces(column) for column in columns]
        lengths = [np.array([len(row) for row in part]) for part in rows]
        # Texts alone have no B, which is not a B of length 0: that would have a [SEP].
        lengths = [*lengths, np.full(len(texts), NO_B)][:2]
        # Before joining, on the pieces: a truncated sequence would lose its [SEP].
        kept = truncated(lengths[0], lengths[1], self.max_seq_length - PAIR_MARKS)
        cut = [
            [row[:length] for row, length in zip(part, of_part, strict=True)]
            for part, of_part in zip(rows, kept, strict=False)
        ]
        count = int((sum(lengths) > sum(kept)).sum())
        return self.sequences(*cut), (kept[0] + 2).astype(np.int32), count

    def pieces(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the piece ids of each text: int32 [pieces]."""
        return _rows(self._tokenizer.tokenize(tf.constant(list(texts), tf.string)))

    def word_pieces(self, words: Sequence[str]) -> list[np.ndarray]:
        """Return the piece ids of each word, at least one per word: int32 [pieces]."""
        return _rows(
            self._tokenizer.tokenize_words(tf.constant(list(words), tf.string), self.vocabulary)
        )

    def sequences(
        self, first: Sequence[np.ndarray], second: Sequence[np.ndarray] | None = None
    ) -> list[np.ndarray]:
        """Return [CLS] A [SEP], or [CLS] A [SEP] B [SEP], of piece ids: N arrays int32 [L]."""
        return join(first, second, Marks.of(self.vocabulary))

    def passage(self, passage: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return a passage's piece ids, the word index of each, and the words' byte offsets.

        Returns:
            int32 [pieces] each, and int64 [W, 2]: start and end of each of the W words.
        """
        words = tokenize_by_word(self._tokenizer, tf.constant([passage]), self.vocabulary)
        pieces, numbers = words.pieces[0].numpy(), words.word_numbers[0].numpy()
        return pieces, numbers, np.stack([words.starts[0], words.limits[0]], axis=-1)


def _rows(ragged: Any) -> list[np.ndarray]:
    """Return the rows of a ragged int tensor."""
    values = ragged.flat_values.numpy().astype(np.int32)
    return np.split(values, ragged.row_splits.numpy()[1:-1])
