"""Raw strings to a BERT's inputs, inside the served graph: what preprocessing does, for a server.

Shapes: B texts, L positions (the longest text of the batch).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
import tensorflow_text as tf_text

from pipeline.schema import MASK
from pipeline.tokenizer import Vocabulary, build_tokenizer

FEWEST_POSITIONS = 3
"""An empty batch has so many columns, not none: [CLS], a piece, [SEP]."""


@dataclass(frozen=True)
class Encoding:
    """Texts as a BERT reads them.

    Attributes:
        features: input_ids, input_mask, segment_ids: int32 [B, L].
        truncated: bool [B]. The text was longer than the model takes, and its end was cut off.
    """

    features: Mapping[str, Any]
    truncated: Any


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
        tf.debugging.assert_equal(
            tf.size(text), tf.size(text_pair), "text and text_pair differ in length"
        )
        has_pair = text_pair != "" if optional else _all(True, text)
        return Encoding(*self.joined(text, text_pair, has_pair))

    def tokens(self, encoding: Encoding) -> Any:
        """Return the piece at each position, string [B, L]; "" for padding."""
        is_real = tf.cast(encoding.features["input_mask"], tf.bool)
        return tf.where(is_real, tf.gather(self._pieces, encoding.features["input_ids"]), "")

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
        ends = 2 + tf.cast(has_pair, tf.int64)  # [CLS] and each [SEP]
        room = self._max_seq_length - ends
        lengths = (first.row_lengths(), second.row_lengths())
        trimmer = tf_text.RoundRobinTrimmer(self._max_seq_length - 3)
        kept_a, kept_b = (part.row_lengths() for part in trimmer.trim([first, second]))
        kept_a = tf.where(has_pair, kept_a, tf.minimum(lengths[0], room))
        vocabulary = self._vocabulary
        cls_id = tf.fill([tf.size(kept_a), 1], vocabulary.cls_id)
        sep_id = tf.fill([tf.size(kept_a), 1], vocabulary.sep_id)
        last = _ragged(
            tf.fill([tf.math.count_nonzero(has_pair)], vocabulary.sep_id),
            tf.cast(has_pair, tf.int64),
        )
        parts = [cls_id, _first(first, kept_a), sep_id, _first(second, kept_b), last]
        input_ids = _padded(tf.concat(parts, axis=1), vocabulary.pad_id)
        columns = tf.range(tf.shape(input_ids)[1])[tf.newaxis]
        end_of_first = tf.cast(kept_a + 2, tf.int32)[:, tf.newaxis]
        end = tf.cast(kept_a + kept_b + ends, tf.int32)[:, tf.newaxis]
        features = {
            "input_ids": input_ids,
            "input_mask": tf.cast(columns < end, tf.int32),
            "segment_ids": tf.cast((columns >= end_of_first) & (columns < end), tf.int32),
        }
        return features, tf.add_n(lengths) > room

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
