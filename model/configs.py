"""What the commands of this room are asked to do: frozen, checked, free of TensorFlow.

Messages name the fields in backquotes.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from model.run_config import Checkpoint
from model.tasks.kinds import kind_named
from model.tasks.tables import Columns
from model.training.config import (
    DOC_STRIDE,
    ClassWeights,
    ExecutionConfig,
    RecoveryConfig,
    UpdateConfig,
    check_ranges,
)
from pipeline.errors import InputError


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """A pretraining, or the rest of one: a run is resumed from its last checkpoint.

    Attributes:
        run_dir: directory of the run.
        dataset: directory of the records.
        model: a size's name (`model.bert.config.SIZES`), or a JSON file of a `BertConfig`.
        init: run or checkpoint of the first weights, and of the sizes instead of `model`'s; None =
            random weights.
        epochs: passes over the train split, instead of a number of steps; None = 10.
        phase2_dataset: dataset of the last steps, of longer records; None = there is no phase 2.
        phase2_steps: how many of the steps are on it; None = a tenth.
        phase2_batch_size: examples per update in phase 2; None = as many tokens as in phase 1.
        eval_every_steps: updates between evaluations on the eval split; None = only at the end.
        seed: of the initial weights, the order of the examples, and dropout.
        updates: batch size, learning rate and what else determines the updates.
        execution: devices, compilation.
        recovery: checkpoints, divergence.
    """

    run_dir: Path
    dataset: Path
    model: str = "mini"
    init: Path | None = None
    epochs: float | None = None
    phase2_dataset: Path | None = None
    phase2_steps: int | None = None
    phase2_batch_size: int | None = None
    eval_every_steps: int | None = None
    seed: int = 12345
    updates: UpdateConfig = field(default_factory=UpdateConfig)
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    recovery: RecoveryConfig = field(default_factory=RecoveryConfig)

    def __post_init__(self) -> None:
        """Check every field, and what excludes what.

        Raises:
            InputError: a field is out of range, or two exclude each other.
        """
        check_ranges(self, phase2_steps=1, phase2_batch_size=1, eval_every_steps=1, seed=0)
        _check_epochs(self.epochs)
        if self.phase2_dataset is None and (self.phase2_steps or self.phase2_batch_size):
            raise InputError("`phase2_steps` and `phase2_batch_size`: need a `phase2_dataset`")
        if self.updates.steps is not None and self.epochs is not None:
            raise InputError("`steps` and `epochs`: give one of them, not both")


TUNING_UPDATES = UpdateConfig(learning_rate=5e-5)
TUNING_RECOVERY = RecoveryConfig(blow_up_ratio=math.inf)  # its loss may well triple for a while


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """The fine-tuning of a run per seed, or the rest of it.

    Attributes:
        run_dir: directory of the run, or with several seeds of the runs.
        task: name of the kind of task, in `model.tasks.kinds.KINDS`.
        train: file of labelled examples to learn from.
        dev: file of labelled examples to evaluate on; None = nothing is held out.
        init: run or checkpoint of the first weights.
        columns: which columns of the files are what.
        epochs: passes over the training file, unless `updates` has a number of steps.
        max_seq_length: most pieces of an example; None = the encoder's most, or the task's usual.
        doc_stride: pieces between the starts of two windows of a long passage.
        layer_decay: learning-rate multiplier from a layer to the one below it, above 0 to 1.
        freeze_layers: Transformer layers, from below, that are not trained; with any, embeddings
            are not either.
        class_weights: balanced: an example weighs more the rarer its class is.
        metric: evaluation metric that selects the best checkpoint; None = the task's usual.
        eval_every_steps: updates between evaluations; None = once per epoch.
        early_stopping: patience: evaluations in a row without a better one, after which training
            stops; None = it never stops early.
        seed: seeds of the new weights, the order of the examples, and dropout; a run for each.
        updates: batch size, learning rate and what else determines the updates.
        execution: devices, compilation.
        recovery: checkpoints, divergence.
    """

    run_dir: Path
    task: str
    train: Path
    init: Path
    dev: Path | None = None
    columns: Columns = field(default_factory=Columns)
    epochs: float = 3.0
    max_seq_length: int | None = None
    doc_stride: int = DOC_STRIDE
    layer_decay: float = 1.0
    freeze_layers: int = 0
    class_weights: ClassWeights = "none"
    metric: str | None = None
    eval_every_steps: int | None = None
    early_stopping: int | None = None
    seed: tuple[int, ...] = (12345,)
    updates: UpdateConfig = TUNING_UPDATES
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    recovery: RecoveryConfig = TUNING_RECOVERY

    def __post_init__(self) -> None:
        """Check every field, and that it fits the task.

        Raises:
            InputError: a field is out of range, or does not fit the task.
        """
        check_ranges(self, eval_every_steps=1, early_stopping=1, doc_stride=1, freeze_layers=0)
        _check_epochs(self.epochs)
        if not self.seed or min(self.seed) < 0 or len(set(self.seed)) < len(self.seed):
            raise InputError(f"`seed` {' '.join(map(str, self.seed))}: must differ, from 0 on")
        if not 0 < self.layer_decay <= 1:
            raise InputError(f"`layer_decay` {self.layer_decay}: must be above 0, and at most 1")
        if self.class_weights != "none" and not kind_named(self.task).has_classes:
            raise InputError(f"`class_weights`: a {self.task} task has no classes")
        check_columns(self.columns, self.task)
        if self.dev is None:
            for name in ("early_stopping", "metric", "eval_every_steps"):
                if getattr(self, name) is not None:
                    raise InputError(f"`{name}`: needs `dev`, which is measured")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """The evaluation of a tuned run on a file of examples.

    Attributes:
        run_dir: directory of the run.
        data: file of examples.
        columns: which columns of the file are what.
        label_map: labels of the file that the run has under another name, each as FILE=RUN.
        checkpoint: which one to load.
        batch_size: examples at a time.
        worst: how many of the answers with the highest loss are returned; None = 10.
        predictions: file for all answers, as JSON Lines; None = they are not written.
        picture: file for the confusion matrix, or a plot of numbers, as a PNG; None = no picture.
        xla: compile with XLA.
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

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            InputError: a field is out of range.
        """
        check_ranges(self, batch_size=1, worst=0)


Casing = Literal["auto", "cased", "uncased"]


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """The import of a checkpoint of another format.

    Attributes:
        from_dir: directory of the checkpoint.
        run_dir: directory of the run to create.
        casing: whether texts are lower-cased; auto = as the checkpoint's files say.
        takes_pairs: whether the classifier takes two texts; no format stores this.
        seed: seed for weights missing from the checkpoint.
    """

    from_dir: Path
    run_dir: Path
    casing: Casing = "auto"
    takes_pairs: bool = False
    seed: int = 12345


@dataclass(frozen=True, kw_only=True)
class HuggingFaceExportConfig:
    """The export of a run to Hugging Face's format.

    Attributes:
        run_dir: directory of the run, which has at least one checkpoint.
        output: directory to write; it appears, by one rename, when it is complete.
        checkpoint: which checkpoint to export.
        encoder_only: whether heads are left out.
    """

    run_dir: Path
    output: Path
    checkpoint: Checkpoint = "auto"
    encoder_only: bool = False


def check_columns(columns: Columns, task: str) -> None:
    """Check that the files of a task have the columns that are named.

    Args:
        columns: which ones are named.
        task: name of the kind of task.

    Raises:
        InputError: a column is named that such files do not have.
    """
    check_ranges(columns, word_column=1, tag_column=1)
    for reason, names in kind_named(task).refused_flags:
        for name in names:
            if getattr(columns, name):
                raise InputError(f"`{name}`: {reason}")


def _check_epochs(epochs: float | None) -> None:
    if epochs is not None and not epochs > 0:
        raise InputError(f"`epochs` {epochs}: must be above 0")
