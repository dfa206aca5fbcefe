"""Rules of the house that no linter has, checked on the sources."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

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


TESTED_THROUGH_OTHERS = {
    "clozeline.__main__": "clozeline/test_commands.py",  # runs it as a process
    "clozeline.start": "clozeline/test_front_door.py",  # the real command
    "model.explaining.steps": "model/explaining/test_explaining.py",  # each step against NumPy
    "model.existing": "clozeline/test_front_door.py",  # before TensorFlow is imported
    "model.interchange.hugging_face": "model/interchange/test_interchange.py",
    "model.interchange.keras_hub": "model/interchange/test_interchange.py",
    "model.interchange.sentence_transformers": "model/interchange/test_sentence_transformers.py",
    "model.tasks.similarity": "model/test_similarity.py",
    "model.training.predictor": "model/tasks/test_predict.py",
    "pipeline.corpus.rules.lines": "pipeline/corpus/test_cleaning.py",
    "pipeline.corpus.rules.settings": "pipeline/corpus/test_cleaning.py",
    "pipeline.jobs.write_rejections": "pipeline/jobs/test_rejections.py",
    "pipeline.inspect_rejections": "pipeline/jobs/test_rejections.py",
    "pipeline.storage.local_globs": "pipeline/storage/test_files.py",
    "serving.client.messages": "serving/client/test_client.py",
    "serving.client.tensors": "serving/client/test_client.py",
    "serving.export.piece_ids": "serving/export/test_export.py",
    "serving.server.grpc_admission": "serving/server/test_hostile_clients.py",
}
"""Modules that no test names, and the test that fails if they are wrong."""


def test_every_module_is_named_by_a_test_or_tested_through_another() -> None:
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py")
                    if path != Path(__file__))  # fmt: skip
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
        if path.name != "__init__.py"
    }
    named = {
        module
        for module in modules
        for package, name in [module.rsplit(".", 1)]
        if re.search(rf"{re.escape(module)}\b|from {re.escape(package)} import .*\b{name}\b", tests)
    }
    assert modules - named - TESTED_THROUGH_OTHERS.keys() == set()
    assert all((ROOT / "tests" / test).is_file() for test in TESTED_THROUGH_OTHERS.values())


OF_THE_PROCESS = "time|os|threading|signal|resource|socket|subprocess|tempfile|shutil"
SHARED = re.compile(
    rf"setattr\(\s*(?:\w+\.)*(?:{OF_THE_PROCESS}),|setattr\(\s*\"(?:\w+\.)*(?:{OF_THE_PROCESS})\.\w+\""
)
"""A replaced attribute of a module that all threads use, by object or by name."""

PASS_ON = {
    "tests/test_durability.py": 2,  # notes each call, and makes it
    "tests/pipeline/jobs/test_beam_options.py": 1,  # notes the failures of its own threads
}
"""How many replacements of a file change nothing for other threads."""


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("monkeypatch.setattr(progress.time, 'sleep', slept)", True),
        ("monkeypatch.setattr(\n    time, 'sleep', slept)", True),
        ("monkeypatch.setattr(os, 'fsync', fail)", True),
        ('monkeypatch.setattr("os.execv", become)', True),
        ('monkeypatch.setattr("urllib3.util.retry.time.sleep", slept)', True),
        ('monkeypatch.setattr("urllib3.util.retry.time", clock)', False),
        ("monkeypatch.setattr(progress, 'time', clock)", False),
        ("monkeypatch.setattr(videos, 'length', 1)", False),
    ],
)
def test_a_replaced_attribute_of_the_process_is_found(source: str, found: bool) -> None:
    assert bool(SHARED.search(source)) is found


def test_no_test_changes_modules_of_other_threads() -> None:
    """A module's own name for them is replaced: libraries' threads of earlier tests still run."""
    changed = {
        str(path.relative_to(ROOT)): len(found)
        for path in sorted((ROOT / "tests").rglob("*.py"))
        if path != Path(__file__)
        if (found := SHARED.findall(path.read_text(encoding="utf-8")))
    }
    assert changed == PASS_ON


def test_no_test_module_imports_another() -> None:
    """What several share is in a module without tests, or a fixture: pytest imports it once."""
    imports = re.compile(r"(?:from|import) +tests\.(?:\w+\.)*test_\w+.*")
    found = {
        f"{path.relative_to(ROOT)}: {line}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for line in imports.findall(path.read_text(encoding="utf-8"))
    }
    assert found == set()
