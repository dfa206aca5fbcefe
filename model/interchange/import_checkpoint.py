"""Import a checkpoint of another format as a run, and report missing and unused weights."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from model.configs import Casing, ImportConfig
from model.interchange.detect import read_checkpoint
from model.interchange.foreign_checkpoint import Imported
from model.run import write_run
from model.run_config import RunConfig, TextFacts
from model.tasks.task_kind import Task
from pipeline.errors import InputError
from pipeline.manifest import sha256
from pipeline.storage.locks import only_writer_of_outputs

if TYPE_CHECKING:
    from model.bert.network import Variables


@dataclass(frozen=True)
class ImportResult:
    """An imported run.

    Attributes:
        run: its directory.
        imported: contents of the checkpoint: weights, and names of missing and unused ones.
    """

    run: Path
    imported: Imported

    @property
    def parameters(self) -> int:
        """How many numbers the imported weights have."""
        return sum(values.size for values in self.imported.weights.values())


def import_checkpoint(config: ImportConfig) -> ImportResult:
    """Import a checkpoint as a run.

    Raises:
        InputError: the checkpoint is not supported, or the run already exists or is being
            written by another process.
    """
    with only_writer_of_outputs(config.outputs):
        read = read_checkpoint(config.from_dir, config.caching)
        imported = _as_asked(read, config.casing, config.takes_pairs)
        variables = _variables(imported, config.seed)
        write_run(config.run_dir, _run_config(imported), imported.vocabulary, variables)
    return ImportResult(config.run_dir, imported)


def _as_asked(imported: Imported, casing: Casing, takes_pairs: bool) -> Imported:
    """Return the checkpoint with the user's casing and number of texts applied."""
    if casing != "auto":
        imported = replace(imported, lower_case=casing == "uncased")
    task = imported.task
    if not takes_pairs or (task and task.takes_pairs):
        return imported
    kind = task.definition.name_for_pairs if task else None
    if task is None or kind is None:
        raise InputError(f"`takes_pairs`: {imported.path} is not a text classifier")
    return replace(imported, task=Task(kind, task.labels, takes_pairs=True))


def _run_config(imported: Imported) -> RunConfig:
    facts = TextFacts(sha256(imported.vocabulary), imported.lower_case, imported.max_seq_length)
    return RunConfig(imported.config, None, facts, heads=imported.heads, task=imported.task)


def _variables(imported: Imported, seed: int) -> "Variables":
    """Return our model's variables with the checkpoint's weights; others are random (`seed`)."""
    import keras

    from model.bert.network import build_model, weights_by_name

    # Weights that the checkpoint lacks are random, and must be the same in each import.
    keras.utils.set_random_seed(seed)
    variables = weights_by_name(build_model(imported.config, imported.task))
    for path, values in imported.weights.items():
        variables[path].assign(values)
    return variables
