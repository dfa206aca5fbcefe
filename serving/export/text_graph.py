"""Convert raw strings to a BERT's inputs inside the served graph, as preprocessing does.

Shapes: B texts, L positions (the longest text of the batch), T windows of all texts, K windows that
are read together, P pieces.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import tensorflow as tf

from model.tasks.encoded import NO_LABEL
from model.tasks.span import question_room
from model.tasks.windows import (
    ReadTexts,
    half_windows,
    is_first_or_last,
    window_count,
    window_step,
    window_with_most_context,
)
from pipeline import schema
from pipeline.schema import Tensors
from pipeline.text.inputs import (
    NO_B,
    PAIR_MARKS,
    Graph,
    Marks,
    Spans,
    lay_out,
    tokenize_by_word,
    tokenize_with_masks,
    truncated,
)
from pipeline.text.tokenizer import Vocabulary, build_tokenizer

FEWEST_POSITIONS = 3
"""Number of columns of an empty batch: [CLS], a piece, [SEP]."""


NO_WORD = NO_LABEL
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

    features: Mapping[str, tf.Tensor]
    truncated: Any


POSITIONS_TOGETHER = 8192
"""Positions that the network reads in one run over windows: 21 windows of 384. It bounds the memory
of a request with many windows; more positions in a run are not faster on a CPU (see
`warmup_requests.BATCH_SIZES`)."""


@dataclass(frozen=True)
class Windows:
    """The windows of a batch's texts: T in all, those of a text one after the other.

    Attributes:
        read: the texts.
        truncated: bool [B]. The text has more windows than are read, or the question was cut off.
        pieces: int32 [P]. Pieces that `spans` locates the windows in.
        words: int32 [P]. Word of each piece; `NO_WORD` for pieces whose word is not of interest.
        spans: location of A and B of each window in `pieces`.
        marks: ids of the special tokens.
        deciders: int32 [P]. Window that decides on the word of each piece; None = all of them.
        numbers: int64 [T]. Number of each window in its text.
    """

    read: ReadTexts
    truncated: Any
    pieces: Any
    words: Any
    spans: Spans
    marks: Marks
    deciders: Any
    numbers: Any

    def in_parts(
        self,
        run: Callable[[Mapping[str, tf.Tensor], tf.Tensor], Tensors],
        dtypes: Mapping[str, str],
    ) -> Tensors:
        """Run a function on some windows at a time, and join what it returns.

        Args:
            run: function of features, int32 [K, L] by name, and of the word at each position, int32
                [K, L]; it returns tensors of one axis by name.
            dtypes: dtypes of these tensors by name.
        """
        total = tf.size(self.numbers)
        together = tf.cast(POSITIONS_TOGETHER // _width(self.spans), tf.int32)
        # A window may be longer than all positions together.
        together = tf.maximum(together, 1)
        parts = -(-total // together)  # rounded up
        results = {
            # The last part may have fewer windows, and a window as many results as its text needs.
            name: tf.TensorArray(dtype, parts, element_shape=[None], infer_shape=False)
            for name, dtype in dtypes.items()
        }

        def one_more(
            part: Any, found: dict[str, tf.TensorArray]
        ) -> tuple[Any, dict[str, tf.TensorArray]]:
            values = run(*self.layout(slice(part * together, (part + 1) * together)))
            return part + 1, {name: found[name].write(part, values[name]) for name in found}

        _, results = tf.while_loop(
            lambda part, _: part < parts, one_more, (0, results), parallel_iterations=1
        )
        return {name: result.concat() for name, result in results.items()}

    def layout(self, chosen: slice) -> tuple[Tensors, Any]:
        """Return the features of some windows, and the word at each position."""
        spans = Spans(*(getattr(self.spans, each.name)[chosen] for each in fields(Spans)))
        width = _width(spans)
        features = lay_out(self.pieces, spans, width, self.marks, _GRAPH)
        at = lay_out(self.words, spans, width, _NO_WORDS, _GRAPH)[schema.INPUT_IDS]
        if self.deciders is not None:
            deciders = lay_out(self.deciders, spans, width, _NO_WORDS, _GRAPH)[schema.INPUT_IDS]
            numbers = tf.cast(self.numbers[chosen], tf.int32)
            at = tf.where(deciders == numbers[:, tf.newaxis], at, NO_WORD)
        return features, at


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
        text, text_pair = same_length(_flat(text), _flat(text_pair))
        has_pair = text_pair != "" if optional else _all(True, text)
        return Encoding(*self.joined(text, text_pair, has_pair))

    def tokens(self, encoding: Encoding) -> Any:
        """Return the piece at each position, string [B, L]; "" for padding."""
        is_real = tf.cast(encoding.features[schema.INPUT_MASK], tf.bool)
        return tf.where(is_real, tf.gather(self._pieces, encoding.features[schema.INPUT_IDS]), "")

    def pieces(self, ids: Any) -> Any:
        """Return the pieces of ids, string of the same shape."""
        return tf.gather(self._pieces, ids)

    def _joined(self, text: Any, text_pair: Any, has_pair: Any) -> tuple[Tensors, Any]:
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

    def encode_ends(self, text: Any) -> Encoding:
        """Encode the beginning and the end of each text that is too long, as in training.

        Args:
            text: string [B].
        """
        pieces = self.pieces_of(_flat(text))
        lengths, places = pieces.row_lengths(), tf.ragged.range(pieces.row_lengths())
        room = self._max_seq_length - 2
        # The length of the text of each piece.
        of_piece = tf.gather(lengths, places.value_rowids())
        is_kept = places.with_flat_values(is_first_or_last(places.flat_values, of_piece, room))
        kept = tf.ragged.boolean_mask(pieces, is_kept)
        none = tf.zeros_like(lengths)
        spans = Spans(kept.row_starts(), kept.row_lengths(), none, none + NO_B)
        features = lay_out(kept.flat_values, spans, _width(spans), self._marks, _GRAPH)
        return Encoding(features, lengths > room)

    def text_windows(self, text: Any, max_windows: int) -> Windows:
        """Return the windows of texts that are read whole.

        Args:
            text: string [B].
            max_windows: most windows of a text.
        """
        text = _flat(text)
        pieces = self.pieces_of(text)
        room, step = half_windows(self._max_seq_length)
        lengths = pieces.row_lengths()
        count = window_count(lengths, room, step, _GRAPH)
        read = tf.minimum(count, max_windows)
        rows, numbers = _numbered(read)
        spans = _window_spans(pieces, rows, numbers * step, room)
        return Windows(
            ReadTexts(text, None, rows, None),
            count > read,
            pieces.flat_values,
            tf.fill(tf.shape(pieces.flat_values), NO_WORD),
            spans,
            self._marks,
            None,
            numbers,
        )

    def word_windows(self, text: Any, max_windows: int) -> Windows:
        """Return the windows of texts, as a model that tags words was trained.

        Words are separated by white space, as in the training file: "U.N." is one word.

        Args:
            text: string [B].
            max_windows: most windows of a text.
        """
        text = _flat(text)
        words = tokenize_by_word(self._tokenizer, text, self._vocabulary, "whitespace")
        room, step = half_windows(self._max_seq_length)
        lengths = words.pieces.row_lengths()
        count = window_count(lengths, room, step, _GRAPH)
        read = tf.minimum(count, max_windows)
        rows, numbers = _numbered(read)
        # Flat values of ragged tensors stand text after text, so all of this is arithmetic on [P].
        places = tf.ragged.range(lengths)  # of the pieces in their text
        deciders = window_with_most_context(
            places.flat_values, room, step, tf.gather(read, places.value_rowids())
        )
        # A word is decided on at its first piece, if that is in the last window or before.
        # Shifted by one: a piece is a word's first if the piece before it is of another word.
        numbers_before = tf.pad(words.word_numbers.flat_values[:-1], [[1, 0]])
        is_first = (words.word_numbers.flat_values != numbers_before) | (places.flat_values == 0)
        is_read = places.flat_values < tf.gather((read - 1) * step + room, places.value_rowids())
        counts = tf.math.unsorted_segment_sum(
            tf.cast(is_first & is_read, tf.int64), places.value_rowids(), tf.size(read)
        )
        spans = _window_spans(words.pieces, rows, numbers * step, room)
        return Windows(
            ReadTexts(text, words, rows, counts),
            count > read,
            words.pieces.flat_values,
            tf.where(is_first, words.word_numbers.flat_values, NO_WORD),
            spans,
            self._marks,
            tf.cast(deciders, tf.int32),
            numbers,
        )

    def question_windows(
        self, text: Any, text_pair: Any, stride: int, max_windows: int, most: Any = None
    ) -> Windows:
        """Return the windows of passages, each with its question, as such a model was trained.

        Args:
            text: string [B]. Questions.
            text_pair: string [B]. Passages; the words are theirs.
            stride: pieces between the starts of two windows.
            max_windows: most windows of a passage.
            most: int32 [B]. Requested number of answers; None = one.
        """
        text, text_pair = same_length(_flat(text), _flat(text_pair))
        question = self._tokenizer.tokenize(text)
        words = tokenize_by_word(self._tokenizer, text_pair, self._vocabulary)
        lengths = words.pieces.row_lengths()
        # As in training: a long question is cut, so that its passage has room.
        question_lengths = tf.minimum(question.row_lengths(), question_room(self._max_seq_length))
        room = self._max_seq_length - PAIR_MARKS - question_lengths
        step = window_step(room, stride, _GRAPH)
        count = window_count(lengths, room, step, _GRAPH)
        read = tf.minimum(count, max_windows)
        rows, numbers = _numbered(read)
        first = numbers * tf.gather(step, rows)
        spans = Spans(
            tf.gather(question.row_starts(), rows),
            tf.gather(question_lengths, rows),
            tf.size(question.flat_values, tf.int64)
            + tf.gather(words.pieces.row_starts(), rows)
            + first,
            tf.minimum(tf.gather(lengths, rows) - first, tf.gather(room, rows)),
        )
        # An answer must not be a part of the question.
        no_words = tf.fill(tf.shape(question.flat_values), NO_WORD)
        return Windows(
            ReadTexts(text_pair, words, rows, words.words.row_lengths(), most),
            (count > read) | (question.row_lengths() > question_lengths),
            tf.concat([question.flat_values, words.pieces.flat_values], axis=0),
            tf.concat([no_words, words.word_numbers.flat_values], axis=0),
            spans,
            self._marks,
            None,
            numbers,
        )

    def _tokenize(self, text: Any) -> Any:
        """Return the pieces of each text: ragged int32 [B, (pieces)]."""
        # Text of a fine-tuned model's users may have "[MASK]" in it, which is no mask there.
        if self._reads_masks:
            return tokenize_with_masks(self._tokenizer, text, self._vocabulary.mask_id)
        return self._tokenizer.tokenize(text)


def graph_function(method: Any, input_signature: list[tf.TensorSpec] | None = None) -> Any:
    """Return a `tf.function` of a method that uses TensorFlow ops only, so without AutoGraph."""
    return tf.function(method, input_signature=input_signature, autograph=False)


def _numbered(counts: Any) -> tuple[Any, Any]:
    """Return the row of each of so many windows, and its number in its row: int64 [T] each."""
    numbers = tf.ragged.range(counts)
    return numbers.value_rowids(), numbers.flat_values


def _window_spans(pieces: Any, rows: Any, first: Any, room: int) -> Spans:
    """Return which pieces the windows have, as their only segment.

    Args:
        pieces: ragged int32 [B, (pieces)].
        rows: int64 [T]. Row of each window.
        first: int64 [T]. First piece of each window in its row.
        room: most pieces of a window.
    """
    left = tf.gather(pieces.row_lengths(), rows) - first
    none = tf.zeros_like(first)
    return Spans(
        tf.gather(pieces.row_starts(), rows) + first, tf.minimum(left, room), none, none + NO_B
    )


def same_length(text: Any, text_pair: Any) -> tuple[Any, Any]:
    """Return two lists of texts; running the graph fails unless they have the same length."""
    message = "text and text_pair differ in length"
    check = tf.debugging.assert_equal(tf.size(text), tf.size(text_pair), message)
    # Operations that read the texts wait for the check: otherwise another operation may fail first.
    with tf.control_dependencies([check]):
        return tf.identity(text), tf.identity(text_pair)


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
