"""README and site: their commands run as printed, every flag is listed, the site builds."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from clozeline.commands import COMMANDS
from clozeline.main import main, parse
from clozeline.options import BeamCommand
from docs import reference
from docs.blocks import ROOT, Block, blocks, pages
from serving.client import Client


def clozeline_commands() -> list[tuple[Block, list[str]]]:
    every = [(block, words) for block in blocks() for words in block.commands]
    return [(block, words) for block, words in every if words[0] == "clozeline"]


def test_every_page_is_short_enough_to_read() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_every_block_is_read() -> None:
    fences = sum(page.read_text(encoding="utf-8").count("```") for page in pages())
    assert fences == 2 * len([*blocks()])


def test_the_files_and_modules_that_the_documents_name_exist() -> None:
    rooms = "pipeline|model|serving|clozeline|tests|benchmarks|docs"
    for page in pages():
        text = page.read_text(encoding="utf-8")
        modules = re.findall(r"(?:python -m |from )(benchmarks\.\w+|serving\.\w+)", text)
        for name in [*re.findall(rf"`((?:{rooms})/[^` ]*)`", text), *modules]:
            path = ROOT / name
            module = ROOT / name.replace(".", "/")
            assert path.exists() or module.is_dir() or module.with_suffix(".py").exists(), name


def test_every_link_of_the_documents_leads_to_a_file_of_the_repository() -> None:
    """A reader of the repository has no pages that are generated for the site."""
    links = [
        (page, link)
        for page in pages()
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    ]
    assert len(links) > 50
    dead = [(page.name, link) for page, link in links if not (page.parent / link).exists()]
    assert dead == []


def test_every_command_of_the_documents_can_be_parsed() -> None:
    commands = clozeline_commands()
    assert len(commands) > 30
    for _, (_, name, *arguments) in commands:
        words = [word for word in arguments if word != "&"]
        if name == "--help":
            continue
        options, unknown = parse(name, words)
        assert not unknown or isinstance(options, BeamCommand), (name, unknown)


def test_the_walk_through_names_every_command() -> None:
    """All but `demo`, which takes minutes."""
    run = {words[1] for block, words in clozeline_commands() if block.is_run}
    assert run == {*COMMANDS} - {"demo"}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_reference_has_every_flag(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([name, "--help"])
    flags = set(re.findall(r"(?<=[ │])--[a-z][a-z0-9-]+(?=[ ,])", capsys.readouterr().out)) - {
        "--help"
    }
    assert len(flags) >= 2
    section = reference.section(name)
    assert " |  |\n" not in section  # every flag has a meaning
    cells = re.findall(r"^\| (`--.*?) \|", section, re.MULTILINE)
    assert {flag for cell in cells for flag in re.findall(r"`(.*?)`", cell)} == flags


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly: a broken link or a page that is not in the navigation fails it."""
    site = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--site-dir",
        str(site),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return site


def test_the_site_requests_nothing_from_other_hosts(site: Path) -> None:
    built = [*site.glob("*.html")]
    assert len(built) > 10
    for page in built:
        text = page.read_text(encoding="utf-8")
        assert not re.findall(
            r"<(?:script|img|iframe|source)[^>]*src=\"?(?:https?:)?//[^>]*>", text
        )
        assert not re.findall(r"<link[^>]*href=\"?(?:https?:)?//[^>]*>", text)


def test_the_site_has_a_section_for_each_command(site: Path) -> None:
    text = (site / "commands.html").read_text(encoding="utf-8")
    for name in COMMANDS:
        assert f'<h2 id="{name}">' in text


@pytest.fixture
def folder(tmp_path: Path, prose_corpus: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the files that the commands read, all of them tiny."""
    for name in ("books", "wikitext2", "sst2", "sts"):
        (tmp_path / name).mkdir()
    documents = sorted(prose_corpus.iterdir())
    for document in documents:
        shutil.copy(document, tmp_path / "books" / f"{document.stem}.md")
    lines = "\n\n".join(each.read_text().replace(". ", ".\n") for each in documents)
    (tmp_path / "wikitext2" / "valid.txt").write_text(lines)
    rows = [f"The {noun} is {word}.\t{label}" for noun in ("film", "book", "play")
            for label, word in enumerate(("bad", "good"))]  # fmt: skip
    for name in ("train", "dev"):
        (tmp_path / "sst2" / f"{name}.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    pairs = [f"The {noun} is good.\tThe {noun} is bad.\t{score}"
             for score, noun in enumerate(("film", "book", "play"))]  # fmt: skip
    for name in ("train", "dev"):
        text = "\n".join(["sentence1\tsentence2\tscore", *pairs]) + "\n"
        (tmp_path / "sts" / f"{name}.tsv").write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@contextmanager
def server(words: list[str], rest_port: int, grpc_port: int) -> Iterator[None]:
    ports = ["--rest-port", str(rest_port), "--grpc-port", str(grpc_port)]
    with subprocess.Popen([sys.executable, "-m", *words, *ports]) as process:
        try:
            Client(f"http://127.0.0.1:{rest_port}").wait_until_ready("books", 600)
            yield
        finally:
            process.terminate()
        assert process.wait() == 0


def quick(words: list[str]) -> list[str]:
    """A command of the documents with few steps and a small model."""
    short = {("--steps", "100"): "3", ("--steps", "500"): "3", ("--model", "base"): "tiny"}
    quick = words[:1] + [short.get(pair, pair[1]) for pair in pairwise(words)]
    quick += ["--steps", "3"] if quick[1] == "finetune" else []
    # Compiling takes longer than all these steps; other tests do it.
    return [*quick, "--no-xla"] if {"pretrain", "finetune", "evaluate"} & {*quick} else quick


@pytest.mark.slow
def test_the_commands_and_the_python_of_the_documents_run(
    folder: Path, free_ports: Callable[[int], list[int]]
) -> None:
    """Page by page in one directory and process; a command runs once, on its first page."""
    rest_port, grpc_port = free_ports(2)
    done = []
    with ExitStack() as stack:
        for block in blocks():
            if block.is_run and block.language == "python":
                exec(block.text.replace("8501", str(rest_port)), {})
            for words in filter(None, block.commands if block.is_run else []):
                if words[0] != "clozeline" or words in done:
                    continue
                done.append(words)
                if words[1] == "serve":
                    stack.enter_context(server(words[:-1], rest_port, grpc_port))
                    continue
                if words[1] == "query":
                    port = grpc_port if "--grpc" in words else rest_port
                    words = [*words, "--server", f"127.0.0.1:{port}"]
                assert main(quick(words)[1:]) == 0, (block.page, words)
    assert {words[1] for words in done} == {*COMMANDS} - {"demo"}
    written = ("work/page.html", "confusion.png", "answers.jsonl", "work/hugging-face/config.json")
    assert all((folder / name).stat().st_size for name in written)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    """Every cell, in a kernel of its own; the answers are words of the right place."""
    notebook = nbformat.read(ROOT / "docs" / "tour.ipynb", as_version=4)
    client = NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}})
    client.execute(env={**os.environ, "PYTHONPATH": str(ROOT)})
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    printed = "".join(output["text"] for output in outputs if output.get("name") == "stdout")
    same, other = re.findall(r"next sentence, \w+ place: ([\d.]+)", printed)
    assert float(same) > float(other)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
