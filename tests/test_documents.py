"""The README's walk-through, line by line as it stands there, on real text."""

import os
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from serving.client import Client

README = Path(__file__).parent.parent / "README.md"


def walk_through() -> list[list[str]]:
    """The indented `clozeline` lines as words, with few steps; examples with `...` left out."""
    lines = [line.strip() for line in README.read_text(encoding="utf-8").splitlines()]
    commands = [shlex.split(line.removesuffix("&")) for line in lines if "clozeline " in line[:10]]
    return [
        ["3" if before == "--steps" else word for before, word in pairwise(["", *words])]
        for words in commands
        if "..." not in words
    ]


def test_the_walk_through_names_every_command() -> None:
    assert {words[1] for words in walk_through()} == {
        "vocab", "preprocess", "inspect", "pretrain", "export", "serve", "query",
        "finetune", "evaluate", "explain", "export-hf", "import",
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.skipif("CLOZELINE_DATA" not in os.environ, reason="CLOZELINE_DATA names no folder")
def test_the_walk_through_runs(tmp_path: Path) -> None:
    data = Path(os.environ["CLOZELINE_DATA"]).resolve()
    for name in ("books", "wikitext2", "sst2"):
        (tmp_path / name).symlink_to(data / name)
    server: subprocess.Popen[bytes] | None = None
    try:
        for words in walk_through():
            command = [sys.executable, "-m", *words]
            if words[1] == "finetune":
                command += ["--steps", "3"]
            if words[1] == "serve":
                server = subprocess.Popen(command, cwd=tmp_path)
                Client("http://127.0.0.1:8501").wait_until_ready("books", 120)
            else:
                subprocess.run(command, cwd=tmp_path, check=True)
    finally:
        if server:
            server.terminate()
            assert server.wait() == 0
