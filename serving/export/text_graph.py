"""Convert raw strings to a BERT's inputs inside the served graph, as preprocessing does.

Shapes: B texts, L positions (of the longest text in the batch), W words (maximum per text).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from model.tasks.span import question_room
from pipeline import schema
from pipeline.text.inputs import (
    NO_B,
    PAIR_MARKS,
    Graph,
    Marks,
    Spans,
    WordPieces,
    lay_out,
    tokenize_by_word,
    tokenize_with_masks,
    truncated,
)
from pipeline.text.tokenizer import Vocabulary, build_tokenizer

FEWEST_POSITIONS = 3
"""Number of columns of an empty batch: [CLS], a piece, [SEP]."""


NO_WORD = -1
"""Word number of positions without a word."""

_NO_WORDS = Marks(NO_WORD, NO_WORD, NO_WORD)
_GRAPH = Graph()


@dataclass(frozen=True)
class Encoding:
    """The encoder's inputs for a batch of texts.

    Attributes:
        features: input_ids, input_mask, segment_ids: int32 [B, L].
        truncated: bool [B]. Whether the text was longer than the maximum and was truncated.
    """

    features: Mapping[str, Any]
    truncated: Any


@dataclass(frozen=True)
class Words:
    """The words of a batch's texts.

    Attributes:
        texts: string [B, W]; "" where a text has fewer words.
        starts: int32 [B, W]. Offset of each word's first byte in the text.
        limits: int32 [B, W]. Offset after each word's last byte.
        at: int32 [B, L]. Number of the word at each position, or `NO_WORD`.
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
            lower_case: whether to lower-case and strip accents, as in training.
            max_seq_length: maximum number of positions.
            reads_masks: whether `[MASK]` in a text becomes the mask piece; if not, it is tokenized
                like other text.
        """
        super().__init__(name="text_encoder")
        self._vocabulary = vocabulary
        self._max_seq_length = max_seq_length
        self._reads_masks = reads_masks
        self._tokenizer = build_tokenizer(vocabulary.pieces, lower_case=lower_case)
        self._marks = Marks.of(vocabulary)
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
        """Encode pairs of texts; the longer text is truncated first.

        Args:
            text: string [B].
            text_pair: string [B].
            optional: whether an empty second text means a single text.
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
        """Tokenize, truncate and join; return the parts of an `Encoding`.

        Args:
            text: string [B].
            text_pair: string [B]; "" where there is no pair.
            has_pair: bool [B].
        """
        first, second = self.pieces_of(text), self.pieces_of(text_pair)
        lengths = (first.row_lengths(), tf.where(has_pair, second.row_lengths(), NO_B))
        kept = truncated(*lengths, self._max_seq_length - PAIR_MARKS, _GRAPH)
        spans = _spans(first, kept[0], second, kept[1])
        pieces = tf.concat([first.flat_values, second.flat_values], axis=0)
        features = lay_out(pieces, spans, _width(spans), self._marks, _GRAPH)
        # Without a second text, both sums contain `NO_B`.
        return features, tf.add_n(lengths) > tf.add_n(kept)

    def encode_words(self, text: Any) -> tuple[Encoding, Words]:
        """Encode each text word by word, as a model that tags words was trained.

        Words are separated by white space, as in the training file: "U.N." is one word.

        Args:
            text: string [B].
        """
        words = tokenize_by_word(self._tokenizer, _flat(text), self._vocabulary, "whitespace")
        lengths = words.pieces.row_lengths()
        no_second = tf.zeros_like(lengths) + NO_B
        kept, _ = truncated(lengths, no_second, self._max_seq_length - PAIR_MARKS, _GRAPH)
        spans = Spans(words.pieces.row_starts(), kept, no_second, no_second)
        pieces, numbers = words.pieces.flat_values, words.word_numbers.flat_values
        return self._with_words(pieces, numbers, spans, words, lengths > kept)

    def encode_question(self, text: Any, text_pair: Any) -> tuple[Encoding, Words]:
        """Encode questions with the beginnings of their passages, as in training.

        Args:
            text: string [B]. Questions.
            text_pair: string [B]. Passages; the returned words are words of the passages.
        """
        text, text_pair = _flat(text), _flat(text_pair)
        _check_same_length(text, text_pair)
        question = self._tokenizer.tokenize(text)
        words = tokenize_by_word(self._tokenizer, text_pair, self._vocabulary)
        lengths = words.pieces.row_lengths()
        asked = tf.minimum(question.row_lengths(), question_room(self._max_seq_length))
        kept = tf.minimum(lengths, self._max_seq_length - PAIR_MARKS - asked)
        spans = _spans(question, asked, words.pieces, kept)
        pieces = tf.concat([question.flat_values, words.pieces.flat_values], axis=0)
        no_words = tf.fill(tf.shape(question.flat_values), NO_WORD)
        numbers = tf.concat([no_words, words.word_numbers.flat_values], axis=0)
        return self._with_words(pieces, numbers, spans, words, lengths > kept)

    def _with_words(
        self, pieces: Any, numbers: Any, spans: Spans, words: WordPieces, is_truncated: Any
    ) -> tuple[Encoding, Words]:
        """Lay out the pieces of texts, and their word numbers at the same positions.

        Args:
            pieces: int32 [T]. Pieces of all texts.
            numbers: int32 [T]. Number of each piece's word; `NO_WORD` for pieces of a question.
            spans: spans of the texts in `pieces`.
            words: words of the texts.
            is_truncated: bool [B]. Whether the text was truncated.
        """
        width = _width(spans)
        features = lay_out(pieces, spans, width, self._marks, _GRAPH)
        # Laid out like ids, with `NO_WORD` in place of the special tokens and the padding.
        at = lay_out(numbers, spans, width, _NO_WORDS, _GRAPH)[schema.INPUT_IDS]
        starts, limits = (
            tf.cast(part.to_tensor(), tf.int32) for part in (words.starts, words.limits)
        )
        return Encoding(features, is_truncated), Words(words.words.to_tensor(), starts, limits, at)

    def _tokenize(self, text: Any) -> Any:
        """Return the pieces of each text: ragged int32 [B, (pieces)]."""
        if self._reads_masks:
            return tokenize_with_masks(self._tokenizer, text, self._vocabulary.mask_id)
        return self._tokenizer.tokenize(text)


def graph_function(method: Any, input_signature: list[tf.TensorSpec] | None = None) -> Any:
    """Return a `tf.function` of a method that uses TensorFlow ops only, so without AutoGraph."""
    return tf.function(method, input_signature=input_signature, autograph=False)


def _check_same_length(text: Any, text_pair: Any) -> None:
    message = "text and text_pair differ in length"
    tf.debugging.assert_equal(tf.size(text), tf.size(text_pair), message)


def _all(value: bool, text: Any) -> Any:
    return tf.fill(tf.shape(text), value)


def _flat(text: Any) -> Any:
    """Check that the input is a list of texts.

    The tokenizer's kernel crashes the process if it gets a scalar, and TensorFlow Serving does not
    compare ranks with the signature.
    """
    return tf.ensure_shape(text, [None])


def _spans(first: Any, first_length: Any, second: Any, second_length: Any) -> Spans:
    """Return the spans of two ragged tensors in their concatenated values."""
    count = tf.size(first.flat_values, tf.int64)
    return Spans(first.row_starts(), first_length, count + second.row_starts(), second_length)


def _width(spans: Spans) -> Any:
    """Return the number of positions of the longest sequence, at least `FEWEST_POSITIONS`."""
    return tf.maximum(tf.reduce_max(spans.positions), FEWEST_POSITIONS)
