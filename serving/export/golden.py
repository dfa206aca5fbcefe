"""Answers of the Python model about a few texts, which a served model must match.

Texts are tokenized, joined and truncated here in Python, one by one and without padding, and run
through the Keras model in float32. Nothing of the served graph is used, `pipeline.text.inputs`
included: an error there would otherwise be in the graph and in what the graph is compared with.

Shapes: L positions of one text, M masks in it, K fillings, H hidden size, N heads, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from model import served
from model.bert.network import with_intermediates
from model.finite import check_finite
from model.run import Run
from model.tasks.reference_model import farther
from model.tasks.task_kind import Task
from pipeline import schema
from pipeline.schema import IS_NEXT, MASK, Arrays
from pipeline.text.tokenizer import WordUnit, build_tokenizer
from serving.export.choices import MAX_WINDOWS
from serving.export.signatures import NO_POSITION, OPTIONAL_PAIRS
from serving.tf_serving import DEFAULT_SIGNATURE

TEXTS = (
    "The [MASK] barked.",
    "",
    "He opened the door, and the [MASK] was [MASK].",
    "Straße, naïve café: 3.5 % of 1,000 — “quoted”… 東京 🙂",
    "Every word of this long text is read until there is no more room for it. " * 60,
)
PAIRS = ("It saw a cat.", "She stayed at home, [MASK] said.", "", "The same again. " * 300, "Why?")
"""The second text to each of `TEXTS`."""

N_BEST = 7
"""Number of answers to ask for, where a signature takes it."""

SHORT = 3
"""Number of short texts at the start of `TEXTS`. Attention is only checked for them: with a large
model and 512 positions, the attention weights of one text take 0.4 GB."""


@dataclass(frozen=True)
class Golden:
    """A request and the expected answer for each row.

    Attributes:
        signature: name of the signature.
        inputs: batch of inputs by name.
        rows: expected outputs by name for each row, without padding.
        is_padded: whether outputs beyond a row's length must be padding; else they are ignored.
        task: task of the model, if it is the signature's.
    """

    signature: str
    inputs: dict[str, np.ndarray]
    rows: list[Arrays]
    is_padded: bool = True
    task: Task | None = None


class Reference:
    """A run's Keras model, which computes the expected answers one text or pair at a time."""

    def __init__(self, run: Run, model: keras.Model, max_windows: int = MAX_WINDOWS) -> None:
        self._run = run
        self._model = model
        self._looking_in = with_intermediates(model.get_layer("encoder"))
        self._tokenizer = build_tokenizer(run.vocabulary.pieces, lower_case=run.dataset.lower_case)
        # Several signatures ask about the same texts, and a run in float32 is slow.
        self._asked = lru_cache(maxsize=None)(self._ask)
        self._of_task = lru_cache(maxsize=None)(self._ask_task)
        self.max_seq_length = run.dataset.max_seq_length
        self.doc_stride = run.doc_stride
        self.long = run.long
        self.max_windows = max_windows

    def about(self, *texts: str) -> Arrays:
        """Return the outputs of all signatures for a text or pair, and task_logits."""
        return self._asked(*texts)

    def golden(self, signatures: Mapping[str, Any]) -> list[Golden]:
        """Return a request with expected answers for each signature.

        Args:
            signatures: functions with an `input_signature`, by name.
        """
        goldens = []
        for signature, function in signatures.items():
            names = [spec.name for spec in function.input_signature]
            if served.PASSAGES in names:
                goldens.append(self._about_passages(signature))
            elif served.TEXT in names:
                # The default signature has the same function as a named one.
                named = (name for name, other in signatures.items() if other is function)
                kind = next(name for name in named if name != DEFAULT_SIGNATURE)
                goldens.append(self._about_texts(signature, kind, names))
            else:
                goldens.append(self._about_ids(signature, names))
        return goldens

    def _about_texts(self, signature: str, kind: str, names: list[str]) -> Golden:
        count = SHORT if kind == served.ATTENTION else len(TEXTS)
        texts, pairs = TEXTS[:count], PAIRS[:count]
        dimensions = [1 + row % self._run.config.hidden_size for row in range(count)]
        inputs = {
            served.TEXT: np.array(texts, object),
            served.TEXT_PAIR: np.array(pairs, object),
            served.N_BEST: np.full(count, N_BEST, np.int32),
            served.DIMENSION: np.array(dimensions, np.int32),
        }
        task = self._run.task
        task = task if task and kind in task.signature_names else None
        rows = []
        for text, pair in zip(texts, pairs, strict=True):
            is_single = served.TEXT_PAIR not in names or (kind in OPTIONAL_PAIRS and not pair)
            row_texts = (text,) if is_single else (text, pair)
            if task:
                rows.append(self._of_task(task, row_texts))
            else:
                rows.append(self._asked(*row_texts))
        if served.DIMENSION in names:
            rows = [
                row | {served.VECTOR: self._shortened(row[served.VECTOR], size)}
                for row, size in zip(rows, dimensions, strict=True)
            ]
        return Golden(signature, {name: inputs[name] for name in names}, rows, task=task)

    def _about_passages(self, signature: str) -> Golden:
        """Return a request with three passages for each query."""
        task = self._run.task
        assert task is not None
        kind = task.definition
        passages = [PAIRS[row : row + 3] for row in range(SHORT)]  # of the first, none is long
        rows = []
        for query, of_query in zip(TEXTS, passages, strict=False):
            answers = [self._of_task(task, (query, passage)) for passage in of_query]
            scores = [kind.relevance(task, answer) for answer in answers]
            truncated = any(answer[served.TRUNCATED] for answer in answers)
            rows.append({served.SCORES: np.array(scores), served.TRUNCATED: np.array(truncated)})
        inputs = {
            served.TEXT: np.array(TEXTS[:SHORT], object),
            served.PASSAGES: np.array(passages, object),
        }
        return Golden(signature, inputs, rows)

    def _shortened(self, vector: np.ndarray, size: int) -> np.ndarray:
        """Return the first components of a vector, of length 1 if the model's vectors are."""
        task, short = self._run.task, vector[:size]
        is_unit = bool(task and task.vectors and task.vectors.normalize)
        return short / np.linalg.norm(short) if is_unit else short

    def _about_ids(self, signature: str, names: list[str]) -> Golden:
        """Return a request with the ids of two texts, padded to the same length."""
        rows = [self._asked(TEXTS[2], PAIRS[1]), self._asked(TEXTS[0])]
        widest = max(len(row[schema.INPUT_IDS]) for row in rows)
        inputs = {
            name: np.stack([np.pad(row[name], (0, widest - len(row[name]))) for row in rows])
            for name in schema.ENCODER_INPUTS
        }
        if schema.MASKED_LM_POSITIONS in names:
            inputs[schema.MASKED_LM_POSITIONS] = np.array([[3, 1, 2], [2, 4, 0]], np.int32)
            for row, positions in zip(rows, inputs[schema.MASKED_LM_POSITIONS], strict=True):
                row[served.MASKED_LM_LOGITS] = row["every_masked_lm_logits"][positions]
        return Golden(signature, inputs, rows, is_padded=False)

    def _ask_task(self, task: Task, texts: Sequence[str]) -> Arrays:
        return task.definition.golden_row(self, task, texts)

    def _ask(self, *texts: str) -> Arrays:
        """Return the outputs of all signatures for a text or pair."""
        row = self._encoded(*texts)
        features = {name: row[name][np.newaxis] for name in schema.ENCODER_INPUTS}
        hidden = self._looking_in(features)
        sequence = hidden[served.SEQUENCE_OUTPUT][0].numpy()
        pooled = hidden[served.POOLED_OUTPUT][0].numpy()
        # Otherwise it is the exported graph that seems to be wrong.
        check_finite(self._run.path, [sequence, pooled])
        row |= {
            served.SEQUENCE_OUTPUT: sequence,
            served.VECTORS: sequence,
            served.POOLED_OUTPUT: pooled,
            served.POOLED: pooled,
            served.MEAN: sequence.mean(axis=0),
        }
        if texts[0] in TEXTS[:SHORT]:
            row[served.SCORES] = np.stack([scores[0] for scores in hidden["attention_scores"]])
        return row | (
            {served.TASK_LOGITS: self._model(features)[served.TASK_LOGITS][0].numpy()}
            if self._run.task
            else self._pretrained(row, features)
        )

    def _encoded(self, *texts: str) -> Arrays:
        vocabulary = self._run.vocabulary
        room = self._run.dataset.max_seq_length - 1 - len(texts)
        segments = [self._pieces(text) for text in texts]
        truncated = sum(map(len, segments)) > room
        while sum(map(len, segments)) > room:
            # The longer one loses its last piece; of two as long as each other, the second.
            max(reversed(segments), key=len).pop()
        joined = self._joined(segments)
        tokens = [vocabulary.pieces[piece].encode() for piece in joined[schema.INPUT_IDS]]
        return joined | {
            served.TOKENS: np.array(tokens, object),
            served.TRUNCATED: np.array(truncated),
        }

    def _joined(self, segments: Sequence[list[int]]) -> Arrays:
        vocabulary = self._run.vocabulary
        ids = [vocabulary.cls_id]
        segment_ids = [0]
        for number, segment in enumerate(segments):
            ids += [*segment, vocabulary.sep_id]
            segment_ids += [number] * (len(segment) + 1)
        return {
            schema.INPUT_IDS: np.array(ids, np.int32),
            schema.INPUT_MASK: np.ones(len(ids), np.int32),
            schema.SEGMENT_IDS: np.array(segment_ids, np.int32),
        }

    def _pieces(self, text: str) -> list[int]:
        parts = [text] if self._run.task else text.split(MASK)
        pieces: list[int] = []
        for number, part in enumerate(self._tokenizer.tokenize(tf.constant(parts)).to_list()):
            pieces += ([self._run.vocabulary.mask_id] if number else []) + part
        return pieces

    def words(self, text: str, unit: WordUnit) -> list[np.ndarray]:
        """Return the words of a text, their byte offsets, and the byte offsets after their ends."""
        return [part[0].numpy() for part in self._tokenizer.split_words(tf.constant([text]), unit)]

    def text_pieces(self, text: str) -> list[int]:
        """Return the piece ids of a text."""
        pieces: list[int] = self._tokenizer.tokenize([text]).to_list()[0]
        return pieces

    def word_pieces(self, words: np.ndarray) -> list[list[int]]:
        """Return the piece ids of each word, at least one per word."""
        found = self._tokenizer.tokenize_words(tf.constant(words, tf.string), self._run.vocabulary)
        return found.to_list()

    def logits(self, inputs: Sequence[Sequence[list[int]]]) -> list[np.ndarray]:
        """Return the task logits at all positions of each input: float32 [L, C] each.

        Inputs of the same length run together, without padding.
        """
        joined = [self._joined(segments) for segments in inputs]
        lengths = [len(features[schema.INPUT_IDS]) for features in joined]
        found: list[np.ndarray] = []
        for length, run in groupby(range(len(joined)), key=lambda index: lengths[index]):
            del length
            rows = list(run)
            for chosen in (rows[first : first + 16] for first in range(0, len(rows), 16)):
                batch = {
                    name: np.stack([joined[row][name] for row in chosen])
                    for name in schema.ENCODER_INPUTS
                }
                found += list(self._model(batch)[served.TASK_LOGITS].numpy())
        return found

    def _pretrained(self, row: Arrays, features: Arrays) -> Arrays:
        every = np.arange(len(row[schema.INPUT_IDS]), dtype=np.int32)[np.newaxis]
        heads = self._model({**features, schema.MASKED_LM_POSITIONS: every})
        logits = heads[served.MASKED_LM_LOGITS][0].numpy()
        positions = np.flatnonzero(row[schema.INPUT_IDS] == self._run.vocabulary.mask_id)
        following = heads[served.NEXT_SENTENCE_LOGITS][0]
        return {
            "every_masked_lm_logits": logits,
            served.POSITIONS: positions.astype(np.int32),
            "fillings": tf.nn.softmax(logits[positions]).numpy(),  # [M, V]
            served.NEXT_SENTENCE_LOGITS: following.numpy(),
            served.IS_NEXT_PROBABILITY: tf.nn.softmax(following).numpy()[IS_NEXT],
        }


def largest_difference(
    golden: Golden,
    answer: Mapping[str, np.ndarray],
    vocabulary_ids: Mapping[str, int],
) -> float:
    """Return the largest difference of an answer from the expected answer.

    Args:
        golden: the request and its expected answer.
        answer: outputs of the served model by name.
        vocabulary_ids: ids by piece.

    Returns:
        The largest difference, relative to the largest number in the output, or to 1 if that is
        larger. Infinity if an output that is not a number (a token, a flag) is wrong, and for NaN.
    """
    worst = 0.0
    for number, row in enumerate(golden.rows):
        # With the output's dtype: of a text alone, NumPy would make one of fixed length, to which
        # the expected text is cut before they are compared.
        of_row = {name: np.asarray(v[number], v.dtype) for name, v in answer.items()}
        right = dict(row)
        if served.POSITIONS in of_row:
            right |= _fillings(row["fillings"], of_row, vocabulary_ids)
        if served.ORDER in of_row:
            # Scores are compared within a tolerance, and almost equal ones may have any order.
            right[served.ORDER] = np.argsort(-of_row[served.SCORES], kind="stable")
        if golden.task:
            right |= golden.task.definition.expected_answer(golden.task, row, of_row)
        differences = [
            _difference(name, of_row[name], np.asarray(right[name]), is_padded=golden.is_padded)
            for name in of_row
        ]
        worst = max(worst, *differences)
    return worst


def _fillings(
    probabilities: np.ndarray, answer: Mapping[str, np.ndarray], ids: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """Return the expected probabilities of the answered tokens, which must be the most probable.

    Tokens with almost the same probability may be in any order.

    Args:
        probabilities: float32 [M, V]. Expected probabilities of all pieces.
        answer: `tokens` [M, K] and their `probabilities`.
        ids: ids by piece.
    """
    count, best_count = len(probabilities), answer[served.TOKENS].shape[1]
    tokens, answered = answer[served.TOKENS][:count], answer[served.PROBABILITIES][:count]
    chosen = np.array([[ids.get(token.decode(), -1) for token in best] for best in tokens], int)
    chosen = chosen.reshape(count, best_count)
    of_chosen = np.take_along_axis(probabilities, chosen, axis=1)
    of_chosen = np.where(chosen < 0, np.inf, of_chosen)  # no piece at all
    best = np.sort(probabilities, axis=1)[:, ::-1][:, :best_count]
    return {served.TOKENS: tokens, served.PROBABILITIES: farther(best, of_chosen, answered)}


def _difference(name: str, values: np.ndarray, right: np.ndarray, *, is_padded: bool) -> float:
    """Return the difference of one output of a row from its expected value without padding."""
    if values.ndim != right.ndim or np.any(np.array(values.shape) < right.shape):
        return np.inf
    # With the ellipsis, elements are copied: a text alone would become an array in an array.
    real: tuple[Any, ...] = (*(slice(size) for size in right.shape), ...)
    if is_padded:
        padding: Any = 0 if values.dtype.kind in "ifb" else b""
        padded = np.full_like(values, NO_POSITION if name == served.POSITIONS else padding)
        padded[real] = right
        right = padded
    else:
        values = values[real]
    if values.dtype.kind == "f":
        if not np.isfinite(values).all() or not np.isfinite(right).all():
            return np.inf
        difference = np.abs(values - right).max(initial=0.0)
        # Relative for large numbers such as logits, absolute for small ones such as probabilities.
        return float(difference / max(1.0, np.abs(right).max(initial=0.0)))
    return 0.0 if (values == right).all() else np.inf
