"""Compute a complete explanation of one text or pair: worked steps, attention, answers."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import keras
import numpy as np

from model import served
from model.bert.network import Intermediates, from_token_vectors, with_intermediates
from model.explaining.attribution import Attribution, integrated_gradients
from model.explaining.config import ExplainConfig
from model.explaining.example import Example
from model.explaining.questions import ScoredQuestion, questions
from model.explaining.read_example import read_example
from model.explaining.rollout import attention_rollout
from model.explaining.steps import Step, worked_steps
from model.finite import check_finite
from model.run import Run, load_run
from pipeline import schema
from pipeline.errors import InputError
from pipeline.progress import counted, progress

MOST_ANSWERS = 10
"""Largest number of answers shown per question, best first."""

MOST_ATTRIBUTED = 8
"""Largest number of questions whose best answer is attributed: integrated gradients are slow."""


@dataclass(frozen=True)
class Prediction:
    """A model's answer to one question.

    Attributes:
        kind: kind of the question.
        title: the question in words.
        formula: formula for the answers' probabilities, or the number.
        source: reference for the formula.
        position: position of the piece that the question is about; None = the whole text.
        answers: (answer, probability), best first; of a regression, the predicted number.
        attribution: attribution of the best answer to the pieces; None = not computed.
    """

    kind: str
    title: str
    formula: str
    source: str
    position: int | None
    answers: tuple[tuple[str, float], ...]
    attribution: Attribution | None


@dataclass(frozen=True)
class Explanation:
    """The explanation of a model's computation for one example.

    Attributes:
        run: path of the run.
        example: the tokenized text.
        layer: layer of the worked steps, from 0.
        head: attention head of the worked steps, from 0.
        steps: intermediate results from the pieces to the pooled vector.
        attention: float32 [layers, heads, L, L]. Attention weights; the last axis is the keys'
            position.
        rollout: float32 [L, L]. Attention rollout through all layers.
        predictions: the model's answers.
        notes: remarks for the reader, one sentence each.
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


def explain(config: ExplainConfig) -> Explanation:
    """Explain the computation of a run's model for one or two texts.

    Raises:
        InputError: there is no such run; or as `explain_texts`.
    """
    return explain_texts(
        load_run(config.run_dir, config.caching),
        config.text,
        config.layer - 1,
        config.head - 1,
        config.position,
    )


def explain_texts(
    run: Run, texts: Sequence[str], layer: int, head: int, position: int | None = None
) -> Explanation:
    """Explain the computation of a run's model for one or two texts.

    Args:
        run: a run with trained weights.
        texts: one or two texts.
        layer: layer of the worked steps, from 0.
        head: attention head of the worked steps, from 0.
        position: position of the piece that the masked-LM head predicts if the text has no [MASK];
            None = the last piece.

    Raises:
        InputError: the model cannot take the texts, the layer, head or position does not exist, or
            the model computes NaN or infinity.
    """
    config = run.config
    _check_below("`layer`", layer + 1, config.num_hidden_layers, "layers")
    _check_below("`head`", head + 1, config.num_attention_heads, "heads")
    example = read_example(run, texts)
    if position is not None and (run.task is not None or "masked_lm" not in run.heads):
        raise InputError(f"`position`: {run.path} has no masked-LM head")
    if position is not None and example.masks:
        raise InputError("`position`: the text has [MASK]; drop `position` or the [MASK]")
    if position is not None and not 0 <= position < len(example):
        raise InputError(f"`position` {position}: must be from 0 to {len(example) - 1}")
    # The last piece before [SEP].
    predicted_position = len(example) - 2 if position is None else position
    # The checkpoint that `export` takes by default, too.
    model = run.load_model("auto")
    encoder, features = model.get_layer("encoder"), example.features()
    inside = with_intermediates(encoder)(features, training=False)
    attention = np.concatenate([np.asarray(scores) for scores in inside["attention_scores"]])
    check_finite(run.path, [attention, inside[served.SEQUENCE_OUTPUT]])
    scored = questions(run, model, example, predicted_position)
    predictions = _predictions(encoder, example, scored, inside)
    check_finite(run.path, _numbers(predictions))
    return Explanation(
        run=str(run.path),
        example=example,
        layer=layer,
        head=head,
        steps=tuple(worked_steps(encoder, inside, features, layer, head)),
        attention=attention,
        rollout=attention_rollout(attention),
        predictions=tuple(predictions),
        notes=tuple(_notes(run, example, scored)),
    )


def _numbers(predictions: Iterable[Prediction]) -> Iterator[np.ndarray | float]:
    """Yield the values and attributions of answers."""
    for prediction in predictions:
        yield from (value for _, value in prediction.answers)
        if prediction.attribution:
            yield from (prediction.attribution.by_piece, prediction.attribution.baseline_value)


def _check_below(field: str, number: int, last: int, of_what: str) -> None:
    if not 1 <= number <= last:
        raise InputError(f"{field} {number}: the model has {of_what} 1 to {last}")


def _predictions(
    encoder: keras.Model, example: Example, scored: list[ScoredQuestion], inside: Intermediates
) -> list[Prediction]:
    """Return the answers to all questions, with attributions for the first `MOST_ATTRIBUTED`."""
    encode = from_token_vectors(encoder)
    # Gradients are taken by these vectors: ids are not differentiable.
    vectors = encoder.get_layer("token_embedding")(example.features()[schema.INPUT_IDS])
    predictions = []
    with progress() as bar:
        total = min(len(scored), MOST_ATTRIBUTED)
        task = bar.add_task("integrated gradients", total=total, unit="answers")
        for index, question in enumerate(scored):
            values = question.values(inside)[0].numpy()
            # Among equal answers the lower index comes first, as in `top_k` of the served graph.
            best = np.argsort(-values, kind="stable")[:MOST_ANSWERS]
            attribution = None
            if index < MOST_ATTRIBUTED:
                answer = int(best[0])
                attribution = integrated_gradients(encode, vectors, example, question, answer)
                bar.advance(task)
            predictions.append(_prediction(question, values, best, attribution))
    return predictions


def _prediction(
    question: ScoredQuestion, values: np.ndarray, best: np.ndarray, attribution: Attribution | None
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


def _notes(run: Run, example: Example, scored: list[ScoredQuestion]) -> list[str]:
    """Return remarks for the reader: truncation, missing heads, limits."""
    notes = []
    if example.cut_pieces:
        notes.append(
            f"The text is longer than the {run.dataset.max_seq_length} pieces that the model "
            f"takes; cut off at the end: {counted(example.cut_pieces, 'pieces')}."
        )
    if not scored:
        notes.append("The model has no trained head, so it answers nothing; see its attention.")
    asks_words = any(question.kind == "masked_lm" for question in scored)
    if asks_words and not example.masks:
        notes.append(
            "There is no [MASK] in the text, so the model is asked for a word that it sees."
        )
    if len(scored) > MOST_ATTRIBUTED:
        notes.append(f"Only the first {MOST_ATTRIBUTED} of {len(scored)} answers are attributed.")
    return notes
