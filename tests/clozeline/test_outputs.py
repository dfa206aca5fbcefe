"""Every output of every command is checked before TensorFlow is imported: one line, exit code 2."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from clozeline.main import COMMANDS, parse
from clozeline.options import BeamCommand
from model.training.cluster import Cluster
from pipeline.errors import InputError
from pipeline.storage.locks import only_writer_of_output

OUTPUTS = {
    "vocab --input i": ["--output"],
    "preprocess --input i --vocab v --output {ok}": ["--output", "--rejected"],
    "pretrain --dataset d": ["--run"],
    "launch --workers 2 -- pretrain --dataset d": ["--run"],
    "finetune --task single --train t --init i": ["--run"],
    "import --from f": ["--run"],
    "evaluate --run r --data d": ["--predictions", "--picture"],
    "export --run r": ["--output"],
    "export-hf --run r": ["--output"],
    "explain --run r text": ["--output"],
    "demo": ["--output"],
}
"""The flags of a command that name what it writes, by a command line without them."""

ROWS = [(line, flag) for line, flags in OUTPUTS.items() for flag in flags]


def run(
    *arguments: str, environment: dict[str, str] | None = None, folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "clozeline", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd=folder,
    )


def test_the_table_has_every_command_that_writes() -> None:
    assert COMMANDS.keys() - {line.split()[0] for line in OUTPUTS} == {
        "inspect", "plan", "serve", "query",
    }  # fmt: skip


@pytest.mark.parametrize(("line", "flag"), ROWS)
def test_a_loop_of_links_as_output(
    line: str, flag: str, tmp_path: Path, without_tensorflow: dict[str, str]
) -> None:
    loop = tmp_path / "loop.png"  # an explanation is a page or a picture
    loop.symlink_to(loop.name)
    words = [*line.format(ok=tmp_path / "ok").split(), flag, str(loop)]
    done = run(*words, environment=without_tensorflow)
    wrong = "cannot be written: Too many levels of symbolic links"
    assert done.stderr == f"clozeline: {flag} {loop}: {wrong}\n"
    assert (done.returncode, done.stdout) == (2, "")
    assert not (tmp_path / "ok").exists()


@pytest.mark.parametrize(
    ("line", "flag"),
    [(line, flag) for line, flag in ROWS if flag in ("--run", "--output", "--rejected")
     and line.split()[0] not in ("vocab", "explain")],
)  # fmt: skip
def test_a_folder_whose_name_is_not_in_utf_8(
    line: str, flag: str, tmp_path: Path, without_tensorflow: dict[str, str]
) -> None:
    """TensorFlow takes no such name: a training ended with a traceback at its first checkpoint."""
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    words = [*line.format(ok=tmp_path / "ok").split(), flag, folder]
    done = run(*words, environment=without_tensorflow)
    wrong = f"clozeline: {flag} {tmp_path}/caf\\xe9: the name is not in UTF-8; rename it\n"
    assert (done.returncode, done.stderr, done.stdout) == (2, wrong, "")


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("finetune --task single --train t --init i --seed 1 2 --run {}", "--run {}/seed-2"),
        ("preprocess --input i --vocab v --max-seq-length 32 64 --output {}", "--output {}/64"),
    ],
)
def test_the_folders_in_an_output(
    line: str, named: str, tmp_path: Path, without_tensorflow: dict[str, str]
) -> None:
    for name in ("seed-2", "64"):
        (tmp_path / name).touch()
    done = run(*line.format(tmp_path).split(), environment=without_tensorflow)
    wrong = (
        f"{named.format(tmp_path)}: {named.split()[1].format(tmp_path)} is a file; name a folder"
    )
    assert (done.returncode, done.stderr) == (2, f"clozeline: {wrong}\n")


@pytest.mark.parametrize(
    ("line", "name", "message"),
    [
        ("vocab --input {0}/i --output {0}/o", "o", "o: already exists; add --overwrite"),
        (
            "preprocess --input {0}/i --vocab v --output {0}/o",
            "o/manifest.json",
            "o: already holds a dataset; choose another folder or add --overwrite",
        ),
        (
            "preprocess --input {0}/i --vocab v --output {0}/o --max-seq-length 32 64",
            "o/64/manifest.json",
            "o/64: already holds a dataset; choose another folder or add --overwrite",
        ),
        (
            "preprocess --input {0}/i --vocab v --output {0}/new --rejected {0}/o",
            "o/rejections.json",
            "o: already holds rejected documents; choose another folder or add --overwrite",
        ),
        (
            "import --from f --run {0}/o",
            "o/config.json",
            "o: already exists; choose another directory or remove it",
        ),
        (
            "export-hf --run r --output {0}/o",
            "o/config.json",
            "o: already exists; choose another directory or remove it",
        ),
    ],
)
def test_earlier_results_are_found_before_tensorflow_is_imported(
    line: str, name: str, message: str, tmp_path: Path, without_tensorflow: dict[str, str]
) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    for file in ("i", name):
        (tmp_path / file).write_text("{}")
    done = run(*line.format(tmp_path).split(), environment=without_tensorflow)
    flag = "--rejected" if "--rejected" in line else "--run" if "--run {" in line else "--output"
    assert (done.returncode, done.stderr) == (2, f"clozeline: {flag} {tmp_path}/{message}\n")
    assert (tmp_path / name).read_text() == "{}"


@pytest.mark.parametrize("name", ["a.txt", "eval.txt", "rules.yaml"])
def test_a_vocabulary_that_would_replace_what_it_is_made_from(
    name: str, tmp_path: Path, without_tensorflow: dict[str, str]
) -> None:
    for file in ("a.txt", "b.txt", "eval.txt", "rules.yaml"):
        (tmp_path / file).write_text("The boat sees the sea.")
    (tmp_path / "link").symlink_to(name)
    words = "vocab --overwrite --input [ab].txt --decontaminate eval.txt --quality rules.yaml"
    for output in (name, "link"):
        done = run(
            *words.split(), "--output", output, environment=without_tensorflow, folder=tmp_path
        )
        wrong = f"clozeline: --output {output}: is a file that is read; choose another\n"
        assert (done.returncode, done.stderr) == (2, wrong)
    assert (tmp_path / name).read_text() == "The boat sees the sea."


@pytest.mark.parametrize(
    ("line", "name", "contents"),
    [
        ("evaluate --run r --data d --predictions", "config.json", b'{\n "model": {}\n}\n'),
        ("evaluate --run r --data d --predictions", "train.jsonl", b'{"text": "a", "label": 1}\n'),
        ("evaluate --run r --data d --predictions", "vocab.txt", b"[PAD]\n\xff\n"),
        ("evaluate --run r --data d --picture", "config.json", b"{}\n"),
        ("evaluate --run r --data d --picture", "mine.png", b"\x89PNG\r\n\x1a\nmine"),
        ("explain --run r text --output", "index.html", b"<!doctype html>\n<title>Mine</title>"),
        ("explain --run r text --output", "mine.png", b"\x89PNG\r\n\x1a\nmine"),
    ],
)
def test_a_file_that_the_command_did_not_make_is_not_replaced(
    line: str, name: str, contents: bytes, tmp_path: Path, without_tensorflow: dict[str, str]
) -> None:
    (tmp_path / name).write_bytes(contents)
    done = run(*line.split(), name, environment=without_tensorflow, folder=tmp_path)
    wrong = "exists, and this command did not make it; choose another or remove it"
    assert done.stderr == f"clozeline: {line.split()[-1]} {name}: {wrong}\n"
    assert (done.returncode, done.stdout) == (2, "")
    assert (tmp_path / name).read_bytes() == contents


def test_only_the_first_worker_needs_a_run_that_it_can_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, _ = parse("pretrain", ["--dataset", "d", "--run", "r"])
    (output,) = options.outputs
    for index, expected in ((0, [output]), (1, [])):
        monkeypatch.setenv("TF_CONFIG", Cluster(("a:1", "b:1"), index).tf_config)
        assert options.outputs == expected


def test_a_missing_working_directory(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    script = (
        f"import os, sys\nos.rmdir({str(gone)!r})\nfrom clozeline.main import main\n"
        "sys.exit(main(['vocab', '--input', 'i', '--output', 'o']))"
    )
    command = [sys.executable, "-P", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, cwd=gone)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)


@pytest.mark.parametrize(
    ("line", "flag"),
    [
        ("vocab --input d --output {}", "--output"),
        ("import --from r --run {}", "--run"),
        ("export-hf --run r --output {}", "--output"),
        ("evaluate --run r --data d --predictions {}", "--predictions"),
        ("evaluate --run r --data d --picture {}.png", "--picture"),
        ("explain --run r text --output {}.html", "--output"),
    ],
)
def test_an_output_that_another_command_writes_is_refused(
    line: str, flag: str, tmp_path: Path
) -> None:
    """Before the work, whatever it reads."""
    name, *words = line.format(tmp_path / "o").split()
    output = words[words.index(flag) + 1]
    options, unknown = parse(name, words)
    by = rf"{re.escape(output)}: is being written by process {os.getpid()}, since 20"
    with only_writer_of_output(Path(output), "it"), pytest.raises(InputError, match=by):
        options.run(unknown) if isinstance(options, BeamCommand) else options.run()
