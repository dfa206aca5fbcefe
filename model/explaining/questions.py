"""Questions that a model can answer about an example, each with scores for its answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from model import served
from model.bert.network import TASK_HEAD
from model.explaining.example import Example
from model.explaining.steps import DEVLIN
from model.run import Run
from model.tasks.task_kind import HeadQuestion, Task
from pipeline.schema import Tensors

IS_NEXT_LABELS = ("follows", "does not follow")
"""Names of the values of `next_sentence_labels`."""


@dataclass(frozen=True)
class ScoredQuestion:
    """A question and how a model scores its answers.

    Attributes:
        kind: kind of the question.
        title: the question in words.
        formula: formula for the answers' probabilities, or the number, from the encoder's vectors:
            z is the sequence output, p the pooled output.
        source: reference for the formula.
        answers: the possible answers, by index.
        position: position of the piece that the question is about; None = the whole text.
        scores: function from the encoder's outputs to the answers' scores, float [B, answers].
        is_number: whether the answer is a number (its score), not a choice among answers.
    """

    kind: str
    title: str
    formula: str
    source: str
    answers: Sequence[str]
    position: int | None
    scores: Callable[[Tensors], tf.Tensor]
    is_number: bool = False

    def values(self, encoded: Tensors) -> tf.Tensor:
        """Return the answers' probabilities, or the number: float32 [B, answers]."""
        # A head may compute in bfloat16, which has two to three significant digits.
        scores = tf.cast(self.scores(encoded), tf.float32)
        return scores if self.is_number else tf.nn.softmax(scores)


def questions(
    run: Run, model: keras.Model, example: Example, position: int
) -> list[ScoredQuestion]:
    """Return the questions that a run's model was trained to answer about an example.

    Args:
        run: the run.
        model: the run's model with trained weights.
        example: one or two texts.
        position: position to predict with the masked-LM head if the text has no [MASK].
    """
    if run.task is not None:
        return _task_questions(run.task, model, example)
    result: list[ScoredQuestion] = []
    if "masked_lm" in run.heads:
        # Without [MASK], the question is about a piece that the model sees; a note says so.
        for masked in example.masks or [position]:
            result.append(_masked_lm(run, model, example, masked))
    if "next_sentence" in run.heads and example.has_pair:
        scores = partial(_of_the_text, model.get_layer("next_sentence"))
        result.append(
            ScoredQuestion("next_sentence", "Does the second text follow the first?",
                     "softmax(W p + b)", f"{DEVLIN}, section 3.1, task #2",
                     IS_NEXT_LABELS, None, scores)
        )  # fmt: skip
    return result


def _masked_lm(run: Run, model: keras.Model, example: Example, position: int) -> ScoredQuestion:
    scores = partial(_of_a_masked_piece, model.get_layer("masked_lm"), position)
    return ScoredQuestion(
        "masked_lm", f"Which piece stands at position {position} ({example.written[position]})?",
        f"softmax(E LayerNorm(GELU(W z_{position} + b)) + c), E the token embeddings",
        f"{DEVLIN}, section 3.1, task #1", run.vocabulary.pieces, position, scores,
    )  # fmt: skip


def _task_questions(task: Task, model: keras.Model, example: Example) -> list[ScoredQuestion]:
    head = model.get_layer(TASK_HEAD)
    return [
        ScoredQuestion(
            question.kind, question.title, question.formula,
            f"{DEVLIN}, section {question.section}", question.answers, question.position,
            _scores(head, question), question.is_number,
        )
        for question in task.definition.head_questions(task, example)
    ]  # fmt: skip


def _scores(head: Any, question: HeadQuestion) -> Callable[[Tensors], tf.Tensor]:
    """Return how a head scores the answers to a question."""
    if question.position is not None:
        return partial(_of_a_piece, head, question.position)
    if question.output is not None:
        return partial(_of_every_piece, head, question.output)
    return partial(_of_the_text, head)


def _of_the_text(head: Any, encoded: Tensors) -> tf.Tensor:
    return head(encoded[served.POOLED_OUTPUT])


def _of_a_piece(head: Any, position: int, encoded: Tensors) -> tf.Tensor:
    return head(encoded[served.SEQUENCE_OUTPUT][:, position])


def _of_every_piece(head: Any, column: int, encoded: Tensors) -> tf.Tensor:
    return head(encoded[served.SEQUENCE_OUTPUT])[..., column]


def _of_a_masked_piece(head: Any, position: int, encoded: Tensors) -> tf.Tensor:
    x = encoded[served.SEQUENCE_OUTPUT]
    # The head takes positions of each row; here all rows are points of one path.
    return head(x, tf.fill([tf.shape(x)[0], 1], position))[:, 0]
