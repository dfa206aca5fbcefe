"""The table of commands; the module of one is imported when it is asked for."""

import importlib
from dataclasses import dataclass

from clozeline.options import Command, as_flags


@dataclass(frozen=True)
class Entry:
    """Where a command lives. Its module is imported only when the command is asked for."""

    module: str
    options: str
    summary: str
    imports: tuple[str, ...] = ()  # noisy ones that the command will need anyway


TENSORFLOW = ("tensorflow", "tensorflow_text")

COMMANDS = {
    "demo": Entry(
        "clozeline.commands.demo", "Demo", "the whole line on text found on this machine"
    ),
    "vocab": Entry("clozeline.commands.vocab", "Vocab", "text → WordPiece vocabulary", TENSORFLOW),
    "preprocess": Entry(
        "clozeline.commands.preprocess", "Preprocess", "text → TFRecords and a manifest", TENSORFLOW
    ),
    "inspect": Entry(
        "clozeline.commands.inspect", "Inspect", "look into a dataset and check it", TENSORFLOW
    ),
    "pretrain": Entry(
        "model.commands", "Pretrain", "dataset → run (MLM + NSP); again resumes", TENSORFLOW
    ),
    "import": Entry(
        "model.commands", "Import", "Hugging Face, TF1, KerasHub checkpoint → run", TENSORFLOW
    ),
    "export-hf": Entry(
        "model.commands", "ExportHuggingFace", "run → Hugging Face directory", TENSORFLOW
    ),
    "finetune": Entry(
        "model.commands", "Finetune", "labelled examples → tuned run; again resumes", TENSORFLOW
    ),
    "evaluate": Entry(
        "model.commands", "Evaluate", "measure a tuned run on labelled examples", TENSORFLOW
    ),
    "export": Entry(
        "clozeline.commands.export", "Export", "run → SavedModel for a model server", TENSORFLOW
    ),
    "serve": Entry(
        "clozeline.commands.serve", "Serve", "answer REST and gRPC from exported models", TENSORFLOW
    ),
    "query": Entry("clozeline.commands.query", "Query", "ask a running server"),
    "explain": Entry(
        "clozeline.commands.explain", "Explain", "see what a model computes for a text", TENSORFLOW
    ),
}


def options_of(name: str) -> type[Command]:
    """Import a command's module and return its options."""
    entry = COMMANDS[name]
    options: type[Command] = getattr(importlib.import_module(entry.module), entry.options)
    return options


def spelled(message: str, name: str) -> str:
    """Return a message of the engine with flags for the fields that it names in backquotes.

    Args:
        message: what to print.
        name: of the command that runs; the flags of the others are known too.
    """
    if "`" not in message or name not in COMMANDS:
        return message
    return as_flags(message, options_of(name), *map(options_of, COMMANDS))
