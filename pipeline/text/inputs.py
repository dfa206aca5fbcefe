"""Texts to the inputs of a BERT: [CLS] A [SEP] B [SEP], truncated and padded.

Records, examples of a task, explained texts and the served graph are all laid out here. The
arithmetic is written once, over the operations that NumPy and TensorFlow share (`ArrayOperations`,
`Graph`), so a served model reads a text as it was trained to.

Shapes: N sequences, L positions, T pieces.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from pipeline import schema
from pipeline.schema import MASK, Arrays, Tensors
from pipeline.text.tokenizer import Tokenizer, Vocabulary, WordUnit, normalize

NO_B = -1
"""Length of a second text that does not exist. Its [SEP] does not exist either, so every formula
here holds for one text and for two: [CLS] A [SEP] has -1 + 1 positions of B."""

PAIR_MARKS = 3
"""Positions of [CLS] and two [SEP]; what a sequence has besides, A and B share."""


# ---- operations


class Operations(Protocol):
    """Operations on arrays or on tensors."""

    where: Any
    minimum: Any

    def positions(self, count: Any) -> Any:
        """Return 0 to count - 1, int64 [1, count]."""

    def take(self, values: Any, indices: Any) -> Any:
        """Return values at indices; any value where an index is out of range."""

    def cast(self, booleans: Any, like: Any) -> Any:
        """Return 0 and 1 in the dtype of `like`."""


class ArrayOperations:
    """NumPy's operations."""

    where = staticmethod(np.where)
    minimum = staticmethod(np.minimum)

    def positions(self, count: int) -> np.ndarray:  # noqa: D102
        return np.arange(count)[np.newaxis]

    def take(self, values: np.ndarray, indices: np.ndarray) -> np.ndarray:  # noqa: D102
        return values.take(indices, mode="clip") if len(values) else np.zeros_like(indices)

    def cast(self, booleans: np.ndarray, like: np.ndarray) -> np.ndarray:  # noqa: D102
        return booleans.astype(like.dtype)


def _where(condition: Any, chosen: Any, other: Any) -> Any:
    import tensorflow as tf

    return tf.where(condition, chosen, other)


def _minimum(first: Any, second: Any) -> Any:
    import tensorflow as tf

    return tf.minimum(first, second)


class Graph:
    """TensorFlow's operations, in a graph or eager; TensorFlow Serving has all of them."""

    # TensorFlow is imported by the first operation: `query` needs the kinds of tasks, and not it.
    where = staticmethod(_where)
    minimum = staticmethod(_minimum)

    def positions(self, count: Any) -> Any:  # noqa: D102
        import tensorflow as tf

        return tf.range(tf.cast(count, tf.int64))[tf.newaxis]

    def take(self, values: Any, indices: Any) -> Any:  # noqa: D102
        import tensorflow as tf

        # One value more, so that there is one; GatherV2 refuses indices out of range on a CPU.
        filled = tf.pad(values, [[0, 1]])
        return tf.gather(filled, tf.clip_by_value(indices, 0, tf.size(values, tf.int64)))

    def cast(self, booleans: Any, like: Any) -> Any:  # noqa: D102
        import tensorflow as tf

        return tf.cast(booleans, like.dtype)


ARRAYS = ArrayOperations()


# ---- layout


@dataclass(frozen=True)
class Marks:
    """Values at positions without text: ids of special tokens, or others laid out like ids."""

    cls: int
    sep: int
    pad: int

    @classmethod
    def of(cls, vocabulary: Vocabulary) -> "Marks":
        """Return the ids of a vocabulary's special tokens."""
        return cls(vocabulary.cls_id, vocabulary.sep_id, vocabulary.pad_id)


@dataclass(frozen=True)
class Spans:
    """Location of A and B of each sequence in an array of pieces: int64 [N] each.

    Attributes:
        first_start: index of the first piece of A.
        first_length: number of pieces of A.
        second_start: index of the first piece of B.
        second_length: number of pieces of B; `NO_B` = there is no B.
    """

    first_start: Any
    first_length: Any
    second_start: Any
    second_length: Any

    @property
    def first_positions(self) -> Any:
        """Number of positions of [CLS] A [SEP], [N]."""
        return self.first_length + 2

    @property
    def positions(self) -> Any:
        """Number of positions of the whole sequence, [N]."""
        return self.first_length + self.second_length + PAIR_MARKS


def truncated(
    first: Any, second: Any, room: int, operations: Operations = ARRAYS
) -> tuple[Any, Any]:
    """Return the number of pieces of A and B that are kept in a sequence.

    The longer text loses its last piece first, B if they are equally long, as in
    google-research/bert's `truncate_seq_pair`: both are reduced to half of the room, unless one is
    shorter and leaves more to the other.

    Args:
        first: int [N]. Number of pieces of A.
        second: int [N]. Number of pieces of B, or `NO_B`.
        room: maximum number of pieces of A and B together: `max_seq_length - PAIR_MARKS`. Without
            a B, A may have one more, at the position of the missing [SEP].
        operations: operations of the arguments' library.

    Returns:
        int [N] each.
    """
    # With an odd room, A gets one piece more than B: of two equally long texts, B is cut first.
    half = room // 2
    # `NO_B` is -1: without a B, A has room + 1.
    kept = operations.where(second <= half, room - second, room - half)
    kept = operations.minimum(first, kept)
    return kept, operations.minimum(second, room - kept)


def masks(
    first_positions: Any, positions: Any, width: Any, operations: Operations = ARRAYS
) -> tuple[Any, Any]:
    """Return which positions are real, and which of them belong to B [SEP]: bool [N, L] each.

    Args:
        first_positions: int [N]. Number of positions of [CLS] A [SEP].
        positions: int [N]. Number of positions of the whole sequence.
        width: L.
        operations: operations of the arguments' library.
    """
    position = operations.positions(width)
    is_real = position < positions[:, np.newaxis]
    return is_real, is_real & (position >= first_positions[:, np.newaxis])


def lay_out(
    pieces: Any, spans: Spans, width: Any, marks: Marks, operations: Operations = ARRAYS
) -> "Arrays | Tensors":
    """Lay texts out as [CLS] A [SEP] B [SEP], or [CLS] A [SEP] without B, padded.

    Args:
        pieces: int [T]. Array that the spans refer to: pieces, or a value for each piece.
        spans: spans of each sequence; no sequence is longer than the width.
        width: L.
        marks: ids of the special tokens.
        operations: operations of the arguments' library.

    Returns:
        input_ids, input_mask, segment_ids: int [N, L], in one dtype.
    """
    position = operations.positions(width)  # [1, L]
    is_real, in_second = masks(spans.first_positions, spans.positions, width, operations)
    first_sep = (spans.first_positions - 1)[:, np.newaxis]  # [N, 1]
    last_sep = (spans.positions - 1)[:, np.newaxis]
    is_sep = (position == first_sep) | (position == last_sep)
    # A begins at position 1, B after the first [SEP].
    first_source = (spans.first_start - 1)[:, np.newaxis] + position
    second_source = (spans.second_start - spans.first_positions)[:, np.newaxis] + position
    # Sources of special positions and padding may be out of range; `take` clips them.
    found = operations.take(pieces, operations.where(in_second, second_source, first_source))
    special = operations.where(is_real, marks.cls, marks.pad)
    special = operations.where(is_sep, marks.sep, special)
    is_text = is_real & (position > 0) & ~is_sep
    input_ids = operations.where(is_text, found, special)
    return {
        schema.INPUT_IDS: input_ids,
        schema.INPUT_MASK: operations.cast(is_real, input_ids),
        schema.SEGMENT_IDS: operations.cast(in_second, input_ids),
    }


BLOCK = 4096
"""Number of sequences that `join` lays out at a time, to limit the memory of the padding."""


def join(
    first: Sequence[np.ndarray], second: Sequence[np.ndarray] | None, marks: Marks
) -> list[np.ndarray]:
    """Return sequences without padding: int32 [L] each.

    Args:
        first: N rows of pieces, A.
        second: N rows of pieces, B; None = there is no B.
        marks: ids of the special tokens.
    """
    rows: list[np.ndarray] = []
    for start in range(0, len(first), BLOCK):
        block = slice(start, start + BLOCK)
        parts = [*first[block], *(second[block] if second is not None else ())]
        lengths = np.array([len(part) for part in parts], np.int64)
        starts, count = np.cumsum(lengths) - lengths, len(first[block])
        no_second = np.zeros(count, np.int64), np.full(count, NO_B)
        of_second = no_second if second is None else (starts[count:], lengths[count:])
        spans = Spans(starts[:count], lengths[:count], *of_second)
        laid = lay_out(np.concatenate(parts), spans, spans.positions.max(), marks)
        ids = laid[schema.INPUT_IDS][laid[schema.INPUT_MASK] > 0].astype(np.int32)
        rows += np.split(ids, np.cumsum(spans.positions)[:-1])
    return rows


# ---- [MASK] in a text


def split_at_masks(texts: Any) -> Any:
    """Split texts at each `[MASK]`: ragged string [N, (parts)].

    Args:
        texts: string [N].
    """
    import tensorflow as tf

    return tf.strings.split(texts, sep=MASK)


def tokenize_with_masks(tokenizer: Tokenizer, texts: Any, mask_id: int) -> Any:
    """Return the pieces of texts, with one piece for each `[MASK]`: ragged int32 [N, (pieces)].

    Args:
        tokenizer: tokenizer of the vocabulary.
        texts: string [N].
        mask_id: id of [MASK].
    """
    import tensorflow as tf

    parts = split_at_masks(texts)
    pieces = tokenizer.tokenize(parts.flat_values)  # ragged [parts in all, (pieces)]
    # A mask follows every part of a text but its last.
    total = tf.shape(parts.flat_values, tf.int64)[0]
    limits = parts.row_limits()
    # `split` returns a part for an empty text, too, so every text has a last one.
    is_last = tf.scatter_nd(limits[:, tf.newaxis] - 1, tf.ones_like(limits), [total])
    # Right by construction: every served graph would have the operations of the check.
    masks = tf.RaggedTensor.from_row_lengths(
        tf.fill([total - parts.nrows()], mask_id), 1 - is_last, validate=False
    )
    return parts.with_flat_values(tf.concat([pieces, masks], axis=1)).merge_dims(1, 2)


@dataclass(frozen=True)
class WrittenPiece:
    """A piece and its text.

    Attributes:
        id: id of the piece.
        text: normalized text that the piece stands for, also if the piece is [UNK].
        is_spaced: whether white space or nothing is before it, or it is [MASK].
    """

    id: int
    text: str
    is_spaced: bool


def written_pieces(tokenizer: Tokenizer, text: str, mask_id: int) -> list[WrittenPiece]:
    """Return the pieces that `tokenize_with_masks` returns for a text, with the text of each piece.

    Args:
        tokenizer: tokenizer of the vocabulary.
        text: the text.
        mask_id: id of [MASK].
    """
    import tensorflow as tf

    parts = split_at_masks(tf.constant([text])).flat_values  # of the only row; slower as `[0]`
    clean = normalize(parts, lower_case=tokenizer.lower_case)
    tokenized = tokenizer.wordpiece.tokenize_with_offsets(clean)
    rows = zip(clean.numpy(), *(part.to_list() for part in tokenized), strict=True)
    found: list[WrittenPiece] = []
    for index, (data, ids, begins, ends) in enumerate(rows):
        if index:
            found.append(WrittenPiece(mask_id, MASK, is_spaced=True))
        for piece, begin, end in zip(ids, begins, ends, strict=True):
            # The character before the piece has up to 4 bytes; those of the one before it that
            # are cut are ignored. Decoding all of `data[:begin]` would be quadratic.
            before = data[max(begin - 4, 0) : begin].decode(errors="ignore")[-1:]
            found.append(WrittenPiece(piece, data[begin:end].decode(), before.strip() == ""))
    return found


# ---- words of a text


@dataclass(frozen=True)
class WordPieces:
    """The words of N texts, and their pieces.

    Attributes:
        words: ragged string [N, (words)].
        starts: ragged int64 [N, (words)]. Offset of each word's first byte in the text.
        limits: ragged int64 [N, (words)]. Offset after each word's last byte.
        pieces: ragged int32 [N, (pieces)]. At least one per word.
        word_numbers: ragged int32 [N, (pieces)]. Number of each piece's word, from 0.
    """

    words: Any
    starts: Any
    limits: Any
    pieces: Any
    word_numbers: Any


def tokenize_by_word(
    tokenizer: Tokenizer, texts: Any, vocabulary: Vocabulary, unit: WordUnit = "bert"
) -> WordPieces:
    """Split texts into words, and words into pieces.

    Args:
        tokenizer: tokenizer of the vocabulary.
        texts: string [N].
        vocabulary: the pieces.
        unit: unit that texts are split into, as `WordUnit` describes.
    """
    import tensorflow as tf

    words, starts, limits = tokenizer.split_words(texts, unit)
    pieces = tokenizer.tokenize_words(words.flat_values, vocabulary)
    joined = words.with_flat_values(pieces).merge_dims(1, 2)
    # Counted again in each text.
    numbers = tf.ragged.range(words.row_lengths(), dtype=tf.int64).flat_values
    of_pieces = tf.repeat(tf.cast(numbers, tf.int32), pieces.row_lengths())
    return WordPieces(words, starts, limits, joined, joined.with_flat_values(of_pieces))
