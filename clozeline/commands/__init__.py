"""The table of commands; a command's module is imported when the command runs."""

import importlib
from dataclasses import dataclass

from clozeline.options import Command, as_flags


@dataclass(frozen=True)
class Entry:
    """An entry of `COMMANDS`.

    Attributes:
        module: module of the command; imported only when the command runs.
        options: name of the options class in the module.
        summary: description for `clozeline --help`.
        imports: modules whose import prints to standard error, imported quietly in advance.
    """

    module: str
    options: str
    summary: str
    imports: tuple[str, ...] = ()


TENSORFLOW = ("tensorflow", "tensorflow_text")

# Without TENSORFLOW, whose import takes seconds: those that start other commands, calculate, or
# ask a server.
COMMANDS = {
    "demo": Entry("clozeline.commands.demo", "Demo", "run all steps on text found on this machine"),
    "vocab": Entry(
        "clozeline.commands.vocab", "Vocab", "learn a WordPiece vocabulary from text", TENSORFLOW
    ),
    "preprocess": Entry(
        "clozeline.commands.preprocess", "Preprocess", "convert text to TFRecords", TENSORFLOW
    ),
    "inspect": Entry(
        "clozeline.commands.inspect", "Inspect", "check a dataset and show its contents", TENSORFLOW
    ),
    "plan": Entry(
        "clozeline.commands.plan", "Planning", "estimate time, memory and cost of a pretraining"
    ),
    "pretrain": Entry(
        "clozeline.commands.pretrain",
        "Pretrain",
        "train on a dataset, or resume training",
        TENSORFLOW,
    ),
    "launch": Entry(
        "clozeline.commands.launch", "Launch", "train with several workers on this machine"
    ),
    "import": Entry(
        "clozeline.commands.import_checkpoint",
        "Import",
        "create a run from a published checkpoint",
        TENSORFLOW,
    ),
    "export-hf": Entry(
        "clozeline.commands.export_hugging_face",
        "ExportHuggingFace",
        "write a run in Hugging Face's format",
        TENSORFLOW,
    ),
    "finetune": Entry(
        "clozeline.commands.finetune",
        "Finetune",
        "fine-tune a run on labelled examples",
        TENSORFLOW,
    ),
    "evaluate": Entry(
        "clozeline.commands.evaluate",
        "Evaluate",
        "evaluate a fine-tuned run on examples",
        TENSORFLOW,
    ),
    "export": Entry(
        "clozeline.commands.export", "Export", "export a run for a model server", TENSORFLOW
    ),
    "serve": Entry(
        "clozeline.commands.serve", "Serve", "serve exported models over REST and gRPC", TENSORFLOW
    ),
    "query": Entry("clozeline.commands.query", "Query", "send a request to a running server"),
    "explain": Entry(
        "clozeline.commands.explain", "Explain", "show what a model computes for a text", TENSORFLOW
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
        message: message of the engine.
        name: name of the running command; flags of other commands are recognized too.
    """
    # Most messages name no field; only for the others are all commands imported.
    if "`" not in message or name not in COMMANDS:
        return message
    return as_flags(message, options_of(name), *map(options_of, COMMANDS))
