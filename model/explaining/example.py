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
from pipeline.text.tokenizer import Tokenizer, build_tokenizer, normalize


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
    parts = [_pieces_of(run, tokenizer, text) for text in texts]
    for text, part in zip(texts, parts, strict=True):
        if not part:
            raise InputError(f"TEXT {text!r}: has no word in it; give a sentence")
    kept = _trimmed([len(part) for part in parts], run.dataset.max_seq_length - 1 - len(parts))
    rows = [(run.vocabulary.cls_id, CLS, True, 0)]
    for segment, (part, length) in enumerate(zip(parts, kept, strict=True)):
        rows += [(*piece, segment) for piece in part[:length]]
        rows.append((run.vocabulary.sep_id, SEP, True, segment))
    ids, written, spaced, segments = zip(*rows, strict=True)
    special = [run.vocabulary.cls_id, run.vocabulary.sep_id, run.vocabulary.mask_id]
    return Example(
        pieces=tuple(run.vocabulary.pieces[index] for index in ids),
        written=written,
        input_ids=np.array(ids, np.int32),
        segment_ids=np.array(segments, np.int32),
        is_special=np.isin(ids, special),
        is_spaced=np.array(spaced),
        cut_pieces=sum(map(len, parts)) - sum(kept),
    )


def _check_number(run: Run, texts: int) -> None:
    """Raise `InputError` if the run's model was not trained on this number of texts."""
    if run.task is not None and run.task.takes_pairs != (texts == 2):
        takes = "two texts" if run.task.takes_pairs else "one text"
        raise InputError(f"TEXT_PAIR: {run.path} takes {takes}; give {takes}")
    if run.heads == ("masked_lm",) and texts == 2:
        raise InputError(f"TEXT_PAIR: {run.path} was trained on single texts; give one text")


def _pieces_of(run: Run, tokenizer: Tokenizer, text: str) -> list[tuple[int, str, bool]]:
    """Return each piece as (id, text, `is_spaced`); a literal `[MASK]` becomes one piece."""
    import tensorflow as tf

    pieces: list[tuple[int, str, bool]] = []
    for index, part in enumerate(text.split(MASK)):
        if index:
            pieces.append((run.vocabulary.mask_id, MASK, True))
        clean = normalize(tf.constant([part]), lower_case=run.dataset.lower_case)
        ids, begins, ends = tokenizer.wordpiece.tokenize_with_offsets(clean)
        data = clean[0].numpy()
        where = zip(ids[0].numpy(), begins[0].numpy(), ends[0].numpy(), strict=True)
        for piece, begin, end in where:
            before = data[:begin].decode("utf-8")[-1:]
            pieces.append((int(piece), data[begin:end].decode("utf-8"), before.strip() == ""))
    return pieces


def _trimmed(lengths: list[int], room: int) -> list[int]:
    """Return the number of pieces to keep of each text, truncated like in the exported model."""
    import tensorflow as tf
    import tensorflow_text as tf_text

    pieces = [tf.RaggedTensor.from_row_lengths(tf.range(n), [n]) for n in lengths]
    return [int(kept.row_lengths()[0]) for kept in tf_text.RoundRobinTrimmer(room).trim(pieces)]
