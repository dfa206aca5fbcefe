"""Which module imports which, read from the sources: lazy imports and those for types count too."""

import ast
import dataclasses
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import clozeline
from clozeline.commands import COMMANDS, options_of

ROOT = Path(clozeline.__file__).parents[1]
ROOMS = ("pipeline", "model", "serving", "clozeline")
"""Each may import from itself and from those before it."""


@cache
def modules() -> dict[str, Path]:
    """Every module of the rooms by its name; a package has its folder's."""
    paths = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in paths
    }


@cache
def imported(module: str) -> list[str]:
    """Names of everything that a module imports, at its top or later."""
    found = []
    for node in ast.walk(ast.parse(modules()[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.append(name if name in modules() else str(node.module))
    return found


@cache
def graph() -> dict[str, frozenset[str]]:
    """The modules of ours that each one imports."""
    return {
        module: frozenset(name for name in imported(module) if name in modules()) - {module}
        for module in modules()
    }


def reachable(start: str) -> set[str]:
    """Modules that one imports, directly or through others."""
    found: set[str] = set()
    left = [*graph()[start]]
    while left:
        module = left.pop()
        if module not in found:
            found.add(module)
            left += graph()[module]
    return found


def test_it_sees_lazy_imports_and_those_for_types() -> None:
    lazy = graph()["serving.server.launch"]
    assert {"serving.server.main", "serving.server.limits", "serving.configs"} <= lazy
    assert len(modules()) > 150


@pytest.mark.parametrize("room", ROOMS)
def test_imports_run_one_way(room: str) -> None:
    later = ROOMS[ROOMS.index(room) + 1 :]
    wrong = [
        f"{module} imports {name}"
        for module in modules()
        for name in imported(module)
        if module.partition(".")[0] == room and name.partition(".")[0] in later
    ]
    assert wrong == []


def test_no_module_imports_itself_through_others() -> None:
    assert {module for module in modules() if module in reachable(module)} == set()


def test_the_model_imports_no_beam() -> None:
    wrong = [
        f"{module} imports {name}"
        for module in modules()
        if module.partition(".")[0] == "model"
        for name in imported(module)
        if name.partition(".")[0] == "apache_beam"
    ]
    assert wrong == []


def flags() -> set[str]:
    """Every flag of every command."""
    names = {
        field.metadata.get("flag", field.name)
        for command in COMMANDS
        for field in dataclasses.fields(options_of(command))
    }
    return {"--" + name.replace("_", "-") for name in names if name}


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Every string of a module with its line, docstrings and parts of f-strings among them."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


ON_THE_WIRE = {
    "serving/server/grpc_api.py: --allow-reload",
    "serving/server/origins.py: --allowed-hosts",
}
"""What the server answers to clients, of whom it asks that they tell who started it."""


def test_the_engine_knows_no_flags() -> None:
    known = flags()
    assert {"--batch-size", "--run", "--export-dir"} & known == {"--batch-size", "--run"}
    wrong = {
        f"{path.relative_to(ROOT)}: {word}"
        for module, path in modules().items()
        if module.partition(".")[0] != "clozeline"
        for _, text in texts(path)
        for word in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*(?![\w=])", text)
        if word in known
    }
    assert wrong - ON_THE_WIRE == set()
