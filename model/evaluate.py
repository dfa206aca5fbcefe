"""Evaluate a fine-tuned run on a file of examples."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model.configs import EvaluateConfig, check_columns
from model.retrieve import TextVectors, evaluate_retrieval
from model.run import Run, load_run
from model.tasks.batches import Batches
from model.tasks.evaluation import Evaluation
from model.tasks.example_files import read_examples
from model.tasks.examples import Examples
from model.tasks.labels import UNKNOWN, parse_label_map
from model.tasks.picture import draw_evaluation
from model.tasks.predict import evaluate
from model.tasks.retrieval import read_topics
from model.tasks.task_kind import Task
from model.training.memory import shortage_named
from model.training.predictor import Predictor
from model.training.strategy import make_strategy
from pipeline.errors import InputError
from pipeline.storage.files import write_atomically
from pipeline.storage.locks import only_writer_of_outputs
from pipeline.storage.strict_json import JsonObject, to_json

WORST = 10
"""Default number of answers with the highest loss to return."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationResult:
    """Answers and metrics of a fine-tuned run on a file of examples.

    Attributes:
        run: directory of the run.
        data: file of examples.
        task: task of the run.
        answers: one dict per example, in the file's order: input, expected answer, answer.
        evaluation: evaluation of the labelled examples; None if there are none.
        worst: answers with the highest loss, in descending order, each with its `error`.
        unlabelled: number of examples without a label.
        predictions: file with all answers; None = not written.
        picture: file with the plot; None = not drawn.
    """

    run: Path
    data: Path
    task: Task
    answers: Sequence[JsonObject]
    evaluation: Evaluation | None
    worst: Sequence[JsonObject]
    unlabelled: int
    predictions: Path | None
    picture: Path | None


@shortage_named("give a smaller `batch_size`")
def evaluate_run(config: EvaluateConfig) -> EvaluationResult:
    """Evaluate a fine-tuned run.

    Raises:
        InputError: the run was not fine-tuned, the file or a field cannot be used, or another
            process writes an output.
        JobError: it runs out of memory.
    """
    with only_writer_of_outputs(config.outputs):
        return _evaluate(config)


def _evaluate(config: EvaluateConfig) -> EvaluationResult:
    run = load_run(config.run_dir, config.caching)
    task = run.task
    if task is None:
        raise InputError(
            f"`run_dir` {run.path}: not tuned for a task; clozeline finetune does that"
        )
    check_columns(config.columns, task.kind)
    if config.data.is_dir():
        return evaluate_collection(run, task, config)
    if config.split is not None:
        raise InputError("`split`: needs a folder with qrels/ as `data`")
    if config.picture and not task.definition.has_picture:
        raise InputError(f"`picture`: a {task.kind} task has none")
    examples = read_for(task, config)
    labelled = examples.are_labelled
    if not any(labelled):
        check_unlabelled(config, examples)
    evaluation, answers = answers_of(run, examples, config)
    if config.predictions:
        write_answers(config.predictions, answers)
    if not all(labelled):
        logger.info(
            f"{config.data}: examples without a label, not measured: {labelled.count(False):,} of "
            f"{len(answers):,}"
        )
    return EvaluationResult(
        run.path,
        config.data,
        task,
        answers,
        evaluation,
        worst(evaluation, WORST if config.worst is None else config.worst) if evaluation else (),
        labelled.count(False),
        config.predictions,
        picture_of(evaluation, task, config) if evaluation else None,
    )


def evaluate_collection(run: Run, task: Task, config: EvaluateConfig) -> EvaluationResult:
    """Evaluate a run's vectors on a retrieval collection.

    Raises:
        InputError: the run has no vectors, or the collection or a field cannot be used.
    """
    if task.vectors is None:
        raise InputError(f"`data` {config.data}: a folder; a {task.kind} task needs a file")
    if config.picture or config.label_map:
        raise InputError("`picture` and `label_map`: retrieval has neither")
    topics = read_topics(config.data, config.split)
    if topics.unknown:
        logger.info(f"{config.data}: judged queries without a text, left out: {topics.unknown:,}")
    vectors = TextVectors(
        run.encoder, predictor_of(run, config), task, config.batch_size, run.vocabulary.pad_id
    )
    evaluation = evaluate_retrieval(config.data, topics, vectors)
    if config.predictions:
        write_answers(config.predictions, evaluation.answers)
    return EvaluationResult(
        run.path,
        config.data,
        task,
        evaluation.answers,
        evaluation,
        worst(evaluation, WORST if config.worst is None else config.worst),
        0,
        config.predictions,
        None,
    )


def check_unlabelled(config: EvaluateConfig, examples: Examples) -> None:
    """Check that for a file without labels, only predictions are requested.

    Raises:
        InputError: a result is requested that needs labels.
    """
    if not config.predictions:
        raise InputError(
            f"`data` {config.data}: {examples.no_labels()}, so there is nothing to measure; give "
            "`predictions` FILE for the answers"
        )
    for name in ("label_map", "worst", "picture"):
        if getattr(config, name) not in (None, ()):
            raise InputError(f"`{name}`: {config.data}: {examples.no_labels()}")


def picture_of(evaluation: Evaluation, task: Task, config: EvaluateConfig) -> Path | None:
    """Draw the requested picture and return its path; None if there is none."""
    if config.picture is None:
        return None
    title = f"{config.run_dir.name}: {config.data.name}"
    if draw_evaluation(config.picture, evaluation, task, title):
        return config.picture
    logger.info(f"`picture`: a {task.kind} task has none")
    return None


def worst(evaluation: Evaluation, count: int) -> list[JsonObject]:
    """Return the answers with the highest loss, in descending order, each with its `error`."""
    # Stable: equal errors stay in the file's order.
    order = np.argsort(-np.array(evaluation.errors), kind="stable")[:count]
    return [evaluation.answers[i] | {"error": evaluation.errors[i]} for i in order]


def write_answers(path: Path, answers: list[JsonObject]) -> None:
    """Write answers as JSON Lines."""
    lines = [to_json(answer) + "\n" for answer in answers]
    write_atomically(path, "".join(lines).encode())


def read_for(task: Task, config: EvaluateConfig) -> Examples:
    """Read the examples of the file, and map their labels to the run's.

    Raises:
        InputError: the file cannot be used, or a label is not one of the run's.
    """
    names = parse_label_map(config.label_map, task)
    examples = read_examples(
        config.data, task.kind, config.columns, "`data`", takes_pairs=task.takes_pairs
    )
    logger.info(f"{config.data}: {examples.described[0]}")
    if UNKNOWN not in names:
        examples = task.definition.without_unknown(examples, task)
    examples, read_as = task.definition.with_labels_of(examples, task, names)
    if read_as:
        words = ", ".join(f"{label} as {name}" for label, name in read_as.items())
        logger.info(f"{config.data}: labels read: {words}")
    return examples


def answers_of(
    run: Run, examples: Examples, config: EvaluateConfig
) -> tuple[Evaluation | None, list[JsonObject]]:
    """Return the evaluation of the labelled examples (None if there are none), and all answers."""
    task = run.task
    assert task is not None
    encoder, predictor = run.encoder, predictor_of(run, config)
    labelled = examples.are_labelled
    evaluations: dict[bool, Evaluation] = {}
    # Apart, because metrics are of the labelled examples only.
    for is_labelled in {*labelled}:
        part = examples.select([label == is_labelled for label in labelled])
        kind = task.definition
        encode = kind.encode if is_labelled else kind.encode_unlabelled
        encoded = encode(encoder, part, task)
        counts = " · ".join(f"{n:,} {what}" for what, n in encoded.counts.items() if n)
        if counts:
            logger.info(f"{config.data}: {counts}")
        # A batch of a small file is not filled up to the batch size.
        size = min(config.batch_size, len(encoded))
        length = run.dataset.max_seq_length
        batches = Batches(encoded, task, size, run.vocabulary.pad_id, length)
        evaluations[is_labelled] = evaluate(predictor, part, batches)
    answers = {which: iter(evaluation.answers) for which, evaluation in evaluations.items()}
    # Merged again into the order of the file, so that line N answers example N.
    in_order = [next(answers[which]) for which in labelled]
    return evaluations.get(True), in_order


def predictor_of(run: Run, config: EvaluateConfig) -> Predictor:
    """Return a run's model on one device."""
    model = run.load_model(config.checkpoint)
    return Predictor(model, make_strategy("one"), xla=config.xla, name=run.path)
