"""Fine-tuning: start or resume a run for every seed."""

import dataclasses
import math
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from model.bert.config import BertConfig
from model.commands import Finetune
from model.pretrain import check_batch_size
from model.run_config import RunConfig, TextFacts
from model.source import Source, open_source
from model.start import only_writer_of_runs, open_run, restore_run, training_config
from model.tasks.batches import Batches
from model.tasks.encoded import Encoded
from model.tasks.encoding import Encoder
from model.tasks.evaluation import evaluate
from model.tasks.examples import Examples, read_examples
from model.tasks.kinds import Task, kind_named
from model.tasks.objective import Tuning
from model.tasks.predict import predict
from model.tasks.report import measure_text
from model.training.config import RecoveryConfig, TuningConfig
from model.training.evaluations import Evaluations
from model.training.flops import step_flops
from model.training.loop import Predictor, Trainer
from model.training.precision import fastest
from model.training.session import Phase, Session
from model.training.strategy import make_strategy
from model.training.workers import Workers
from pipeline.console import notes, results, table
from pipeline.errors import InputError
from pipeline.manifest import sha256
from pipeline.text.tokenizer import Vocabulary


def finetune(options: Finetune) -> dict[str, Any]:
    """Tune a run for every seed, and return what came of them.

    Raises:
        InputError: the examples, the run, the model to start from or a flag cannot be used, or the
            loss is not a number.
        KeyboardInterrupt: it was told to stop, and has saved a checkpoint.
    """
    strategy = make_strategy(options.strategy)
    workers = Workers(strategy)
    if options.deterministic:
        tf.config.experimental.enable_op_determinism()
    if not workers.is_chief:
        notes.print(f"{workers}: the first one shows the progress and writes the run")
        notes.quiet = results.quiet = True
    runs = seeds_and_runs(options)
    with workers.lost_ones_named(), only_writer_of_runs([run for _, run in runs], workers):
        source = open_source(options.init)
        prepared = prepare(options, source, strategy)
        found = [
            tune(dataclasses.replace(options, run_dir=run), seed, source, prepared, workers)
            for seed, run in runs
        ]
    print_results(found)
    if len(found) == 1:
        return found[0]
    return {"runs": found, **spread(found)}


def seeds_and_runs(options: Finetune) -> list[tuple[int, Path]]:
    """Return each seed with its run: the one that is named, or with several seeds one inside it."""
    if len(options.seed) == 1:
        return [(options.seed[0], options.run_dir)]
    return [(seed, options.run_dir / f"seed-{seed}") for seed in options.seed]


@dataclass(frozen=True)
class Prepared:
    """Encoded examples of a fine-tuning.

    Attributes:
        path: training file.
        task: task defined by the training file's labels.
        train: batches of the training file.
        train_sha256: SHA-256 of the training file, hexadecimal.
        dev: examples and batches of the evaluation file; None without such a file.
        max_seq_length: maximum number of positions of an example.
    """

    path: Path
    task: Task
    train: Batches
    train_sha256: str
    dev: tuple[Examples, Batches] | None
    max_seq_length: int


def tune(
    options: Finetune, seed: int, source: Source, prepared: Prepared, workers: Workers
) -> dict[str, Any]:
    """Train a run to its end and return what came of it.

    Raises:
        InputError: as `finetune`.
    """
    started = time.monotonic()
    run, strategy = options.run_dir, workers.strategy
    config = run_config(options, seed, source, prepared, fastest(strategy))
    training, tuning = config.training, config.tuning
    assert training is not None
    assert tuning is not None
    workers.check_same(
        zlib.crc32(config.to_json().encode()),
        "the workers were started with different flags or examples; give each the same",
    )
    if workers.is_chief:
        open_run(run, config, source.vocabulary, options.train)
    trainer = Trainer(
        config.model,
        training,
        objective(prepared, config.model, tuning),
        strategy,
        xla=options.xla,
        accumulation_steps=options.accumulation_steps,
        recompute=options.recompute,
        times_data=not options.deterministic,
    )
    missing = source.fill(trainer.weights, prepared.task)
    new = ", ".join(missing) or "none"
    notes.print(f"starts from {options.init}; new weights: {new}", soft_wrap=True)
    opened = restore_run(run, training, trainer, workers)
    evaluations = evaluations_of(options, prepared)
    recovery = RecoveryConfig(
        options.checkpoint_every_steps, options.on_blow_up, options.blow_up_ratio
    )
    phase = Phase(LabelledData(prepared, seed), 0, training.steps)
    session = Session(opened, phase, evaluations, recovery)
    measured = session.train()
    best = opened.checkpoints.best
    if session.stopped_early:
        notes.print(
            f"stopped early at step {trainer.steps_done:,}: {evaluations.patience} evaluations "
            f"without a better {evaluations.measure}"
        )
    return {
        "run": str(run),
        "task": options.task,
        "seed": seed,
        "steps": trainer.steps_done,
        "split": measured.split,
        **measured.values,
        **({"best_step": best.step, f"best_{evaluations.measure}": best.value} if best else {}),
        "examples_per_sec": session.throughput.examples_per_sec,
        "tokens_per_sec": session.throughput.tokens_per_sec,
        "seconds": time.monotonic() - started,
    }


def prepare(options: Finetune, source: Source, strategy: tf.distribute.Strategy) -> Prepared:
    """Read and encode the examples, and say what was found in them.

    Raises:
        InputError: a file or a flag cannot be used.
    """
    replicas = strategy.num_replicas_in_sync
    check_batch_size("--batch-size", options.batch_size, replicas, options.accumulation_steps)
    examples = read_examples(options.train, options.task, options.columns, "--train")
    task = task_of(options, examples)
    vocabulary = Vocabulary.parse(source.vocabulary, options.init)
    most = source.config.max_position_embeddings
    length = max_length(options, most)
    encoder = Encoder(
        vocabulary,
        lower_case=source.lower_case,
        max_seq_length=length,
        doc_stride=options.doc_stride,
    )
    on_tpu = isinstance(strategy, tf.distribute.TPUStrategy)

    def batches(encoded: Encoded) -> Batches:
        return Batches(encoded, task, options.batch_size, vocabulary.pad_id, length, on_tpu)

    kind = task.definition
    examples = kind.learnable(labelled(options.train, examples, "--train"))
    encoded = encoder.encode(examples, task)
    say(options.train, examples, encoded, task)
    train = batches(kind.without_empty(examples, encoded))
    dev = None
    if options.dev:
        held_out = read_examples(
            options.dev, options.task, options.columns, "--dev", takes_pairs=task.takes_pairs
        )
        held_out = labelled(options.dev, kind.without_unknown(held_out, task), "--dev")
        encoded_dev = encoder.encode(held_out, task)
        say(options.dev, held_out, encoded_dev, task)
        dev = held_out, batches(encoded_dev)
    digest = sha256(options.train.read_bytes())
    return Prepared(options.train, task, train, digest, dev, length)


def task_of(options: Finetune, examples: Examples) -> Task:
    """Return the task that the training file's labels make.

    Raises:
        InputError: it has no labels, or only one class.
    """
    if not any(examples.are_labelled):
        raise InputError(f"--train {options.train}: {examples.no_labels()}")
    return kind_named(options.task).task_of(examples)


def labelled(path: Path, examples: Examples, flag: str) -> Examples:
    """Return the examples that have a label, and say how many have none.

    Raises:
        InputError: none has one.
    """
    are_known = examples.are_labelled
    if not any(are_known):
        raise InputError(f"{flag} {path}: {examples.no_labels()}")
    if all(are_known):
        return examples
    count = are_known.count(False)
    notes.print(f"{path}: examples without a label, left out: {count:,}", soft_wrap=True)
    return examples.select(are_known)


def max_length(options: Finetune, most: int) -> int:
    """Return the most positions of an example.

    Raises:
        InputError: the encoder has not so many.
    """
    length, kind = options.max_seq_length, kind_named(options.task)
    if length is None:
        return min(kind.default_length or most, most)
    least = kind.least_length
    if not least <= length <= most:
        raise InputError(
            f"--max-seq-length {length}: must be from {least} to the {most} positions that "
            f"{options.init} has"
        )
    return length


def say(path: Path, examples: Examples, encoded: Encoded, task: Task) -> None:
    """Say what was read, and what happened to it on the way."""
    parts = list(examples.described)
    parts += [f"{count:,} {what}" for what, count in encoded.counts.items() if count]
    parts += task.definition.label_summary(examples, task)
    notes.print(f"{path}: {' · '.join(parts)}", soft_wrap=True)


def run_config(
    options: Finetune, seed: int, source: Source, prepared: Prepared, precision: Any
) -> RunConfig:
    """Return everything a run is determined by, from the flags, the examples, and an earlier start.

    Raises:
        InputError: a flag does not fit the model.
    """
    layers = source.config.num_hidden_layers
    if options.freeze_layers > layers:
        raise InputError(
            f"--freeze-layers {options.freeze_layers}: {options.init} has {layers} layers"
        )
    steps = options.steps or math.ceil(options.epochs * len(prepared.train) / options.batch_size)
    training = training_config(options, steps, seed, precision)
    tuning = TuningConfig(
        train_sha256=prepared.train_sha256,
        init=str(options.init),
        layer_decay=options.layer_decay,
        frozen_layers=options.freeze_layers,
        class_weights=options.class_weights,
        doc_stride=options.doc_stride if prepared.task.definition.uses_windows else 0,
    )
    facts = TextFacts(sha256(source.vocabulary), source.lower_case, prepared.max_seq_length)
    return RunConfig(source.config, training, facts, task=prepared.task, tuning=tuning)


def objective(prepared: Prepared, config: BertConfig, tuning: TuningConfig) -> Tuning:
    """Return what is minimised."""
    weights: tuple[float, ...] = ()
    if tuning.class_weights == "balanced":
        weights = balanced_weights(prepared.train.encoded.labels, len(prepared.task.labels))
    return Tuning(
        prepared.task,
        config.num_hidden_layers,
        tuning.layer_decay,
        tuning.frozen_layers,
        weights,
    )


def balanced_weights(labels: Any, classes: int) -> tuple[float, ...]:
    """Return a weight for each class, so that all classes have the same total weight.

    The weights are those of scikit-learn's `balanced`; a class without examples has weight 0.

    Args:
        labels: int32 [N], or N arrays int32 [L] in which negative labels are ignored.
        classes: number of classes.
    """
    flat = labels if isinstance(labels, np.ndarray) else np.concatenate(labels)
    counts = np.bincount(flat[flat >= 0], minlength=classes)
    weights = np.divide(counts.sum() / classes, counts, where=counts > 0, out=np.zeros(classes))
    return tuple(weights.tolist())


def evaluations_of(options: Finetune, prepared: Prepared) -> Evaluations:
    """Return when to evaluate, and by what.

    Raises:
        InputError: the task has no such measure.
    """
    kind = prepared.task.definition
    measures = kind.metrics_of(prepared.task)
    measure = options.metric or measures[1]
    if measure not in measures:
        raise InputError(f"--metric {measure}: expected one of {', '.join(measures)}")
    epoch = math.ceil(len(prepared.train) / options.batch_size)
    return Evaluations(
        options.eval_every_steps or epoch,
        measure,
        higher_is_better=kind.is_higher_better(measure),
        patience=options.early_stopping,
    )


@dataclass(frozen=True)
class LabelledData:
    """Examples of a fine-tuning, with the interface `Data`.

    Attributes:
        prepared: encoded examples.
        seed: seed of the order.
    """

    prepared: Prepared
    seed: int

    def __str__(self) -> str:
        """Return the training file."""
        return str(self.prepared.path)

    @property
    def batch_size(self) -> int:
        """Global batch size."""
        return self.prepared.train.batch_size

    def train_batches(
        self, context: tf.distribute.InputContext, *, skip_examples: int
    ) -> tf.data.Dataset:
        """Return the training batches of this process, as an infinite dataset."""
        return self.prepared.train.train(context, seed=self.seed, skip_examples=skip_examples)

    def measure(self, trainer: Trainer) -> dict[str, float] | None:
        """Return the metrics on the evaluation file; None without such a file."""
        if self.prepared.dev is None:
            return None
        return measures(trainer.predictor, *self.prepared.dev)

    def step_flops(self, config: BertConfig, length: float) -> float:
        """Return the floating-point operations of a step with examples of this mean length."""
        return step_flops(config, self.batch_size, length, 0)

    @contextmanager
    def faults_named(self) -> Iterator[None]:
        """Do nothing: the examples are in memory, so reading them cannot fail."""
        yield


def measures(predictor: Predictor, examples: Examples, batches: Batches) -> dict[str, float]:
    """Return the metrics of a model on examples."""
    logits = predict(predictor, batches)
    return evaluate(examples, batches.encoded, logits, batches.task).measures


def spread(found: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the mean and the standard deviation over runs of every measure that all have."""
    names = ("loss", *kind_named(found[0]["task"]).metrics)
    values = {
        name: [run[name] for run in found] for name in names if all(name in run for run in found)
    }
    return {
        "mean": {name: float(np.mean(value)) for name, value in values.items()},
        "sd": {name: float(np.std(value, ddof=1)) for name, value in values.items()},
    }


def print_results(found: Sequence[dict[str, Any]]) -> None:
    """Print the closing table: a column a run, and of several their mean and spread."""
    names = [name for name in ("loss", *kind_named(found[0]["task"]).metrics) if name in found[0]]
    rows: list[list[object]] = [
        [name.replace("_", " "), *(measure_text(name, run[name]) for run in found)]
        for name in names
    ]
    rows += [
        ["steps", *(run["steps"] for run in found)],
        ["best at step", *(run.get("best_step", "") for run in found)],
        ["examples/s", *(f"{run['examples_per_sec']:,.1f}" for run in found)],
        ["seconds", *(f"{run['seconds']:,.1f}" for run in found)],
    ]
    columns = ["", *(f"seed {run['seed']}" for run in found)]
    if len(found) > 1:
        both = spread(found)
        columns.append("mean ± sd")
        for row, name in zip(rows, names, strict=False):
            row.append(f"{both['mean'][name]:.4f} ± {both['sd'][name]:.4f}")
        rows[len(names) :] = [[*row, ""] for row in rows[len(names) :]]
    title = f"{found[0]['task']}, {found[0]['split']} examples"
    results.print(table(title, columns, rows))
    for run in found:
        results.print(f"run: {run['run']}", soft_wrap=True)
