"""Configs of pretraining, fine-tuning, evaluation, import and export: frozen and checked.

This module does not import TensorFlow. Error messages name fields in backquotes.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from model.run_config import Checkpoint
from model.tasks.tables import Columns
from model.tasks.task_kind import kind_named
from model.tasks.vectors import VectorConfig
from model.training.config import (
    DOC_STRIDE,
    LARGEST_SEED,
    ClassWeights,
    ExecutionConfig,
    Initialization,
    Long,
    RecoveryConfig,
    UpdateConfig,
    check_batch_range,
    check_ranges,
)
from pipeline.config_types import check_types
from pipeline.errors import InputError, check_range
from pipeline.storage.cache import CacheConfig
from pipeline.storage.outputs import Output, outputs_of
from pipeline.storage.recognition import is_answers, is_picture


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Config of a pretraining; an existing run is resumed from its last checkpoint.

    Attributes:
        run_dir: directory of the run.
        dataset: directory of the dataset.
        model: name of a model size (`model.bert.config.SIZES`), or JSON file of a `BertConfig`.
        init: run or checkpoint with the initial weights; it replaces `model`. None = random
            weights.
        recipe: name of the recipe that the hyperparameters are from, for the run's records.
        initialization: initial weights of a new model, with `init` random.
        initializer_range: standard deviation of the random initial weights; None = that of the
            model's config, or with another `initialization` than random 0.8 / √hidden_size.
        next_sentence_weight: weight of the next-sentence loss after twice the warm-up, above 0 to
            1; before that it is 1.
        epochs: passes over the train split, instead of a number of steps; None = 10.
        phase2_dataset: dataset with longer records, for the last steps; None = no phase 2.
        phase2_steps: number of steps in phase 2; None = a tenth of all steps.
        phase2_batch_size: batch size in phase 2; None = as many tokens per step as in phase 1.
        teacher: run or checkpoint with the dataset's vocabulary, whose relations of queries, keys
            and values the last layer learns; None = no teacher.
        teacher_layer: layer of the teacher, from 1; None = the last.
        relation_heads: number of relation heads; None = the model's number of attention heads.
        teacher_only: whether the relations are learned instead of masked LM and next sentences.
        eval_every_steps: steps between evaluations on the eval split; None = only at the end.
        seed: seed of the initial weights, the order of the examples, and dropout.
        updates: optimizer hyperparameters.
        execution: devices and compilation.
        recovery: checkpoints and divergence.
        caching: local copies of remote files.
    """

    run_dir: Path
    dataset: Path
    model: str = "mini"
    init: Path | None = None
    recipe: str | None = None
    initialization: Initialization = "random"
    initializer_range: float | None = None
    next_sentence_weight: float = 1.0
    epochs: float | None = None
    phase2_dataset: Path | None = None
    phase2_steps: int | None = None
    phase2_batch_size: int | None = None
    teacher: Path | None = None
    teacher_layer: int | None = None
    relation_heads: int | None = None
    teacher_only: bool = False
    eval_every_steps: int | None = None
    seed: int = 12345
    updates: UpdateConfig = field(default_factory=UpdateConfig)
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    recovery: RecoveryConfig = field(default_factory=RecoveryConfig)
    caching: CacheConfig = field(default_factory=CacheConfig)

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            InputError: a field is out of range, or two fields exclude each other.
        """
        check_types(self)
        check_ranges(self, phase2_steps=1, eval_every_steps=1)
        check_batch_range("phase2_batch_size", self.phase2_batch_size)
        check_range("seed", self.seed, 0, LARGEST_SEED)
        check_ranges(self, teacher_layer=1, relation_heads=1)
        for name in ("teacher_layer", "relation_heads", "teacher_only"):
            if self.teacher is None and getattr(self, name):
                raise InputError(f"`{name}`: needs a `teacher`")
        _check_epochs(self.epochs)
        if self.init and (self.initialization != "random" or self.initializer_range is not None):
            # The user may not have given what a recipe sets.
            of_recipe = f"; give `initialization` random if `recipe` {self.recipe} sets it"
            raise InputError(
                "`init` brings its own weights; leave out `initialization` and `initializer_range`"
                + (of_recipe if self.recipe else "")
            )
        if self.initializer_range is not None and not 0 < self.initializer_range < math.inf:
            raise InputError(f"`initializer_range` {self.initializer_range}: must be above 0")
        if not 0 < self.next_sentence_weight <= 1:
            raise InputError(
                f"`next_sentence_weight` {self.next_sentence_weight}: must be above 0 and at most 1"
            )
        if self.phase2_dataset is None and (self.phase2_steps or self.phase2_batch_size):
            raise InputError("`phase2_steps` and `phase2_batch_size`: need a `phase2_dataset`")
        if self.updates.steps is not None and self.epochs is not None:
            raise InputError("`steps` and `epochs`: expected one of them, got both")

    @property
    def outputs(self) -> list[Output]:
        """The directory that is written."""
        return outputs_of("folder", run_dir=self.run_dir)


TUNING_UPDATES = UpdateConfig(learning_rate=5e-5)
TUNING_RECOVERY = RecoveryConfig(blow_up_ratio=math.inf)  # the loss may triple


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Config of a fine-tuning, one run per seed; existing runs are resumed.

    Attributes:
        run_dir: directory of the run; with several seeds, the parent directory of the runs.
        task: name of the kind of task, a key of `model.tasks.kinds.KINDS`.
        train: training file of labelled examples.
        dev: file of labelled examples to evaluate on; None = no evaluation.
        init: run or checkpoint with the initial weights.
        layers_to_keep: indices, from 0, of the Transformer layers of `init` that the model has, in
            ascending order; empty = all.
        columns: names or numbers of the columns of the files.
        epochs: passes over the training file; ignored if `updates` has a number of steps.
        max_seq_length: maximum number of positions of an example; None = the task's default.
        doc_stride: pieces between the starts of two windows of a long passage.
        long: parts that are read of a text that is too long, for tasks with one text: `first`, its
            beginning; `first-last`, a quarter of the room for its beginning and the rest for its
            end; `mean-of-windows`, all of it, in windows whose outputs are averaged.
        layer_decay: ratio of a layer's learning rate to that of the layer above, above 0 to 1.
        freeze_layers: number of lowest Transformer layers that are not trained; if above 0, the
            embeddings are not trained either.
        class_weights: balanced: weight examples inversely to the frequency of their class.
        metric: metric that selects the best checkpoint; None = the task's default.
        eval_every_steps: steps between evaluations; None = one epoch.
        early_stopping: patience: training stops after this number of evaluations in a row without
            improvement; None = never.
        teacher: tuned run or checkpoint whose answers are soft targets; None = no teacher.
        teacher_weight: share of the soft targets in the loss, above 0 to 1; labels have the rest.
        temperature: temperature of the soft targets, above 0.
        unlabelled: file of further examples, whose labels are not read; only with a teacher.
        seed: seeds of the new weights, the order of the examples, and dropout; one run per seed.
        updates: optimizer hyperparameters.
        execution: devices and compilation.
        recovery: checkpoints and divergence.
        vectors: settings of models that turn a text into a vector.
        caching: local copies of remote files.
    """

    run_dir: Path
    task: str
    train: Path
    init: Path
    dev: Path | None = None
    layers_to_keep: tuple[int, ...] = ()
    columns: Columns = field(default_factory=Columns)
    epochs: float = 3.0
    max_seq_length: int | None = None
    doc_stride: int = DOC_STRIDE
    long: Long = "first"
    layer_decay: float = 1.0
    freeze_layers: int = 0
    class_weights: ClassWeights = "none"
    metric: str | None = None
    eval_every_steps: int | None = None
    early_stopping: int | None = None
    teacher: Path | None = None
    teacher_weight: float = 0.5
    temperature: float = 2.0
    unlabelled: Path | None = None
    seed: tuple[int, ...] = (12345,)
    updates: UpdateConfig = TUNING_UPDATES
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    recovery: RecoveryConfig = TUNING_RECOVERY
    vectors: VectorConfig = field(default_factory=VectorConfig)
    caching: CacheConfig = field(default_factory=CacheConfig)

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            InputError: a field is out of range, or not valid for the task.
        """
        check_types(self)
        if not kind_named(self.task).has_vectors:
            for name in self.vectors.given:
                raise InputError(f"`{name}`: a {self.task} task trains no vectors of texts")
        check_ranges(self, eval_every_steps=1, early_stopping=1, doc_stride=1, freeze_layers=0)
        _check_epochs(self.epochs)
        if not self.seed or min(self.seed) < 0 or len(set(self.seed)) < len(self.seed):
            raise InputError(f"`seed` {' '.join(map(str, self.seed))}: must differ, from 0 on")
        check_range("seed", max(self.seed), 0, LARGEST_SEED)
        layers = self.layers_to_keep
        if list(layers) != sorted(set(layers)) or min(layers, default=0) < 0:
            raise InputError(
                f"`layers_to_keep` {' '.join(map(str, layers))}: must be in ascending order, from 0"
            )
        if not 0 < self.layer_decay <= 1:
            raise InputError(f"`layer_decay` {self.layer_decay}: must be above 0, and at most 1")
        if self.class_weights != "none" and not kind_named(self.task).has_classes:
            raise InputError(f"`class_weights`: a {self.task} task has no classes")
        check_columns(self.columns, self.task)
        self._check_teacher()
        if self.long != "first" and not kind_named(self.task).takes_long:
            raise InputError(f"`long` {self.long}: only for classes or numbers of one text")
        if self.dev is None:
            for name in ("early_stopping", "metric", "eval_every_steps"):
                if getattr(self, name) is not None:
                    raise InputError(f"`{name}`: needs `dev`, the examples to evaluate on")

    @property
    def runs(self) -> list[tuple[int, Path]]:
        """(seed, directory of its run): `run_dir`, or `run_dir`/seed-N for several seeds."""
        if len(self.seed) == 1:
            return [(self.seed[0], self.run_dir)]
        return [(seed, self.run_dir / f"seed-{seed}") for seed in self.seed]

    @property
    def outputs(self) -> list[Output]:
        """The directories that are written."""
        return [Output("run_dir", run, "folder") for _, run in self.runs]

    def _check_teacher(self) -> None:
        if self.teacher is None:
            if self.unlabelled:
                raise InputError("`unlabelled`: needs a `teacher`, whose answers are the labels")
            return
        if not kind_named(self.task).has_soft_targets:
            raise InputError(f"`teacher`: a {self.task} task has no soft targets")
        if not 0 < self.teacher_weight <= 1:
            raise InputError(
                f"`teacher_weight` {self.teacher_weight}: must be above 0, and at most 1"
            )
        if not 0 < self.temperature < math.inf:
            raise InputError(f"`temperature` {self.temperature}: must be above 0")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Config of an evaluation of a fine-tuned run.

    Attributes:
        run_dir: directory of the run.
        data: file of examples; for vectors, also a retrieval collection (a folder).
        columns: names or numbers of the columns of the file.
        label_map: pairs FILE=RUN for labels of the file with another name in the run.
        checkpoint: checkpoint to load.
        batch_size: examples in a batch.
        worst: number of answers with the highest loss to return; None = 10.
        predictions: output file for all answers, JSON Lines; None = not written.
        picture: output file for a plot (confusion matrix or scatter plot), PNG; None = no plot.
        xla: compile with XLA.
        split: name of a file in `qrels/` if `data` is a retrieval collection; None = test, or the
            only one.
        caching: local copies of remote files.
    """

    run_dir: Path
    data: Path
    columns: Columns = field(default_factory=Columns)
    label_map: tuple[str, ...] = ()
    checkpoint: Checkpoint = "auto"
    batch_size: int = 32
    worst: int | None = None
    predictions: Path | None = None
    picture: Path | None = None
    xla: bool = True
    split: str | None = None
    caching: CacheConfig = field(default_factory=CacheConfig)

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            InputError: a field is out of range.
        """
        check_types(self)
        check_ranges(self, worst=0)
        check_batch_range("batch_size", self.batch_size)

    @property
    def outputs(self) -> list[Output]:
        """The files that are written; none may be the labelled examples."""
        written = (
            ("predictions", self.predictions, is_answers),
            ("picture", self.picture, is_picture),
        )
        return [
            Output(name, path, "file", reads=(self.data,), is_ours=is_ours)
            for name, path, is_ours in written
            if path
        ]


Casing = Literal["auto", "cased", "uncased"]


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """Config of the import of a checkpoint in another format.

    Attributes:
        from_dir: directory of the checkpoint.
        run_dir: directory of the run to create.
        casing: whether texts are lower-cased; auto = according to the checkpoint's files.
        takes_pairs: whether the classifier takes two texts; no checkpoint format stores this.
        seed: seed for weights missing from the checkpoint.
        caching: local copies of remote files.
    """

    from_dir: Path
    run_dir: Path
    casing: Casing = "auto"
    takes_pairs: bool = False
    seed: int = 12345
    caching: CacheConfig = field(default_factory=CacheConfig)

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            InputError: a field has a value of another type.
        """
        check_types(self)
        check_range("seed", self.seed, 0, LARGEST_SEED)

    @property
    def outputs(self) -> list[Output]:
        """The directory that is written."""
        return outputs_of("new folder", run_dir=self.run_dir)


@dataclass(frozen=True, kw_only=True)
class HuggingFaceExportConfig:
    """Config of the export of a run to Hugging Face's format.

    Attributes:
        run_dir: directory of the run; it must have a checkpoint.
        output: output directory; it appears, by one rename, when it is complete.
        checkpoint: checkpoint to export.
        encoder_only: whether to export the encoder without heads.
        caching: local copies of remote files.
    """

    run_dir: Path
    output: Path
    checkpoint: Checkpoint = "auto"
    encoder_only: bool = False
    caching: CacheConfig = field(default_factory=CacheConfig)

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            InputError: a field has a value of another type.
        """
        check_types(self)

    @property
    def outputs(self) -> list[Output]:
        """The directory that is written."""
        return outputs_of("new folder", output=self.output)


def check_columns(columns: Columns, task: str) -> None:
    """Check that columns are only named for tasks whose files have such columns.

    Args:
        columns: names or numbers of the columns.
        task: name of the kind of task.

    Raises:
        InputError: the task's files do not have a named column.
    """
    check_ranges(columns, word_column=1, tag_column=1)
    for reason, names in kind_named(task).refused_fields:
        for name in names:
            if getattr(columns, name):
                raise InputError(f"`{name}`: {reason}")


def _check_epochs(epochs: float | None) -> None:
    if epochs is not None and not epochs > 0:
        raise InputError(f"`epochs` {epochs}: must be above 0")
    if epochs is not None:
        check_range("epochs", epochs, 0)
