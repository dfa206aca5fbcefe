"""Raw strings to a BERT's inputs, inside the served graph: what preprocessing does, for a server.

Shapes: B texts, L positions (the longest text of the batch), W words (the most in a text).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
import tensorflow_text as tf_text

from model.tasks.span import question_room
from pipeline import schema
from pipeline.schema import MASK
from pipeline.text.tokenizer import Vocabulary, WordUnit, build_tokenizer

FEWEST_POSITIONS = 3
"""An empty batch has so many columns, not none: [CLS], a piece, [SEP]."""


NO_WORD = -1
"""Stands where a position is of no word."""


@dataclass(frozen=True)
class Encoding:
    """Texts as a BERT reads them.

    Attributes:
        features: input_ids, input_mask, segment_ids: int32 [B, L].
        truncated: bool [B]. The text was longer than the model takes, and its end was cut off.
    """

    features: Mapping[str, Any]
    truncated: Any


@dataclass(frozen=True)
class Words:
    """The words of a batch's texts.

    Attributes:
        texts: string [B, W]; "" where a text has fewer words.
        starts: int32 [B, W]. The byte that each begins at.
        limits: int32 [B, W]. The byte that each ends before.
        at: int32 [B, L]. Number of the word at each position; -1 where there is none.
    """

    texts: Any
    starts: Any
    limits: Any
    at: Any


class TextEncoder(tf.Module):
    """Tokenizes and joins texts: [CLS] A [SEP], or [CLS] A [SEP] B [SEP]."""

    def __init__(
        self, vocabulary: Vocabulary, *, lower_case: bool, max_seq_length: int, reads_masks: bool
    ) -> None:
        """Build the tokenizer.

        Args:
            vocabulary: the pieces by id.
            lower_case: as in training.
            max_seq_length: the most positions that an encoding has.
            reads_masks: whether `[MASK]` in a text is that piece; else it is text like any other.
        """
        super().__init__(name="text_encoder")
        self._vocabulary = vocabulary
        self._max_seq_length = max_seq_length
        self._reads_masks = reads_masks
        self._tokenizer = build_tokenizer(vocabulary.pieces, lower_case=lower_case)
        self._pieces = tf.constant(vocabulary.pieces)
        # Functions that all signatures call, so that the tokenizer's tables are saved once.
        texts = tf.TensorSpec([None], tf.string)
        self.pieces_of = graph_function(self._tokenize, [texts])
        self.joined = graph_function(self._joined, [texts, texts, tf.TensorSpec([None], tf.bool)])

    def encode(self, text: Any) -> Encoding:
        """Encode each text by itself.

        Args:
            text: string [B].
        """
        text = _flat(text)
        return Encoding(*self.joined(text, tf.fill(tf.shape(text), ""), _all(False, text)))

    def encode_pairs(self, text: Any, text_pair: Any, *, optional: bool = False) -> Encoding:
        """Encode two texts as one; the longer one is cut first.

        Args:
            text: string [B].
            text_pair: string [B].
            optional: whether an empty second text means that there is none.
        """
        text, text_pair = _flat(text), _flat(text_pair)
        _check_same_length(text, text_pair)
        has_pair = text_pair != "" if optional else _all(True, text)
        return Encoding(*self.joined(text, text_pair, has_pair))

    def tokens(self, encoding: Encoding) -> Any:
        """Return the piece at each position, string [B, L]; "" for padding."""
        is_real = tf.cast(encoding.features[schema.INPUT_MASK], tf.bool)
        return tf.where(is_real, tf.gather(self._pieces, encoding.features[schema.INPUT_IDS]), "")

    def pieces(self, ids: Any) -> Any:
        """Return the pieces of ids, string of the same shape."""
        return tf.gather(self._pieces, ids)

    def _joined(self, text: Any, text_pair: Any, has_pair: Any) -> tuple[dict[str, Any], Any]:
        """Tokenize, cut and join; return the parts of an `Encoding`.

        Args:
            text: string [B].
            text_pair: string [B]; "" where there is no pair.
            has_pair: bool [B].
        """
        first, second = self.pieces_of(text), self.pieces_of(text_pair)
        trimmer = tf_text.RoundRobinTrimmer(self._max_seq_length - 3)
        kept_a, kept_b = (part.row_lengths() for part in trimmer.trim([first, second]))
        alone = tf.minimum(first.row_lengths(), self._max_seq_length - 2)
        kept = (tf.where(has_pair, kept_a, alone), kept_b)
        lengths = first.row_lengths() + second.row_lengths()
        return self._combined(first, second, kept, has_pair), lengths > tf.add_n(kept)

    def _combined(
        self, first: Any, second: Any, kept: tuple[Any, Any], has_pair: Any
    ) -> dict[str, Any]:
        """Return the features of the first pieces of one or two segments.

        Args:
            first: ragged int32 [B, (pieces)].
            second: ragged int32 [B, (pieces)].
            kept: int64 [B] each. How many pieces of each segment.
            has_pair: bool [B]. Whether a [SEP] follows the second segment.
        """
        vocabulary = self._vocabulary
        cls_id = tf.fill([tf.size(has_pair), 1], vocabulary.cls_id)
        sep_id = tf.fill([tf.size(has_pair), 1], vocabulary.sep_id)
        last = _ragged(
            tf.fill([tf.math.count_nonzero(has_pair)], vocabulary.sep_id),
            tf.cast(has_pair, tf.int64),
        )
        parts = [cls_id, _first(first, kept[0]), sep_id, _first(second, kept[1]), last]
        input_ids = _padded(tf.concat(parts, axis=1), vocabulary.pad_id)
        columns = tf.range(tf.shape(input_ids)[1])[tf.newaxis]
        end_of_first = tf.cast(kept[0] + 2, tf.int32)[:, tf.newaxis]
        end = end_of_first + tf.cast(kept[1] + last.row_lengths(), tf.int32)[:, tf.newaxis]
        return {
            schema.INPUT_IDS: input_ids,
            schema.INPUT_MASK: tf.cast(columns < end, tf.int32),
            schema.SEGMENT_IDS: tf.cast((columns >= end_of_first) & (columns < end), tf.int32),
        }

    def encode_words(self, text: Any) -> tuple[Encoding, Words]:
        """Encode each text word by word, as a model that tags words was trained.

        Words stand between white space, as in the training file: "U.N." is one.

        Args:
            text: string [B].
        """
        text = _flat(text)
        pieces, words = self._words(text, "whitespace")
        kept = tf.minimum(pieces.row_lengths(), self._max_seq_length - 2)
        nothing = _ragged(tf.zeros([0], tf.int32), tf.zeros_like(kept))
        none = (kept, tf.zeros_like(kept))
        features = self._combined(pieces, nothing, none, _all(False, text))
        return self._with_words(features, words, kept, tf.ones_like(kept), pieces)

    def encode_question(self, text: Any, text_pair: Any) -> tuple[Encoding, Words]:
        """Encode questions with the beginnings of their passages, as such a model was trained.

        Args:
            text: string [B]. Questions.
            text_pair: string [B]. Passages; the words are theirs.
        """
        text, text_pair = _flat(text), _flat(text_pair)
        _check_same_length(text, text_pair)
        question = self._tokenizer.tokenize(text)
        pieces, words = self._words(text_pair, "bert")
        free = self._max_seq_length - 3
        asked = tf.minimum(question.row_lengths(), question_room(self._max_seq_length))
        kept = tf.minimum(pieces.row_lengths(), free - asked)
        features = self._combined(question, pieces, (asked, kept), _all(True, text))
        return self._with_words(features, words, kept, asked + 2, pieces)

    def _words(self, text: Any, unit: WordUnit) -> tuple[Any, tuple[Any, ...]]:
        """Return the pieces of each text, ragged int32 [B, (pieces)], and of its words.

        Returns:
            The pieces; and the words, their first and end bytes, ragged [B, (words)], and the
            number of the word that each piece is of, ragged int32 [B, (pieces)].
        """
        words, starts, limits = self._tokenizer.split_words(text, unit)
        pieces = self._tokenizer.tokenize_words(words.flat_values, self._vocabulary)
        joined = words.with_flat_values(pieces).merge_dims(1, 2)
        numbers = tf.ragged.range(words.row_lengths(), dtype=tf.int64).flat_values
        of_pieces = tf.repeat(tf.cast(numbers, tf.int32), pieces.row_lengths())
        return joined, (words, starts, limits, joined.with_flat_values(of_pieces))

    def _with_words(
        self, features: dict[str, Any], words: tuple[Any, ...], kept: Any, offset: Any, pieces: Any
    ) -> tuple[Encoding, Words]:
        """Put together what `encode_words` and `encode_question` return.

        Args:
            features: of the encoding.
            words: of `_words`.
            kept: int64 [B]. How many of the pieces are in the encoding.
            offset: int64 [B]. Position of the first one.
            pieces: ragged int32 [B, (pieces)].
        """
        texts, starts, limits, of_pieces = words
        before = _ragged(tf.fill([tf.reduce_sum(offset)], NO_WORD), offset)
        at = tf.concat([before, _first(of_pieces, kept)], axis=1).to_tensor(NO_WORD)
        missing = tf.shape(features[schema.INPUT_IDS])[1] - tf.shape(at)[1]
        at = tf.pad(at, [[0, 0], [0, missing]], constant_values=NO_WORD)
        dense = (part.to_tensor() for part in (texts, starts, limits))
        texts, starts, limits = dense
        found = Words(texts, tf.cast(starts, tf.int32), tf.cast(limits, tf.int32), at)
        return Encoding(features, pieces.row_lengths() > kept), found

    def _tokenize(self, text: Any) -> Any:
        """Return the pieces of each text: ragged int32 [B, (pieces)]; `[MASK]` is one piece."""
        if not self._reads_masks:
            return self._tokenizer.tokenize(text)
        parts = tf.strings.split(text, sep=MASK)  # ragged [B, (parts)]
        pieces = self._tokenizer.tokenize(parts.flat_values)  # ragged [parts in all, (pieces)]
        # A mask follows every part of a text but its last.
        total = tf.shape(parts.flat_values, tf.int64)[0]
        is_last = tf.scatter_nd(
            parts.row_limits()[:, tf.newaxis] - 1, tf.ones_like(parts.row_limits()), [total]
        )
        masks = _ragged(tf.fill([total - parts.nrows()], self._vocabulary.mask_id), 1 - is_last)
        return parts.with_flat_values(tf.concat([pieces, masks], axis=1)).merge_dims(1, 2)


def graph_function(method: Any, input_signature: list[tf.TensorSpec] | None = None) -> Any:
    """Return a method as a function of the graph; it is plain TensorFlow, with no Python in it."""
    return tf.function(method, input_signature=input_signature, autograph=False)


def _check_same_length(text: Any, text_pair: Any) -> None:
    message = "text and text_pair differ in length"
    tf.debugging.assert_equal(tf.size(text), tf.size(text_pair), message)


def _all(value: bool, text: Any) -> Any:
    return tf.fill(tf.shape(text), value)


def _flat(text: Any) -> Any:
    """Refuse anything but a list of texts.

    The tokenizer's kernel ends the whole server when it is given a scalar, and the server does not
    compare ranks with the signature.
    """
    return tf.ensure_shape(text, [None])


def _ragged(values: Any, row_lengths: Any) -> Any:
    """Return rows of some values; the lengths are ours, so nobody need check them in the graph."""
    return tf.RaggedTensor.from_row_lengths(values, row_lengths, validate=False)


def _first(ragged: Any, kept: Any) -> Any:
    """Return the first `kept` int64 [B] items of each row."""
    rows = ragged.value_rowids()
    places = tf.range(tf.size(rows, tf.int64)) - tf.gather(ragged.row_starts(), rows)
    values = tf.boolean_mask(ragged.flat_values, places < tf.gather(kept, rows))
    return _ragged(values, kept)


def _padded(ragged: Any, value: int) -> Any:
    """Return a ragged [B, (L)] as int32 [B, L]."""
    tensor = tf.cast(ragged.to_tensor(value), tf.int32)
    missing = tf.maximum(FEWEST_POSITIONS - tf.shape(tensor)[1], 0)
    return tf.pad(tensor, [[0, 0], [0, missing]], constant_values=value)
