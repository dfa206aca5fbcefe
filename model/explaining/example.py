"""One text or pair as the model's input: pieces, ids, segments, and the text of each piece."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from model.run import Run
from pipeline import schema
from pipeline.errors import InputError
from pipeline.schema import CLS, JOINER, MASK, SEP
from pipeline.text.inputs import (
    NO_B,
    PAIR_MARKS,
    Marks,
    Spans,
    WrittenPiece,
    lay_out,
    truncated,
    written_pieces,
)
from pipeline.text.tokenizer import build_tokenizer


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
        words = np.split(np.arange(len(self)), np.flatnonzero(self.is_spaced)[1:])
        return [word.tolist() for word in words if not self.is_special[word[0]]]

    def features(self) -> dict[str, Any]:
        """Return the encoder's inputs by name, a batch of one: int32 [1, L] each."""
        import tensorflow as tf

        rows = {
            schema.INPUT_IDS: self.input_ids,
            schema.INPUT_MASK: np.ones_like(self.input_ids),
            schema.SEGMENT_IDS: self.segment_ids,
        }
        return {name: tf.constant(row[np.newaxis], tf.int32) for name, row in rows.items()}


def read_example(run: Run, texts: Sequence[str]) -> Example:
    """Tokenize one or two texts for a run's model, truncating them to its sequence length.

    Raises:
        InputError: a text is empty, or the run's model takes another number of texts.
    """
    _check_number(run, len(texts))
    tokenizer = build_tokenizer(run.vocabulary.pieces, lower_case=run.dataset.lower_case)
    parts = [written_pieces(tokenizer, text, run.vocabulary.mask_id) for text in texts]
    for text, part in zip(texts, parts, strict=True):
        if not part:
            raise InputError(f"TEXT {text!r}: has no word in it; give a sentence")
    first, second = (np.array([length]) for length in [*map(len, parts), NO_B][:2])
    kept = truncated(first, second, run.dataset.max_seq_length - PAIR_MARKS)
    spans = Spans(np.zeros_like(first), kept[0], first, kept[1])
    # The number of each piece is laid out instead of its id, because it leads to its text, too.
    marks = [WrittenPiece(run.vocabulary.ids[mark], mark, is_spaced=True) for mark in (CLS, SEP)]
    pieces = [*marks, *(piece for part in parts for piece in part)]
    numbers = np.arange(len(marks), len(pieces))
    no_padding = 0
    laid = lay_out(numbers, spans, spans.positions[0], Marks(0, 1, no_padding))
    shown = [pieces[number] for number in laid[schema.INPUT_IDS][0]]
    ids = np.array([piece.id for piece in shown], np.int32)
    special = [run.vocabulary.cls_id, run.vocabulary.sep_id, run.vocabulary.mask_id]
    return Example(
        pieces=tuple(run.vocabulary.pieces[index] for index in ids),
        written=tuple(piece.text for piece in shown),
        input_ids=ids,
        segment_ids=laid[schema.SEGMENT_IDS][0].astype(np.int32),
        is_special=np.isin(ids, special),
        is_spaced=np.array([piece.is_spaced for piece in shown]),
        cut_pieces=int(first[0] + second[0] - kept[0][0] - kept[1][0]),
    )


def _check_number(run: Run, texts: int) -> None:
    """Raise `InputError` if the run's model was not trained on this number of texts."""
    if run.task is not None and run.task.takes_pairs != (texts == 2):
        takes = "two texts" if run.task.takes_pairs else "one text"
        raise InputError(f"TEXT_PAIR: {run.path} takes {takes}; give {takes}")
    if run.heads == ("masked_lm",) and texts == 2:
        raise InputError(f"TEXT_PAIR: {run.path} was trained on single texts; give one text")
