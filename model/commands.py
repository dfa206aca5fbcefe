"""The flags of what trains, measures, imports and exports; TensorFlow comes when it runs."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from clozeline.options import Command
from model.run_config import Checkpoint
from model.tasks.kinds import KINDS, kind_named
from model.training.config import DOC_STRIDE, ClassWeights
from pipeline.errors import InputError

if TYPE_CHECKING:
    from model.tasks.tables import Columns

if TYPE_CHECKING:
    KindName = str
else:
    KindName = Annotated[
        Literal[tuple(KINDS)],
        tyro.conf.arg(
            help="; ".join(f"{name}: {entry.summary}" for name, entry in KINDS.items()) + "."
        ),
    ]
    """The name of a kind of task: a choice of those in the table, which mypy cannot read."""

StrategyName = Literal["auto", "one", "mirrored", "multi-worker", "tpu"]


@dataclass(frozen=True, kw_only=True)
class TrainingFlags(Command):
    """What every command that trains can be told."""

    # The front door calls options.run(), so the field has another name than its flag.
    run_dir: Annotated[Path, tyro.conf.arg(name="run")] = field(metadata={"flag": "run"})
    """Directory of the run: made, or gone on with."""
    steps: int | None = None
    """Number of updates; the learning rate falls to 0 over them. Default: what --epochs gives."""
    batch_size: int = 32
    """Examples an update, over all devices."""
    accumulation_steps: int = 1
    """Parts that each device computes its share of a batch in, one after the other; needs less
    memory, and changes nothing else."""
    recompute: bool = False
    """Compute each layer a second time for its gradient instead of keeping what lies inside: less
    memory for large models and long sequences, a third more to compute, the same results."""
    learning_rate: float = 1e-4
    """The highest learning rate, reached at the end of the warm-up."""
    warmup_steps: int | None = None
    """Updates over which the learning rate rises from 0. Default: a tenth of the steps."""
    optimizer: Literal["adamw", "lamb"] = "adamw"
    """lamb is for batches of thousands of examples."""
    schedule: Literal["linear", "cosine", "polynomial", "warmup-stable-decay"] = "linear"
    """How the learning rate falls after the warm-up."""
    weight_decay: float = 0.01
    """Decay of weights, biases and LayerNorm excepted: share per update, times the learning
    rate."""
    strategy: StrategyName = "auto"
    """one device; mirrored over all GPUs of this machine; multi-worker over those of the machines
    that TF_CONFIG names; the tpu that TPU_NAME names; auto: what is there."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """What matrices are multiplied in; weights are float32. auto: bfloat16 where the devices have
    units for it, and what the run was started with when it goes on."""
    checkpoint_every_steps: int = 500
    """Updates between checkpoints; the last 3 are kept, and the best by evaluation."""
    on_blow_up: Literal["stop", "skip"] = "stop"
    """What to do when the loss is no number, or --blow-up-ratio times what it was: stop; or go back
    to the last checkpoint and on from there without the batches that led to it."""
    blow_up_ratio: float = 3.0
    """How many times the recent loss is a blow-up."""
    xla: bool = True
    """Compile with XLA: the forward and backward pass as a whole, on a CPU what lies between its
    products."""
    deterministic: bool = False
    """Use only operations that give the same bits every time; slower on GPUs."""

    def __post_init__(self) -> None:
        """Check what the types do not say.

        Raises:
            InputError: a flag is out of range.
        """
        for name in ("steps", "batch_size", "accumulation_steps", "checkpoint_every_steps"):
            _check_above(name, getattr(self, name), 1)
        for name in ("warmup_steps", "weight_decay"):
            _check_above(name, getattr(self, name), 0)
        if not self.learning_rate > 0:
            raise InputError(f"--learning-rate {self.learning_rate}: must be above 0")
        if not self.blow_up_ratio > 1:
            raise InputError(f"--blow-up-ratio {self.blow_up_ratio}: must be above 1")


@dataclass(frozen=True, kw_only=True)
class Pretrain(TrainingFlags):
    """Train BERT on a dataset: masked pieces and next sentences.

    Started again with the same flags, it goes on from the run's last checkpoint.
    """

    dataset: Path
    """Directory that `clozeline preprocess` made."""
    model: str = "mini"
    """Size by name (tiny, mini, small, medium, base, large), or a JSON file with the fields of
    Hugging Face's BertConfig."""
    init: Path | None = None
    """Run, or checkpoint that `import` reads, whose weights to start from, and whose sizes to take
    instead of --model's. The dataset must have its vocabulary."""
    epochs: float | None = None
    """Passes over the train split, instead of --steps. Default: 10."""
    phase2_dataset: Path | None = None
    """Second dataset, of longer records of the same text and vocabulary, for the last steps."""
    phase2_steps: int | None = None
    """How many of the steps are on it. Default: a tenth."""
    phase2_batch_size: int | None = None
    """Examples an update there. Default: as many positions as in the first phase."""
    eval_every_steps: int | None = None
    """Updates between evaluations on the eval split. Default: only at the end."""
    seed: int = 12345
    """Of the initial weights, the order of the examples, and dropout."""

    def __post_init__(self) -> None:
        """Check what the types do not say.

        Raises:
            InputError: a flag is out of range, or two exclude each other.
        """
        super().__post_init__()
        for name in ("phase2_steps", "phase2_batch_size", "eval_every_steps"):
            _check_above(name, getattr(self, name), 1)
        _check_above("seed", self.seed, 0)
        if self.epochs is not None and not self.epochs > 0:
            raise InputError(f"--epochs {self.epochs}: must be above 0")
        if self.phase2_dataset is None and (self.phase2_steps or self.phase2_batch_size):
            raise InputError("--phase2-steps and --phase2-batch-size: need a --phase2-dataset")
        if self.steps is not None and self.epochs is not None:
            raise InputError("--steps and --epochs: give one of them, not both")
        if self.init is not None:
            self.refuse_given("--init brings its own sizes; leave one of the two out", "model")

    def run(self) -> dict[str, Any]:
        """Train, and return the run's path, its steps, its losses and its speed."""
        from model.pretrain import pretrain

        return pretrain(self)


@dataclass(frozen=True, kw_only=True)
class Import(Command):
    """Make a run of a published BERT: to train or tune it further, look into it, or serve it.

    Reads Hugging Face's directories (safetensors), google-research/bert's TensorFlow 1 checkpoints
    and KerasHub's presets, told apart by looking. Pickles are never read.
    """

    # `from` is Python's, and the front door calls options.run().
    from_dir: Annotated[Path, tyro.conf.arg(name="from")] = field(metadata={"flag": "from"})
    """Directory of the checkpoint."""
    run_dir: Annotated[Path, tyro.conf.arg(name="run")] = field(metadata={"flag": "run"})
    """Directory of the run to make."""
    casing: Literal["auto", "cased", "uncased"] = "auto"
    """Whether texts keep their capitals and accents. auto: what the checkpoint's files say, or else
    whether its vocabulary has capitals."""
    takes_pairs: bool = False
    """A classifier of two texts, which no format says; without it, one of one text."""
    seed: int = 12345
    """Of the weights that the checkpoint lacks: a head, a pooler."""

    def run(self) -> dict[str, Any]:
        """Read and write; return what the run has, and what was not found or not used."""
        from model.interchange.import_checkpoint import import_checkpoint

        return import_checkpoint(
            self.from_dir,
            self.run_dir,
            casing=self.casing,
            takes_pairs=self.takes_pairs,
            seed=self.seed,
        )


@dataclass(frozen=True, kw_only=True)
class ExportHuggingFace(Command):
    """Write a run as a directory that Hugging Face's `transformers` and KerasHub load."""

    run_dir: Annotated[Path, tyro.conf.arg(name="run")] = field(metadata={"flag": "run"})
    """The run: pretrained, tuned or imported."""
    output: Path
    """Directory to write."""
    checkpoint: Checkpoint = "auto"
    """The best by evaluation, the last; auto: the best where there is one."""
    encoder_only: bool = False
    """Leave the heads out (BertModel), as KerasHub and tools for sentence vectors want it."""

    def run(self) -> dict[str, Any]:
        """Write; return where, and which of their models it is."""
        from model.interchange.export_hugging_face import export_hugging_face
        from model.run import load_run

        return export_hugging_face(
            load_run(self.run_dir),
            self.output,
            checkpoint=self.checkpoint,
            encoder_only=self.encoder_only,
        )


@dataclass(frozen=True, kw_only=True)
class Finetune(TrainingFlags):
    """Train an encoder on labelled examples: classes or numbers of texts, tags of words, answers.

    Started again with the same flags, it goes on from the run's last checkpoint.
    """

    task: KindName
    train: Path
    """Labelled examples to learn from: .tsv, .csv or .jsonl, with the names of the columns."""
    dev: Path | None = None
    """Labelled examples to measure on."""
    init: Path
    """What to start from: a run, or a checkpoint of Hugging Face, Google or KerasHub."""
    text_column: str | None = None
    """Column of the text, or of the first of two. Default: detected by its name (text, sentence,
    sentence1, premise, question, …), or else the only columns of texts."""
    text_pair_column: str | None = None
    """Column of the second text."""
    label_column: str | None = None
    """Column of the class, or of the number. Default: label, or another usual name (gold_label,
    is_duplicate, score, …)."""
    word_column: int | None = None
    """Number of the column of the words in a tagging file, from 1. Default: detected."""
    tag_column: int | None = None
    """Number of the column of the tags, from 1. Default: the last; in files with word numbers the
    first one of tags such as B-PER, or CoNLL-U's UPOS."""
    skip_incomplete_rows: bool = False
    """Leave out and count rows of a table with another number of columns than its header (GLUE's
    QQP has some) instead of refusing the file."""
    epochs: float = 3.0
    """Passes over the training file, unless --steps is given."""
    learning_rate: float = 5e-5
    """The highest learning rate, reached at the end of the warm-up."""
    max_seq_length: int | None = None
    """Most pieces of an example; what is longer loses its end, or becomes several (tagging, span).
    Batches are only as long as their longest example. Default: all that the encoder takes; 384 for
    span."""
    doc_stride: int = DOC_STRIDE
    """Pieces between the starts of two parts of a long passage."""
    layer_decay: float = 1.0
    """Times which a layer's learning rate is that of the layer above it, above 0 to 1."""
    freeze_layers: int = 0
    """Layers, from below, that stay as they are, and with them the embeddings."""
    class_weights: ClassWeights = "none"
    """balanced: an example counts more the rarer its class is."""
    metric: str | None = None
    """Measure that tells which checkpoint is the best. Default: accuracy, pearson, entity_f1 or
    span_f1."""
    eval_every_steps: int | None = None
    """Updates between evaluations. Default: once an epoch."""
    early_stopping: int | None = None
    """Stop after so many evaluations in a row without a better one. Default: never."""
    blow_up_ratio: float = math.inf
    """How many times the recent loss is a blow-up. Default: only what is no number."""
    seed: tuple[int, ...] = (12345,)
    """Of the new weights, the order of the examples, and dropout. Several make a run each, and
    their mean and standard deviation."""

    def __post_init__(self) -> None:
        """Check what the types do not say.

        Raises:
            InputError: a flag is out of range, or does not fit the task.
        """
        super().__post_init__()
        for name in ("eval_every_steps", "early_stopping", "doc_stride"):
            _check_above(name, getattr(self, name), 1)
        _check_above("word_column", self.word_column, 1)
        _check_above("tag_column", self.tag_column, 1)
        _check_above("freeze_layers", self.freeze_layers, 0)
        if not self.seed or min(self.seed) < 0 or len(set(self.seed)) < len(self.seed):
            raise InputError(f"--seed {' '.join(map(str, self.seed))}: must differ, from 0 on")
        if not self.epochs > 0:
            raise InputError(f"--epochs {self.epochs}: must be above 0")
        if not 0 < self.layer_decay <= 1:
            raise InputError(f"--layer-decay {self.layer_decay}: must be above 0, and at most 1")
        if self.early_stopping and self.dev is None:
            raise InputError("--early-stopping: needs --dev, which is measured")
        if self.class_weights != "none" and not kind_named(self.task).has_classes:
            raise InputError(f"--class-weights: a {self.task} task has no classes")
        refuse_columns(self, self.task)
        if not kind_named(self.task).uses_windows:
            self.refuse_given(f"a {self.task} task has no passages; span has", "doc_stride")
        if self.steps is not None:
            self.refuse_given("--steps says how long to train; leave one of the two out", "epochs")
        if self.dev is None:
            self.refuse_given("needs --dev, which is measured", "metric", "eval_every_steps")

    @property
    def columns(self) -> "Columns":
        """Which columns of the examples are what."""
        return _columns(self)

    def run(self) -> dict[str, Any]:
        """Train, and return the run's path, its steps, its measures and its speed."""
        from model.finetune import finetune

        return finetune(self)


@dataclass(frozen=True, kw_only=True)
class Evaluate(Command):
    """Measure a tuned run on labelled examples, and show what it gets most wrong."""

    # The front door calls options.run(), so the field has another name than its flag.
    run_dir: Annotated[Path, tyro.conf.arg(name="run")] = field(metadata={"flag": "run"})
    """Directory of the tuned run."""
    data: Path
    """Examples in the format of the training file; without labels only --predictions is made."""
    text_column: str | None = None
    """Column of the text, or of the first of two. Default: detected, as in finetune."""
    text_pair_column: str | None = None
    """Column of the second text."""
    label_column: str | None = None
    """Column of the class, or of the number. Default: detected, as in finetune."""
    label_map: tuple[str, ...] = ()
    """Labels of the file that the run has under another name, each as FILE=RUN, such as
    0=entailment. Default: the same names; LABEL_0 is also 0."""
    word_column: int | None = None
    """Number of the column of the words in a tagging file, from 1. Default: detected."""
    tag_column: int | None = None
    """Number of the column of the tags, from 1. Default: detected, as in finetune."""
    skip_incomplete_rows: bool = False
    """Leave out rows of a table with another number of columns than its header."""
    checkpoint: Checkpoint = "auto"
    """The best by evaluation, the last; auto: the best where there is one."""
    batch_size: int = 32
    """Examples at a time."""
    worst: int = 10
    """How many of the most wrong answers are shown."""
    predictions: Path | None = None
    """File for all answers, as JSON Lines."""
    picture: Path | None = None
    """File for who was taken for whom, or numbers beside those expected, as a PNG."""
    xla: bool = True
    """Compile with XLA, as in training."""

    def __post_init__(self) -> None:
        """Check what the types do not say.

        Raises:
            InputError: a flag is out of range.
        """
        _check_above("batch_size", self.batch_size, 1)
        _check_above("word_column", self.word_column, 1)
        _check_above("tag_column", self.tag_column, 1)
        _check_above("worst", self.worst, 0)

    @property
    def columns(self) -> "Columns":
        """Which columns of the examples are what."""
        return _columns(self)

    def run(self) -> dict[str, Any]:
        """Evaluate, and return the measures, the confusion and the worst answers."""
        from model.evaluate import evaluate_run

        return evaluate_run(self)


def _columns(options: Finetune | Evaluate) -> "Columns":
    from model.tasks.tables import Columns

    return Columns(
        options.text_column,
        options.text_pair_column,
        options.label_column,
        options.word_column,
        options.tag_column,
        options.skip_incomplete_rows,
    )


def refuse_columns(options: Finetune | Evaluate, task: str) -> None:
    """Refuse columns that the files of a task do not have.

    Raises:
        InputError: the user named one of them.
    """
    for reason, names in kind_named(task).refused_flags:
        options.refuse_given(reason, *names)


def _check_above(name: str, value: float | None, low: int) -> None:
    if value is not None and not value >= low:
        raise InputError(f"{_flag(name)} {value}: must be at least {low}")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
