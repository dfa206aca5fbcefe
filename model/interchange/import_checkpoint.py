"""Import a checkpoint of another format as a run, and report missing and unused weights."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from rich.markup import escape

from model.interchange.detect import read_checkpoint
from model.interchange.foreign_checkpoint import FORMAT_NAMES, Imported, by_layer
from model.run import write_run
from model.run_config import RunConfig, TextFacts
from model.tasks.kinds import Task
from pipeline.console import results, table
from pipeline.errors import InputError
from pipeline.manifest import sha256

Casing = Literal["auto", "cased", "uncased"]


def import_checkpoint(
    source: Path, run: Path, *, casing: Casing, takes_pairs: bool, seed: int
) -> dict[str, Any]:
    """Import a checkpoint as a run, and print a summary.

    Args:
        source: directory of the checkpoint.
        run: directory of the run to create.
        casing: whether texts are lower-cased; auto = as the checkpoint's files say.
        takes_pairs: whether the classifier takes two texts; no format stores this.
        seed: seed for weights missing from the checkpoint.

    Returns:
        The JSON result of the command.

    Raises:
        InputError: the checkpoint is not supported, or the run already exists.
    """
    imported = _as_asked(read_checkpoint(source), casing, takes_pairs)
    write_run(run, _run_config(imported), imported.vocabulary, _variables(imported, seed))
    results.print(_table(imported, run))
    return _as_result(imported, run)


def _as_asked(imported: Imported, casing: Casing, takes_pairs: bool) -> Imported:
    """Return the checkpoint with the user's casing and number of texts applied."""
    if casing != "auto":
        imported = replace(imported, lower_case=casing == "uncased")
    task = imported.task
    if not takes_pairs or (task and task.takes_pairs):
        return imported
    kind = task.definition.name_for_pairs if task else None
    if task is None or kind is None:
        raise InputError(f"--takes-pairs: {imported.path} is not a text classifier")
    return replace(imported, task=Task(kind, task.labels, takes_pairs=True))


def _run_config(imported: Imported) -> RunConfig:
    facts = TextFacts(sha256(imported.vocabulary), imported.lower_case, imported.max_seq_length)
    return RunConfig(imported.config, None, facts, heads=imported.heads, task=imported.task)


def _variables(imported: Imported, seed: int) -> dict[str, Any]:
    """Return our model's variables with the checkpoint's weights; others are random (`seed`)."""
    import keras

    from model.bert.network import build_model, weights_by_name

    keras.utils.set_random_seed(seed)
    variables = weights_by_name(build_model(imported.config, imported.task))
    for path, values in imported.weights.items():
        variables[path].assign(values)
    return variables


def _as_result(imported: Imported, run: Path) -> dict[str, Any]:
    return {
        "run": str(run),
        "from": str(imported.path),
        "format": imported.form,
        "model": imported.config.to_dict(),
        "parameters": sum(values.size for values in imported.weights.values()),
        "lower_case": imported.lower_case,
        "max_seq_length": imported.max_seq_length,
        "heads": list(imported.heads),
        "task": asdict(imported.task) if imported.task else None,
        "not_found": list(imported.missing),
        "not_used": list(imported.unused),
        "notes": list(imported.notes),
    }


def _table(imported: Imported, run: Path) -> Any:
    """Return a summary of the imported checkpoint as a table."""
    config, task = imported.config, imported.task
    size = sum(values.size for values in imported.weights.values())
    rows = [
        ("from", f"{imported.path} ({FORMAT_NAMES[imported.form]})"),
        ("encoder", f"{config.num_hidden_layers} × {config.hidden_size}, {config.hidden_act}"),
        ("parameters", f"{size:,}"),
        ("texts", f"{config.vocab_size:,} pieces, {'un' if imported.lower_case else ''}cased, "
                  f"up to {imported.max_seq_length} of them"),
        ("heads", ", ".join(imported.heads) or "none"),
        ("task", f"{task.kind}: {', '.join(task.labels)}".rstrip(": ") if task else "none"),
        ("not found", by_layer(imported.missing) or "nothing"),
        ("not used", by_layer(imported.unused) or "nothing"),
    ]  # fmt: skip
    result = table(f"Run {run}", ["", "imported"], rows, text_columns=frozenset({0, 1}))
    result.caption = escape("\n".join(imported.notes)) or None
    result.caption_justify = "left"
    return result
