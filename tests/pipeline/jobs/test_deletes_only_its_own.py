"""A job removes only what it made itself, by name, whatever happens to it."""

import json
import signal
import socket
import subprocess
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from clozeline.start import main
from pipeline.configs import VocabularyConfig
from pipeline.errors import InputError
from pipeline.jobs import dataset as dataset_module
from pipeline.jobs.shared_folder import job_folder
from pipeline.make_vocabulary import make_vocabulary
from pipeline.manifest import MANIFEST, read_manifest
from pipeline.storage import publishing
from pipeline.storage.locks import LOCK, Holder, read_holder
from tests.fork_server import CLOZELINE, FORKS


def arguments(corpus: Path, vocab: Path, output: Path, *more: str) -> list[str]:
    where = ["--input", str(corpus / "*.txt"), "--vocab", str(vocab), "--output", str(output)]
    return ["preprocess", *where, "--max-seq-length", "32", "--shards", "2", *more]


def preprocess(corpus: Path, vocab: Path, output: Path, *more: str) -> int:
    return main(arguments(corpus, vocab, output, *more))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def while_running(monkeypatch: pytest.MonkeyPatch):
    """Let something happen when a job is about to run, or instead of it."""

    def arrange(happen) -> None:
        run_job = dataset_module.run_job

        def wrapped(*args: object, **kwargs: object) -> object:
            happen()
            return run_job(*args, **kwargs)

        monkeypatch.setattr(dataset_module, "run_job", wrapped)

    return arrange


def fail() -> None:
    raise OSError(28, "No space left on device")


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(("end", "code"), [(fail, 1), (interrupt, 130)])
@pytest.mark.parametrize("output", ["a", "a/b/c"])
def test_other_files_next_to_the_output_stay(
    end, code: int, output: str, prose_corpus: Path, vocab_path: Path, tmp_path: Path, while_running
) -> None:
    work = tmp_path / "work"

    def happen() -> None:
        (work / "thesis.txt").write_text("mine")
        (work / output / "notes.txt").write_text("mine, too")
        end()

    while_running(happen)
    assert preprocess(prose_corpus, vocab_path, work / output) == code
    assert contents(work) == {"thesis.txt": b"mine", f"{output}/notes.txt": b"mine, too"}


@pytest.mark.parametrize(("end", "code"), [(fail, 1), (interrupt, 130)])
def test_empty_folders_of_the_job_are_removed(
    end, code: int, prose_corpus: Path, vocab_path: Path, tmp_path: Path, while_running
) -> None:
    (tmp_path / "there").mkdir()
    while_running(end)
    lengths = ["--max-seq-length", "24", "32"]
    for output in ("work/a/b", "there/a", "there"):
        assert preprocess(prose_corpus, vocab_path, tmp_path / output, *lengths) == code
        assert [path.name for path in tmp_path.rglob("*")] == ["there"]


def test_vocab_removes_only_its_own_files(
    prose_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def happen(*_: object) -> None:
        (tmp_path / "work" / "thesis.txt").write_text("mine")
        raise InputError("--size: too small")

    monkeypatch.setattr("pipeline.make_vocabulary.learn_vocabulary", happen)
    where = ["--input", str(prose_corpus / "*.txt"), "--output", str(tmp_path / "work" / "v.txt")]
    (tmp_path / "work").mkdir()
    assert main(["vocab", *where]) == 2
    assert contents(tmp_path) == {"work/thesis.txt": b"mine"}


def test_a_folder_of_the_same_name_as_ours_stays(
    prose_corpus: Path, vocab_path: Path, tmp_path: Path
) -> None:
    """`_temporary` is what Hadoop and Spark call theirs."""
    spark = tmp_path / "ds" / "_temporary" / "0" / "part-00000"
    spark.parent.mkdir(parents=True)
    spark.write_text("mine")
    assert preprocess(prose_corpus, vocab_path, tmp_path / "ds") == 0
    assert spark.read_text() == "mine"


def test_a_path_is_not_interpreted_as_a_glob(
    prose_corpus: Path, vocab_path: Path, tmp_path: Path, while_running
) -> None:
    (tmp_path / "ds1").mkdir()
    (tmp_path / "ds1" / "thesis.txt").write_text("mine")
    while_running(fail)
    assert preprocess(prose_corpus, vocab_path, tmp_path / "ds[12]") == 1
    assert contents(tmp_path) == {"ds1/thesis.txt": b"mine"}


def test_overwriting_removes_only_what_the_manifest_lists(
    prose_corpus: Path, vocab_path: Path, tmp_path: Path
) -> None:
    output = tmp_path / "ds"
    assert preprocess(prose_corpus, vocab_path, output, "--shards", "3") == 0
    mine = {
        "mine.tfrecord": b"1",
        "train-00000-of-00009.tfrecord.gz": b"2",
        "old.tfrecord.bak": b"3",
    }
    for name, data in mine.items():
        (output / name).write_bytes(data)
    assert preprocess(prose_corpus, vocab_path, output, "--overwrite") == 0
    shards = {s.name for shards in read_manifest(output).splits.values() for s in shards}
    assert set(contents(output)) == {*shards, *mine, MANIFEST, "vocab.txt"}
    assert mine.items() <= contents(output).items()


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
@pytest.mark.parametrize("name", ["vocab.txt", "train-00001-of-00002.tfrecord"])
def test_a_file_that_is_not_a_dataset_is_not_replaced(
    name: str,
    overwrite: list[str],
    prose_corpus: Path,
    vocab_path: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / name).write_text("mine")
    assert preprocess(prose_corpus, vocab_path, tmp_path, *overwrite) == 2
    assert f"--output {tmp_path}: contains {name}, which belongs" in capsys.readouterr().err
    assert contents(tmp_path) == {name: b"mine"}


def test_the_vocabulary_may_be_in_the_output_already(
    prose_corpus: Path, vocab_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vocab = tmp_path / "vocab.txt"
    vocab.write_bytes(vocab_path.read_bytes())
    with monkeypatch.context() as patch:
        patch.setattr(publishing, "move", lambda *_: fail())
        assert preprocess(prose_corpus, vocab, tmp_path) == 1
    assert contents(tmp_path) == {"vocab.txt": vocab_path.read_bytes()}
    assert preprocess(prose_corpus, vocab, tmp_path) == 0
    read_manifest(tmp_path)


@pytest.mark.parametrize("renames", [1, 2, 4])
def test_failed_publishing_leaves_no_partial_dataset(
    renames: int,
    prose_corpus: Path,
    vocab_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "ds").mkdir()
    (tmp_path / "ds" / "thesis.txt").write_text("mine")
    move = publishing.move
    calls = []

    def failing(*paths: str) -> None:
        calls.append(paths)
        if len(calls) == renames:
            fail()
        move(*paths)

    monkeypatch.setattr(publishing, "move", failing)
    assert preprocess(prose_corpus, vocab_path, tmp_path / "ds") == 1
    assert len(calls) == renames
    assert contents(tmp_path) == {"ds/thesis.txt": b"mine"}


def test_a_dataset_published_during_the_job_is_not_replaced(
    prose_corpus: Path, vocab_path: Path, tmp_path: Path, while_running
) -> None:
    output = tmp_path / "ds"

    def publish_another() -> None:
        (output / MANIFEST).write_text("{}")

    while_running(publish_another)
    assert preprocess(prose_corpus, vocab_path, output) == 2
    assert contents(output) == {MANIFEST: b"{}"}


def start(corpus: Path, vocab: Path, output: Path) -> subprocess.Popen[bytes]:
    """Begin a job in a process of its own; return when its folder's lock names it."""
    command = [CLOZELINE, *arguments(corpus, vocab, output)]
    job = FORKS.popen(command, stderr=subprocess.DEVNULL)
    # The lock file is empty for a moment; a job that is killed then leaves its folder for ever.
    while not any(map(read_holder, output.glob(f"_temporary-*/{LOCK}"))):
        assert job.poll() is None
        time.sleep(0.05)
    return job


def test_two_jobs_on_one_output(
    prose_corpus: Path,
    vocab_path: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "ds"
    job = start(prose_corpus, vocab_path, output)
    job.send_signal(signal.SIGSTOP)
    there = contents(output)
    assert preprocess(prose_corpus, vocab_path, output) == 2
    assert f"--output {output}: is being written by process {job.pid}" in capsys.readouterr().err
    assert contents(output) == there
    job.send_signal(signal.SIGCONT)
    assert job.wait() == 0
    assert not list(output.glob("_temporary*"))
    read_manifest(output)


def test_a_killed_jobs_folder_is_removed_by_the_next(
    prose_corpus: Path,
    vocab_path: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    output = tmp_path / "ds"
    job = start(prose_corpus, vocab_path, output)
    job.kill()
    assert job.wait() == -signal.SIGKILL
    (folder,) = output.glob("_temporary-*")
    # As if it had been killed while it published.
    (output / "train-00000-of-00002.tfrecord").write_bytes(b"half")
    journal = {str(output): ["train-00000-of-00002.tfrecord", "vocab.txt"]}
    (folder / publishing.JOURNAL).write_text(json.dumps(journal))
    with job_folder(str(output), "_temporary-"):
        assert not folder.exists()
        assert not list(output.glob("*.tfrecord"))
    assert f"{folder}: process {job.pid}, since" in caplog.text


@pytest.mark.parametrize("kind", ["other host", "no lock", "other file in it"])
def test_a_folder_that_may_belong_to_another_process_stays(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "_temporary-abc"
    folder.mkdir()
    (folder / "documents-1").write_text("1")
    if kind != "no lock":
        host = "elsewhere" if kind == "other host" else socket.gethostname()
        (folder / LOCK).write_text(json.dumps(asdict(Holder(1, host, "now"))))
    if kind == "other file in it":
        (folder / "thesis.txt").write_text("mine")
    with job_folder(str(tmp_path), "_temporary-"):
        pass
    left = {"documents-1"} | ({LOCK} if kind == "other host" else set())
    assert set(contents(folder)) == ({"thesis.txt"} if kind == "other file in it" else left)
    assert [*tmp_path.iterdir()] == [folder]


@pytest.mark.parametrize("glob", ["*", "*.txt", "b.txt"])
def test_a_vocabulary_does_not_replace_its_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, glob: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.txt", "b.txt"):
        Path(name).write_text("The boat sees the sea.")
    config = VocabularyConfig(input=(glob,), output=Path("b.txt"), size=20, overwrite=True)
    with pytest.raises(InputError, match=r"`output` b\.txt: is a file that is read"):
        make_vocabulary(config)
    assert Path("b.txt").read_text() == "The boat sees the sea."
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b.txt"]
