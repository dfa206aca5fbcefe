"""Vectors of texts: similar texts get vectors with a high cosine.

Shapes: N examples, T texts of an example (anchor, positive, negatives), M different texts, B batch,
D components of a vector.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from model import served
from model.tasks.encoded import Encoded
from model.tasks.evaluation import Evaluation
from model.tasks.task_kind import (
    WORD_FIELDS,
    HeadQuestion,
    InitialModel,
    Task,
    TaskKind,
    TaskSignature,
)
from model.tasks.vector_examples import ComparedTexts, read_compared_texts
from model.tasks.vectors import VectorConfig, VectorLoss, VectorSettings
from pipeline.errors import InputError
from pipeline.schema import Arrays, Tensors

if TYPE_CHECKING:
    from model.explaining.example import Example
    from model.tasks.encoder import Encoder
    from model.tasks.reference_model import ReferenceModel
    from model.tasks.tables import Columns
    from model.training.sums import Batch, Sums

MOST_TEXTS = 2**24
"""Most different texts of a file: their numbers are gathered over devices as float32."""

RANKED_AT_ONCE = 512
"""Anchors whose cosines with all candidates are in memory at a time."""

EVALUATED_AT_ONCE = 64
"""Examples of a batch in the loss of an evaluation file, in the file's order."""


class Similarity(TaskKind[ComparedTexts]):
    """The kind `similarity`."""

    name = "similarity"
    has_vectors = True
    takes_pairs = False
    metrics = ("spearman", "pearson", "triplet_accuracy", "mrr")
    signature = TaskSignature(served.EMBED)
    more_signatures = (served.EMBED_DIMENSION, served.SIMILARITY)
    has_head_weights = False

    def num_outputs(self, task: Task) -> int:
        """Return 0: the head has no weights, and its vector has the encoder's size."""
        del task
        return 0

    def metrics_on(self, examples: ComparedTexts, task: Task) -> tuple[str, ...]:
        """Return "loss" and the metrics of scored pairs, of triplets, or of pairs."""
        del task
        if examples.scores:
            return ("loss", "spearman", "pearson")
        return ("loss", "triplet_accuracy" if examples.have_negatives else "mrr")

    # ---- reading

    @property
    def refused_fields(self) -> list[tuple[str, tuple[str, ...]]]:
        """Fields for columns that files of this kind do not have."""
        return [(f"a {self.name} task has no tags of words", WORD_FIELDS)]

    def read(self, path: Path, columns: "Columns", *, takes_pairs: bool | None) -> ComparedTexts:
        """Read a table of pairs, with negatives or scores if it has such columns."""
        del takes_pairs
        return read_compared_texts(path, self.name, columns)

    # ---- labels

    def task_of(self, examples: ComparedTexts) -> Task:
        """Return the task with the loss that fits the examples."""
        loss: VectorLoss = "cosent" if examples.scores else "in-batch"
        return Task(self.name, (), takes_pairs=False, vectors=VectorSettings(loss=loss))

    def with_settings(
        self, task: Task, settings: VectorConfig, examples: ComparedTexts, initial: InitialModel
    ) -> Task:
        """Return the task with the user's settings; others are the initial model's, or defaults."""
        before = (initial.task and initial.task.vectors) or VectorSettings()
        loss = _settings(task).loss if settings.loss == "auto" else settings.loss
        _check_loss(loss, examples)
        dimensions = tuple(sorted(settings.dimensions, reverse=True))
        if dimensions and dimensions[0] > initial.hidden_size:
            raise InputError(
                f"`dimensions` {dimensions[0]}: the vectors of the model in `init` have "
                f"{initial.hidden_size} components"
            )
        vectors = VectorSettings(
            pooling=settings.pooling or before.pooling,
            normalize=before.normalize if settings.normalize is None else settings.normalize,
            dimensions=dimensions,
            loss=loss,
            scale=settings.scale,
            margin=settings.margin,
            both_directions=settings.both_directions,
            score_range=_score_range(examples) if loss == "cosine" else 1.0,
            prompts=before.prompts,
            default_prompt=before.default_prompt,
        )
        return dataclasses.replace(task, vectors=vectors)

    def learnable(self, examples: ComparedTexts) -> ComparedTexts:
        """Return the examples without empty texts, and without negatives that are the anchor.

        Raises:
            InputError: there are none.
        """
        texts = examples.texts
        full = [all(text.strip() for text in example) for example in texts]
        # A negative with the text of its anchor or positive would teach the opposite.
        apart = [not {*example[2:]} & {*example[:2]} for example in texts]
        kept = examples.select([a and b for a, b in zip(full, apart, strict=True)])
        counts = {
            "with an empty text left out": full.count(False),
            "whose negative is the anchor or the positive left out": len(texts)
            - len(kept)
            - full.count(False),
        }
        if not len(kept):
            raise InputError(
                f"`train` {examples.path}: no example is left: "
                + ", ".join(f"{count:,} {reason}" for reason, count in counts.items() if count)
            )
        return dataclasses.replace(kept, left_out=kept.left_out | counts)

    # ---- encoding

    def encode(self, encoder: "Encoder", examples: ComparedTexts, task: Task) -> Encoded:
        """Return the different texts, each encoded once, and which ones each example has.

        The labels are the scores, or the numbers of an example's texts.
        """
        numbers: dict[str, int] = {}
        groups = np.array(
            [[numbers.setdefault(text, len(numbers)) for text in row] for row in examples.texts],
            np.int32,
        )
        if len(numbers) > MOST_TEXTS:
            raise InputError(
                f"{examples.path}: {len(numbers):,} different texts; at most {MOST_TEXTS:,} can be "
                "told apart, so split the file"
            )
        prompt = _settings(task).prompt
        # A text that several examples have is encoded, and run, once in an evaluation.
        input_ids, first_lengths, truncated = encoder.join([(prompt + text,) for text in numbers])
        empty = sum(not text.strip() for text in numbers)
        return Encoded(
            input_ids,
            first_lengths,
            np.array(examples.scores, np.float32) if examples.scores else groups,
            np.arange(len(numbers), dtype=np.int32),
            groups=groups,
            counts={"texts": len(numbers), "truncated": truncated, "empty": empty},
        )

    # ---- the network

    def head_layer(self, task: Task) -> Any:
        """Return the layer that computes the vector of each text: float32 [B, H]."""
        from model.bert.pooling import TextVector

        settings = _settings(task)
        return TextVector(settings.pooling, normalize=settings.normalize)

    # ---- learning

    @property
    def sum_names(self) -> list[str]:
        """Names of the sums that `sums` returns."""
        return ["task_loss", "task_weight"]

    def needs_whole_batch(self, task: Task) -> bool:
        """Return whether the loss compares the examples of a batch with each other."""
        return _settings(task).loss in ("in-batch", "cosent")

    def sums(self, logits: Any, batch: "Batch", weights: Any, task: Task) -> "Sums":
        """Return the sums of the loss and of the weights.

        Args:
            logits: float32 [B, T, D]. Vectors of the texts of each example.
            batch: task_labels: float32 [B] scores, or int32 [B, T] numbers of the texts.
            weights: float32 [B].
            task: the task.
        """
        import tensorflow as tf

        from model.tasks.vector_losses import matryoshka

        loss = matryoshka(
            lambda vectors: _loss(vectors, batch["task_labels"], weights, _settings(task)),
            logits,
            _settings(task).dimensions,
        )
        # A loss of the whole batch counts as often as it has examples.
        return {"task_loss": tf.reduce_sum(loss * weights), "task_weight": tf.reduce_sum(weights)}

    # ---- answers

    def mean_loss(
        self, examples: ComparedTexts, encoded: Encoded, logits: Sequence[np.ndarray], task: Task
    ) -> float:
        """Return the loss in batches of `EVALUATED_AT_ONCE`, or the loss that fits the file."""
        import tensorflow as tf

        settings = _settings(task)
        # A file for evaluation may have scores where the training had pairs, and the reverse.
        if not _fits(settings.loss, examples):
            settings = dataclasses.replace(
                settings, loss="cosent" if examples.scores else "in-batch"
            )
        task = dataclasses.replace(task, vectors=settings)
        assert encoded.groups is not None
        # In batches, because the loss compares all examples of a batch with each other.
        vectors, total = np.stack(logits), 0.0
        for first in range(0, len(examples), EVALUATED_AT_ONCE):
            rows = slice(first, first + EVALUATED_AT_ONCE)
            batch = {"task_labels": tf.constant(encoded.labels[rows])}
            compared = tf.constant(vectors[encoded.groups[rows]])
            total += float(self.sums(compared, batch, tf.ones(len(compared)), task)["task_loss"])
        return total / len(examples)

    def evaluate(
        self, examples: ComparedTexts, encoded: Encoded, logits: Sequence[np.ndarray], task: Task
    ) -> Evaluation:
        """Return the cosine of each scored pair, or the rank of each positive, and the metrics."""
        del task
        vectors = unit_vectors(np.stack(logits))
        assert encoded.groups is not None
        if examples.scores:
            return _of_scores(examples, _cosines(vectors, encoded.groups)[:, 0])
        if examples.have_negatives:
            return _of_triplets(examples, _cosines(vectors, encoded.groups))
        return _of_pairs(examples, vectors, encoded.groups)

    # ---- explanation

    def head_questions(self, task: Task, example: "Example") -> list[HeadQuestion]:
        """Return no question: a vector is not an answer to one."""
        del task, example
        return []

    # ---- serving

    def served_answers(self, task: Task, logits: Any, read: Any = None) -> Tensors:
        """Return the vector of each text.

        Returns:
            vector: float32 [B, H].
        """
        del task, read
        return {served.VECTOR: logits}

    def golden_row(self, reference: "ReferenceModel", task: Task, texts: Sequence[str]) -> Arrays:
        """Return the vector of a text, or the cosine of two: what the signatures must answer."""
        settings = _settings(task)
        rows = [reference.about(settings.prompt + text) for text in texts]
        vectors = [_golden_vector(row[served.SEQUENCE_OUTPUT], settings) for row in rows]
        truncated = np.array(any(row[served.TRUNCATED] for row in rows))
        if len(vectors) == 1:
            return rows[0] | {served.VECTOR: vectors[0], served.TRUNCATED: truncated}
        first, second = (vector / np.linalg.norm(vector) for vector in vectors)
        return {served.SCORE: np.asarray(first @ second), served.TRUNCATED: truncated}


SIMILARITY = Similarity()


def _golden_vector(positions: np.ndarray, settings: VectorSettings) -> np.ndarray:
    """Return the vector of a text from those of its positions, float32 [L, H] without padding."""
    pool = {"mean": positions.mean(axis=0), "cls": positions[0], "max": positions.max(axis=0)}
    vector: np.ndarray = pool[settings.pooling]
    return vector / np.linalg.norm(vector) if settings.normalize else vector


def _settings(task: Task) -> VectorSettings:
    assert task.vectors is not None  # Task checks it
    return task.vectors


def _fits(loss: VectorLoss, examples: ComparedTexts) -> bool:
    """Return whether examples have the texts or scores that a loss compares."""
    if loss in ("cosent", "cosine"):
        return bool(examples.scores)
    return not examples.scores and (loss == "in-batch" or examples.have_negatives)


def _check_loss(loss: VectorLoss, examples: ComparedTexts) -> None:
    """Check that a loss can be trained on a file.

    Raises:
        InputError: the file lacks what the loss compares.
    """
    if _fits(loss, examples):
        return
    needs = {
        "in-batch": "pairs without scores",
        "triplet": "a column of negatives",
        "cosent": "scores",
        "cosine": "scores",
    }
    raise InputError(
        f"`loss` {loss}: needs {needs[loss]}; `train` {examples.path} has the columns "
        f"{', '.join(examples.columns)}"
    )


def _score_range(examples: ComparedTexts) -> float:
    """Return the score that corresponds to a cosine of 1: 1, or the largest one if it is larger."""
    return max(1.0, max(map(abs, examples.scores)))


def _loss(vectors: Any, labels: Any, weights: Any, settings: VectorSettings) -> Any:
    """Return the loss of each example, float32 [B], or of the whole batch, float32 []."""
    from model.tasks import vector_losses as losses

    if settings.loss == "in-batch":
        return losses.in_batch_negatives(
            vectors, labels, scale=settings.scale, both_directions=settings.both_directions
        )
    if settings.loss == "triplet":
        return losses.triplet_margin(vectors, margin=settings.margin)
    if settings.loss == "cosent":
        return losses.cosent(vectors, labels, weights, scale=settings.scale)
    return losses.cosine_regression(vectors, labels / settings.score_range)


def unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """Return vectors divided by their lengths: float64 [M, D]; zeros stay zeros."""
    # float64, so that rounding does not decide between equal ranks.
    wide = vectors.astype(np.float64)
    return wide / np.maximum(np.linalg.norm(wide, axis=-1, keepdims=True), 1e-12)


def _cosines(vectors: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return the cosines of each anchor with the other texts of its example: float64 [N, T - 1]."""
    compared = vectors[groups]
    cosines: np.ndarray = np.einsum("nd,ntd->nt", compared[:, 0], compared[:, 1:])
    return cosines


def _of_scores(examples: ComparedTexts, cosines: np.ndarray) -> Evaluation:
    from model.tasks.regression import number_measures

    expected = np.array(examples.scores)
    answers = [
        {**examples.given(row), "expected": examples.scores[row], "answer": float(cosine)}
        for row, cosine in enumerate(cosines)
    ]
    measured = number_measures(expected, cosines)
    measures = {name: measured[name] for name in ("spearman", "pearson")}
    # Cosines and scores have different units, so the error is the difference of ranks.
    return Evaluation(measures, answers, _rank_errors(expected, cosines), are_numbers=True)


def _rank_errors(expected: np.ndarray, answered: np.ndarray) -> list[float]:
    """Return the difference between each example's ranks, as a share of the number of examples."""
    from scipy.stats import rankdata

    difference: np.ndarray = np.abs(rankdata(expected) - rankdata(answered)) / len(expected)
    return difference.tolist()


def _of_triplets(examples: ComparedTexts, cosines: np.ndarray) -> Evaluation:
    """Return the share of examples whose positive is nearer than every negative."""
    # The nearest of several negatives must be farther than the positive.
    hardest = cosines[:, 1:].max(axis=1)
    names = examples.columns[1], examples.columns[2]
    answers = [
        {**examples.given(row), "expected": names[0], "answer": names[int(is_wrong)]}
        for row, is_wrong in enumerate(hardest >= cosines[:, 0])
    ]
    accuracy = float(np.mean(cosines[:, 0] > hardest))
    return Evaluation({"triplet_accuracy": accuracy}, answers, (hardest - cosines[:, 0]).tolist())


def _of_pairs(examples: ComparedTexts, vectors: np.ndarray, groups: np.ndarray) -> Evaluation:
    """Return the mean reciprocal rank of each positive among all positives of the file.

    Other positives of the same anchor, and the anchor's own text, are not counted against it.
    """
    positives = np.unique(groups[:, 1])
    right: defaultdict[int, list[int]] = defaultdict(list)
    for anchor, positive in groups[:, :2].tolist():
        right[anchor].append(positive)
    ranks = [
        # `>=`: a model that gives all texts one vector must not rank first.
        int(1 + np.sum(scores[~np.isin(positives, [anchor, *right[anchor]])] >= score))
        for anchor, scores, score in _scored(vectors, groups, positives)
    ]
    answers = [
        {**examples.given(row), "expected": 1, "answer": rank} for row, rank in enumerate(ranks)
    ]
    inverse = 1 / np.array(ranks)
    return Evaluation({"mrr": float(inverse.mean())}, answers, (1 - inverse).tolist())


def _scored(
    vectors: np.ndarray, groups: np.ndarray, positives: np.ndarray
) -> Iterator[tuple[int, np.ndarray, float]]:
    """Yield each anchor, its cosines with all positives, and that with its own one."""
    candidates = vectors[positives]
    for first in range(0, len(groups), RANKED_AT_ONCE):
        part = groups[first : first + RANKED_AT_ONCE]
        for (anchor, positive), scores in zip(
            part, vectors[part[:, 0]] @ candidates.T, strict=True
        ):
            yield anchor, scores, scores[np.searchsorted(positives, positive)]
