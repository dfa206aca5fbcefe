"""A trained BERT as signatures that take raw strings: tokenizer, encoder and heads in one graph.

Shapes: B texts, L positions (the longest text of the batch), M masks (the most in a text, at
least 1), K fillings, H hidden size.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tensorflow_text as tf_text

from model.run import Run
from pipeline.manifest import VOCABULARY
from pipeline.schema import IS_NEXT, MASK
from pipeline.tokenizer import build_tokenizer

FILL_MASK, NEXT_SENTENCE, EMBED = "fill_mask", "next_sentence", "embed"
DEFAULT = "serving_default"

TOP_K = 5
"""Fillings that `fill_mask` answers for each mask."""

NO_POSITION = -1
"""Stands in `positions` where a text has fewer masks than another of its batch."""


class TextModel(tf.Module):
    """What is saved: the signatures as methods, and one copy of the weights.

    Every text input begins with `tf.ensure_shape`: the tokenizer's kernel ends the whole server
    when it is given a scalar, and the server does not compare ranks with the signature.
    """

    def __init__(self, run: Run) -> None:
        """Build the graph's parts from a trained run.

        Raises:
            InputError: the run has no checkpoint that can be read.
        """
        super().__init__(name="clozeline")
        vocabulary = run.vocabulary
        model = run.load_model()
        encoder = model.get_layer("encoder")
        # The Keras objects stay in closures: tracked as attributes, they would bring their own
        # traces and a second copy of the weights into the SavedModel.
        self._predict: Callable[[dict[str, Any]], dict[str, Any]] = _untracked(model)
        self._encode: Callable[[dict[str, Any]], dict[str, Any]] = _untracked(encoder)
        self.weights = [variable.value for variable in model.variables]
        self.vocab = tf.saved_model.Asset(str(run.path / VOCABULARY))
        self._tokenizer = build_tokenizer(vocabulary.pieces, lower_case=run.dataset.lower_case)
        # One function that all signatures call, so that the tokenizer's tables are saved once.
        self._pieces_of = tf.function(
            self._tokenize, input_signature=[tf.TensorSpec([None], tf.string)]
        )
        self._pieces = tf.constant(vocabulary.pieces)
        self._vocabulary = vocabulary
        self._max_seq_length = run.dataset.max_seq_length
        self._knows_pairs = "next_sentence" in run.heads

    def signatures(self) -> dict[str, Any]:
        """Return the function of each signature by name: what the run has learned to do."""
        text = tf.TensorSpec([None], tf.string, name="text")
        text_pair = tf.TensorSpec([None], tf.string, name="text_pair")
        fill_mask = tf.function(self.fill_mask, input_signature=[text])
        embed = tf.function(self.embed, input_signature=[text])
        signatures = {DEFAULT: fill_mask, FILL_MASK: fill_mask, EMBED: embed}
        if self._knows_pairs:
            signatures[NEXT_SENTENCE] = tf.function(
                self.next_sentence, input_signature=[text, text_pair]
            )
        return signatures

    def fill_mask(self, text: Any) -> dict[str, Any]:
        """Fill in every `[MASK]` of each text.

        Args:
            text: string [B].

        Returns:
            tokens: string [B, M, K], best first; "" where a text has fewer masks.
            probabilities: float32 [B, M, K], of each token among the whole vocabulary.
            positions: int32 [B, M]. Index of the mask among the text's pieces, [CLS] being 0; -1
                where a text has fewer masks.
            truncated: bool [B]. The text was longer than the model takes, and its end was cut off.
        """
        features = self._features(tf.ensure_shape(text, [None]))
        truncated = features.pop("truncated")
        positions = self._mask_positions(features["input_ids"])  # [B, M]
        logits = self._predict(features | {"masked_lm_positions": tf.maximum(positions, 0)})
        probabilities = tf.nn.softmax(tf.cast(logits["masked_lm_logits"], tf.float32))
        best, ids = tf.math.top_k(probabilities, TOP_K)  # [B, M, K]
        is_mask = positions[:, :, tf.newaxis] != NO_POSITION
        return {
            "tokens": tf.where(is_mask, tf.gather(self._pieces, ids), ""),
            "probabilities": tf.where(is_mask, best, 0.0),
            "positions": positions,
            "truncated": truncated,
        }

    def next_sentence(self, text: Any, text_pair: Any) -> dict[str, Any]:
        """Tell whether the second text follows the first.

        Args:
            text: string [B].
            text_pair: string [B].

        Returns:
            is_next_probability: float32 [B].
            truncated: bool [B]. The pair was longer than the model takes; the ends were cut off.
        """
        text, text_pair = tf.ensure_shape(text, [None]), tf.ensure_shape(text_pair, [None])
        tf.debugging.assert_equal(
            tf.size(text), tf.size(text_pair), "text and text_pair differ in length"
        )
        features = self._features(text, text_pair)
        truncated = features.pop("truncated")
        no_positions = tf.zeros([tf.size(text), 1], tf.int32)
        logits = self._predict(features | {"masked_lm_positions": no_positions})
        probabilities = tf.nn.softmax(tf.cast(logits["next_sentence_logits"], tf.float32))
        return {"is_next_probability": probabilities[:, IS_NEXT], "truncated": truncated}

    def embed(self, text: Any) -> dict[str, Any]:
        """Turn each text into vectors.

        Args:
            text: string [B].

        Returns:
            pooled: float32 [B, H]. The tanh layer over [CLS] that next-sentence prediction uses.
            mean: float32 [B, H]. Mean of the last layer over the text's positions.
            truncated: bool [B]. The text was longer than the model takes, and its end was cut off.
        """
        features = self._features(tf.ensure_shape(text, [None]))
        truncated = features.pop("truncated")
        outputs = self._encode(features)
        weights = tf.cast(features["input_mask"], tf.float32)[:, :, tf.newaxis]  # [B, L, 1]
        summed = tf.reduce_sum(tf.cast(outputs["sequence_output"], tf.float32) * weights, axis=1)
        return {
            "pooled": tf.cast(outputs["pooled_output"], tf.float32),
            "mean": tf.math.divide_no_nan(summed, tf.reduce_sum(weights, axis=1)),
            "truncated": truncated,
        }

    def _features(self, *texts: Any) -> dict[str, Any]:
        """Return input_ids, input_mask, segment_ids: int32 [B, L], and truncated: bool [B]."""
        vocabulary = self._vocabulary
        pieces = [self._pieces_of(text) for text in texts]
        room = self._max_seq_length - 1 - len(texts)
        trimmed = tf_text.RoundRobinTrimmer(room).trim(pieces)
        input_ids, segment_ids = tf_text.combine_segments(
            trimmed, vocabulary.cls_id, vocabulary.sep_id
        )
        lengths = [part.row_lengths() for part in pieces]
        return {
            "input_ids": _padded(input_ids, vocabulary.pad_id),
            "input_mask": _padded(tf.ones_like(input_ids), 0),
            "segment_ids": _padded(segment_ids, 0),
            "truncated": tf.add_n(lengths) > room,
        }

    def _tokenize(self, text: Any) -> Any:
        """Return the pieces of each text: ragged int32 [B, (pieces)]; `[MASK]` is one piece."""
        parts = tf.strings.split(text, sep=MASK)  # ragged [B, (parts)]
        pieces = self._tokenizer.tokenize(parts.flat_values)  # ragged [parts in all, (pieces)]
        # A mask follows every part of a text but its last.
        total = tf.shape(parts.flat_values, tf.int64)[0]
        is_last = tf.scatter_nd(
            parts.row_limits()[:, tf.newaxis] - 1, tf.ones_like(parts.row_limits()), [total]
        )
        masks = tf.RaggedTensor.from_row_lengths(
            tf.fill([total - parts.nrows()], self._vocabulary.mask_id), 1 - is_last
        )
        return parts.with_flat_values(tf.concat([pieces, masks], axis=1)).merge_dims(1, 2)

    def _mask_positions(self, input_ids: Any) -> Any:
        """Return where the masks of each text are, padded with NO_POSITION: int32 [B, M]."""
        columns = tf.broadcast_to(tf.range(tf.shape(input_ids)[1]), tf.shape(input_ids))
        found = tf.ragged.boolean_mask(columns, input_ids == self._vocabulary.mask_id)
        positions = found.to_tensor(NO_POSITION)
        missing = tf.maximum(1 - tf.shape(positions)[1], 0)
        return tf.pad(positions, [[0, 0], [0, missing]], constant_values=NO_POSITION)


def _untracked(model: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda features: model(features, training=False)


def _padded(ragged: Any, value: int) -> Any:
    """Return a ragged [B, (L)] as int32 [B, L]; an empty batch gets three columns, not none."""
    tensor = tf.cast(ragged.to_tensor(value), tf.int32)
    missing = tf.maximum(3 - tf.shape(tensor)[1], 0)
    return tf.pad(tensor, [[0, 0], [0, missing]], constant_values=value)
