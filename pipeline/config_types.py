"""Check the types of a configuration's fields: Python does not, and callers are not only ours."""

import functools
import math
import numbers
import operator
from dataclasses import fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pipeline.errors import InputError


def check_types(config: Any) -> None:
    """Check that each field of a frozen dataclass has a value of its type.

    Lists become tuples, and NumPy's numbers Python's, which JSON can hold.

    Args:
        config: the dataclass, in its `__post_init__`.

    Raises:
        InputError: a field has a value of another type, or none of its literals.
    """
    kind: Any = type(config)
    hints = _hints(kind)
    for field in fields(config):
        given = getattr(config, field.name)
        try:
            value = _converted(given, hints[field.name])
        except _WrongTypeError as error:
            raise InputError(f"`{field.name}` {given!r:.200}: expected {error}") from None
        if value is not given:
            object.__setattr__(config, field.name, value)


class _WrongTypeError(Exception):
    """The message is what was expected."""


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _converted(value: Any, hint: Any) -> Any:
    """Return a value as one of its type; unknown types are not checked.

    Raises:
        _WrongTypeError: it has another type.
    """
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return _one_of(value, get_args(hint))
    if origin is Literal:
        return _literal(value, get_args(hint))
    if origin is tuple and get_args(hint)[1:] == (...,):
        if not isinstance(value, list | tuple):
            raise _WrongTypeError("a tuple")
        items = tuple(_converted(item, get_args(hint)[0]) for item in value)
        # By identity: NumPy's numbers are equal to Python's, which are wanted.
        is_same = isinstance(value, tuple) and all(map(operator.is_, items, value))
        return value if is_same else items
    check = _CHECKS.get(hint)
    return check(value) if check else value


def _one_of(value: Any, hints: tuple[Any, ...]) -> Any:
    if value is None and NoneType in hints:
        return value
    expected = []
    for hint in hints:
        try:
            return _converted(value, hint) if hint is not NoneType else _nothing()
        except _WrongTypeError as error:
            expected.append(str(error))
    raise _WrongTypeError(" or ".join(expected))


def _nothing() -> None:
    raise _WrongTypeError("None")


def _literal(value: Any, known: tuple[Any, ...]) -> Any:
    if not isinstance(value, str | int) or value not in known:
        raise _WrongTypeError(f"one of {', '.join(map(str, known))}")
    return value


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise _WrongTypeError("a whole number")
    return value if type(value) is int else operator.index(value)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise _WrongTypeError("a number")
    try:
        return value if isinstance(value, int | float) else float(value)
    except OverflowError:
        return math.inf


def _boolean(value: Any) -> Any:
    if not isinstance(value, bool):
        raise _WrongTypeError("True or False")
    return value


def _text(value: Any) -> Any:
    if not isinstance(value, str):
        raise _WrongTypeError("a text")
    return value


def _path(value: Any) -> Any:
    # Paths of object stores have the interface of `Path`, and are none.
    if not hasattr(value, "joinpath"):
        raise _WrongTypeError("a path: pathlib.Path, or path_from(text)")
    return value


_CHECKS = {int: _integer, float: _number, bool: _boolean, str: _text, Path: _path}
