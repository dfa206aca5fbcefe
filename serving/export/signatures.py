"""Serving signatures of a trained BERT: tokenizer, encoder and heads in one graph.

The first axis of every output is the batch; outputs are dense (padded) tensors.

Shapes: B texts, L positions (of the longest text in the batch), P masked positions, M masks
(maximum per text, at least 1), W words (maximum per text), K fillings per mask, H hidden size, N
heads, C classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from model import served
from model.bert.network import weights_by_name
from model.bert.pooling import normalized, pooled
from model.run import Run
from model.served import MAX_PASSAGES, MAX_SPANS
from pipeline import schema
from pipeline.manifest import VOCABULARY
from pipeline.schema import IS_NEXT, Tensors
from serving.export.choices import MAX_WINDOWS, ServingPrecision
from serving.export.inference_graph import EncoderOutputs, Network
from serving.export.piece_ids import checked_ids
from serving.export.quantization import Plan
from serving.export.text_graph import (
    Encoding,
    TextEncoder,
    Windows,
    graph_function,
    same_length,
)
from serving.tf_serving import DEFAULT_SIGNATURE

OPTIONAL_PAIRS = (served.FILL_MASK_PAIR, served.EMBED_TOKENS, served.ATTENTION, served.TOKENIZE)
"""Signatures whose `text_pair` may be empty."""

TOP_K = 5
"""Number of tokens that `fill_mask` returns for each mask."""

NO_POSITION = -1
"""Padding of `positions`, for texts with fewer masks than another text in the batch."""

TEXT = tf.TensorSpec([None], tf.string, name=served.TEXT)
TEXT_PAIR = tf.TensorSpec([None], tf.string, name=served.TEXT_PAIR)
N_BEST = tf.TensorSpec([None], tf.int32, name=served.N_BEST)
PASSAGES = tf.TensorSpec([None, None], tf.string, name=served.PASSAGES)
DIMENSION = tf.TensorSpec([None], tf.int32, name=served.DIMENSION)

SignatureMethod = Callable[..., Tensors]
"""Method of `TextModel`: input tensors → outputs by name."""


class TextModel(tf.Module):
    """The module that is saved: signatures as methods, and one copy of the weights."""

    def __init__(
        self,
        run: Run,
        model: keras.Model,
        precision: ServingPrecision = "float32",
        vocabulary: Path | None = None,
        plan: Plan | None = None,
        max_windows: int = MAX_WINDOWS,
        *,
        tensor_parallel: int = 1,
    ) -> None:
        """Create the network and the text encoder.

        Args:
            run: a pretrained, fine-tuned or imported run.
            model: Keras model of the run; its weights are copied.
            precision: dtype of the stored weights and of matrix multiplications.
            vocabulary: local file to save as an asset; None = the run's, which is local.
            plan: how the products of an int8 model are computed; None = by the largest number of
                each row.
            max_windows: most windows of a passage, or of a text whose words are tagged; what is
                beyond is not read.
            tensor_parallel: number of parts of each layer, see `Network`.
        """
        super().__init__(name="clozeline")
        self._run = run
        self._max_windows = max_windows
        self._vector_settings = run.task.vectors if run.task else None
        own_heads = ("task",) if run.task and run.task.definition.has_head_weights else ()
        self._heads = own_heads if run.task else run.heads
        self.network = Network(
            run.config,
            weights_by_name(model),
            precision,
            self._heads,
            plan,
            tensor_parallel=tensor_parallel,
        )
        self.vocab = tf.saved_model.Asset(str(vocabulary or run.path / VOCABULARY))
        self.texts = TextEncoder(
            run.vocabulary,
            lower_case=run.dataset.lower_case,
            max_seq_length=run.dataset.max_seq_length,
            reads_masks=run.task is None,  # fine-tuning data has no masks
        )

    def signatures(self) -> dict[str, tf.types.experimental.PolymorphicFunction]:
        """Return the function of each signature by name; the trained heads decide which ones."""
        functions = {name: graph_function(*args) for name, args in self._described().items()}
        task = self._run.task
        # Every model has `embed` or the signature of its task, also one without a head.
        candidates = (task.definition.signature.name if task else served.FILL_MASK, served.EMBED)
        default = next(name for name in candidates if name in functions)
        return {DEFAULT_SIGNATURE: functions[default], **functions}

    def _described(self) -> dict[str, tuple[SignatureMethod, list[tf.TensorSpec]]]:
        """Return the method and inputs of each signature by name."""
        both = [TEXT, TEXT_PAIR]
        described: dict[str, tuple[SignatureMethod, list[tf.TensorSpec]]] = {}
        if "masked_lm" in self._heads:
            described[served.FILL_MASK] = (self.fill_mask, [TEXT])
            described[served.FILL_MASK_PAIR] = (self.fill_mask_pair, both)
        if "next_sentence" in self._heads:
            described[served.NEXT_SENTENCE] = (self.next_sentence, both)
        task = self._run.task
        if task:
            signature = task.definition.signature
            described[signature.name] = (
                (self.task_answers_pair, both) if task.takes_pairs else (self.task_answers, [TEXT])
            )
            if task.ranks_passages:
                described[served.RERANK] = (self.rerank, [TEXT, PASSAGES])
            if signature.n_best:
                described[signature.n_best] = (self.best_answers, [*both, N_BEST])
        if self._vector_settings:
            described[served.EMBED_DIMENSION] = (self.embed_dimension, [TEXT, DIMENSION])
            described[served.SIMILARITY] = (self.similarity, both)
        else:
            described[served.EMBED] = (self.embed, [TEXT])
        # The encoder's outputs, which every model has.
        described[served.EMBED_TOKENS] = (self.embed_tokens, both)
        described[served.ATTENTION] = (self.attention, both)
        described[served.TOKENIZE] = (self.tokenize, both)
        positions = [schema.MASKED_LM_POSITIONS] if "masked_lm" in self._heads else []
        names = [*schema.ENCODER_INPUTS, *positions]
        ids = [tf.TensorSpec([None, None], tf.int32, name=name) for name in names]
        described[served.PREDICT_IDS] = (self.predict_ids, ids)
        return described

    # ---- pretraining heads

    def fill_mask(self, text: Any) -> Tensors:
        """Fill in every `[MASK]` of each text.

        Args:
            text: string [B].

        Returns:
            tokens: string [B, M, K]. Most probable tokens, best first; padded with "".
            probabilities: float32 [B, M, K]. Probability of each token in the vocabulary.
            positions: int32 [B, M]. Position of the mask ([CLS] is 0); padded with -1.
            truncated: bool [B]. Whether the text was truncated.
        """
        return self._filled(self.texts.encode(text))

    def fill_mask_pair(self, text: Any, text_pair: Any) -> Tensors:
        """Fill in every `[MASK]` of a text pair.

        Args:
            text: string [B].
            text_pair: string [B]; "" = no second text.

        Returns:
            The outputs of `fill_mask`; positions are counted over both texts.
        """
        return self._filled(self.texts.encode_pairs(text, text_pair, optional=True))

    def _filled(self, encoding: Encoding) -> Tensors:
        positions = self._mask_positions(encoding.features[schema.INPUT_IDS])  # [B, M]
        encoded = self.network.encode(encoding.features)
        # The padding, -1, is no position; its fillings are replaced below.
        # Only the masked positions: logits of all would be [B, L, V], 1 GB for 64 texts of 128
        # pieces.
        logits = self.network.masked_lm(encoded.sequence_output, tf.maximum(positions, 0))
        best, ids = tf.math.top_k(tf.nn.softmax(logits), min(TOP_K, self._run.config.vocab_size))
        is_mask = positions[:, :, tf.newaxis] != NO_POSITION
        return {
            served.TOKENS: tf.where(is_mask, self.texts.pieces(ids), ""),
            served.PROBABILITIES: tf.where(is_mask, best, 0.0),
            served.POSITIONS: positions,
            served.TRUNCATED: encoding.truncated,
        }

    def _mask_positions(self, input_ids: Any) -> Any:
        """Return the positions of the masks of each text, padded with NO_POSITION: int32 [B, M]."""
        columns = tf.broadcast_to(tf.range(tf.shape(input_ids)[1]), tf.shape(input_ids))
        found = tf.ragged.boolean_mask(columns, input_ids == self._run.vocabulary.mask_id)
        positions = found.to_tensor(NO_POSITION)
        # At least one column, also for a batch without masks.
        missing = tf.maximum(1 - tf.shape(positions)[1], 0)
        return tf.pad(positions, [[0, 0], [0, missing]], constant_values=NO_POSITION)

    def next_sentence(self, text: Any, text_pair: Any) -> Tensors:
        """Predict whether the second text follows the first.

        Args:
            text: string [B].
            text_pair: string [B].

        Returns:
            is_next_probability: float32 [B]. Probability that the second text follows the first.
            truncated: bool [B]. Whether the pair was truncated.
        """
        encoding = self.texts.encode_pairs(text, text_pair)
        logits = self.network.next_sentence(self.network.encode(encoding.features).pooled_output)
        probabilities = tf.nn.softmax(logits)
        return {
            served.IS_NEXT_PROBABILITY: probabilities[:, IS_NEXT],
            served.TRUNCATED: encoding.truncated,
        }

    # ---- task of a fine-tuned model

    def task_answers(self, text: Any) -> Tensors:
        """Return the answers of a fine-tuned model for texts.

        Args:
            text: string [B].

        Returns:
            The outputs of the kind's `served_answers`, and
            truncated: bool [B]. Whether the text was truncated.
        """
        assert self._run.task is not None
        if self._run.task.definition.signature.reads == "words":
            return self._window_answers(self.texts.word_windows(text, self._max_windows))
        if self._run.long == "mean-of-windows":
            return self._mean_answers(self.texts.text_windows(text, self._max_windows))
        if self._run.long == "first-last":
            return self._text_answers(self.texts.encode_ends(text))
        return self._text_answers(self._encoded_text(text))

    def task_answers_pair(self, text: Any, text_pair: Any) -> Tensors:
        """Return the answers of a fine-tuned model for text pairs, see `task_answers`.

        Args:
            text: string [B].
            text_pair: string [B].
        """
        assert self._run.task is not None
        if self._run.task.definition.signature.reads == "question":
            return self._window_answers(self._question_windows(text, text_pair))
        return self._text_answers(self.texts.encode_pairs(text, text_pair))

    def rerank(self, text: Any, passages: Any) -> Tensors:
        """Score passages by their relevance to a query, with a model that was tuned on pairs.

        Args:
            text: string [B]. Queries, the first text of each pair.
            passages: string [B, P]. Passages of each query, the second texts; P at most
                `MAX_PASSAGES`.

        Returns:
            scores: float32 [B, P]. See `TaskKind.relevance`.
            order: int32 [B, P]. Index of each passage, in descending order of the scores; of equal
                scores, in the given order.
            truncated: bool [B]. Whether one of the pairs was truncated.

        Raises:
            InvalidArgumentError: there are more passages, or the inputs differ in length.
        """
        text, passages = tf.ensure_shape(text, [None]), tf.ensure_shape(passages, [None, None])
        count = tf.shape(passages)[1]
        checks = [
            tf.debugging.assert_equal(
                tf.size(text), tf.shape(passages)[0], "text and passages differ in length"
            ),
            tf.debugging.assert_less_equal(
                count, MAX_PASSAGES, f"passages: expected at most {MAX_PASSAGES} of a text"
            ),
        ]
        with tf.control_dependencies(checks):
            # As plain pairs, so that one batch runs all passages of all queries.
            queries = tf.repeat(text, count)
        answers = self.task_answers_pair(queries, tf.reshape(passages, [-1]))
        task = self._run.task
        assert task is not None
        relevance = task.definition.relevance(task, answers)
        scores = tf.reshape(relevance, tf.shape(passages))
        truncated = tf.reshape(answers[served.TRUNCATED], tf.shape(passages))
        return {
            served.SCORES: scores,
            served.ORDER: tf.argsort(scores, direction="DESCENDING", stable=True),
            served.TRUNCATED: tf.reduce_any(truncated, axis=1),
        }

    def best_answers(self, text: Any, text_pair: Any, n_best: Any) -> Tensors:
        """Return the best answers to questions, in descending order of their scores.

        A model server has no optional inputs for requests in batches, so this is a signature of its
        own.

        Args:
            text: string [B]. Questions.
            text_pair: string [B]. Passages.
            n_best: int32 [B]. Number of answers to each question, from 1 to `MAX_SPANS`.

        Returns:
            See `Span.served_answers`, and `truncated`.

        Raises:
            InvalidArgumentError: a number of answers is out of range, or the inputs differ in
                length.
        """
        n_best = tf.ensure_shape(n_best, [None])
        checks = [
            tf.debugging.Assert(
                tf.reduce_all((n_best >= 1) & (n_best <= MAX_SPANS)),
                [f"n_best must be from 1 to {MAX_SPANS}"],
            ),
            tf.debugging.assert_equal(
                tf.size(n_best), tf.size(text), "n_best and text differ in length"
            ),
        ]
        with tf.control_dependencies(checks):
            # An op inside the block, so that the checks run before all that depends on it.
            n_best = tf.maximum(n_best, 1)
        return self._window_answers(self._question_windows(text, text_pair, n_best))

    def _question_windows(self, text: Any, text_pair: Any, most: Any = None) -> Windows:
        stride = self._run.doc_stride
        return self.texts.question_windows(text, text_pair, stride, self._max_windows, most)

    def _text_answers(self, encoding: Encoding) -> Tensors:
        task = self._run.task
        assert task is not None
        logits = self.task_logits(encoding.features)
        return {
            **task.definition.served_answers(task, logits),
            served.TRUNCATED: encoding.truncated,
        }

    def _mean_answers(self, windows: Windows) -> Tensors:
        """Return the answers for the mean of the head's outputs over a text's windows."""
        task = self._run.task
        assert task is not None

        def run(features: Mapping[str, tf.Tensor], at: Any) -> Tensors:
            del at
            return {"logits": tf.reshape(self._task_logits(self.network.encode(features)), [-1])}

        found = windows.in_parts(run, {"logits": "float32"})["logits"]
        logits = tf.math.unsorted_segment_mean(
            tf.reshape(found, [-1, task.num_outputs]),
            windows.read.rows,
            tf.size(windows.read.texts, tf.int64),
        )
        answers = task.definition.served_answers(task, logits)
        return {**answers, served.TRUNCATED: windows.truncated}

    def _window_answers(self, windows: Windows) -> Tensors:
        task = self._run.task
        assert task is not None
        kind, most = task.definition, windows.read.most

        def run(features: Mapping[str, tf.Tensor], at: Any) -> Tensors:
            logits = self._task_logits(self.network.encode(features))
            return kind.window_outputs(task, logits, at, most)

        found = windows.in_parts(run, kind.window_dtypes)
        return {
            **kind.served_answers(task, found, windows.read),
            served.TRUNCATED: windows.truncated,
        }

    def task_logits(self, features: Mapping[str, tf.Tensor]) -> Any:
        """Return the outputs of the task head for encoder inputs, int32 [B, L] each.

        Returns:
            float32 [B, L, C] for a task with outputs per position, else [B, C]; the vector of each
            text, float32 [B, H], as a model of vectors was trained.
        """
        encoded, settings = self.network.encode(features), self._vector_settings
        if settings is None:
            return self._task_logits(encoded)
        mask = features[schema.INPUT_MASK]
        vectors = pooled(encoded.sequence_output, mask, settings.pooling)
        return normalized(vectors) if settings.normalize else vectors

    def _task_logits(self, encoded: EncoderOutputs) -> Any:
        """Return the outputs of the task head: float32 [B, L, C] (per position) or [B, C]."""
        assert self._run.task is not None
        is_long = self._run.task.is_per_position
        return self.network.task(encoded.sequence_output if is_long else encoded.pooled_output)

    # ---- vectors of a model that was tuned for them

    def _encoded_text(self, text: Any) -> Encoding:
        """Encode each text, string [B], after the prompt that the model was trained with."""
        prompt = self._vector_settings.prompt if self._vector_settings else ""
        return self.texts.encode(tf.strings.join([prompt, text]) if prompt else text)

    def embed_dimension(self, text: Any, dimension: Any) -> Tensors:
        """Return the first components of the vector of each text.

        Args:
            text: string [B].
            dimension: int32 [B]. Number of components, 1 to H.

        Returns:
            vector: float32 [B, D], D the largest dimension of the batch, padded with 0. If the
                model's vectors have length 1, so have the shortened ones.
            truncated: bool [B]. Whether the text was truncated.

        Raises:
            InvalidArgumentError: a dimension is out of range, or the inputs differ in length.
        """
        dimension = tf.ensure_shape(dimension, [None])
        size = self._run.config.hidden_size
        checks = [
            tf.debugging.assert_equal(
                tf.size(text), tf.size(dimension), "text and dimension differ in length"
            ),
            tf.debugging.Assert(
                tf.reduce_all((dimension >= 1) & (dimension <= size)),
                ["dimension must be at least 1 and at most", size],
            ),
        ]
        with tf.control_dependencies(checks):
            encoding = self._encoded_text(text)
        # 1, because the maximum of an empty batch is the smallest int32.
        width = tf.reduce_max(tf.concat([[1], dimension], axis=0))
        vectors = self.task_logits(encoding.features)[:, :width]
        vectors = tf.where(tf.range(width) < dimension[:, tf.newaxis], vectors, 0.0)
        assert self._vector_settings is not None
        # Again: a shortened vector is not of length 1.
        vectors = normalized(vectors) if self._vector_settings.normalize else vectors
        return {served.VECTOR: vectors, served.TRUNCATED: encoding.truncated}

    def similarity(self, text: Any, text_pair: Any) -> Tensors:
        """Return the cosine of the vectors of two texts.

        Args:
            text: string [B].
            text_pair: string [B].

        Returns:
            score: float32 [B]. -1 to 1.
            truncated: bool [B]. Whether one of the texts was truncated.
        """
        flat = [tf.ensure_shape(each, [None]) for each in (text, text_pair)]
        text, text_pair = same_length(*flat)
        # One batch of both texts: the encoder runs once.
        encoding = self._encoded_text(tf.concat([text, text_pair], axis=0))
        first, second = tf.split(normalized(self.task_logits(encoding.features)), 2)
        truncated = tf.reduce_any(tf.reshape(encoding.truncated, [2, -1]), axis=0)
        return {served.SCORE: tf.reduce_sum(first * second, axis=-1), served.TRUNCATED: truncated}

    # ---- outputs of the encoder

    def embed(self, text: Any) -> Tensors:
        """Return embeddings of each text.

        Args:
            text: string [B].

        Returns:
            pooled: float32 [B, H]. Pooled output: tanh layer over [CLS], as for next sentences.
            mean: float32 [B, H]. Mean of the last layer over the text's positions.
            truncated: bool [B]. Whether the text was truncated.
        """
        encoding = self.texts.encode(text)
        return self._vectors(encoding, self.network.encode(encoding.features))

    def embed_tokens(self, text: Any, text_pair: Any) -> Tensors:
        """Return an embedding of each token of a text or text pair.

        Args:
            text: string [B].
            text_pair: string [B]; "" = no second text.

        Returns:
            tokens: string [B, L]. Tokens of the input, padded with "".
            vectors: float32 [B, L, H]. Outputs of the last layer, padded with 0.
            pooled, mean, truncated: see `embed`.
        """
        encoding = self.texts.encode_pairs(text, text_pair, optional=True)
        encoded = self.network.encode(encoding.features)
        is_real = tf.cast(encoding.features[schema.INPUT_MASK], tf.float32)[:, :, tf.newaxis]
        return {
            served.TOKENS: self.texts.tokens(encoding),
            served.VECTORS: encoded.sequence_output * is_real,
            **self._vectors(encoding, encoded),
        }

    def _vectors(self, encoding: Encoding, encoded: EncoderOutputs) -> Tensors:
        weights = tf.cast(encoding.features[schema.INPUT_MASK], tf.float32)[:, :, tf.newaxis]
        summed = tf.reduce_sum(encoded.sequence_output * weights, axis=1)
        return {
            served.POOLED: encoded.pooled_output,
            served.MEAN: tf.math.divide_no_nan(summed, tf.reduce_sum(weights, axis=1)),
            served.TRUNCATED: encoding.truncated,
        }

    def attention(self, text: Any, text_pair: Any) -> Tensors:
        """Return the attention weights of all layers and heads.

        Args:
            text: string [B].
            text_pair: string [B]; "" = no second text.

        Returns:
            tokens: string [B, L]. Tokens of the input, padded with "".
            scores: float32 [B, layers, N, L, L]. Attention weights from query positions to key
                positions (last axis, sum 1), padded with 0.
            truncated: bool [B]. Whether the text was truncated.
        """
        encoding = self.texts.encode_pairs(text, text_pair, optional=True)
        scores = self.network.encode(encoding.features, with_scores=True).attention_scores
        is_real = tf.cast(encoding.features[schema.INPUT_MASK], tf.float32)
        return {
            served.TOKENS: self.texts.tokens(encoding),
            served.SCORES: scores * is_real[:, tf.newaxis, tf.newaxis, :, tf.newaxis],
            served.TRUNCATED: encoding.truncated,
        }

    def tokenize(self, text: Any, text_pair: Any) -> Tensors:
        """Return the model's inputs for a text or text pair.

        Args:
            text: string [B].
            text_pair: string [B]; "" = no second text.

        Returns:
            tokens: string [B, L]. Tokens of the input, padded with "".
            input_ids, input_mask, segment_ids: int32 [B, L]. Inputs of `predict_ids`.
            truncated: bool [B]. Whether the text was truncated.
        """
        encoding = self.texts.encode_pairs(text, text_pair, optional=True)
        return {
            served.TOKENS: self.texts.tokens(encoding),
            **encoding.features,
            served.TRUNCATED: encoding.truncated,
        }

    def predict_ids(
        self, input_ids: Any, input_mask: Any, segment_ids: Any, masked_lm_positions: Any = None
    ) -> Tensors:
        """Run the network on piece ids.

        When a model server batches requests of different lengths, it pads each tensor with the
        tensor's own first element, so it pads the ids with [CLS]. Therefore, [CLS] at the end of a
        row is treated as filler: it is not read, and the row has the same answer as without it.

        Args:
            input_ids: int32 [B, L]. Piece ids; each row starts with [CLS].
            input_mask: int32 [B, L]. 1 = real piece, 0 = padding.
            segment_ids: int32 [B, L]. 0 = first text and padding, 1 = second text.
            masked_lm_positions: int32 [B, P]. Positions to predict; only with a masked-LM head.

        Returns:
            sequence_output: float32 [B, L, H]. 0 for filler.
            pooled_output: float32 [B, H].
            masked_lm_logits: float32 [B, P, V], next_sentence_logits: float32 [B, 2],
                task_logits: float32 [B, C] or [B, L, C] (0 for filler). Only of trained heads.

        Raises:
            InvalidArgumentError: the inputs differ in shape, or a value is out of range.
        """
        values = dict(zip(schema.ENCODER_INPUTS, (input_ids, input_mask, segment_ids), strict=True))
        ids = checked_ids(
            values, masked_lm_positions, self._run.config, self._run.vocabulary.cls_id
        )
        encoded = self.network.encode(ids.features)
        sequence_output = ids.without_filler(encoded.sequence_output)
        encoded = replace(encoded, sequence_output=sequence_output)
        outputs = {
            served.SEQUENCE_OUTPUT: sequence_output,
            served.POOLED_OUTPUT: encoded.pooled_output,
        }
        if ids.positions is not None:
            logits = self.network.masked_lm(sequence_output, ids.positions)
            outputs[served.MASKED_LM_LOGITS] = logits
        if "next_sentence" in self._heads:
            outputs[served.NEXT_SENTENCE_LOGITS] = self.network.next_sentence(encoded.pooled_output)
        if self._run.task and not self._vector_settings:
            logits = self._task_logits(encoded)
            is_long = self._run.task.is_per_position
            outputs[served.TASK_LOGITS] = ids.without_filler(logits) if is_long else logits
        return outputs
