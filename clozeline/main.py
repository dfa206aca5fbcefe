"""The front door: `clozeline COMMAND` finds the command, reads its flags and runs it."""

import contextlib
import difflib
import importlib
import io
import logging
import os
import re
import sys
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from pipeline.errors import InputError, JobError


@dataclass(frozen=True)
class Entry:
    """Where a command lives. Its module is imported only when the command is asked for."""

    module: str
    options: str
    summary: str
    imports: tuple[str, ...] = ()  # noisy ones that the command will need anyway


TENSORFLOW = ("tensorflow", "tensorflow_text")

COMMANDS = {
    "demo": Entry("serving.commands", "Demo", "the whole line on text found on this machine"),
    "vocab": Entry("pipeline.commands", "Vocab", "text → WordPiece vocabulary", TENSORFLOW),
    "preprocess": Entry(
        "pipeline.commands", "Preprocess", "text → TFRecords and a manifest", TENSORFLOW
    ),
    "inspect": Entry(
        "pipeline.commands", "Inspect", "look into a dataset and check it", TENSORFLOW
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
        "serving.commands", "Export", "run → SavedModel for a model server", TENSORFLOW
    ),
    "serve": Entry(
        "serving.commands", "Serve", "answer REST and gRPC from exported models", TENSORFLOW
    ),
    "query": Entry("serving.commands", "Query", "ask a running server"),
    "explain": Entry(
        "serving.commands", "Explain", "see what a model computes for a text", TENSORFLOW
    ),
}


def usage() -> str:
    """Return the text of `clozeline --help`."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {entry.summary}" for name, entry in COMMANDS.items()]
    return "\n".join(
        [
            "usage: clozeline COMMAND [flags]",
            "",
            "From raw text to a served BERT:",
            *lines,
            "",
            "`clozeline COMMAND --help` lists a command's flags.",
            "Every command takes --config FILE.yaml (flags by name) and --json.",
        ]
    )


def settings_from_yaml(path: Path, options: type) -> tuple[list[str], dict[str, Any]]:
    """Return what a YAML mapping of option names to values stands for.

    Returns:
        Flags; and the values of positional options by field name, which have no flag.

    Raises:
        InputError: the file cannot be read, is no mapping, or has an option that the command lacks
            or a value that the option cannot have.
    """
    import yaml

    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"--config {path}: cannot be read as YAML: {reason}") from error
    if not isinstance(settings, dict):
        raise InputError(f"--config {path}: expected a mapping of option names to values")
    hints = get_type_hints(options, include_extras=True)
    defaults = {field.name: field.default for field in fields(options)}
    known = _flags(options)
    del known["config"]
    flags: list[str] = []
    positional: dict[str, Any] = {}
    for key, value in settings.items():
        name = str(key).replace("-", "_")
        if name not in known:
            raise InputError(f"--config {path}: unknown option {key!r}{_did_you_mean(name, known)}")
        if value is None is defaults[known[name]]:
            continue  # as if it were not there
        try:
            values = _values(value, hints[known[name]])
            if _is_positional(hints[known[name]]):
                positional[known[name]] = _converted(values, hints[known[name]])
            else:
                flags += _as_words(name.replace("_", "-"), values)
        except ValueError as error:
            raise InputError(f"--config {path}: option {key!r} {error}") from error
    return flags, positional


def _is_positional(hint: Any) -> bool:
    import tyro

    return tyro.conf.Positional in getattr(hint, "__metadata__", ())


def _plain(hint: Any) -> Any:
    """Return a type without its annotations."""
    return hint.__origin__ if hasattr(hint, "__metadata__") else hint


def _values(value: Any, hint: Any) -> bool | list[str]:
    """Return a YAML value as the words of a command line, or as a boolean.

    Raises:
        ValueError: an option of this type cannot have it.
    """
    kind = _plain(hint)
    if kind is bool:
        if not isinstance(value, bool):
            raise ValueError(f"is {value!r}; expected true or false")
        return value
    values = value if isinstance(value, list) and get_origin(kind) is tuple else [value]
    for one in values:
        if isinstance(one, bool):
            raise ValueError(f"is {one} to YAML; put the word in quotes")
        if isinstance(one, (list, dict)):
            raise ValueError(f"is {one!r}; expected a single value")
        if one is None and type(None) not in get_args(kind):
            raise ValueError("has no value; give it one, or leave it out")
    return [*map(str, values)]


def _converted(values: bool | list[str], hint: Any) -> Any:
    """Return the words of a positional option as its type has them."""
    assert isinstance(values, list)
    kind = _plain(hint)
    if get_origin(kind) is tuple:
        return tuple(map(get_args(kind)[0], values))
    return kind(*values)


def _as_words(name: str, values: bool | list[str]) -> list[str]:
    if isinstance(values, bool):
        return [f"--{name}" if values else f"--no-{name}"]
    # Joined: the value may begin with a dash.
    return [f"--{name}={values[0]}"] if len(values) == 1 else [f"--{name}", *values]


def _with_defaults(options: type, defaults: dict[str, Any]) -> type:
    """Return a command's options with defaults for some fields; the command line wins over them."""
    hints = get_type_hints(options, include_extras=True)
    redefined = [(name, hints[name], field(default=value)) for name, value in defaults.items()]
    return make_dataclass(
        options.__name__, redefined, bases=(options,), frozen=True, kw_only=True,
        namespace={"__doc__": options.__doc__},
    )  # fmt: skip


def _flags(options: type) -> dict[str, str]:
    """Return the field of each flag; both with underscores."""
    names = {field.metadata.get("flag", field.name): field.name for field in fields(options)}
    return {flag: name for flag, name in names.items() if flag is not None}


def given_fields(arguments: list[str], options: type) -> frozenset[str]:
    """Return the fields of the options that stand among the arguments, whatever their values."""
    words = {argument.split("=", 1)[0] for argument in arguments if argument.startswith("--")}
    named = {word[2:].replace("-", "_") for word in words}
    named |= {name.removeprefix("no_") for name in named}
    return frozenset(name for flag, name in _flags(options).items() if flag in named)


def _did_you_mean(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def parse(name: str, arguments: list[str]) -> tuple[Any, list[str]]:
    """Return the options of a command and the flags it does not know.

    Raises:
        InputError: a flag is missing, malformed, out of range, or has no effect next to the others.
    """
    import tyro

    entry = COMMANDS[name]
    command = options = getattr(importlib.import_module(entry.module), entry.options)
    arguments = [
        part
        for argument in arguments
        for part in (argument.split("=", 1) if argument.startswith("--config=") else [argument])
    ]
    if arguments.count("--config") > 1:
        raise InputError("--config: given twice; put the flags into one file")
    if "--config" in arguments:
        where = arguments.index("--config")
        if where + 1 == len(arguments):
            raise InputError("--config: expected a YAML file after it")
        flags, positional = settings_from_yaml(Path(arguments[where + 1]), options)
        options, arguments = _with_defaults(options, positional), flags + arguments
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            found, unknown = tyro.cli(
                options,
                args=arguments,
                prog=f"clozeline {name}",
                return_unknown_args=True,
                config=(tyro.conf.OmitArgPrefixes,),
            )
    except SystemExit as stop:
        if stop.code:
            message = _one_line(complaint.getvalue())
            raise InputError(f"{message} (see clozeline {name} --help)") from None
        raise
    return command(**vars(found) | {"given": given_fields(arguments, options)}), unknown


def _one_line(box: str) -> str:
    """Return the first statement of a drawn error box as one line."""
    lines = [line.strip("│ ") for line in re.sub("[╭╮╰╯]", "", box).splitlines()]
    statement = []
    for line in lines[1:]:
        if line.startswith("─"):
            break
        statement.append(line)
    return " ".join(" ".join(statement).split())


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return the exit code: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if arguments else 2
    try:
        return _run(arguments[0], arguments[1:])
    except InputError as error:
        print(f"clozeline: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output has seen enough
        sys.stderr.close()
        return 1
    except (JobError, OSError) as error:  # a full disk, a folder without permission
        print(f"clozeline: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("clozeline: interrupted", file=sys.stderr)
        return 130


def _run(name: str, arguments: list[str]) -> int:
    if name not in COMMANDS:
        hint = _did_you_mean(name, COMMANDS)
        raise InputError(f"unknown command {name!r}{hint} (see clozeline --help)")
    options, unknown = parse(name, arguments)
    if unknown and not getattr(options, "takes_beam_flags", False):
        raise InputError(f"unknown flag {unknown[0]} (see clozeline {name} --help)")
    from pipeline.console import import_quietly, keep_stdout_for_json

    keep_stdout_for_json(options.json)
    # Read by TensorFlow and Keras when they are first imported.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.update(options.environment)
    logging.getLogger().setLevel(logging.ERROR)
    # What fails a worker is raised here again, with the same words.
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    import_quietly(*COMMANDS[name].imports)
    result = options.run(unknown) if unknown else options.run()
    if options.json:
        from pipeline.storage.strict_json import to_json

        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")  # JSON's, whatever the locale's is
        print(to_json(result))
    return 0 if result.get("ok", True) else 1
