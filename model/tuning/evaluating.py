"""The work of `evaluate`: a tuned run's answers to a file of examples, measured and shown."""

from typing import Any

from model.commands import Evaluate
from model.loop import Predictor
from model.run import Run, load_run
from model.strategy import make_strategy
from model.tuning.batches import Batches
from model.tuning.encoding import Encoder
from model.tuning.evaluation import Evaluation, evaluate, predict
from model.tuning.examples import Columns, Texts, read_examples
from model.tuning.report import (
    draw_evaluation,
    print_confusion,
    print_measures,
    print_worst,
    worst,
    write_answers,
)
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
    evaluation = answers_of(run, options)
    result: dict[str, Any] = {"run": str(run.path), "data": str(options.data)}
    result["examples"] = len(evaluation.answers)
    if options.predictions:
        write_answers(options.predictions, evaluation.answers)
        result["predictions"] = str(options.predictions)
        results.print(f"answers: {options.predictions}", soft_wrap=True)
    if not evaluation.measures:
        if not options.predictions:
            raise InputError(
                f"--data {options.data}: no column {options.label_column!r}, so there is nothing "
                "to measure; give --predictions FILE for the answers"
            )
        return result
    title = f"{options.data}: {len(evaluation.answers):,} examples"
    if evaluation.tag_scheme:
        result["tag_scheme"] = evaluation.tag_scheme
        title += f", tag scheme {evaluation.tag_scheme}"
    print_measures(title, evaluation.measures)
    print_confusion(evaluation, run.task)
    print_worst(evaluation, options.worst)
    title = f"{run.path.name}: {options.data.name}"
    if options.picture and draw_evaluation(options.picture, evaluation, run.task, title):
        result["picture"] = str(options.picture)
        results.print(f"picture: {options.picture}", soft_wrap=True)
    elif options.picture:
        notes.print(f"--picture: a {run.task.kind} task has none")
    confusion = evaluation.confusion
    if confusion is not None:
        result |= {"labels": list(run.task.labels), "confusion": confusion.tolist()}
    return result | evaluation.measures | {"worst": worst(evaluation, options.worst)}


def answers_of(run: Run, options: Evaluate) -> Evaluation:
    """Return a tuned run's answers to a file.

    Raises:
        InputError: the file cannot be used, or takes another number of texts.
    """
    task = run.task
    assert task is not None
    columns = Columns(options.text_column, options.text_pair_column, options.label_column)
    examples = read_examples(options.data, task.kind, columns, "--data")
    if isinstance(examples, Texts) and len(examples.texts[0]) != 1 + task.takes_pairs:
        raise InputError(
            f"--data {options.data}: the run takes {1 + task.takes_pairs} texts an example; "
            "name them with --text-column and --text-pair-column"
        )
    encoder = Encoder(
        run.vocabulary,
        lower_case=run.dataset.lower_case,
        max_seq_length=run.dataset.max_seq_length,
        doc_stride=run.doc_stride,
    )
    encoded = encoder.encode(examples, task)
    batches = Batches(
        encoded,
        task,
        min(options.batch_size, len(encoded)),
        run.vocabulary.pad_id,
        run.dataset.max_seq_length,
    )
    counts = " · ".join(f"{n:,} {what}" for what, n in encoded.counts.items() if n)
    if counts:
        notes.print(f"{options.data}: {counts}", soft_wrap=True)
    predictor = Predictor(run.load_model(options.checkpoint), make_strategy("one"), xla=options.xla)
    return evaluate(examples, encoded, predict(predictor, batches), task)
