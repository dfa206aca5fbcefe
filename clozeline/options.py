"""A command's options: a dataclass, read from flags (tyro) and a YAML file of flags by name."""

import contextlib
import difflib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import tyro

from pipeline.errors import InputError

InputGlobs = Annotated[tuple[str, ...], tyro.conf.arg(metavar="GLOB [GLOB ...]")]


@dataclass(frozen=True, kw_only=True)
class Command:
    """What every command takes.

    A field whose flag has another name (`--run`, since the front door calls `options.run()`) has it
    twice: for tyro (`tyro.conf.arg(name="run")`), and as `metadata={"flag": "run"}`. Messages name
    fields in backquotes; `as_flags` makes flags of them.
    """

    config: Path | None = None
    """YAML file with flags by name; flags on the command line win."""
    json: bool = False
    """Print the result as JSON on standard output; everything else goes to standard error."""
    given: Annotated[frozenset[str], tyro.conf.Fixed, tyro.conf.Suppress] = field(
        default=frozenset(), metadata={"flag": None}
    )
    """Names of the options that the user named, which the front door knows."""

    def refuse_given(self, reason: str, *names: str) -> None:
        """Refuse options that have no effect next to the others.

        Args:
            reason: why they have none, and what to do.
            names: of the options.

        Raises:
            InputError: the user named one of them.
        """
        for name in names:
            if name in self.given:
                raise InputError(f"`{name}`: {reason}")

    @property
    def environment(self) -> dict[str, str]:
        """Variables to set in the process's environment before anything heavy is imported."""
        return {}

    def run(self) -> dict[str, Any]:
        """Do the work and print what came of it.

        Returns:
            What `--json` prints. An "ok" in it that is false means exit code 1.
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class BeamCommand(Command):
    """A command that passes the flags which it does not know on to Apache Beam."""

    def run(self, beam_flags: Sequence[str] = ()) -> dict[str, Any]:
        """Do the work, as other commands do."""
        raise NotImplementedError


Options = TypeVar("Options", bound=Command)


def as_flags(message: str, options: type[Command], *others: type[Command]) -> str:
    """Return a message with flags in place of the fields that it names in backquotes.

    Args:
        message: of the engine, such as "`batch_size` 7: must be a multiple of 2".
        options: of the command that runs; its positional options become their names in capitals.
        others: of other commands, whose flags a message may recommend.
    """
    known: dict[str, str] = {}
    for each in (*reversed(others), options):
        known |= _spellings(each)
    return re.sub(r"`(\w+)`", lambda named: known.get(named[1], named[0]), message)


def _spellings(options: type[Command]) -> dict[str, str]:
    """Return what a user types for each field: its flag, or the name of a positional option."""
    hints = get_type_hints(options, include_extras=True)
    return {
        name: flag.upper() if _is_positional(hints[name]) else "--" + flag.replace("_", "-")
        for flag, name in _flags(options).items()
    }


def parse_options(
    options: type[Options], prog: str, arguments: list[str]
) -> tuple[Options, list[str]]:
    """Return a command's options, and the flags that it does not know.

    Args:
        options: the command's dataclass.
        prog: how the command is called, for messages.
        arguments: the words after it.

    Raises:
        InputError: a flag is missing, malformed, out of range, or has no effect next to the others.
    """
    arguments = [
        part
        for argument in arguments
        for part in (argument.split("=", 1) if argument.startswith("--config=") else [argument])
    ]
    if arguments.count("--config") > 1:
        raise InputError("`config`: given twice; put the flags into one file")
    positional: dict[str, Any] = {}
    if "--config" in arguments:
        where = arguments.index("--config")
        if where + 1 == len(arguments):
            raise InputError("`config`: expected a YAML file after it")
        flags, positional = settings_from_yaml(Path(arguments[where + 1]), options)
        arguments = flags + arguments
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            found, unknown = tyro.cli(
                options,
                args=arguments,
                prog=prog,
                default=_defaults(options, positional) if positional else tyro.MISSING_NONPROP,
                return_unknown_args=True,
                config=(tyro.conf.OmitArgPrefixes,),
            )
    except SystemExit as stop:
        if stop.code:
            message = _one_line(complaint.getvalue())
            raise InputError(f"{message} (see {prog} --help)") from None
        raise
    return options(**vars(found) | {"given": _given_fields(arguments, options)}), unknown


def settings_from_yaml(path: Path, options: type[Command]) -> tuple[list[str], dict[str, Any]]:
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
        raise InputError(f"`config` {path}: cannot be read as YAML: {reason}") from error
    if not isinstance(settings, dict):
        raise InputError(f"`config` {path}: expected a mapping of option names to values")
    hints = get_type_hints(options, include_extras=True)
    defaults = {field.name: field.default for field in fields(options)}
    known = _flags(options)
    del known["config"]
    flags: list[str] = []
    positional: dict[str, Any] = {}
    for key, value in settings.items():
        name = str(key).replace("-", "_")
        if name not in known:
            raise InputError(f"`config` {path}: unknown option {key!r}{did_you_mean(name, known)}")
        if value is None is defaults[known[name]]:
            continue  # as if it were not there
        try:
            values = _values(value, hints[known[name]])
            if _is_positional(hints[known[name]]):
                positional[known[name]] = _converted(values, hints[known[name]])
            else:
                flags += _as_words(name.replace("_", "-"), values)
        except ValueError as error:
            raise InputError(f"`config` {path}: option {key!r} {error}") from error
    return flags, positional


def _is_positional(hint: Any) -> bool:
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


def _defaults(options: type[Options], values: Mapping[str, Any]) -> Options:
    """Return options to start from: some fields' values, and for the others what the class says.

    `__post_init__` must not see them: required fields still lack a value.
    """
    made = object.__new__(options)
    for each in fields(options):
        default = tyro.MISSING if each.default is MISSING else each.default
        object.__setattr__(made, each.name, values.get(each.name, default))
    return made


def _flags(options: type[Command]) -> dict[str, str]:
    """Return the field of each flag; both with underscores."""
    names = {field.metadata.get("flag", field.name): field.name for field in fields(options)}
    return {flag: name for flag, name in names.items() if flag is not None}


def _given_fields(arguments: list[str], options: type[Command]) -> frozenset[str]:
    """Return the fields of the options that stand among the arguments, whatever their values."""
    words = {argument.split("=", 1)[0] for argument in arguments if argument.startswith("--")}
    named = {word[2:].replace("-", "_") for word in words}
    named |= {name.removeprefix("no_") for name in named}
    return frozenset(name for flag, name in _flags(options).items() if flag in named)


def did_you_mean(word: str, known: Any) -> str:
    """Return the end of a message about an unknown word: the known one that is close, if any."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _one_line(box: str) -> str:
    """Return the first statement of the error box that tyro draws as one line.

    What it prints is all that tyro's public API tells of an error: its structured events
    (`tyro._errors`) are private, and may change in any release.
    """
    lines = [line.strip("│ ") for line in re.sub("[╭╮╰╯]", "", box).splitlines()]
    statement = []
    for line in lines[1:]:
        if line.startswith("─"):
            break
        statement.append(line)
    return " ".join(" ".join(statement).split())
