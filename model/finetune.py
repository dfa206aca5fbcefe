"""Fine-tuning: start or resume a run for every seed."""

import dataclasses
import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from model.bert.config import BertConfig
from model.bert.flops import step_flops
from model.configs import FinetuneConfig
from model.existing import check_rereadable
from model.run_config import RunConfig, TextFacts
from model.source import Source, open_source
from model.start import (
    TrainingPlan,
    check_batch_size,
    deterministic_if,
    only_writer_of_runs,
    open_training,
    set_up_workers,
    settled_updates,
)
from model.tasks.batches import Batches
from model.tasks.encoded import Encoded
from model.tasks.encoder import Encoder
from model.tasks.example_files import read_examples
from model.tasks.examples import Examples
from model.tasks.objective import Tuning
from model.tasks.predict import evaluate
from model.tasks.task_kind import InitialModel, Task, kind_named
from model.teacher import CACHE, Teacher, open_teacher
from model.training.checkpoints import Best
from model.training.config import Precision, TuningConfig
from model.training.evaluation_schedule import EvaluationSchedule
from model.training.loop import Trainer
from model.training.precision import fastest
from model.training.session import Measured, Phase, Session
from model.training.workers import Workers
from pipeline.errors import InputError
from pipeline.manifest import sha256
from pipeline.progress import counted
from pipeline.text.tokenizer import Vocabulary

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TunedRun:
    """Result of the fine-tuning of one run.

    Attributes:
        run: directory of the run.
        task: name of the kind of task.
        seed: seed of the new weights, the order of the examples, and dropout.
        steps: total number of steps, earlier sessions included.
        measured: metrics after the last step.
        best: best checkpoint; None without an evaluation file.
        metric: name of the metric that selects the best checkpoint.
        examples_per_sec: training examples per second.
        tokens_per_sec: training positions per second, padding included.
        secs: wall time of this session, in seconds.
    """

    run: Path
    task: str
    seed: int
    steps: int
    measured: Measured
    best: Best | None
    metric: str
    examples_per_sec: float
    tokens_per_sec: float
    secs: float


@dataclass(frozen=True)
class FinetuneResult:
    """Result of a fine-tuning.

    Attributes:
        runs: results of the runs, one per seed.
    """

    runs: tuple[TunedRun, ...]

    @property
    def measures(self) -> list[str]:
        """Names of the metrics of the runs: loss and the task's metrics."""
        names = ("loss", *kind_named(self.runs[0].task).metrics)
        return [name for name in names if all(name in run.measured.values for run in self.runs)]

    @cached_property
    def _values(self) -> dict[str, list[float]]:
        return {name: [run.measured.values[name] for run in self.runs] for name in self.measures}

    @property
    def mean(self) -> dict[str, float]:
        """Mean over the runs, by metric."""
        return {name: float(np.mean(values)) for name, values in self._values.items()}

    @property
    def standard_deviation(self) -> dict[str, float]:
        """Sample standard deviation over the runs (at least two), by metric."""
        # ddof 1: an estimate from a few seeds, as papers report it.
        return {name: float(np.std(values, ddof=1)) for name, values in self._values.items()}


def finetune(config: FinetuneConfig) -> FinetuneResult:
    """Fine-tune a run for every seed.

    Raises:
        InputError: the examples, the run, the initial weights or a field cannot be used, or the
            loss diverged.
        KeyboardInterrupt: a signal requested a stop, and a checkpoint was saved.
    """
    workers = set_up_workers(config.execution)
    with (
        deterministic_if(config.execution.deterministic),
        only_writer_of_runs([run for _, run in config.runs], workers),
    ):
        # Read and encoded once, also for several seeds.
        source = open_source(config.init, config.caching)
        if config.layers_to_keep:
            source = source.with_layers(config.layers_to_keep)
        prepared = prepare(config, source, workers.strategy, writes_cache=workers.is_chief)
        tuned = [tune(config, run, seed, source, prepared, workers) for seed, run in config.runs]
    return FinetuneResult(tuple(tuned))


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
        teacher: teacher of the student; None = there is none.
    """

    path: Path
    task: Task
    train: Batches
    train_sha256: str
    dev: tuple[Examples, Batches] | None
    max_seq_length: int
    teacher: Teacher | None = None


def tune(
    config: FinetuneConfig,
    path: Path,
    seed: int,
    source: Source,
    prepared: Prepared,
    workers: Workers,
) -> TunedRun:
    """Train a run to its end.

    Raises:
        InputError: as `finetune`.
    """
    started = time.monotonic()
    saved = run_config(config, path, seed, source, prepared, fastest(workers.strategy))
    minimised = objective(prepared, saved)
    plan = TrainingPlan(path, saved, minimised, source.vocabulary, config.train, source)
    run = open_training(plan, config.execution, workers, config.caching)
    evaluations = evaluations_of(config, prepared)
    phase = Phase(LabelledData(prepared, seed), 0, run.training.steps)
    session = Session(run, phase, evaluations, config.recovery)
    measured = session.train()
    if session.stopped_early:
        logger.info(
            f"stopped early at step {run.trainer.steps_done:,}: {evaluations.patience} evaluations "
            f"without a better {evaluations.measure}"
        )
    return TunedRun(
        path,
        config.task,
        seed,
        run.trainer.steps_done,
        measured,
        run.checkpoints.best,
        evaluations.measure,
        session.throughput.examples_per_sec,
        session.throughput.tokens_per_sec,
        time.monotonic() - started,
    )


def prepare(
    config: FinetuneConfig,
    source: Source,
    strategy: tf.distribute.Strategy,
    *,
    writes_cache: bool = True,
) -> Prepared:
    """Read and encode the examples, and log a summary.

    Args:
        config: config of the fine-tuning.
        source: initial weights.
        strategy: distribution strategy.
        writes_cache: whether to write a teacher's answers to the run directory.

    Raises:
        InputError: a file or a field cannot be used.
    """
    size, parts = config.updates.batch_size, config.execution.accumulation_steps
    check_batch_size("batch_size", size, strategy.num_replicas_in_sync, parts)
    check_rereadable(train=config.train, unlabelled=config.unlabelled)  # for their checksums
    examples = read_examples(config.train, config.task, config.columns, "`train`")
    kind = kind_named(config.task)
    initial = InitialModel(source.task, source.config.hidden_size)
    task = kind.with_settings(task_of(config, examples), config.vectors, examples, initial)
    encoder = encoder_of(config, source, task)
    # TPUs compile for minutes for each new shape.
    on_tpu = isinstance(strategy, tf.distribute.TPUStrategy)

    def batches(encoded: Encoded) -> Batches:
        pad_id, length = encoder.vocabulary.pad_id, encoder.max_seq_length
        return Batches(encoded, task, size, pad_id, length, fixed_length=on_tpu)

    examples = task.definition.learnable(labelled(config.train, examples, "train"))
    encoded = encode(config.train, examples, encoder, task)
    # After encoding, which counts the empty texts for the summary.
    encoded = task.definition.without_empty(examples, encoded)
    teacher = None
    if config.teacher:
        teacher = open_teacher(config.teacher, task, encoder, strategy, config.caching)
        encoded = with_teacher_answers(
            config, examples, encoded, teacher, writes_cache=writes_cache
        )
    train = batches(encoded)
    dev = None
    if config.dev:
        # With the training file's task: a label that is only in `dev` is an error, not a class.
        held_out = read_held_out(config.dev, config, task)
        dev = held_out, batches(encode(config.dev, held_out, encoder, task))
    digest = sha256(config.train.read_bytes())
    return Prepared(config.train, task, train, digest, dev, encoder.max_seq_length, teacher)


def encoder_of(config: FinetuneConfig, source: Source, task: Task) -> Encoder:
    """Return the encoder of the examples.

    Raises:
        InputError: the initial weights have too few positions or an invalid vocabulary, or the
            task's examples have two texts and `long` is for one.
    """
    encoder = Encoder(
        Vocabulary.parse(source.vocabulary, config.init),
        lower_case=source.lower_case,
        max_seq_length=max_length(config, source.config.max_position_embeddings),
        doc_stride=config.doc_stride,
        long=config.long,
    )
    if config.long != "first" and task.takes_pairs:
        raise InputError(f"`long` {config.long}: the examples of {config.train} have two texts")
    return encoder


def encode(path: Path, examples: Examples, encoder: Encoder, task: Task) -> Encoded:
    """Encode the examples of a file, and log a summary of those read, skipped and truncated."""
    encoded = task.definition.encode(encoder, examples, task)
    parts = list(examples.described)
    parts += [f"{count:,} {what}" for what, count in encoded.counts.items() if count]
    parts += task.definition.label_summary(examples, task)
    logger.info(f"{path}: {' · '.join(parts)}")
    return encoded


def with_teacher_answers(
    config: FinetuneConfig,
    examples: Examples,
    encoded: Encoded,
    teacher: Teacher,
    *,
    writes_cache: bool,
) -> Encoded:
    """Return the training examples and the unlabelled ones, with a teacher's answers.

    Raises:
        InputError: the unlabelled examples cannot be read.
    """
    task, kind = teacher.task, teacher.task.definition
    more = None
    if config.unlabelled:
        more = read_examples(
            config.unlabelled,
            config.task,
            config.columns,
            "`unlabelled`",
            takes_pairs=task.takes_pairs,
        )

    def with_more(of_train: Encoded, encoder: Encoder) -> Encoded:
        """Return the examples of both files; the labels of the second mean nothing."""
        if more is None:
            return dataclasses.replace(of_train, are_labelled=np.ones(len(of_train), bool))
        of_more = kind.without_empty(more, kind.encode_unlabelled(encoder, more, task))
        if of_more.labels is None:
            shape = (len(of_more), *of_train.labels.shape[1:])
            # Placeholders of the right shape; the teacher's answers replace them below.
            of_more = dataclasses.replace(of_more, labels=np.zeros(shape, kind.label_dtype))
        of_more = dataclasses.replace(of_more, are_labelled=np.zeros(len(of_more), bool))
        return of_train.joined(of_more)

    def encode_with(encoder: Encoder) -> Encoded:
        own = kind.without_empty(examples, kind.encode(encoder, examples, task))
        return with_more(own, encoder)

    whole = with_more(encoded, teacher.encoder)
    if more is not None:
        logger.info(f"{config.unlabelled}: {counted(len(more), 'examples')} without labels")
    batch_size, cache = config.updates.batch_size, config.run_dir / CACHE
    whole = teacher.with_answers(whole, encode_with, batch_size, cache, writes=writes_cache)
    assert whole.are_labelled is not None
    for row in np.flatnonzero(~whole.are_labelled):
        # Metrics need a label of each example; the hard loss leaves these out.
        whole.labels[row] = kind.taught_labels(whole.teacher_logits[row], whole.labels[row])
    return whole


def read_held_out(path: Path, config: FinetuneConfig, task: Task) -> Examples:
    """Return the labelled examples of the evaluation file.

    Raises:
        InputError: the file cannot be used.
    """
    examples = read_examples(
        path, config.task, config.columns, "`dev`", takes_pairs=task.takes_pairs
    )
    return labelled(path, task.definition.without_unknown(examples, task), "dev")


def task_of(config: FinetuneConfig, examples: Examples) -> Task:
    """Return the task defined by the training file's labels.

    Raises:
        InputError: the file has no labels, or only one class.
    """
    if not any(examples.are_labelled):
        raise InputError(f"`train` {config.train}: {examples.no_labels()}")
    return kind_named(config.task).task_of(examples)


def labelled(path: Path, examples: Examples, name: str) -> Examples:
    """Return the examples that have a label, and log the number of others.

    Raises:
        InputError: no example has a label.
    """
    are_known = examples.are_labelled
    if not any(are_known):
        raise InputError(f"`{name}` {path}: {examples.no_labels()}")
    if all(are_known):
        return examples
    count = are_known.count(False)
    logger.info(f"{path}: examples without a label, skipped: {count:,}")
    return examples.select(are_known)


def max_length(config: FinetuneConfig, most: int) -> int:
    """Return the maximum number of positions of an example.

    Raises:
        InputError: the encoder has fewer positions.
    """
    length, kind = config.max_seq_length, kind_named(config.task)
    if length is None:
        # An encoder with few positions is a reason to cut texts, not to refuse.
        return min(kind.default_length or most, most)
    least = kind.least_length
    if not least <= length <= most:
        raise InputError(
            f"`max_seq_length` {length}: must be from {least} to the {most} positions that "
            f"{config.init} has"
        )
    return length


def run_config(
    config: FinetuneConfig,
    path: Path,
    seed: int,
    source: Source,
    prepared: Prepared,
    precision: Precision,
) -> RunConfig:
    """Return the run's config, from the config of this session and that of an existing run.

    Raises:
        InputError: a field does not fit the model.
    """
    layers = source.config.num_hidden_layers
    if config.freeze_layers > layers:
        raise InputError(
            f"`freeze_layers` {config.freeze_layers}: the model has {counted(layers, 'layers')}"
        )
    updates = config.updates
    # From the examples that remain, not from the rows of the file.
    steps = updates.steps or math.ceil(config.epochs * len(prepared.train) / updates.batch_size)
    training = settled_updates(updates, path, steps=steps, seed=seed, fastest=precision)
    tuning = TuningConfig(
        train_sha256=prepared.train_sha256,
        init=str(config.init),
        layers_to_keep=config.layers_to_keep,
        layer_decay=config.layer_decay,
        frozen_layers=config.freeze_layers,
        class_weights=config.class_weights,
        doc_stride=config.doc_stride if prepared.task.definition.uses_windows else 0,
        long=config.long,
    )
    tuning = _with_teacher(tuning, config, prepared)
    facts = TextFacts(sha256(source.vocabulary), source.lower_case, prepared.max_seq_length)
    return RunConfig(source.config, training, facts, task=prepared.task, tuning=tuning)


def _with_teacher(tuning: TuningConfig, config: FinetuneConfig, prepared: Prepared) -> TuningConfig:
    """Return a config with the fields about the teacher, if there is one."""
    if prepared.teacher is None:
        return tuning
    unlabelled = config.unlabelled
    return dataclasses.replace(
        tuning,
        teacher=str(config.teacher),
        teacher_sha256=prepared.teacher.source.sha256,
        teacher_weight=config.teacher_weight,
        temperature=config.temperature,
        unlabelled_sha256=sha256(unlabelled.read_bytes()) if unlabelled else "",
    )


def objective(prepared: Prepared, saved: RunConfig) -> Tuning:
    """Return the training objective."""
    tuning = saved.tuning
    assert tuning is not None
    weights: tuple[float, ...] = ()
    if tuning.class_weights == "balanced":
        encoded = prepared.train.encoded
        if encoded.are_labelled is not None:
            # The teacher's answers must not shift the balance of the labels that people gave.
            encoded = encoded.chosen(np.flatnonzero(encoded.are_labelled).tolist())
        weights = balanced_weights(encoded.labels, len(prepared.task.labels))
    return Tuning(
        prepared.task,
        saved.model.num_hidden_layers,
        tuning.layer_decay,
        tuning.frozen_layers,
        weights,
        tuning.teacher_weight,
        tuning.temperature,
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


def evaluations_of(config: FinetuneConfig, prepared: Prepared) -> EvaluationSchedule:
    """Return the evaluation schedule.

    Raises:
        InputError: the task does not have the metric.
    """
    kind = prepared.task.definition
    measures = kind.metrics_of(prepared.task)
    if prepared.dev:
        measures = kind.metrics_on(prepared.dev[0], prepared.task)
    measure = config.metric or measures[1]
    if measure not in measures:
        raise InputError(f"`metric` {measure}: expected one of {', '.join(measures)}")
    # Once an epoch by default.
    epoch = math.ceil(len(prepared.train) / config.updates.batch_size)
    return EvaluationSchedule(
        config.eval_every_steps or epoch,
        measure,
        higher_is_better=kind.is_higher_better(measure),
        patience=config.early_stopping,
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
        return evaluate(trainer.predictor, *self.prepared.dev).measures

    def step_flops(self, config: BertConfig, length: float) -> float:
        """Return the floating-point operations of a step with examples of this mean length."""
        count = self.prepared.train.texts_per_example
        # The texts of an example run as sequences of their own.
        return step_flops(config, self.batch_size * count, length / count, 0)

    @contextmanager
    def faults_named(self) -> Iterator[None]:
        """Do nothing: the examples are in memory, so reading them cannot fail."""
        yield
