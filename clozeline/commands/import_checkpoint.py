"""`clozeline import`: a published checkpoint → run."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.table import Table

from clozeline.commands.caching import CachingCommand
from clozeline.options import config_from
from clozeline.show.terminal import results, table
from model.configs import Casing, ImportConfig
from model.existing import check_checkpoint_directory
from pipeline.storage.outputs import Output
from pipeline.storage.remote import is_remote

if TYPE_CHECKING:
    from model.interchange.import_checkpoint import ImportResult


@dataclass(frozen=True, kw_only=True)
class Import(CachingCommand):
    """Import a published BERT as a run: to train it further, fine-tune, explain or serve it.

    Reads directories of Hugging Face (safetensors) and sentence-transformers, TensorFlow 1
    checkpoints of google-research/bert, and KerasHub presets; the format is auto-detected. Pickles
    are never read.
    """

    # `from` is Python's, and the front door calls options.run().
    from_dir: Annotated[Path, tyro.conf.arg(name="from")] = field(metadata={"flag": "from"})
    """Directory of the checkpoint."""
    run_dir: Annotated[Path, tyro.conf.arg(name="run")] = field(metadata={"flag": "run"})
    """Run directory to create."""
    casing: Casing = ImportConfig.casing
    """cased: keep capitals and accents. auto: as the checkpoint's files say; otherwise cased if its
    vocabulary contains capitals."""
    takes_pairs: bool = ImportConfig.takes_pairs
    """Set this for a classifier of text pairs, since no format stores it. Default: single texts."""
    seed: int = ImportConfig.seed
    """Seed for weights missing from the checkpoint, such as a head or the pooler."""

    def engine_config(self) -> ImportConfig:
        """Return the engine's config."""
        return config_from(self, ImportConfig)

    @property
    def outputs(self) -> list[Output]:
        """Files and folders that the command writes."""
        return self.engine_config().outputs

    def before_tensorflow(self) -> None:
        """Look for a local checkpoint; a remote one takes requests.

        Raises:
            InputError: it does not exist, or is not a directory.
        """
        if not is_remote(self.from_dir):
            check_checkpoint_directory(self.from_dir)

    def run(self) -> dict[str, Any]:
        """Import; return the run's properties, and the missing and unused weights."""
        from model.interchange.import_checkpoint import import_checkpoint

        result = import_checkpoint(self.engine_config())
        results.print(as_table(result))
        return as_json(result)


def as_json(result: "ImportResult") -> dict[str, Any]:
    """Return what `--json` prints."""
    imported = result.imported
    return {
        "run": str(result.run),
        "from": str(imported.path),
        "format": imported.form,
        "model": imported.config.to_dict(),
        "parameters": result.parameters,
        "lower_case": imported.lower_case,
        "max_seq_length": imported.max_seq_length,
        "heads": list(imported.heads),
        "task": imported.task.to_dict() if imported.task else None,
        "not_found": list(imported.missing),
        "not_used": list(imported.unused),
        "notes": list(imported.notes),
    }


def as_table(result: "ImportResult") -> Table:
    """Return a summary of the import, one fact per line."""
    from model.interchange.foreign_checkpoint import FORMAT_NAMES, by_layer

    imported = result.imported
    config, task = imported.config, imported.task
    rows = [
        ("from", f"{imported.path} ({FORMAT_NAMES[imported.form]})"),
        ("encoder", f"{config.num_hidden_layers} × {config.hidden_size}, {config.hidden_act}"),
        ("parameters", f"{result.parameters:,}"),
        ("texts", f"{config.vocab_size:,} pieces, {'un' if imported.lower_case else ''}cased, "
                  f"up to {imported.max_seq_length} of them"),
        ("heads", ", ".join(imported.heads) or "none"),
        ("task", f"{task.kind}: {', '.join(task.labels)}".rstrip(": ") if task else "none"),
        ("not found", by_layer(imported.missing) or "nothing"),
        ("not used", by_layer(imported.unused) or "nothing"),
    ]  # fmt: skip
    made = table(f"Run {result.run}", ["", "imported"], rows, text_columns=frozenset({0, 1}))
    # Notes quote the checkpoint's files, whose text may look like markup.
    made.caption = "\n".join(imported.notes) or None
    made.caption_justify = "left"
    return made
