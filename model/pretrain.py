"""Pretraining: start or resume a run."""

import dataclasses
import math
import os
import time
import zlib
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tensorflow as tf

from model.bert.config import MAX_SETTINGS_BYTES, SIZES, BertConfig
from model.commands import Pretrain
from model.run_config import DatasetFacts, RunConfig
from model.source import Source, open_source
from model.start import only_writer_of_runs, open_run, restore_run, training_config
from model.tasks.kinds import heads
from model.training.config import Precision, RecoveryConfig, TrainingConfig
from model.training.evaluations import Evaluations
from model.training.flops import step_flops
from model.training.input import corrupt_files_named, eval_batches, train_batches
from model.training.loop import Trainer, distribute
from model.training.losses import Pretraining, means
from model.training.precision import fastest
from model.training.progress import print_result
from model.training.session import Phase, Session
from model.training.strategy import make_strategy
from model.training.workers import Workers
from pipeline.console import notes, results
from pipeline.errors import InputError
from pipeline.manifest import VOCABULARY, Manifest, read_manifest
from pipeline.storage.files import read_bounded
from pipeline.text.tokenizer import dataset_vocabulary

DEFAULT_EPOCHS = 10.0
_TRAINING_BYTES = 16
"""Memory that each parameter takes: the weight, its gradient and Adam's two moments, in float32."""
PHASE2_RATE = 0.1  # as in the paper, https://arxiv.org/abs/1810.04805, appendix A.2


def pretrain(options: Pretrain) -> dict[str, Any]:
    """Train a run to its end and return what came of it.

    Raises:
        InputError: the dataset, the run or a flag cannot be used, or the loss is not a number.
        KeyboardInterrupt: it was told to stop, and has saved a checkpoint.
    """
    started = time.monotonic()
    manifest = open_dataset(options.dataset)
    second = open_dataset(options.phase2_dataset) if options.phase2_dataset else None
    if not any(each.examples("eval") for each in (manifest, second) if each):
        reason = f"{options.dataset} has no eval split; preprocess with --eval-rate makes one"
        options.refuse_given(reason, "eval_every_steps")
    strategy = make_strategy(options.strategy)
    parts = options.accumulation_steps
    replicas = strategy.num_replicas_in_sync
    check_batch_size("--batch-size", options.batch_size, replicas, parts)
    source = open_source(options.init) if options.init else None
    config = run_config(options, manifest, second, source, replicas, fastest(strategy))
    training = config.training
    assert training is not None  # only an imported run has none
    check_batch_size("--phase2-batch-size", training.phase2_batch_size, replicas, parts)
    workers = Workers(strategy)
    workers.check_same(
        zlib.crc32(config.to_json().encode()),
        "the workers were started with different flags or datasets; give each the same",
    )
    if options.deterministic:
        tf.config.experimental.enable_op_determinism()
    with only_writer_of_runs([options.run_dir], workers):
        session, measured = train(options, config, source, workers, manifest, second)
    result = {
        "run": str(options.run_dir),
        "model": options.model,
        "steps": session.trainer.steps_done,
        **measured,
        "tokens_per_sec": session.throughput.tokens_per_sec,
        "mfu": session.mfu,
        "seconds": time.monotonic() - started,
    }
    print_result(result)
    return result


def train(
    options: Pretrain,
    config: RunConfig,
    source: Source | None,
    workers: Workers,
    manifest: Manifest,
    second: Manifest | None,
) -> tuple[Session, dict[str, Any]]:
    """Train a run whose lock is held; return its last session and the final measures.

    Raises:
        InputError: as `pretrain`.
        KeyboardInterrupt: as `pretrain`.
    """
    training = config.training
    assert training is not None  # only an imported run has none
    if workers.is_chief:
        vocabulary = (options.dataset / VOCABULARY).read_bytes()
        open_run(options.run_dir, config, vocabulary, options.dataset)
    else:
        notes.print(f"{workers}: the first one shows the progress and writes the run")
        notes.quiet = results.quiet = True
    trainer = Trainer(
        config.model,
        training,
        Pretraining(config.heads),
        workers.strategy,
        xla=options.xla,
        accumulation_steps=options.accumulation_steps,
        recompute=options.recompute,
        times_data=not options.deterministic,
    )
    if source:
        new = ", ".join(source.fill(trainer.weights, None)) or "none"
        notes.print(f"starts from {options.init}; new weights: {new}", soft_wrap=True)
    evaluations = Evaluations(options.eval_every_steps)
    recovery = RecoveryConfig(
        options.checkpoint_every_steps, options.on_blow_up, options.blow_up_ratio
    )
    with workers.lost_ones_named():
        run = restore_run(options.run_dir, training, trainer, workers)
        for phase in phases(options, training, manifest, second):
            if phase.end_step <= trainer.steps_done < training.steps:
                continue
            if phase.first_step:
                notes.print(f"second phase: {phase.data}", soft_wrap=True)
                run.checkpoints.forget_best(phase.first_step)
            session = Session(run, phase, evaluations, recovery)
            with phase.data.faults_named():
                measured = session.train()
    return session, {"split": measured.split, **measured.values}


@dataclass(frozen=True)
class PretrainingData:
    """A pretraining dataset, with the interface `Data`.

    Attributes:
        dataset: directory of the dataset.
        manifest: manifest of the dataset.
        batch_size: global batch size.
        seed: seed of the order of examples.
    """

    dataset: Path
    manifest: Manifest
    batch_size: int
    seed: int

    def __str__(self) -> str:
        """Return the directory."""
        return str(self.dataset)

    def train_batches(
        self, context: tf.distribute.InputContext, *, skip_examples: int
    ) -> tf.data.Dataset:
        """Return the training batches of this process, as an infinite dataset."""
        return train_batches(
            self.dataset,
            self.manifest,
            context,
            batch_size=self.batch_size,
            seed=self.seed,
            skip_examples=skip_examples,
        )

    def measure(self, trainer: Trainer) -> dict[str, float] | None:
        """Return the metrics on the eval split; None if the dataset has none."""
        examples = self.manifest.examples("eval")
        if not examples:
            return None
        batches = partial(
            eval_batches, self.dataset, self.manifest, "eval", batch_size=self.batch_size
        )
        iterator = distribute(trainer.strategy, batches)
        sums = trainer.evaluate(iterator, tf.constant(math.ceil(examples / self.batch_size)))
        return means({name: float(value) for name, value in sums.items()})

    def step_flops(self, config: BertConfig, length: float) -> float:
        """Return the floating-point operations of a step with examples of this mean length."""
        return step_flops(config, self.batch_size, length, self.manifest.max_predictions)

    def faults_named(self) -> AbstractContextManager[None]:
        """Convert TensorFlow's errors about a record or file into one that names the file."""
        return corrupt_files_named(self.dataset, self.manifest)


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


def phases(
    options: Pretrain, training: TrainingConfig, manifest: Manifest, second: Manifest | None
) -> list[Phase]:
    """Return the parts of a run: all of its steps on one dataset, or the last of them on another.

    Args:
        options: the flags.
        training: the run's.
        manifest: the dataset's.
        second: that of the second phase's dataset.
    """
    end = training.steps - training.phase2_steps
    seed = training.seed
    first_data = PretrainingData(options.dataset, manifest, training.batch_size, seed)
    found = [Phase(first_data, 0, end)]
    if second and options.phase2_dataset:
        size = training.phase2_batch_size
        second_data = PretrainingData(options.phase2_dataset, second, size, seed)
        found.append(Phase(second_data, end, training.steps))
    return found


def run_config(
    options: Pretrain,
    manifest: Manifest,
    second: Manifest | None,
    source: Source | None,
    replicas: int,
    precision: Precision,
) -> RunConfig:
    """Return everything a run is determined by, from the flags, the dataset, and an earlier start.

    Args:
        options: the flags.
        manifest: the dataset's.
        second: that of the second phase's dataset.
        source: what the weights come from, if not from the seed.
        replicas: number of devices.
        precision: of a new run, if the flags leave it open.

    Raises:
        InputError: the model's name or file cannot be used, or does not fit the dataset.
    """
    examples = manifest.examples("train")
    epochs = DEFAULT_EPOCHS if options.epochs is None else options.epochs
    steps = options.steps or math.ceil(epochs * examples / options.batch_size)
    training = training_config(options, steps, options.seed, precision)
    facts, trained = DatasetFacts.of(manifest), heads(manifest.pairing)
    longest = second or manifest
    if source:
        model = source_config(source, options, longest)
    else:
        model = model_config(options.model, longest)
    if second is None:
        return RunConfig(model, training, facts, heads=trained)
    second_facts = DatasetFacts.of(second)
    for name in ("vocab_sha256", "lower_case", "pairing"):
        if getattr(facts, name) != getattr(second_facts, name):
            raise InputError(
                f"--phase2-dataset {options.phase2_dataset}: its {name} is not that of "
                f"{options.dataset}; make both with the same flags but for --max-seq-length"
            )
    phase2_steps = options.phase2_steps
    if phase2_steps is None:
        phase2_steps = round(PHASE2_RATE * steps)
    if not 0 < phase2_steps < steps:
        raise InputError(
            f"--phase2-steps {phase2_steps}: must be at least 1, and fewer than the {steps} in all"
        )
    multiple = replicas * options.accumulation_steps
    share = options.batch_size * facts.max_seq_length // second_facts.max_seq_length
    training = dataclasses.replace(
        training,
        phase2_steps=phase2_steps,
        phase2_batch_size=options.phase2_batch_size or max(multiple, share // multiple * multiple),
    )
    return RunConfig(model, training, facts, second_facts, trained)


def model_config(model: str, manifest: Manifest) -> BertConfig:
    """Return the model config for a size's name or a JSON file.

    Raises:
        InputError: there is no such size or file, or it does not fit the dataset.
    """
    if model in SIZES:
        config = SIZES[model].config(manifest.vocab_size)
    elif model.endswith(".json"):
        try:
            config = BertConfig.from_json(read_bounded(Path(model), MAX_SETTINGS_BYTES).decode())
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise InputError(f"--model {model}: cannot be used: {error}") from error
    else:
        raise InputError(f"--model {model}: expected {', '.join(SIZES)}, or a .json file")
    _check_fits(f"--model {model}", config, manifest)
    return config


def source_config(source: Source, options: Pretrain, manifest: Manifest) -> BertConfig:
    """Return the config of what a run starts from, for a dataset.

    Raises:
        InputError: it does not fit the dataset.
    """
    if not source.has_vocabulary(dataset_vocabulary(options.dataset, manifest)):
        raise InputError(
            f"--init {options.init}: its vocabulary is not that of {options.dataset}; "
            "make the dataset with its vocab.txt"
        )
    _check_fits(f"--init {options.init}", source.config, manifest)
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
            "--max-seq-length, or give a .json file with more positions"
        )
    needed_bytes, memory_bytes = _TRAINING_BYTES * config.parameter_count, _memory_bytes()
    if needed_bytes > memory_bytes and not tf.config.list_physical_devices("GPU"):
        raise InputError(
            f"{given}: training its {config.parameter_count:,} parameters takes at least "
            f"{needed_bytes / 1e9:.1f} GB, and this machine has {memory_bytes / 1e9:.1f} GB of "
            "memory; use a smaller model"
        )


def _memory_bytes() -> int:
    """Return the size of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_batch_size(flag: str, batch_size: int, replicas: int, parts: int = 1) -> None:
    """Raise `InputError` unless the batch divides evenly among the replicas, and there in parts."""
    if batch_size % (replicas * parts):
        times = f", times {parts} accumulation steps" if parts > 1 else ""
        raise InputError(
            f"{flag} {batch_size}: must be a multiple of the {replicas} devices{times}; "
            f"try {-(-batch_size // (replicas * parts)) * replicas * parts}"
        )
