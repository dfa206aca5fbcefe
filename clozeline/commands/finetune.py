"""`clozeline finetune`: labelled examples → tuned run."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from clozeline.commands.training import TrainingFlags, named_columns
from clozeline.options import config_from
from clozeline.show.terminal import notes, print_line, results, speed, table
from model.configs import TUNING_RECOVERY, TUNING_UPDATES, FinetuneConfig
from model.existing import check_files_exist, check_rereadable
from model.tasks.kinds import KINDS
from model.tasks.task_kind import kind_named
from model.tasks.vectors import Pooling, VectorConfig, VectorLoss
from model.training.config import ClassWeights, Long

if TYPE_CHECKING:
    from model.finetune import FinetuneResult, TunedRun

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


@dataclass(frozen=True, kw_only=True)
class Finetune(TrainingFlags):
    """Fine-tune an encoder: text classification, regression, tagging, extractive QA, or vectors.

    If it is started again with the same flags, it resumes from the run's last checkpoint.
    """

    task: KindName
    train: Path
    """Training examples: .tsv or .csv with a header, or .jsonl; CoNLL columns for tagging, SQuAD's
    JSON for span."""
    dev: Path | None = None
    """Labelled examples for evaluation."""
    init: Path
    """Run or checkpoint (of any format that `import` reads) to start from."""
    layers_to_keep: tuple[int, ...] = FinetuneConfig.layers_to_keep
    """Transformer layers of --init to start with, from 0: 0 2 4 makes a student of 3 layers.
    Default: all."""
    text_column: str | None = None
    """Column of the text, or of the first text of a pair. Default: detected by its name (text,
    sentence, sentence1, premise, question, …), or else the only columns that contain text."""
    text_pair_column: str | None = None
    """Column of the second text of a pair."""
    label_column: str | None = None
    """Column of the class or number. Default: label, or another common name (gold_label,
    is_duplicate, score, …)."""
    negative_column: str | None = None
    """Column of texts that are not similar to the first one, for similarity. Default: columns
    called negative, negative_1, …"""
    word_column: int | None = None
    """Column number of the words in a tagging file, from 1. Default: detected."""
    tag_column: int | None = None
    """Column number of the tags, from 1. Default: the last column; in files with word numbers the
    first column with tags such as B-PER, or CoNLL-U's UPOS."""
    skip_incomplete_rows: bool = False
    """Skip and count rows whose number of columns differs from the header's (GLUE's QQP has some),
    instead of refusing the file."""
    epochs: float = FinetuneConfig.epochs
    """Epochs to train, unless --steps is given."""
    learning_rate: float = TUNING_UPDATES.learning_rate
    """Peak learning rate, reached at the end of the warm-up."""
    max_seq_length: int | None = None
    """Maximum sequence length, in pieces. Longer examples are truncated, or split into several
    (tagging, span). Batches are padded only to their longest example. Default: the encoder's
    maximum; 384 for span."""
    doc_stride: int = FinetuneConfig.doc_stride
    """Stride between the windows of a long passage, in pieces."""
    long: Long = FinetuneConfig.long
    """Parts to read of a text that is too long, for classes or numbers of one text; served models
    read the same. first: its beginning. first-last: beginning and end. mean-of-windows: all of it,
    in windows that overlap by half, whose outputs are averaged."""
    pooling: Pooling | None = None
    """similarity: how the vectors of a text's tokens become one. Default: that of --init, or
    mean."""
    normalize: bool = True
    """similarity: divide vectors by their lengths. Default: as --init does, or yes."""
    dimensions: tuple[int, ...] = ()
    """similarity: sizes that vectors can be shortened to (Matryoshka), for example 384 128 64; the
    loss is the sum over them. Default: only the full size."""
    loss: Literal["auto", VectorLoss] = VectorConfig.loss
    """similarity: in-batch (a positive among all texts of the global batch), triplet (margin),
    cosent (order of the scores), cosine (squared error). auto: cosent for scores, else in-batch."""
    scale: float = VectorConfig.scale
    """Factor on the cosines in the losses in-batch and cosent (1 / temperature)."""
    margin: float = VectorConfig.margin
    """Margin of the loss triplet, in cosine distance."""
    both_directions: bool = VectorConfig.both_directions
    """In the loss in-batch, also predict the anchor of each positive; the two are averaged."""
    layer_decay: float = FinetuneConfig.layer_decay
    """Layer-wise learning-rate decay: ratio of a layer's learning rate to that of the layer above
    (above 0, at most 1)."""
    freeze_layers: int = FinetuneConfig.freeze_layers
    """Number of lowest Transformer layers to freeze, together with the embeddings."""
    class_weights: ClassWeights = FinetuneConfig.class_weights
    """balanced: weight examples inversely to the frequency of their class."""
    metric: str | None = None
    """Metric that selects the best checkpoint. Default: accuracy, pearson, entity_f1, span_f1; for
    similarity spearman, triplet_accuracy or mrr."""
    eval_every_steps: int | None = None
    """Steps between evaluations. Default: one epoch."""
    early_stopping: int | None = None
    """Patience: stop after this many evaluations in a row without improvement. Default: never."""
    blow_up_ratio: float = TUNING_RECOVERY.blow_up_ratio
    """Ratio of the loss to its recent average that counts as divergence. Default: only NaN does."""
    teacher: Path | None = None
    """Tuned run or checkpoint that this model learns from: its answers are soft targets, next to
    the labels (knowledge distillation). It may have another vocabulary, except for span."""
    teacher_weight: float = FinetuneConfig.teacher_weight
    """Share of the teacher's answers in the loss (above 0, at most 1); the labels have the rest."""
    temperature: float = FinetuneConfig.temperature
    """Temperature of the teacher's and the student's probabilities in the soft targets."""
    unlabelled: Path | None = None
    """Further training examples whose labels are not read; they have the teacher's answers only."""
    seed: tuple[int, ...] = FinetuneConfig.seed
    """Seed for new weights, the order of the examples, and dropout. Several seeds make one run each
    and report mean and standard deviation."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: a flag is out of range, or does not fit the task.
        """
        self.engine_config()
        # Only what was given is refused: every default is there for every kind of task.
        if not kind_named(self.task).uses_windows:
            self.refuse_given(f"a {self.task} task has no passages; span has", "doc_stride")
        if self.teacher is None:
            self.refuse_given("needs a `teacher`", "teacher_weight", "temperature")
        if self.steps is not None:
            self.refuse_given("`steps` says how long to train; leave one of the two out", "epochs")

    def engine_config(self) -> FinetuneConfig:
        """Return the engine's config."""
        # None = as the initial model: a default would overrule an imported model's setting.
        normalize = self.normalize if "normalize" in self.given else None
        vectors = config_from(self, VectorConfig, normalize=normalize)
        columns = named_columns(self)
        return config_from(self, FinetuneConfig, columns=columns, vectors=vectors, **self.parts())

    def before_tensorflow(self) -> None:
        """Look for the local files of examples, and for local models.

        Raises:
            InputError: there is none.
        """
        super().before_tensorflow()
        check_files_exist(train=self.train, dev=self.dev, unlabelled=self.unlabelled)
        check_rereadable(train=self.train, unlabelled=self.unlabelled)

    def run(self) -> dict[str, Any]:
        """Train, and return the run's path, its steps, its measures and its speed."""
        from model.finetune import finetune

        result = finetune(self.engine_config())
        print_result(result)
        runs = [as_json(run) for run in result.runs]
        # With one seed, the metrics are at the top: a mean of one run says no more.
        if len(runs) == 1:
            return runs[0]
        return {"runs": runs, "mean": result.mean, "sd": result.standard_deviation}


def as_json(run: "TunedRun") -> dict[str, Any]:
    """Return what `--json` prints of a run."""
    best = run.best
    return {
        "run": str(run.run),
        "task": run.task,
        "seed": run.seed,
        "steps": run.steps,
        "split": run.measured.split,
        **run.measured.values,
        # Without --dev nothing was evaluated, so no checkpoint is the best one.
        **({"best_step": best.step, f"best_{run.metric}": best.value} if best else {}),
        "examples_per_sec": run.examples_per_sec,
        "tokens_per_sec": run.tokens_per_sec,
        "seconds": run.secs,
    }


def print_result(result: "FinetuneResult") -> None:
    """Print the final table: one column per run; for several, also mean and standard deviation."""
    from clozeline.show.evaluation import measure_text

    # Other workers have the same figures.
    if notes.quiet:
        return
    runs, names = result.runs, result.measures
    rows: list[list[object]] = [
        [name.replace("_", " "), *(measure_text(name, run.measured.values[name]) for run in runs)]
        for name in names
    ]
    rows.append(["steps", *(run.steps for run in runs)])
    if any(run.best for run in runs):
        name = f"best {runs[0].metric.replace('_', ' ')}"
        rows += [
            [name, *(measure_text(run.metric, run.best.value) if run.best else "" for run in runs)],
            ["best at step", *(run.best.step if run.best else "" for run in runs)],
        ]
    rows += [
        ["examples/s", *(speed(run.examples_per_sec, ",.1f") for run in runs)],
        ["seconds", *(f"{run.secs:,.1f}" for run in runs)],
    ]
    columns = ["", *(f"seed {run.seed}" for run in runs)]
    if len(runs) > 1:
        columns.append("mean ± sd")
        mean, spread = result.mean, result.standard_deviation
        # The first rows are those of the metrics.
        for row, name in zip(rows, names, strict=False):
            row.append(f"{mean[name]:z.4f} ± {spread[name]:.4f}")
        # Mean and deviation are of metrics only.
        rows[len(names) :] = [[*row, ""] for row in rows[len(names) :]]
    title = f"{runs[0].task}, {runs[0].measured.split} examples, after the last step"
    results.print(table(title, columns, rows))
    for run in runs:
        print_line(f"run: {run.run}")
