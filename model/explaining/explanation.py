"""Everything there is to show about one text or pair: the worked example, attention, answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from model.bert.network import from_token_vectors, with_intermediates
from model.explaining.attribution import Attribution, integrated_gradients
from model.explaining.example import Example, read_example
from model.explaining.questions import Kind, Question, questions
from model.explaining.rollout import attention_rollout
from model.explaining.steps import Step, worked_steps
from model.run import Run
from pipeline import schema
from pipeline.console import progress
from pipeline.errors import InputError

MOST_ANSWERS = 10
"""Answers shown of a question, best first."""

MOST_ATTRIBUTED = 8
"""Questions whose best answer is attributed to the pieces; each takes a while."""


@dataclass(frozen=True)
class Prediction:
    """What a model answers to one question.

    Attributes:
        kind: what is asked.
        title: the question in words.
        formula: of the answers' values.
        source: of the formula.
        position: of the piece that it is about; None = the whole text.
        answers: the best ones with their probability, best first; or the number that is answered.
        attribution: what each piece adds to the best answer's probability, or to the number; None
            where it was not computed.
    """

    kind: Kind
    title: str
    formula: str
    source: str
    position: int | None
    answers: tuple[tuple[str, float], ...]
    attribution: Attribution | None


@dataclass(frozen=True)
class Explanation:
    """What a model computes for an example.

    Attributes:
        run: the run's path.
        example: the text as the model reads it.
        layer: of the worked steps, from 0.
        head: of the worked steps, from 0.
        steps: from the pieces to the pooled vector.
        attention: float32 [layers, heads, L, L]. Share of each position (last axis) in what a head
            gathers for another one.
        rollout: float32 [L, L]. The same through all layers.
        predictions: what the model answers.
        notes: what a reader must know, a sentence each.
    """

    run: str
    example: Example
    layer: int
    head: int
    steps: tuple[Step, ...]
    attention: np.ndarray
    rollout: np.ndarray
    predictions: tuple[Prediction, ...]
    notes: tuple[str, ...]


def explain(
    run: Run, texts: Sequence[str], layer: int, head: int, position: int | None = None
) -> Explanation:
    """Return what a run's model computes for one text, or two.

    Args:
        run: a run with trained weights.
        texts: one text, or two.
        layer: of the worked steps, from 0.
        head: of the worked steps, from 0.
        position: of the piece that the masked-LM head is asked for where there is no [MASK]; None
            is the last one.

    Raises:
        InputError: the run cannot take the texts, or lacks the layer, the head or the position.
    """
    config = run.config
    _check_below("--layer", layer + 1, config.num_hidden_layers, "layers")
    _check_below("--head", head + 1, config.num_attention_heads, "heads")
    example = read_example(run, texts)
    if position is not None and (run.task is not None or "masked_lm" not in run.heads):
        raise InputError(f"--position: {run.path} has not learned masked words")
    if position is not None and example.masks:
        raise InputError("--position: the text has [MASK], which is asked for; leave one of them")
    if position is not None and not 0 <= position < len(example):
        raise InputError(f"--position {position}: must be from 0 to {len(example) - 1}")
    asked = len(example) - 2 if position is None else position
    model = run.load_model("auto")
    encoder, features = model.get_layer("encoder"), example.features()
    inside = with_intermediates(encoder)(features, training=False)
    attention = np.concatenate([np.asarray(scores) for scores in inside["attention_scores"]])
    asked_about = questions(run, model, example, asked)
    return Explanation(
        run=str(run.path),
        example=example,
        layer=layer,
        head=head,
        steps=tuple(worked_steps(encoder, inside, features, layer, head)),
        attention=attention,
        rollout=attention_rollout(attention),
        predictions=tuple(_predictions(encoder, example, asked_about, inside)),
        notes=tuple(_notes(run, example, asked_about)),
    )


def _check_below(flag: str, number: int, last: int, of_what: str) -> None:
    if not 1 <= number <= last:
        raise InputError(f"{flag} {number}: the model has {of_what} 1 to {last}")


def _predictions(
    encoder: keras.Model, example: Example, asked: list[Question], inside: dict[str, Any]
) -> list[Prediction]:
    """Return the answers, and why those to the first questions are what they are."""
    encode = from_token_vectors(encoder)
    vectors = encoder.get_layer("token_embedding")(example.features()[schema.INPUT_IDS])
    predictions = []
    with progress() as bar:
        total = min(len(asked), MOST_ATTRIBUTED)
        task = bar.add_task("integrated gradients", total=total, unit="answers")
        for index, question in enumerate(asked):
            values = question.values(inside)[0].numpy()
            best = np.argsort(-values, kind="stable")[:MOST_ANSWERS]
            attribution = None
            if index < MOST_ATTRIBUTED:
                answer = int(best[0])
                attribution = integrated_gradients(encode, vectors, example, question, answer)
                bar.advance(task)
            predictions.append(_prediction(question, values, best, attribution))
    return predictions


def _prediction(
    question: Question, values: np.ndarray, best: np.ndarray, attribution: Attribution | None
) -> Prediction:
    return Prediction(
        kind=question.kind,
        title=question.title,
        formula=question.formula,
        source=question.source,
        position=question.position,
        answers=tuple((question.answers[index], float(values[index])) for index in best),
        attribution=attribution,
    )


def _notes(run: Run, example: Example, asked: list[Question]) -> list[str]:
    """Return what a reader must know."""
    notes = []
    if example.cut_pieces:
        notes.append(
            f"The text is longer than the {run.dataset.max_seq_length} pieces that the model "
            f"takes: {example.cut_pieces} pieces at the end were cut off."
        )
    if not asked:
        notes.append("The model has no trained head, so it answers nothing; see its attention.")
    asks_words = any(question.kind == "masked_lm" for question in asked)
    if asks_words and not example.masks:
        notes.append(
            "There is no [MASK] in the text, so the model is asked for a word that it sees."
        )
    if len(asked) > MOST_ATTRIBUTED:
        notes.append(f"Only the first {MOST_ATTRIBUTED} of {len(asked)} answers are attributed.")
    return notes
