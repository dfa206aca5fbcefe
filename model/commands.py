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
    """Options of all commands that train."""

    # The front door calls options.run(), so the field has another name than its flag.
    run_dir: Annotated[Path, tyro.conf.arg(name="run")] = field(metadata={"flag": "run"})
    """Run directory; created, or resumed if it exists."""
    steps: int | None = None
    """Total number of steps; the learning rate decays to 0 over them. Default: from --epochs."""
    batch_size: int = 32
    """Global batch size, over all devices."""
    accumulation_steps: int = 1
    """Gradient-accumulation steps: each device computes its share of a batch in this many parts.
    Needs less memory; the result is the same."""
    recompute: bool = False
    """Gradient checkpointing: recompute each layer in the backward pass instead of storing its
    activations. Needs less memory for large models and long sequences, a third more computation,
    and gives the same results."""
    learning_rate: float = 1e-4
    """Peak learning rate, reached at the end of the warm-up."""
    warmup_steps: int | None = None
    """Warm-up steps, over which the learning rate rises from 0. Default: a tenth of the steps."""
    optimizer: Literal["adamw", "lamb"] = "adamw"
    """adamw, or lamb for batches of thousands of examples."""
    schedule: Literal["linear", "cosine", "polynomial", "warmup-stable-decay"] = "linear"
    """Learning-rate schedule after the warm-up."""
    weight_decay: float = 0.01
    """Decoupled weight decay (AdamW's), relative to the learning rate; not applied to biases and
    LayerNorm."""
    strategy: StrategyName = "auto"
    """one: a single device. mirrored: all local GPUs. multi-worker: the workers in TF_CONFIG. tpu:
    the TPU named by TPU_NAME. auto: chosen from the hardware and the environment."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Compute dtype of matrix multiplications; weights stay float32. auto: bfloat16 if the hardware
    supports it, else float32; a resumed run keeps its precision."""
    checkpoint_every_steps: int = 500
    """Steps between checkpoints; the last 3 and the best by evaluation are kept."""
    on_blow_up: Literal["stop", "skip"] = "stop"
    """On divergence (NaN, or a loss --blow-up-ratio times the recent average): stop, or skip:
    restore the last checkpoint and skip the batches since then."""
    blow_up_ratio: float = 3.0
    """Ratio of the loss to its recent average that counts as divergence."""
    xla: bool = True
    """Compile with XLA: the whole forward and backward pass; on a CPU only the computation between
    matrix multiplications."""
    deterministic: bool = False
    """Use only deterministic operations, for bit-identical results; slower on GPUs."""

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
    """Pretrain BERT on a dataset, with masked LM and next-sentence prediction.

    If it is started again with the same flags, it resumes from the run's last checkpoint.
    """

    dataset: Path
    """Dataset directory, made by `clozeline preprocess`."""
    model: str = "mini"
    """Size by name (tiny, mini, small, medium, base, large), or a JSON file with the fields of
    Hugging Face's BertConfig."""
    init: Path | None = None
    """Run or checkpoint (of any format that `import` reads) to start from, instead of --model and
    random weights. The dataset must have its vocabulary."""
    epochs: float | None = None
    """Epochs to train, instead of --steps. Default: 10."""
    phase2_dataset: Path | None = None
    """Dataset of phase 2, the last steps: longer records of the same text and vocabulary."""
    phase2_steps: int | None = None
    """How many of the steps are in phase 2. Default: a tenth."""
    phase2_batch_size: int | None = None
    """Global batch size in phase 2. Default: keeps the tokens per step of phase 1."""
    eval_every_steps: int | None = None
    """Steps between evaluations on the eval split. Default: only at the end."""
    seed: int = 12345
    """Seed for the initial weights, the order of the examples, and dropout."""

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
    """Import a published BERT as a run: to train it further, fine-tune, explain or serve it.

    Reads Hugging Face directories (safetensors), google-research/bert's TensorFlow 1 checkpoints
    and KerasHub presets; the format is auto-detected. Pickles are never read.
    """

    # `from` is Python's, and the front door calls options.run().
    from_dir: Annotated[Path, tyro.conf.arg(name="from")] = field(metadata={"flag": "from"})
    """Directory of the checkpoint."""
    run_dir: Annotated[Path, tyro.conf.arg(name="run")] = field(metadata={"flag": "run"})
    """Run directory to create."""
    casing: Literal["auto", "cased", "uncased"] = "auto"
    """cased: keep capitals and accents. auto: as the checkpoint's files say; otherwise cased if its
    vocabulary contains capitals."""
    takes_pairs: bool = False
    """Set this for a classifier of text pairs, since no format stores it. Default: single texts."""
    seed: int = 12345
    """Seed for weights missing from the checkpoint, such as a head or the pooler."""

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
    """Export a run to a directory that Hugging Face's `transformers` and KerasHub can load."""

    run_dir: Annotated[Path, tyro.conf.arg(name="run")] = field(metadata={"flag": "run"})
    """Run directory: pretrained, fine-tuned or imported."""
    output: Path
    """Directory to write."""
    checkpoint: Checkpoint = "auto"
    """best: by evaluation metric. last: most recent. auto: best if it exists, else last."""
    encoder_only: bool = False
    """Omit the heads (BertModel), as KerasHub and tools for sentence embeddings expect."""

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
    """Fine-tune an encoder: text classification, regression, tagging, or extractive QA.

    If it is started again with the same flags, it resumes from the run's last checkpoint.
    """

    task: KindName
    train: Path
    """Training examples: .tsv or .csv with a header, or .jsonl; CoNLL columns for tagging, SQuAD's
    JSON for span."""
    dev: Path | None = None
    """Labelled examples for evaluation."""
    init: Path
    """Run or checkpoint (Hugging Face, TensorFlow 1, KerasHub) to start from."""
    text_column: str | None = None
    """Column of the text, or of the first text of a pair. Default: detected by its name (text,
    sentence, sentence1, premise, question, …), or else the only columns that contain text."""
    text_pair_column: str | None = None
    """Column of the second text of a pair."""
    label_column: str | None = None
    """Column of the class or number. Default: label, or another common name (gold_label,
    is_duplicate, score, …)."""
    word_column: int | None = None
    """Column number of the words in a tagging file, from 1. Default: detected."""
    tag_column: int | None = None
    """Column number of the tags, from 1. Default: the last column; in files with word numbers the
    first column with tags such as B-PER, or CoNLL-U's UPOS."""
    skip_incomplete_rows: bool = False
    """Skip and count rows whose number of columns differs from the header's (GLUE's QQP has some),
    instead of refusing the file."""
    epochs: float = 3.0
    """Epochs to train, unless --steps is given."""
    learning_rate: float = 5e-5
    """Peak learning rate, reached at the end of the warm-up."""
    max_seq_length: int | None = None
    """Maximum sequence length, in pieces. Longer examples are truncated, or split into several
    (tagging, span). Batches are padded only to their longest example. Default: the encoder's
    maximum; 384 for span."""
    doc_stride: int = DOC_STRIDE
    """Stride between the windows of a long passage, in pieces."""
    layer_decay: float = 1.0
    """Layer-wise learning-rate decay: ratio of a layer's learning rate to that of the layer above
    (above 0, at most 1)."""
    freeze_layers: int = 0
    """Number of lowest Transformer layers to freeze, together with the embeddings."""
    class_weights: ClassWeights = "none"
    """balanced: weight examples inversely to the frequency of their class."""
    metric: str | None = None
    """Metric that selects the best checkpoint. Default: accuracy, pearson, entity_f1 or span_f1."""
    eval_every_steps: int | None = None
    """Steps between evaluations. Default: one epoch."""
    early_stopping: int | None = None
    """Patience: stop after this many evaluations in a row without improvement. Default: never."""
    blow_up_ratio: float = math.inf
    """Ratio of the loss to its recent average that counts as divergence. Default: only NaN does."""
    seed: tuple[int, ...] = (12345,)
    """Seed for new weights, the order of the examples, and dropout. Several seeds make one run each
    and report mean and standard deviation."""

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
    """Evaluate a fine-tuned run on labelled examples and show those with the highest loss."""

    # The front door calls options.run(), so the field has another name than its flag.
    run_dir: Annotated[Path, tyro.conf.arg(name="run")] = field(metadata={"flag": "run"})
    """Directory of the fine-tuned run."""
    data: Path
    """Examples in the training file's format. Without labels, only --predictions is written."""
    text_column: str | None = None
    """Column of the text, or of the first text of a pair. Default: detected, as in finetune."""
    text_pair_column: str | None = None
    """Column of the second text of a pair."""
    label_column: str | None = None
    """Column of the class or number. Default: detected, as in finetune."""
    label_map: tuple[str, ...] = ()
    """Map the file's labels to the run's, each as FILE=RUN, for example 0=entailment. Default:
    equal names; LABEL_0 also matches 0."""
    word_column: int | None = None
    """Column number of the words in a tagging file, from 1. Default: detected."""
    tag_column: int | None = None
    """Column number of the tags, from 1. Default: detected, as in finetune."""
    skip_incomplete_rows: bool = False
    """Skip rows whose number of columns differs from the header's."""
    checkpoint: Checkpoint = "auto"
    """best: by evaluation metric. last: most recent. auto: best if it exists, else last."""
    batch_size: int = 32
    """Batch size."""
    worst: int = 10
    """Number of examples with the highest loss to show."""
    predictions: Path | None = None
    """File to write all predictions to, as JSON Lines."""
    picture: Path | None = None
    """PNG file to write: the confusion matrix, or a scatter plot for a regression."""
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
