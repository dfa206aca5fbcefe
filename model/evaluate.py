"""The work of `evaluate`: a tuned run's answers to a file of examples, measured and shown."""

from typing import Any

from model.commands import Evaluate, refuse_columns
from model.run import Run, load_run
from model.tasks.batches import Batches
from model.tasks.encoding import Encoder
from model.tasks.evaluation import Evaluation, evaluate
from model.tasks.examples import Examples, read_examples
from model.tasks.kinds import Task
from model.tasks.labels import UNKNOWN, parse_label_map
from model.tasks.predict import predict
from model.tasks.report import (
    draw_evaluation,
    print_confusion,
    print_measures,
    print_worst,
    worst,
    write_answers,
)
from model.training.loop import Predictor
from model.training.strategy import make_strategy
from pipeline.console import notes, results
from pipeline.errors import InputError


def evaluate_run(options: Evaluate) -> dict[str, Any]:
    """Evaluate, show, and return the measures.

    Raises:
        InputError: the run was not tuned, or the file or a flag cannot be used.
    """
    run = load_run(options.run_dir)
    if run.task is None:
        raise InputError(f"--run {run.path}: not tuned for a task; clozeline finetune does that")
    refuse_columns(options, run.task.kind)
    if not run.task.definition.has_picture:
        options.refuse_given(f"a {run.task.kind} task has none", "picture")
    examples = read_for(run.task, options)
    labelled = examples.are_labelled
    if not any(labelled) and not options.predictions:
        raise InputError(
            f"--data {options.data}: {examples.no_labels()}, so there is nothing to measure; give "
            "--predictions FILE for the answers"
        )
    if not any(labelled):
        reason = f"{options.data}: {examples.no_labels()}"
        options.refuse_given(reason, "label_map", "worst", "picture")
    evaluation, answers = answers_of(run, examples, options)
    result: dict[str, Any] = {"run": str(run.path), "data": str(options.data)}
    result["examples"] = len(answers)
    if options.predictions:
        write_answers(options.predictions, answers)
        result["predictions"] = str(options.predictions)
        results.print(f"answers: {options.predictions}", soft_wrap=True)
    if not all(labelled):
        result["unlabelled"] = labelled.count(False)
        notes.print(
            f"{options.data}: examples without a label, not measured: {result['unlabelled']:,} of "
            f"{len(answers):,}",
            soft_wrap=True,
        )
    return result | (shown(run, evaluation, options) if any(labelled) else {})


def shown(run: Run, evaluation: Evaluation, options: Evaluate) -> dict[str, Any]:
    """Show an evaluation of labelled examples, and return what of it the result has."""
    task = run.task
    assert task is not None
    result: dict[str, Any] = {}
    title = f"{options.data}: {len(evaluation.answers):,} examples"
    if evaluation.tag_scheme:
        result["tag_scheme"] = evaluation.tag_scheme
        title += f", tag scheme {evaluation.tag_scheme}"
    print_measures(title, evaluation.measures)
    print_confusion(evaluation, task)
    print_worst(evaluation, options.worst)
    title = f"{run.path.name}: {options.data.name}"
    if options.picture and draw_evaluation(options.picture, evaluation, task, title):
        result["picture"] = str(options.picture)
        results.print(f"picture: {options.picture}", soft_wrap=True)
    elif options.picture:
        notes.print(f"--picture: a {task.kind} task has none")
    confusion = evaluation.confusion
    if confusion is not None:
        result |= {"labels": list(task.labels), "confusion": confusion.tolist()}
    return result | evaluation.measures | {"worst": worst(evaluation, options.worst)}


def read_for(task: Task, options: Evaluate) -> Examples:
    """Return the file's examples, with the labels of the run's task.

    Raises:
        InputError: the file cannot be used, or its labels are not the task's.
    """
    names = parse_label_map(options.label_map, task)
    examples = read_examples(
        options.data, task.kind, options.columns, "--data", takes_pairs=task.takes_pairs
    )
    notes.print(f"{options.data}: {examples.described[0]}", soft_wrap=True)
    if UNKNOWN not in names:
        examples = task.definition.without_unknown(examples, task)
    examples, read_as = task.definition.with_labels_of(examples, task, names)
    if read_as:
        words = ", ".join(f"{label} as {name}" for label, name in read_as.items())
        notes.print(f"{options.data}: labels read: {words}", soft_wrap=True)
    return examples


def answers_of(
    run: Run, examples: Examples, options: Evaluate
) -> tuple[Evaluation, list[dict[str, Any]]]:
    """Return the evaluation of the labelled examples, and the answers to all, in their order."""
    task = run.task
    assert task is not None
    encoder = Encoder(
        run.vocabulary,
        lower_case=run.dataset.lower_case,
        max_seq_length=run.dataset.max_seq_length,
        doc_stride=run.doc_stride,
    )
    predictor = Predictor(run.load_model(options.checkpoint), make_strategy("one"), xla=options.xla)
    labelled = examples.are_labelled
    evaluations: dict[bool, Evaluation] = {}
    for is_labelled in {*labelled}:
        part = examples.select([label == is_labelled for label in labelled])
        kind = task.definition
        encode = kind.encode if is_labelled else kind.encode_unlabelled
        encoded = encode(encoder, part, task)
        counts = " · ".join(f"{n:,} {what}" for what, n in encoded.counts.items() if n)
        if counts:
            notes.print(f"{options.data}: {counts}", soft_wrap=True)
        size = min(options.batch_size, len(encoded))
        length = run.dataset.max_seq_length
        batches = Batches(encoded, task, size, run.vocabulary.pad_id, length)
        evaluations[is_labelled] = evaluate(part, encoded, predict(predictor, batches), task)
    answers = {which: iter(evaluation.answers) for which, evaluation in evaluations.items()}
    in_order = [next(answers[which]) for which in labelled]
    return evaluations.get(True, Evaluation({}, [])), in_order
