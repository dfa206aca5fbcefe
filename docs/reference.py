"""The page `commands.md`: every command and flag, from the same dataclasses that parse them."""

import types
from dataclasses import MISSING, Field, fields
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import docstring_parser
import tyro

from clozeline.commands import COMMANDS, options_of
from clozeline.options import help_texts, shows_default

INTRODUCTION = """\
# Commands

This page is generated from the code; `clozeline COMMAND --help` prints the same. In YAML files
(`--config`), options have the names of the flags without the leading dashes.
"""


def page() -> str:
    """Return the page as Markdown: a section for each command, a row for each flag."""
    return "\n".join([INTRODUCTION, *map(section, COMMANDS)])


def section(name: str) -> str:
    """Return a command's heading, description and table of flags."""
    options = options_of(name)
    described = docstring_parser.parse(options.__doc__)
    rows = "\n".join(_rows(options))
    return f"""\
## {name}

{described.short_description}

{described.long_description or ""}

| flag | values | default | meaning |
|---|---|---|---|
{rows}
"""


def _rows(options: type) -> list[str]:
    hints = get_type_hints(options, include_extras=True)
    texts = help_texts(options)
    required: list[str] = []
    optional: list[str] = []
    for field in fields(options):
        marks = getattr(hints[field.name], "__metadata__", ())
        if tyro.conf.Suppress in marks:
            continue
        cells = (
            _flag(field, hints[field.name]),
            _values(hints[field.name]),
            _default(field, texts[field.name]),
            texts[field.name],
        )
        row = f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"
        (required if field.default is MISSING else optional).append(row)
    return required + optional


def _flag(field: Field[Any], hint: Any) -> str:
    if tyro.conf.Positional in getattr(hint, "__metadata__", ()):
        return f"`{field.name.upper()}`"
    name = field.metadata.get("flag", field.name).replace("_", "-")
    return f"`--{name}`, `--no-{name}`" if hint is bool else f"`--{name}`"


def _values(hint: Any) -> str:
    """Return what a flag takes; empty for a switch."""
    if get_origin(hint) is Annotated:
        hint = hint.__origin__
    if get_origin(hint) in (Union, types.UnionType):
        return _values(next(kind for kind in get_args(hint) if kind is not type(None)))
    if get_origin(hint) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(hint))
    if get_origin(hint) is tuple:
        return f"{_values(get_args(hint)[0])} …"
    return "" if hint is bool else hint.__name__.upper()


def _default(field: Field[Any], text: str) -> str:
    if field.default is MISSING:
        return "required"
    if not shows_default(field, text):
        return ""
    if isinstance(field.default, bool):
        return "yes" if field.default else "no"
    values = field.default if isinstance(field.default, tuple) else (field.default,)
    return f"`{' '.join(map(str, values))}`"
