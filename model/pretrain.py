"""Pretraining: start or resume a run."""

import contextlib
import dataclasses
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tensorflow as tf

from model.bert.config import BertConfig, config_named
from model.bert.flops import step_flops
from model.bert.initialization import FEWEST_HEADS, initializer_range
from model.configs import PretrainConfig
from model.finite import check_finite
from model.run_config import DatasetFacts, RunConfig
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
from model.tasks.kinds import heads
from model.training.config import Initialization, Precision, RelationsConfig, TrainingConfig
from model.training.evaluation_schedule import EvaluationSchedule
from model.training.input import (
    corrupt_files_named,
    eval_batches,
    shard_files,
    train_batches,
)
from model.training.loop import Trainer, distribute
from model.training.losses import Pretraining, StudentPretraining
from model.training.precision import fastest
from model.training.session import Measured, Phase, Session, TrainingRun
from model.training.sums import means
from model.training.workers import Workers
from pipeline.errors import InputError
from pipeline.manifest import VOCABULARY, Manifest, read_manifest
from pipeline.progress import counted
from pipeline.storage.cache import CacheConfig
from pipeline.storage.cached_shards import CachedShardFiles
from pipeline.storage.local_copies import local_dataset
from pipeline.storage.remote import is_remote
from pipeline.storage.shard_files import ShardFiles
from pipeline.text.tokenizer import dataset_vocabulary

DEFAULT_EPOCHS = 10.0
_TRAINING_BYTES = 16
"""Memory that each parameter takes: the weight, its gradient and Adam's two moments, in float32."""
PHASE2_RATE = 0.1  # as in the paper, https://arxiv.org/abs/1810.04805, appendix A.2

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PretrainResult:
    """Result of a pretraining.

    Attributes:
        run: directory of the run.
        model: name of the model size, or JSON file of the config.
        steps: total number of steps, earlier sessions included.
        measured: final metrics.
        tokens_per_sec: training positions per second, padding included.
        mfu: model FLOP utilization, 0 to 1.
        secs: wall time of this session, in seconds.
    """

    run: Path
    model: str
    steps: int
    measured: Measured
    tokens_per_sec: float
    mfu: float
    secs: float


def pretrain(config: PretrainConfig) -> PretrainResult:
    """Train a run until its last step.

    Raises:
        InputError: the dataset, the run or a field cannot be used, or the loss diverged.
        KeyboardInterrupt: a signal requested a stop, and a checkpoint was saved.
    """
    started = time.monotonic()
    datasets = open_datasets(config)
    if not any(each.manifest.examples("eval") for each in datasets) and config.eval_every_steps:
        raise InputError(
            f"`eval_every_steps`: {config.dataset} has no eval split; preprocess with `eval_rate` "
            "makes one"
        )
    # After the datasets: a wrong path is reported before all workers have found each other.
    workers = set_up_workers(config.execution)
    plan = make_plan(config, datasets, workers)
    # Two processes must not write one run; the second one ends here, before a network is built.
    with (
        deterministic_if(config.execution.deterministic),
        only_writer_of_runs([config.run_dir], workers),
    ):
        run = open_training(plan, config.execution, workers, config.caching)
        session, measured = train(config, run, datasets)
    return PretrainResult(
        config.run_dir,
        config.model,
        run.trainer.steps_done,
        measured,
        session.throughput.tokens_per_sec,
        session.mfu,
        time.monotonic() - started,
    )


@dataclass(frozen=True)
class Dataset:
    """A pretraining dataset.

    Attributes:
        path: directory of the dataset.
        manifest: manifest of the dataset.
    """

    path: Path
    manifest: Manifest


def open_datasets(config: PretrainConfig) -> list[Dataset]:
    """Return the dataset of each phase.

    Raises:
        InputError: one cannot be trained on.
    """
    paths = filter(None, (config.dataset, config.phase2_dataset))
    return [Dataset(path, open_dataset(path)) for path in paths]


def make_plan(
    config: PretrainConfig, datasets: Sequence[Dataset], workers: Workers
) -> TrainingPlan:
    """Return the plan of the run.

    Raises:
        InputError: the config does not fit the devices, the datasets, or the initial weights.
    """
    replicas = workers.strategy.num_replicas_in_sync
    parts = config.execution.accumulation_steps
    check_batch_size("batch_size", config.updates.batch_size, replicas, parts)
    source = open_source(config.init, config.caching) if config.init else None
    saved = run_config(config, datasets, source, replicas, fastest(workers.strategy))
    minimised = Pretraining(saved.heads, packed=_has_packed(datasets))
    if config.teacher:
        saved, minimised = with_teacher(config, config.teacher, saved, datasets)
    plan = TrainingPlan(
        config.run_dir,
        saved,
        minimised,
        (config.dataset / VOCABULARY).read_bytes(),
        config.dataset,
        source,
    )
    check_batch_size("phase2_batch_size", plan.training.phase2_batch_size, replicas, parts)
    return plan


def with_teacher(
    config: PretrainConfig, path: Path, saved: RunConfig, datasets: Sequence[Dataset]
) -> tuple[RunConfig, Pretraining]:
    """Return the config and the objective of a student.

    Args:
        config: config of this session.
        path: the teacher.
        saved: the run's config without a teacher.
        datasets: dataset of each phase.

    Raises:
        InputError: the teacher has another vocabulary, fewer positions or layers, or a width that
            the relation heads do not divide.
    """
    teacher = open_source(path, config.caching, "teacher")
    dataset, longest = datasets[0], datasets[-1].manifest
    given, own = f"`teacher` {path}", teacher.config
    # Relations are between positions, so both must read the same pieces at each position.
    is_same = teacher.has_vocabulary(dataset_vocabulary(dataset.path, dataset.manifest))
    if not is_same or teacher.lower_case != dataset.manifest.lower_case:
        raise InputError(
            f"{given}: its vocabulary is not that of {dataset.path}, so its positions are not the "
            "student's, and relations are between positions; make the dataset with its vocab.txt"
        )
    if own.max_position_embeddings < longest.max_seq_length:
        raise InputError(
            f"{given}: has {own.max_position_embeddings} positions, but the dataset's sequences "
            f"have {longest.max_seq_length}"
        )
    layer = config.teacher_layer or own.num_hidden_layers
    if layer > own.num_hidden_layers:
        raise InputError(
            f"`teacher_layer` {layer}: {path} has {counted(own.num_hidden_layers, 'layers')}"
        )
    count = config.relation_heads or saved.model.num_attention_heads
    for size, whose in ((own.hidden_size, path), (saved.model.hidden_size, "the student")):
        if size % count:
            raise InputError(
                f"`relation_heads` {count}: must divide the hidden size of {whose}, {size}"
            )
    relations = RelationsConfig(str(path), teacher.sha256, layer, count)
    # With relations alone, the student has no trained heads, and the run says so.
    trained = () if config.teacher_only else saved.heads
    saved = dataclasses.replace(saved, heads=trained, relations=relations)

    def fill(weights: Mapping[str, Any]) -> None:
        teacher.fill(weights, None)

    return saved, StudentPretraining(trained, relations, own, fill, packed=_has_packed(datasets))


def _has_packed(datasets: Sequence[Dataset]) -> bool:
    """Return whether the records of a dataset hold several pairs."""
    return any(each.manifest.max_pairs > 1 for each in datasets)


def train(
    config: PretrainConfig, run: TrainingRun, datasets: Sequence[Dataset]
) -> tuple[Session, Measured]:
    """Train all remaining phases of a run; return its last session and the final metrics.

    Raises:
        InputError: as `pretrain`.
        KeyboardInterrupt: as `pretrain`.
    """
    evaluations = EvaluationSchedule(config.eval_every_steps)
    for phase in phases(run.training, datasets):
        assert isinstance(phase.data, PretrainingData)
        # Phases that are finished are skipped; not those of a finished run, whose metrics are
        # returned, nor one whose last evaluation a stop may have prevented.
        steps_done = run.trainer.steps_done
        may_lack_evaluation = phase.end_step == steps_done and phase.data.manifest.examples("eval")
        if phase.end_step <= steps_done < run.training.steps and not may_lack_evaluation:
            continue
        if phase.first_step:
            logger.info(f"second phase: {phase.data}")
            # Losses of the two datasets do not compare: the best of phase 1 would stay the best.
            run.checkpoints.forget_best(phase.first_step)
        with phase.data.fetched(config.caching) as data:
            session = Session(
                run, dataclasses.replace(phase, data=data), evaluations, config.recovery
            )
            with data.faults_named():
                measured = session.train()
    return session, measured


@dataclass(frozen=True)
class PretrainingData:
    """A pretraining dataset, with the interface `Data`.

    Attributes:
        dataset: directory of the dataset.
        manifest: manifest of the dataset.
        batch_size: global batch size.
        seed: seed of the order of examples.
        local: local directory with the dataset's files; None = the dataset's, which is local.
        files: access to the files in a known version; None = in the directory as it is.
    """

    dataset: Path
    manifest: Manifest
    batch_size: int
    seed: int
    local: Path | None = None
    files: ShardFiles | None = None

    @contextlib.contextmanager
    def fetched(self, caching: CacheConfig) -> Iterator["PretrainingData"]:
        """Yield the same data, with local files in the context.

        The files of a remote dataset are fetched ahead of their use; those of one without streams
        are fetched before, since it does not tell in which order they are read.

        Raises:
            InputError, JobError: as `local_dataset`.
        """
        if is_remote(self.dataset) and self.manifest.streams:
            files = CachedShardFiles(self.dataset, caching)
            try:
                yield dataclasses.replace(self, files=files)
            finally:
                files.close()
            return
        with local_dataset(self.dataset, self.manifest, caching) as local:
            yield dataclasses.replace(self, local=local, files=shard_files(local, self.manifest))

    @property
    def _files(self) -> Path:
        return self.local or self.dataset

    def __str__(self) -> str:
        """Return the directory."""
        return str(self.dataset)

    def train_batches(
        self, context: tf.distribute.InputContext, *, skip_examples: int
    ) -> tf.data.Dataset:
        """Return the training batches of this process, as an infinite dataset."""
        return train_batches(
            self._files,
            self.manifest,
            context,
            batch_size=self.batch_size,
            seed=self.seed,
            skip_examples=skip_examples,
            files=self.files,
        )

    def measure(self, trainer: Trainer) -> dict[str, float] | None:
        """Return the metrics on the eval split; None if the dataset has none."""
        examples = self.manifest.examples("eval")
        if not examples:
            return None
        batches = partial(
            eval_batches,
            self._files,
            self.manifest,
            "eval",
            batch_size=self.batch_size,
            files=self.files,
        )
        iterator = distribute(trainer.strategy, batches)
        # All batches have the same size, and the last one is filled with weight 0.
        sums = trainer.evaluate(iterator, tf.constant(math.ceil(examples / self.batch_size)))
        totals = {name: float(value) for name, value in sums.items()}
        check_finite(trainer.predictor.name, totals.values())
        return means(totals)

    def step_flops(self, config: BertConfig, length: float) -> float:
        """Return the floating-point operations of a step with examples of this mean length."""
        manifest = self.manifest
        return step_flops(
            config, self.batch_size, length, manifest.max_predictions, manifest.max_pairs
        )

    def faults_named(self) -> AbstractContextManager[None]:
        """Convert TensorFlow's errors about a record or file into one that names the file."""
        return corrupt_files_named(self._files, self.manifest, self.files)


def open_dataset(dataset: Path) -> Manifest:
    """Return the manifest of a dataset, after checking that it can be used for training.

    Raises:
        InputError: it is incomplete, its vocabulary has changed, or its train split is empty.
    """
    manifest = read_manifest(dataset)
    dataset_vocabulary(dataset, manifest)
    if not manifest.examples("train"):
        raise InputError(f"{dataset}: no example in its train split; make it from more text")
    return manifest


def phases(training: TrainingConfig, datasets: Sequence[Dataset]) -> list[Phase]:
    """Return the one or two phases of a run.

    Args:
        training: hyperparameters of the run.
        datasets: dataset of each phase.
    """
    end = training.steps - training.phase2_steps
    sizes = (training.batch_size, training.phase2_batch_size)
    steps = ((0, end), (end, training.steps))
    # `zip` ends with the datasets, so a run without phase 2 has one phase.
    return [
        Phase(PretrainingData(each.path, each.manifest, size, training.seed), first, last)
        for each, size, (first, last) in zip(datasets, sizes, steps, strict=False)
    ]


def run_config(
    config: PretrainConfig,
    datasets: Sequence[Dataset],
    source: Source | None,
    replicas: int,
    precision: Precision,
) -> RunConfig:
    """Return the run's config, from the config of this session and that of an existing run.

    Args:
        config: config of this session.
        datasets: dataset of each phase.
        source: initial weights; None = random.
        replicas: number of devices.
        precision: default precision of a new run.

    Raises:
        InputError: the model's name or file cannot be used, or does not fit the datasets.
    """
    manifest = datasets[0].manifest
    updates = config.updates
    epochs = DEFAULT_EPOCHS if config.epochs is None else config.epochs
    # Rounded up: the last batch may begin another epoch, but no record is left out.
    steps = updates.steps or math.ceil(epochs * manifest.examples("train") / updates.batch_size)
    training = settled_updates(
        updates, config.run_dir, steps=steps, seed=config.seed, fastest=precision
    )
    longest = datasets[-1].manifest
    if source:
        # Positions must suffice for the longest records, which are those of the last phase.
        model = source_config(source, config.dataset, longest)
    else:
        model = model_config(config.model, longest)
        training = dataclasses.replace(training, initialization=config.initialization)
        _warn_without_matches(config.initialization, model, manifest)
    training = dataclasses.replace(training, next_sentence_weight=config.next_sentence_weight)
    model = with_initializer_range(model, config)
    saved = RunConfig(
        model,
        training,
        DatasetFacts.of(manifest),
        heads=heads(manifest.pairing),
        recipe=config.recipe or "",
    )
    if len(datasets) == 1:
        return saved
    multiple = replicas * config.execution.accumulation_steps
    return with_phase2(saved, training, config, DatasetFacts.of(longest), multiple)


def _warn_without_matches(
    initialization: Initialization, model: BertConfig, manifest: Manifest
) -> None:
    """Log a warning if a requested matching head has no use or no room."""
    if initialization != "neighbours-and-matches":
        return
    given = f"`initialization` {initialization}"
    if manifest.pairing == "none":
        logger.warning(
            f"{given}: the dataset has no sentence pairs, so one attention head starts with "
            "a task that it does not need; `initialization` neighbours gives it another one"
        )
    elif model.num_attention_heads < FEWEST_HEADS:
        logger.warning(
            f"{given}: needs {FEWEST_HEADS} attention heads, and the model has "
            f"{model.num_attention_heads}; all of them start as with neighbours"
        )


def with_phase2(
    saved: RunConfig,
    training: TrainingConfig,
    config: PretrainConfig,
    second: DatasetFacts,
    multiple: int,
) -> RunConfig:
    """Return a run's config with a second phase.

    Args:
        saved: the run's config without phase 2.
        training: the run's hyperparameters without phase 2.
        config: config of this session.
        second: settings of the dataset of phase 2.
        multiple: the batch size must be a multiple of this number.

    Raises:
        InputError: the datasets have different settings, or the number of steps is out of range.
    """
    for name in ("vocab_sha256", "lower_case", "pairing"):
        if getattr(saved.dataset, name) != getattr(second, name):
            raise InputError(
                f"`phase2_dataset` {config.phase2_dataset}: its {name} is not that of "
                f"{config.dataset}; make both with the same settings but for `max_seq_length`"
            )
    steps = config.phase2_steps
    if steps is None:
        steps = round(PHASE2_RATE * training.steps)
    if not 0 < steps < training.steps:
        raise InputError(
            f"`phase2_steps` {steps}: must be at least 1, and fewer than the {training.steps} "
            "in all"
        )
    # By default, a step has as many positions as in phase 1.
    share = training.batch_size * saved.dataset.max_seq_length // second.max_seq_length
    batch_size = config.phase2_batch_size or max(multiple, share // multiple * multiple)
    training = dataclasses.replace(training, phase2_steps=steps, phase2_batch_size=batch_size)
    return dataclasses.replace(saved, training=training, phase2_dataset=second)


def model_config(model: str, manifest: Manifest) -> BertConfig:
    """Return the model config for a size's name or a JSON file.

    Raises:
        InputError: there is no such size or file, or it does not fit the dataset.
    """
    config = config_named(model, manifest.vocab_size)
    _check_fits(f"`model` {model}", config, manifest)
    return config


def with_initializer_range(model: BertConfig, config: PretrainConfig) -> BertConfig:
    """Return a model config with the initial weights' range of a training."""
    if config.initializer_range is not None:
        return dataclasses.replace(model, initializer_range=config.initializer_range)
    if config.initialization != "random":
        width = initializer_range(model.hidden_size)
        return dataclasses.replace(model, initializer_range=width)
    return model


def source_config(source: Source, dataset: Path, manifest: Manifest) -> BertConfig:
    """Return the model config of the initial weights.

    Args:
        source: initial weights.
        dataset: directory of the dataset; the model must have its vocabulary.
        manifest: manifest of the dataset with the longest records.

    Raises:
        InputError: the model does not fit the dataset.
    """
    if not source.has_vocabulary(dataset_vocabulary(dataset, manifest)):
        raise InputError(
            f"`init` {source.path}: its vocabulary is not that of {dataset}; "
            "make the dataset with its vocab.txt"
        )
    _check_fits(f"`init` {source.path}", source.config, manifest)
    return source.config


def _check_fits(given: str, config: BertConfig, manifest: Manifest) -> None:
    """Raise `InputError` unless a model has a dataset's vocabulary size and enough positions."""
    if config.vocab_size != manifest.vocab_size:
        raise InputError(
            f"{given}: vocab_size {config.vocab_size}, but the dataset's vocabulary has "
            f"{manifest.vocab_size} pieces; give it that size"
        )
    if config.max_position_embeddings < manifest.max_seq_length:
        raise InputError(
            f"{given}: max_position_embeddings {config.max_position_embeddings}, but the "
            f"dataset's sequences have {manifest.max_seq_length}; make the dataset with a shorter "
            "`max_seq_length`, or give a .json file with more positions"
        )
    needed_bytes, memory_bytes = _TRAINING_BYTES * config.parameter_count, _memory_bytes()
    # Without this, Linux kills the process in the middle of a step, without a message.
    if needed_bytes > memory_bytes and not tf.config.list_physical_devices("GPU"):
        raise InputError(
            f"{given}: training its {config.parameter_count:,} parameters takes at least "
            f"{needed_bytes / 1e9:.1f} GB, and this machine has {memory_bytes / 1e9:.1f} GB of "
            "memory; use a smaller model"
        )


def _memory_bytes() -> int:
    """Return the size of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
