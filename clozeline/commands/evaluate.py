"""`clozeline evaluate`: measures of a tuned run on labelled examples."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from clozeline.commands.caching import RunReader
from clozeline.commands.training import named_columns
from clozeline.options import config_from
from clozeline.show.terminal import print_line
from model.configs import EvaluateConfig
from model.existing import check_files_exist
from model.run_config import Checkpoint
from pipeline.progress import counted
from pipeline.storage.outputs import Output
from pipeline.storage.remote import is_remote

if TYPE_CHECKING:
    from model.evaluate import EvaluationResult


@dataclass(frozen=True, kw_only=True)
class Evaluate(RunReader):
    """Evaluate a fine-tuned run on labelled examples and show those with the highest loss."""

    # The front door calls options.run(), so the field has another name than its flag.
    run_dir: Annotated[Path, tyro.conf.arg(name="run")] = field(metadata={"flag": "run"})
    """Directory of the fine-tuned run."""
    data: Path
    """Examples in the training file's format. Without labels, only --predictions is written. For
    vectors, also a folder in BEIR's layout: corpus.jsonl, queries.jsonl, qrels/NAME.tsv."""
    split: str | None = None
    """NAME of the file in qrels/. Default: test, or the only one."""
    text_column: str | None = None
    """Column of the text, or of the first text of a pair. Default: detected, as in finetune."""
    text_pair_column: str | None = None
    """Column of the second text of a pair."""
    label_column: str | None = None
    """Column of the class or number. Default: detected, as in finetune."""
    negative_column: str | None = None
    """Column of texts that are not similar to the first one. Default: detected, as in finetune."""
    label_map: tuple[str, ...] = ()
    """Map the file's labels to the run's, each as FILE=RUN, for example 0=entailment. Default:
    equal names; LABEL_0 also matches 0."""
    word_column: int | None = None
    """Column number of the words in a tagging file, from 1. Default: detected."""
    tag_column: int | None = None
    """Column number of the tags, from 1. Default: detected, as in finetune."""
    skip_incomplete_rows: bool = False
    """Skip rows whose number of columns differs from the header's."""
    checkpoint: Checkpoint = EvaluateConfig.checkpoint
    """best: by evaluation metric. last: most recent. auto: best if it exists, else last."""
    batch_size: int = EvaluateConfig.batch_size
    """Batch size."""
    worst: int = 10
    """Number of examples with the highest loss to show."""
    predictions: Path | None = None
    """File to write all predictions to, as JSON Lines."""
    picture: Path | None = None
    """PNG file to write: the confusion matrix, or a scatter plot for a regression."""
    xla: bool = EvaluateConfig.xla
    """Compile with XLA, as in training."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: a flag is out of range.
        """
        self.engine_config()

    def engine_config(self) -> EvaluateConfig:
        """Return the engine's config."""
        # Given explicitly, it is an error for a file without labels; as a default it is not.
        worst = self.worst if "worst" in self.given else None
        return config_from(self, EvaluateConfig, columns=named_columns(self), worst=worst)

    @property
    def outputs(self) -> list[Output]:
        """Files and folders that the command writes."""
        return self.engine_config().outputs

    def before_tensorflow(self) -> None:
        """Look for a local run and local examples.

        Raises:
            InputError: there is none.
        """
        super().before_tensorflow()
        if is_remote(self.data) or not self.data.is_dir():  # for vectors, a folder
            check_files_exist(data=self.data)

    def run(self) -> dict[str, Any]:
        """Evaluate, and return the measures, the confusion and the worst answers."""
        from model.evaluate import evaluate_run

        result = evaluate_run(self.engine_config())
        show(result)
        return as_json(result)


def show(result: "EvaluationResult") -> None:
    """Print the metrics, the confusion matrix, the worst mistakes, and the written files."""
    from clozeline.show.evaluation import print_confusion, print_measures, print_worst

    if result.predictions:
        print_line(f"answers: {result.predictions}")
    evaluation = result.evaluation
    # Without labels there is nothing to measure.
    if evaluation is None:
        return
    title = f"{result.data}: {counted(len(evaluation.answers), 'examples')}"
    if evaluation.tag_scheme:
        title += f", tag scheme {evaluation.tag_scheme}"
    print_measures(title, evaluation.measures)
    print_confusion(evaluation, result.task)
    print_worst(result.worst)
    if result.picture:
        print_line(f"picture: {result.picture}")


def as_json(result: "EvaluationResult") -> dict[str, Any]:
    """Return what `--json` prints."""
    found: dict[str, Any] = {
        "run": str(result.run),
        "data": str(result.data),
        "examples": len(result.answers),
    }
    if result.predictions:
        found["predictions"] = str(result.predictions)
    if result.unlabelled:
        found["unlabelled"] = result.unlabelled
    evaluation = result.evaluation
    if evaluation is None:
        return found
    if evaluation.tag_scheme:
        found["tag_scheme"] = evaluation.tag_scheme
    if result.picture:
        found["picture"] = str(result.picture)
    if evaluation.confusion is not None:
        # Labels with the matrix: its rows have no names of their own.
        found |= {
            "labels": list(result.task.labels),
            "confusion": evaluation.confusion.tolist(),
        }
    return found | evaluation.measures | {"worst": list(result.worst)}
