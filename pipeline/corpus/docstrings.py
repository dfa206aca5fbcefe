"""Build a corpus without a download: the English text in docstrings of installed Python code."""

import ast
import inspect
import re
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from multiprocessing import get_context
from pathlib import Path

from pipeline.errors import InputError
from pipeline.progress import progress
from pipeline.storage.files import write_atomically

MAX_PACKAGE_SHARE = 0.15
"""Largest share of the corpus from one package (0 to 1), so that no package dominates it."""

MIN_MODULE_SENTENCES = 4
"""Modules with fewer sentences make no document: a pair needs two segments."""

MAX_SOURCE_BYTES = 1_000_000  # larger source files are mostly generated tables

_ROLE = re.compile(r":[\w:+-]+:`~?([^`<]+)(?:<[^>]*>)?`_*|`{1,2}([^`]+)`{1,2}_*")
_UNDERLINE = re.compile(r"^[-=~^]{3,}$")
_SENTENCE_END = re.compile(r"[.!?][\"')]?(\s|$)")
_PROSE = re.compile(r"^[A-Z\"'(][^{}\\|=<>@#$^~\[\]]*[.!?][\"')]?$")
_TEST_FOLDERS = frozenset({"test", "tests", "testing", "idlelib", "lib2to3"})


@dataclass(frozen=True)
class Module:
    """A Python file and its import name."""

    name: str
    path: Path

    @property
    def package(self) -> str:
        """Top-level package."""
        return self.name.partition(".")[0]


def installed_modules() -> list[Module]:
    """Return the modules of the standard library and installed packages, round-robin by package.

    The order depends on the names alone.
    """
    roots = {Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")}
    by_package: dict[str, list[Module]] = {}
    for root in sorted(roots):
        for path in sorted(root.rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            if {"site-packages", "dist-packages"}.intersection(parts):
                continue
            if _TEST_FOLDERS.intersection(parts) or any(p.startswith("test_") for p in parts):
                continue
            module = Module(".".join(parts).removesuffix(".__init__"), path)
            by_package.setdefault(module.package, []).append(module)
    turns = zip_longest(*(by_package[package] for package in sorted(by_package)))
    return [module for turn in turns for module in turn if module]


def module_prose(module: Module) -> str:
    """Return the prose paragraphs of a module's docstrings; empty if it cannot be parsed."""
    try:
        if module.path.stat().st_size > MAX_SOURCE_BYTES:
            return ""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # of escapes in other people's code
            tree = ast.parse(module.path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return ""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    paragraphs = [
        paragraph
        for node in ast.walk(tree)
        if isinstance(node, documented) and (docstring := ast.get_docstring(node, clean=False))
        for paragraph in prose_paragraphs(docstring)
    ]
    text = "\n\n".join(dict.fromkeys(paragraphs))
    return text if len(_SENTENCE_END.findall(text)) >= MIN_MODULE_SENTENCES else ""


def prose_paragraphs(docstring: str) -> Iterator[str]:
    """Yield a docstring's paragraphs of plain English, one line each.

    Code, tables, parameter lists, headings, and paragraphs that do not begin and end like a
    sentence are left out. Markup around names is removed; the names stay.
    """
    for block in re.split(r"\n\s*\n", inspect.cleandoc(docstring)):
        lines = block.split("\n")
        if len(lines) > 1 and _UNDERLINE.match(lines[1]):
            lines = lines[2:]  # a heading
        if any(line[:1].isspace() for line in lines):
            continue
        text = _ROLE.sub(lambda match: (match[1] or match[2]).strip(), " ".join(lines))
        text = " ".join(text.split())
        if _PROSE.match(text) and len(text.split()) >= 5:
            yield text


def write_corpus(folder: Path, target_bytes: int) -> dict[str, int]:
    """Write the prose of installed modules, one file per module, until `target_bytes` are reached.

    Returns:
        `documents`, `packages`, `bytes`: how many were written.

    Raises:
        InputError: fewer than two modules have enough text.
    """
    sizes: dict[str, int] = {}
    documents = 0
    # Not forked: the bar has a thread, whose locks a fork would copy in any state.
    with progress() as bar, get_context("spawn").Pool() as pool:
        task = bar.add_task("collecting docstrings", total=target_bytes / 1e3, unit="kB", status="")
        modules = installed_modules()
        # Modules of packages that have reached their share are parsed too, and then skipped: so
        # the result does not depend on how far ahead the pool has read.
        for module, text in zip(modules, pool.imap(module_prose, modules, 16), strict=True):
            taken = sizes.get(module.package, 0)
            data = text.encode("utf-8", "ignore")
            if not data or taken + len(data) > MAX_PACKAGE_SHARE * target_bytes:
                continue
            write_atomically(folder / f"{module.name}.txt", data + b"\n")
            sizes[module.package] = taken + len(data)
            documents += 1
            bar.update(task, completed=sum(sizes.values()) / 1e3)
            if sum(sizes.values()) >= target_bytes:
                break
        pool.terminate()  # modules that are not needed are still in its queue
    if documents < 2:
        raise InputError("no docstrings found in the installed packages; give CORPUS='path/*.txt'")
    return {"documents": documents, "packages": len(sizes), "bytes": sum(sizes.values())}
