"""What a model can be asked about an example: each question as scores of its possible answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import keras
import tensorflow as tf

from model.bert.network import TASK_HEAD
from model.explaining.example import Example
from model.explaining.steps import DEVLIN
from model.run import Run
from model.tasks.kinds import Task

Kind = Literal["masked_lm", "next_sentence", "class", "score", "tag", "start", "end"]

IS_NEXT_LABELS = ("follows", "does not follow")
"""By index, as `next_sentence_labels` number them."""


@dataclass(frozen=True)
class Question:
    """A question and how a model scores its answers.

    Attributes:
        kind: what is asked.
        title: the question in words.
        formula: how the answers' probabilities, or the number, follow from the encoder's vectors:
            z the last layer's, p the pooled one.
        source: where the formula comes from.
        answers: the possible ones by index.
        position: of the piece that it is about; None = the whole text.
        scores: of the encoder's outputs, all answers' scores: float [B, answers].
    """

    kind: Kind
    title: str
    formula: str
    source: str
    answers: Sequence[str]
    position: int | None
    scores: Callable[[dict[str, Any]], Any]

    @property
    def is_number(self) -> bool:
        """Whether the answer is a number, which is its score, instead of a choice."""
        return self.kind == "score"

    def values(self, encoded: dict[str, Any]) -> Any:
        """Return each answer's probability, or the number: float32 [B, answers]."""
        scores = tf.cast(self.scores(encoded), tf.float32)
        return scores if self.is_number else tf.nn.softmax(scores)


def questions(run: Run, model: keras.Model, example: Example, position: int) -> list[Question]:
    """Return what a run's model has learned to answer about an example.

    Args:
        run: the run.
        model: its model, with trained weights.
        example: one text, or two.
        position: of the piece that is asked for besides [MASK], if there is no [MASK].
    """
    if run.task is not None:
        return _task_questions(run.task, model, example)
    found: list[Question] = []
    if "masked_lm" in run.heads:
        for place in example.masks or [position]:
            found.append(_masked_lm(run, model, example, place))
    if "next_sentence" in run.heads and example.has_pair:
        scores = partial(_of_the_text, model.get_layer("next_sentence"))
        found.append(
            Question("next_sentence", "Does the second text follow the first?",
                     "softmax(W p + b)", f"{DEVLIN}, section 3.1, task #2",
                     IS_NEXT_LABELS, None, scores)
        )  # fmt: skip
    return found


def _masked_lm(run: Run, model: keras.Model, example: Example, position: int) -> Question:
    scores = partial(_of_a_masked_piece, model.get_layer("masked_lm"), position)
    return Question(
        "masked_lm", f"Which piece stands at position {position} ({example.written[position]})?",
        f"softmax(E LayerNorm(GELU(W z_{position} + b)) + c), E the token embeddings",
        f"{DEVLIN}, section 3.1, task #1", run.vocabulary.pieces, position, scores,
    )  # fmt: skip


def _task_questions(task: Task, model: keras.Model, example: Example) -> list[Question]:
    head = model.get_layer(TASK_HEAD)
    of_the_text = partial(_of_the_text, head)
    if task.kind == "regression":
        return [
            Question("score", "Which number?", "W p + b", f"{DEVLIN}, section 4.1",
                     ("score",), None, of_the_text)
        ]  # fmt: skip
    if task.kind == "tagging":
        return [
            Question("tag", f"Which tag has “{''.join(example.written[i] for i in word)}”?",
                     f"softmax(W z_{word[0]} + b)", f"{DEVLIN}, section 5.3",
                     task.labels, word[0], partial(_of_a_piece, head, word[0]))
            for word in example.tagged_words
        ]  # fmt: skip
    if task.kind == "span":
        ends: tuple[Kind, Kind] = ("start", "end")
        return [
            Question(end, f"At which word does the answer {end}?",
                     "softmax(Z w + b), Z the vectors of all positions",
                     f"{DEVLIN}, section 4.2", example.written, None,
                     partial(_of_every_piece, head, column))
            for column, end in enumerate(ends)
        ]  # fmt: skip
    return [
        Question("class", "Which class?", "softmax(W p + b)", f"{DEVLIN}, section 4.1",
                 task.labels, None, of_the_text)
    ]  # fmt: skip


def _of_the_text(head: Any, encoded: dict[str, Any]) -> Any:
    return head(encoded["pooled_output"])


def _of_a_piece(head: Any, position: int, encoded: dict[str, Any]) -> Any:
    return head(encoded["sequence_output"][:, position])


def _of_every_piece(head: Any, column: int, encoded: dict[str, Any]) -> Any:
    return head(encoded["sequence_output"])[..., column]


def _of_a_masked_piece(head: Any, position: int, encoded: dict[str, Any]) -> Any:
    x = encoded["sequence_output"]
    return head(x, tf.fill([tf.shape(x)[0], 1], position))[:, 0]
