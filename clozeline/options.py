"""Parse a command's options, a dataclass, from flags (with tyro) and a YAML file."""

import contextlib
import difflib
import io
import itertools
import os
import re
import reprlib
import shutil
import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from pathlib import Path
from typing import IO, Annotated, Any, TypeVar, cast, get_args, get_origin, get_type_hints

import docstring_parser
import tyro

from pipeline.errors import InputError, did_you_mean
from pipeline.progress import MIN_COLUMNS
from pipeline.standard_streams import StandardOutput
from pipeline.storage.outputs import Output
from pipeline.storage.remote import path_from
from pipeline.storage.yaml_files import read_yaml

Config = TypeVar("Config")

_TYPES = tyro.constructors.ConstructorRegistry()
"""Conversion of words to values where tyro's is not what we want."""


@_TYPES.primitive_rule
def _path_rule(
    info: tyro.constructors.PrimitiveTypeInfo,
) -> tyro.constructors.PrimitiveConstructorSpec[Path] | None:
    if info.type is not Path:
        return None
    # tyro itself would turn `gs://b` into `gs:/b`.
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=lambda words: _path(words[0]),
        is_instance=lambda value: isinstance(value, Path) or hasattr(value, "joinpath"),
        str_from_instance=lambda path: [str(path)],
    )


@_TYPES.primitive_rule
def _number_rule(
    info: tyro.constructors.PrimitiveTypeInfo,
) -> tyro.constructors.PrimitiveConstructorSpec[float] | None:
    if info.type not in (int, float):
        return None
    kind = cast(type[float], info.type)

    def number(word: str) -> float:
        try:
            return kind(word)
        except ValueError:
            expected = "an integer" if kind is int else "a number"
            raise ValueError(f"expected {expected}, got {reprlib.repr(word)}") from None

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=kind.__name__.upper(),
        instance_from_str=lambda words: number(words[0]),
        is_instance=lambda value: isinstance(value, (int, kind)) and not isinstance(value, bool),
        str_from_instance=lambda value: [str(value)],
    )


@_TYPES.primitive_rule
def _optional_rule(
    info: tyro.constructors.PrimitiveTypeInfo,
) -> tyro.constructors.PrimitiveConstructorSpec[Any] | None:
    """Let an option that may be None look like others, in help and errors; `None` is taken, too."""
    kinds = get_args(info.type)
    if len(kinds) != 2 or kinds[1] is not type(None):
        return None
    inner = tyro.constructors.PrimitiveTypeInfo.make(kinds[0], set(info.markers))
    spec = tyro.constructors.ConstructorRegistry.get_primitive_spec(inner)
    if not isinstance(spec, tyro.constructors.PrimitiveConstructorSpec):
        return None
    return replace(
        spec,
        instance_from_str=lambda words: (
            None if words == ["None"] else spec.instance_from_str(words)
        ),
        is_instance=lambda value: value is None or spec.is_instance(value),
        str_from_instance=lambda value: (
            ["None"] if value is None else spec.str_from_instance(value)
        ),
        choices=spec.choices and (*spec.choices, "None"),
    )


def _expanded(text: str) -> str:
    """Return a path or a glob with the home directory in place of `~`.

    A shell expands `~/x` only where it is a word of its own without quotes.
    """
    return os.path.expanduser(text)  # noqa: PTH111  (a `Path` would change a URL)


def _path(text: str) -> Path:
    """Return a path; tyro names the flag of a `ValueError`."""
    if not text:
        raise ValueError("expected a path, got an empty text")
    return path_from(_expanded(text))


MISSPELLED = 0.85
"""Similarity (`difflib`) from which an unknown flag is a misspelled one of ours and not one of
Beam's, of which none is so similar."""

PathText = Annotated[
    str,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="STR",
        instance_from_str=lambda words: _expanded(words[0]),
        is_instance=lambda value: isinstance(value, str),
        str_from_instance=lambda text: [text],
    ),
]
"""A path, a URL or a glob that stays a text."""

InputGlobs = Annotated[tuple[PathText, ...], tyro.conf.arg(metavar="GLOB [GLOB ...]")]


@dataclass(frozen=True, kw_only=True)
class Command(ABC):
    """Options of all commands.

    A field can have a flag with another name (`run_dir` has `--run`, since `run` is a method). The
    name must then be given twice: to tyro (`tyro.conf.arg(name="run")`), and as
    `metadata={"flag": "run"}`. Messages name fields in backquotes; `as_flags` replaces them by
    flags. A field with `metadata={"presets": FOLDER}` names a YAML file in that folder, whose
    values replace the defaults; those of `config` and of the command line win. With
    `"presets_of": COMMAND`, the values of options that only that command has are left out.

    A field with `metadata={"switch": (ON, OFF)}` can also be given as a boolean: `--name` and
    `true` in YAML mean ON, `--no-name` and `false` mean OFF.
    """

    config: Path | None = None
    """YAML file with flags by name; flags on the command line win."""
    json: bool = False
    """Print the result as JSON on standard output; everything else goes to standard error."""
    given: Annotated[frozenset[str], tyro.conf.Fixed, tyro.conf.Suppress] = field(
        default=frozenset(), metadata={"flag": None}
    )
    """Names of the options that the user gave on the command line or in the YAML file."""

    def refuse_given(self, reason: str, *names: str) -> None:
        """Refuse options that have no effect in combination with the others.

        Args:
            reason: why they have no effect, and what to do.
            names: names of the options.

        Raises:
            InputError: the user gave one of them.
        """
        for name in names:
            if name in self.given:
                raise InputError(f"`{name}`: {reason}")

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables to set before TensorFlow is imported."""
        return {}

    @property
    def outputs(self) -> list[Output]:
        """Files and folders that the command writes; checked before TensorFlow is imported."""
        return []

    def before_tensorflow(self) -> None:  # noqa: B027  (most commands have nothing to do)
        """Do what needs no TensorFlow, whose import takes seconds.

        Raises:
            InputError: bad input that is found so early.
        """

    @abstractmethod
    def run(self) -> dict[str, Any]:
        """Run the command and print its result.

        Returns:
            The object that `--json` prints. If it has "ok": False, the exit code is 1.
        """


@dataclass(frozen=True, kw_only=True)
class BeamCommand(Command):
    """A command that passes unknown flags to Apache Beam."""

    @abstractmethod
    def run(self, beam_flags: Sequence[str] = ()) -> dict[str, Any]:
        """Run the command, with flags for Beam."""


Options = TypeVar("Options", bound=Command)


def config_from(options: Command, kind: type[Config], **others: Any) -> Config:
    """Return a configuration of the engine: the values of the options of the same names.

    Args:
        options: the command's.
        kind: dataclass of the configuration.
        others: values of the fields that have no option of the same name and type.

    Raises:
        InputError: a value is out of range.
    """
    names = {each.name for each in fields(kind)} - others.keys()  # type: ignore[arg-type]
    return kind(**{name: getattr(options, name) for name in names}, **others)


def as_flags(message: str, options: type[Command], *others: type[Command]) -> str:
    """Return a message with field names in backquotes replaced by flags.

    Args:
        message: message of the engine, such as "`batch_size` 7: must be a multiple of 2".
        options: options of the running command; positional options become upper-case names.
        others: options of other commands, whose flags a message may recommend.
    """
    known: dict[str, str] = {}
    for each in (*reversed(others), options):
        known |= _spellings(each)
    return re.sub(r"`(\w+)`", lambda named: known.get(named[1], named[0]), message)


def _spellings(options: type[Command]) -> dict[str, str]:
    """Return the flag of each field, or the upper-case name of a positional option."""
    hints = get_type_hints(options, include_extras=True)
    return {
        name: flag.upper() if _is_positional(hints[name]) else "--" + flag.replace("_", "-")
        for flag, name in _flags(options).items()
    }


def parse_options(
    options: type[Options], prog: str, arguments: list[str]
) -> tuple[Options, list[str]]:
    """Parse the options of a command.

    Args:
        options: dataclass of the command.
        prog: name of the command, for messages.
        arguments: command-line arguments.

    Returns:
        The options, and the unknown flags, which only a `BeamCommand` may have.

    Raises:
        InputError: a flag is unknown, missing, malformed, out of range, or has no effect with the
            others.
    """
    # What follows `--` is for positional options, even if it looks like a flag.
    where = arguments.index("--") if "--" in arguments else len(arguments)
    arguments, literal = arguments[:where], arguments[where:]
    _check_flags(arguments, options, prog)
    flags, positional = _config_flags(arguments, options)
    # The last of two equal flags wins, so the strongest come last.
    arguments = flags + arguments
    arguments = _switched(_preset_flags(arguments, options) + arguments, options)
    complaint, output = io.StringIO(), cast(IO[str], StandardOutput(sys.stdout))
    try:
        with (
            contextlib.redirect_stderr(complaint),
            contextlib.redirect_stdout(output),
            warnings.catch_warnings(),
            _min_width(),
        ):
            # A default of a positional option may be a URL, which is no `pathlib.Path`.
            warnings.filterwarnings("ignore", "The field .* is annotated", module="tyro")
            shown = _with_help(options)
            parsed, unknown = tyro.cli(
                shown,
                args=arguments + literal,
                prog=prog,
                default=_defaults(shown, positional) if positional else tyro.MISSING_NONPROP,
                return_unknown_args=True,
                config=(tyro.conf.OmitArgPrefixes,),
                registry=_TYPES,
            )
    except SystemExit as stop:
        if stop.code:
            message = _one_line(complaint.getvalue())
            raise InputError(f"{message} (see {prog} --help)") from None
        output.flush()
        raise
    if unknown and not issubclass(options, BeamCommand):
        raise _unknown_flag(unknown[0], options, prog)
    return options(**vars(parsed) | {"given": _given_fields(arguments, options)}), unknown


@contextlib.contextmanager
def _min_width() -> Iterator[None]:
    """Let tyro take a narrower terminal for one of `MIN_COLUMNS`: below 8 it never returns."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(max(shutil.get_terminal_size().columns, MIN_COLUMNS))
    try:
        yield
    finally:
        del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before


def help_texts(options: type[Command]) -> dict[str, str]:
    """Return the help text of each field, as one line: of `tyro.conf.arg`, else its docstring."""
    texts: dict[str, str] = {}
    for base in reversed(options.__mro__[:-1]):
        described = docstring_parser.parse_from_object(base).params
        texts |= {each.arg_name: each.description or "" for each in described}
    for name, hint in get_type_hints(options, include_extras=True).items():
        for mark in getattr(hint, "__metadata__", ()):
            texts[name] = getattr(mark, "help", None) or texts.get(name, "")
    return {name: " ".join(text.split()) for name, text in texts.items()}


def shows_default(option: Field[Any], text: str) -> bool:
    """Return whether a value stands for an option's default: not if its help text describes it.

    None and empty defaults mean that the option is not given.
    """
    return option.default not in (None, (), "") and "Default:" not in text


def _hint(option: Field[Any], text: str) -> str | None:
    """Return what follows an option's help text; None: "(default: …)", as tyro writes it."""
    if option.default is MISSING:
        return "(required)"  # tyro writes "(default: )" where any number of values is taken
    return None if shows_default(option, text) else ""


def _with_help(options: type[Options]) -> type[Options]:
    """Return a subclass whose fields have their help texts for tyro.

    tyro would keep the line breaks of docstrings that are indented.
    """
    hints = get_type_hints(options, include_extras=True)
    texts = help_texts(options)
    annotations = {}
    for each in fields(options):
        text = texts.get(each.name, "")
        shown = tyro.conf.arg(help=text, help_behavior_hint=_hint(each, text))
        annotations[each.name] = Annotated[hints[each.name], shown]
    body = {
        "__annotations__": annotations,
        "__doc__": options.__doc__,
        "__module__": options.__module__,
    }
    return type(options.__name__, (options,), body)


def _booleans(options: type[Command]) -> set[str]:
    """Return the flags without a value, as they are written; each has its `--no-NAME`."""
    hints = get_type_hints(options, include_extras=True)
    return {_written(flag) for flag, name in _flags(options).items() if _plain(hints[name]) is bool}


def _words(options: type[Command]) -> set[str]:
    """Return the flags of a command as they are written."""
    hints = get_type_hints(options, include_extras=True)
    words = {_written(flag) for flag, name in _flags(options).items()
             if not _is_positional(hints[name])}  # fmt: skip
    switches = {_written(each.name) for each in fields(options) if "switch" in each.metadata}
    negated = {flag.replace("--", "--no-", 1) for flag in switches | _booleans(options)}
    return words | negated | {"--help"}


def _written(flag: str) -> str:
    return f"--{flag.replace('_', '-')}"


def _check_flags(arguments: Sequence[str], options: type[Command], prog: str) -> None:
    """Check that all words that look like flags are flags of the command.

    This comes before tyro, which would take a text after an unknown flag for the flag's value, or
    complain about the missing flag that was meant.

    Raises:
        InputError: a flag is unknown (for a `BeamCommand`: and similar to one of the command's), or
            has a value though it takes none.
    """
    known = _words(options)
    for word in arguments:
        name, equals, _ = word.partition("=")
        flag = name.replace("_", "-")
        positive = flag.replace("--no-", "--", 1)
        if equals and positive in _booleans(options):
            negative = positive.replace("--", "--no-", 1)
            raise InputError(f"{word}: takes no value; write {positive} or {negative}")
        if equals and flag == "--help":
            raise InputError(f"{word}: takes no value; write --help")
        if f"-{flag}" in known:  # a single dash
            raise _unknown_flag(word, options, prog)
        if re.match(r"--\w", flag) and flag not in known:  # a text may begin with two dashes
            is_ours = difflib.get_close_matches(flag, known, 1, MISSPELLED)
            if is_ours or not issubclass(options, BeamCommand):
                raise _unknown_flag(word, options, prog)


def _unknown_flag(word: str, options: type[Command], prog: str) -> InputError:
    """Return the error for an unknown flag, with the most similar one of the command."""
    if not word.startswith("-"):
        return InputError(f"unexpected argument {reprlib.repr(word)} (see {prog} --help)")
    flag = word.partition("=")[0]
    # A single dash, too: -run is --run.
    hint = did_you_mean(f"--{flag.lstrip('-')}".replace("_", "-"), _words(options))
    return InputError(f"unknown flag {flag}{hint} (see {prog} --help)")


def _config_flags(arguments: list[str], options: type[Command]) -> tuple[list[str], dict[str, Any]]:
    """Return the options of the YAML file that the arguments name, as `settings_from_yaml` does.

    Raises:
        InputError: two files are named, none follows the flag, or the file cannot be used.
    """
    words = [
        part
        for argument in arguments
        for part in (argument.split("=", 1) if argument.startswith("--config=") else [argument])
    ]
    if words.count("--config") > 1:
        raise InputError("`config`: given twice; put the flags into one file")
    if "--config" not in words:
        return [], {}
    file = next(iter(words[words.index("--config") + 1 :]), "")
    if not file:
        raise InputError("`config`: expected a YAML file after it")
    return settings_from_yaml(path_from(_expanded(file)), options)


def _switched(arguments: list[str], options: type[Command]) -> list[str]:
    """Return the arguments with values for the switches that have none, see `Command`."""
    words = {}
    for each in fields(options):
        if "switch" in each.metadata:
            flag = each.name.replace("_", "-")
            words[f"--{flag}"], words[f"--no-{flag}"] = each.metadata["switch"]
    switched = []
    for word, after in itertools.zip_longest(arguments, arguments[1:], fillvalue="--"):
        is_alone = after.startswith("--") or word.startswith("--no-")
        if is_alone and (value := words.get(word.replace("_", "-"))):
            word = f"--{word.removeprefix('--').removeprefix('no-')}={value}"
        switched.append(word)
    return switched


def presets(folder: Path) -> dict[str, Path]:
    """Return the YAML files in a folder by name; they contain values of options."""
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def _preset_flags(arguments: list[str], options: type[Command]) -> list[str]:
    """Return the flags of the preset that the arguments name, see `Command`.

    Raises:
        InputError: there is no such preset, or it cannot be read.
    """
    for each in fields(options):
        folder, flag = each.metadata.get("presets"), f"--{each.name}"
        # `--name=value` and `--name value` alike.
        words = [part for word in arguments for part in word.partition("=")[::2] if part]
        names = [after for word, after in itertools.pairwise(words) if word == flag]
        if folder and names:
            name = names[-1]  # the last one wins, as in tyro
            known = presets(folder)
            if name not in known:
                raise InputError(f"`{each.name}` {name}: expected {', '.join(known)}")
            others = _flags(each.metadata.get("presets_of", options))
            return settings_from_yaml(known[name], options, each.name, left_out=others)[0]
    return []


def settings_from_yaml(
    path: Path,
    options: type[Command],
    given_as: str = "config",
    *,
    left_out: Collection[str] = (),
) -> tuple[list[str], dict[str, Any]]:
    """Read options from a YAML file.

    Args:
        path: path of the file.
        options: dataclass of the command.
        given_as: field that names the file, for messages.
        left_out: names of options that the file may have although the command has not.

    Returns:
        The options as flags; and the values of positional options, by field name.

    Raises:
        InputError: the file cannot be read, is not a mapping, or contains an unknown option or an
            invalid value.
    """
    hints = get_type_hints(options, include_extras=True)
    defaults = {field.name: field.default for field in fields(options)}
    switches = {f.name: f.metadata["switch"] for f in fields(options) if "switch" in f.metadata}
    known = _flags(options)
    del known["config"]
    flags: list[str] = []
    positional: dict[str, Any] = {}
    seen: set[str] = set()
    for key, value in _read_mapping(path, given_as).items():
        name = str(key).replace("-", "_")
        if name not in known and name in left_out:
            continue
        if name not in known:
            unknown = f"unknown option {reprlib.repr(key)}"
            hint = did_you_mean(name.replace("_", "-"), [each.replace("_", "-") for each in known])
            raise InputError(f"`{given_as}` {path}: {unknown}{hint}")
        if name in seen:
            raise InputError(f"`{given_as}` {path}: option {key!r} appears twice")
        seen.add(name)
        if value is None is defaults[known[name]]:
            continue  # `option:` without a value means the default
        try:
            if isinstance(value, bool) and known[name] in switches:
                value = switches[known[name]][0 if value else 1]
            values = _values(value, hints[known[name]])
            if _is_positional(hints[known[name]]):
                positional[known[name]] = _converted(values, hints[known[name]])
            else:
                flags += _as_words(name.replace("_", "-"), values)
        except ValueError as error:
            raise InputError(f"`{given_as}` {path}: option {key!r} {error}") from error
    return flags, positional


def _read_mapping(path: Path, given_as: str) -> dict[Any, Any]:
    """Return the mapping in a YAML file.

    Raises:
        InputError: as `read_yaml`, or the file is not a mapping.
    """
    settings = read_yaml(path, f"`{given_as}` {path}")
    if not isinstance(settings, dict):
        raise InputError(f"`{given_as}` {path}: expected a mapping of option names to values")
    return settings


def _is_positional(hint: Any) -> bool:
    return tyro.conf.Positional in getattr(hint, "__metadata__", ())


def _plain(hint: Any) -> Any:
    """Return a type without its annotations."""
    return hint.__origin__ if hasattr(hint, "__metadata__") else hint


def _values(value: Any, hint: Any) -> bool | list[str]:
    """Return a YAML value as command-line arguments, or as a boolean.

    Raises:
        ValueError: the value is not valid for an option of this type.
    """
    kind = _plain(hint)
    if kind is bool:
        if not isinstance(value, bool):
            raise ValueError(f"is {reprlib.repr(value)}; expected true or false")
        return value
    values = value if isinstance(value, list) and get_origin(kind) is tuple else [value]
    for one in values:
        if isinstance(one, bool):
            raise ValueError(f"is {one} to YAML; put the word in quotes")
        if isinstance(one, (list, dict)):
            raise ValueError(f"is {reprlib.repr(one)}; expected a single value")
        if one is None and type(None) not in get_args(kind):
            raise ValueError("has no value; give it one, or leave it out")
    return [*map(str, values)]


def _converted(values: bool | list[str], hint: Any) -> Any:
    """Return the value of a positional option, converted to its type."""
    assert isinstance(values, list)
    kind = _plain(hint)
    if get_origin(kind) is tuple:
        return tuple(map(get_args(kind)[0], values))
    return _path(*values) if kind is Path else kind(*values)


def _as_words(name: str, values: bool | list[str]) -> list[str]:
    if isinstance(values, bool):
        return [f"--{name}" if values else f"--no-{name}"]
    # --name=value, because a value that starts with a dash would be parsed as a flag.
    return [f"--{name}={values[0]}"] if len(values) == 1 else [f"--{name}", *values]


def _defaults(options: type[Options], values: Mapping[str, Any]) -> Options:
    """Return default options for tyro: the given values, and the class's defaults for other fields.

    `__init__` is not called, because its checks would fail: required fields have no value yet.
    """
    defaults = object.__new__(options)
    for each in fields(options):
        default = tyro.MISSING if each.default is MISSING else each.default
        object.__setattr__(defaults, each.name, values.get(each.name, default))
    return defaults


def _flags(options: type[Command]) -> dict[str, str]:
    """Return the field names by flag; flags with underscores, without leading dashes."""
    names = {field.metadata.get("flag", field.name): field.name for field in fields(options)}
    return {flag: name for flag, name in names.items() if flag is not None}


def _given_fields(arguments: list[str], options: type[Command]) -> frozenset[str]:
    """Return the fields whose flags are among the arguments."""
    words = {argument.split("=", 1)[0] for argument in arguments if argument.startswith("--")}
    named = {word[2:].replace("-", "_") for word in words}
    # `--no-xla` gives the field `xla`.
    named |= {name.removeprefix("no_") for name in named}
    return frozenset(name for flag, name in _flags(options).items() if flag in named)


def _one_line(box: str) -> str:
    """Return the first paragraph of tyro's error box as one line.

    The printed text is the only public form of tyro's errors; the structured events in
    `tyro._errors` are private and may change in any release.
    """
    lines = [line.strip("│ ") for line in re.sub("[╭╮╰╯]", "", box).splitlines()]
    statement = []
    for line in lines[1:]:
        if not re.fullmatch("[─-]{3,}", line):  # dashes if standard error is not in UTF-8
            statement.append(line)
        elif statement:
            break
    line = " ".join(" ".join(statement).split())
    # A value that the user gave may be long; what is wrong with it comes last.
    return line if len(line) <= 1000 else f"{line[:300]} … {line[-300:]}"
