"""`clozeline pretrain`: dataset → run."""

from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clozeline.commands.training import TrainingFlags
from clozeline.options import PathText, config_from
from clozeline.show.terminal import notes, print_line, results, speed, table
from model.bert.config import config_named
from model.configs import PretrainConfig
from model.run_config import CURVES
from model.training.config import Initialization
from pipeline.storage.remote import is_remote, is_url

if TYPE_CHECKING:
    from model.pretrain import PretrainResult


RECIPES = Path(str(files("model.recipes")))


@dataclass(frozen=True, kw_only=True)
class Pretrain(TrainingFlags):
    """Pretrain BERT on a dataset, with masked LM and next-sentence prediction.

    If it is started again with the same flags, it resumes from the run's last checkpoint.
    """

    dataset: Path
    """Dataset directory, made by `clozeline preprocess`."""
    model: PathText = PretrainConfig.model
    """Size by name (tiny, mini, small, medium, base, large), or a JSON file with the fields of
    Hugging Face's BertConfig."""
    init: Path | None = None
    """Run or checkpoint (of any format that `import` reads) to start from, instead of --model and
    random weights. The dataset must have its vocabulary."""
    recipe: str | None = field(default=None, metadata={"presets": RECIPES})
    """Named hyperparameters; other flags win. bert-2018: BERT's, the defaults. cpu-hours: for sizes
    up to mini and runs of minutes or hours on a CPU."""
    initialization: Initialization = PretrainConfig.initialization
    """Initial weights of a new model. random: BERT's. neighbours: the heads of the first layer
    attend to neighbouring positions from the start, so that the loss falls earlier.
    neighbours-and-matches: one of them attends to equal pieces in segment A instead, so that next
    sentences are learned earlier; needs 3 attention heads, else it is the same as neighbours."""
    initializer_range: float | None = None
    """Standard deviation of the random initial weights. Default: that of --model (0.02 for a size);
    with another --initialization than random, 0.8 / sqrt(hidden size)."""
    next_sentence_weight: float = PretrainConfig.next_sentence_weight
    """Weight of the next-sentence loss after twice the warm-up, above 0 to 1; before that it is
    1."""
    epochs: float | None = None
    """Epochs to train, instead of --steps. Default: 10."""
    phase2_dataset: Path | None = None
    """Dataset of phase 2, the last steps: longer records of the same text and vocabulary."""
    phase2_steps: int | None = None
    """Number of steps in phase 2. Default: a tenth of all steps."""
    phase2_batch_size: int | None = None
    """Global batch size in phase 2. Default: keeps the tokens per step of phase 1."""
    teacher: Path | None = None
    """Run or checkpoint with the dataset's vocabulary. The last layer learns its relations of
    queries, keys and values (MiniLMv2); width and number of layers may differ."""
    teacher_layer: int | None = None
    """Layer of the teacher to learn from, from 1. Default: the last."""
    relation_heads: int | None = None
    """Number of relation heads; it must divide both hidden sizes. Default: the model's number of
    attention heads."""
    teacher_only: bool = False
    """Learn the relations only, without masked LM and next sentences."""
    eval_every_steps: int | None = None
    """Steps between evaluations on the eval split. Default: only at the end."""
    seed: int = PretrainConfig.seed
    """Seed for the initial weights, the order of the examples, and dropout."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: a flag is out of range, or two exclude each other.
        """
        self.engine_config()
        # The engine cannot tell a model that was given from the default.
        if self.init is not None:
            self.refuse_given("`init` brings its own sizes; leave one of the two out", "model")

    def engine_config(self) -> PretrainConfig:
        """Return the engine's config."""
        return config_from(self, PretrainConfig, **self.parts())

    def before_tensorflow(self) -> None:
        """Look for the local datasets and models, and check the size of a new one.

        Raises:
            InputError: there is none, or a file of a dataset is missing or truncated.
        """
        from pipeline.manifest import read_manifest

        super().before_tensorflow()
        if self.init is None and not is_url(self.model):
            config_named(self.model, vocab_size=1)  # the dataset's comes with the training
        for dataset in (self.dataset, self.phase2_dataset):
            if dataset is not None and not is_remote(dataset):
                read_manifest(dataset)

    def run(self) -> dict[str, Any]:
        """Train, and return the run's path, its steps, its losses and its speed."""
        from model.pretrain import pretrain

        result = pretrain(self.engine_config())
        print_result(result)
        return {
            "run": str(result.run),
            "model": result.model,
            "steps": result.steps,
            "split": result.measured.split,
            **result.measured.values,
            "tokens_per_sec": result.tokens_per_sec,
            "mfu": result.mfu,
            "seconds": result.secs,
        }


def print_result(result: "PretrainResult") -> None:
    """Print the final table, on the chief only."""
    # Other workers have the same figures.
    if notes.quiet:
        return
    split, values = result.measured.split, result.measured.values
    rows: list[tuple[str, object]] = []
    if "relation_loss" in values:
        rows.append((f"relation divergence ({split})", f"{values['relation_loss']:z.4f} nats"))
    # Absent with --teacher-only.
    if "masked_lm_loss" in values:
        rows += [
            (f"masked LM loss ({split})", f"{values['masked_lm_loss']:.4f} nats"),
            ("masked LM accuracy", f"{values['masked_lm_accuracy']:.2%}"),
        ]
    # Absent with --teacher-only, and for a dataset without pairs.
    if "next_sentence_loss" in values:
        rows += [
            ("next-sentence loss", f"{values['next_sentence_loss']:.4f} nats"),
            ("next-sentence accuracy", f"{values['next_sentence_accuracy']:.2%}"),
        ]
    rows += [
        ("steps", result.steps),
        ("tokens/s, padding included", speed(result.tokens_per_sec, ",.0f")),
        ("model FLOP utilization", speed(result.mfu, ".1%")),
        ("seconds", f"{result.secs:,.1f}"),
    ]
    results.print(table(f"run {result.run}", ("", Path(result.model).name), rows))
    curves = result.run / CURVES
    if curves.exists():
        print_line(f"curves: {curves}")
