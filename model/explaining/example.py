"""One text or pair as the model's input: pieces, ids, segments, and the text of each piece."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipeline import schema
from pipeline.schema import JOINER, MASK, Tensors


@dataclass(frozen=True)
class Example:
    """A tokenized text or pair.

    Attributes:
        pieces: L pieces, [CLS] A [SEP] or [CLS] A [SEP] B [SEP].
        written: the text that each piece represents; it differs where a piece is [UNK].
        input_ids: int32 [L]. The pieces' ids.
        segment_ids: int32 [L]. 0 = [CLS] A [SEP], 1 = B [SEP].
        is_special: bool [L]. True for [CLS], [SEP] and [MASK].
        is_spaced: bool [L]. True for special pieces, and for pieces at the text's start or after
            white space.
        cut_pieces: number of pieces that were truncated.
    """

    pieces: tuple[str, ...]
    written: tuple[str, ...]
    input_ids: np.ndarray
    segment_ids: np.ndarray
    is_special: np.ndarray
    is_spaced: np.ndarray
    cut_pieces: int

    def __len__(self) -> int:
        """Return L."""
        return len(self.pieces)

    @property
    def has_pair(self) -> bool:
        """Whether there are two texts."""
        return bool(self.segment_ids.any())

    @property
    def masks(self) -> list[int]:
        """Positions of [MASK]."""
        return [i for i, piece in enumerate(self.pieces) if piece == MASK and self.is_special[i]]

    @cached_property
    def words(self) -> list[list[int]]:
        """Positions of each word's pieces; a `##` piece belongs to the word before it."""
        words: list[list[int]] = []
        for position, piece in enumerate(self.pieces):
            if piece.startswith(JOINER) and len(piece) > len(JOINER):
                words[-1].append(position)
            else:
                words.append([position])
        return words

    @property
    def tagged_words(self) -> list[list[int]]:
        """Positions of each white-space-separated word, the unit of tagging; no special pieces."""
        # Tags are of words between spaces, as in CoNLL files; punctuation belongs to its word.
        words = np.split(np.arange(len(self)), np.flatnonzero(self.is_spaced)[1:])
        return [word.tolist() for word in words if not self.is_special[word[0]]]

    def features(self) -> Tensors:
        """Return the encoder's inputs by name, a batch of one: int32 [1, L] each."""
        import tensorflow as tf

        rows = {
            schema.INPUT_IDS: self.input_ids,
            schema.INPUT_MASK: np.ones_like(self.input_ids),
            schema.SEGMENT_IDS: self.segment_ids,
        }
        return {name: tf.constant(row[np.newaxis], tf.int32) for name, row in rows.items()}
