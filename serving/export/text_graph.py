"""Raw strings to a BERT's inputs, inside the served graph: what preprocessing does, for a server.

Shapes: B texts, L positions (the longest text of the batch), W words (the most in a text).
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
"""An empty batch has so many columns, not none: [CLS], a piece, [SEP]."""


NO_WORD = -1
"""Stands where a position is of no word."""

_NO_WORDS = Marks(NO_WORD, NO_WORD, NO_WORD)
_GRAPH = Graph()


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
        return features, tf.add_n(lengths) > tf.add_n(kept)

    def encode_words(self, text: Any) -> tuple[Encoding, Words]:
        """Encode each text word by word, as a model that tags words was trained.

        Words stand between white space, as in the training file: "U.N." is one.

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
        """Encode questions with the beginnings of their passages, as such a model was trained.

        Args:
            text: string [B]. Questions.
            text_pair: string [B]. Passages; the words are theirs.
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
        """Lay out texts, and the numbers of their words in the same way.

        Args:
            pieces: int32 [T].
            numbers: int32 [T]. The word that each piece is of; `NO_WORD` for those of a question.
            spans: of the pieces.
            words: of the text.
            is_truncated: bool [B].
        """
        width = _width(spans)
        features = lay_out(pieces, spans, width, self._marks, _GRAPH)
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


def _spans(first: Any, first_length: Any, second: Any, second_length: Any) -> Spans:
    """Return spans of two ragged tensors' values, one after the other."""
    count = tf.size(first.flat_values, tf.int64)
    return Spans(first.row_starts(), first_length, count + second.row_starts(), second_length)


def _width(spans: Spans) -> Any:
    """Return the positions of the longest sequence; an empty batch has some, too."""
    return tf.maximum(tf.reduce_max(spans.positions), FEWEST_POSITIONS)
