"""Rules of the house that no linter has, checked on the sources."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
ROOMS = ("pipeline", "model", "serving", "clozeline")
FOLDERS = (*ROOMS, "benchmarks", "docs")

MAX_LINES = 50
"""Most lines of a function, without its docstring."""


def functions(source: str) -> Iterator[tuple[str, int]]:
    """Yield the name of each function, and its number of lines without the docstring."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            lines = node.end_lineno - node.lineno + 1
            first = node.body[0]
            if ast.get_docstring(node) is not None:
                assert first.end_lineno is not None
                lines -= first.end_lineno - first.lineno + 1
            yield node.name, lines


def test_lines_are_counted_without_the_docstring() -> None:
    source = (
        'def f(\n    x,\n):\n    """One.\n\n    Two.\n    """\n    async def g():\n        pass\n'
    )
    assert dict(functions(source)) == {"f": 5, "g": 2}


def test_functions_are_short() -> None:
    too_long = {
        f"{path.relative_to(ROOT)}: {name} has {lines} lines"
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
        for name, lines in functions(path.read_text(encoding="utf-8"))
        if lines > MAX_LINES
    }
    assert too_long == set()
