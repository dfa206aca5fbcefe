"""How long the demo trains, and what it says about a longer training."""

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clozeline.commands import demo, demo_folder
from clozeline.main import main
from pipeline.errors import InputError, JobError


@pytest.mark.parametrize(
    ("seconds", "step_secs", "steps"),
    [
        (-30.0, 0.05, 2000),  # nothing is left: as on a slow machine
        (150.0, 0.1, 2000),
        (240.0, 0.1, 2500),  # 2,400 and the 100 steps of the warm-up
        (249.0, 0.1, 2500),
        (3600.0, 0.01, 6000),
    ],
)
def test_steps_within_a_time(seconds: float, step_secs: float, steps: int) -> None:
    assert demo.steps_within(seconds, step_secs) == steps


@pytest.mark.parametrize(
    ("losses", "gain"),
    [
        ((5.0, 4.6, 4.4), 0.1),  # a half of 0.2, as that is a half of 0.4
        ((5.0, 4.8, 4.4), 0.4),  # the fall has just begun: not more than before
        ((5.0, 5.1, 4.4), None),
        ((5.0, 4.6, 4.6), None),
        ((float("nan"), 4.6, 4.4), None),
    ],
)
def test_the_gain_of_twice_the_steps(
    losses: tuple[float, float, float], gain: float | None
) -> None:
    assert demo.gain_of_doubling(*losses) == (gain and pytest.approx(gain))


class Recorded(demo.DemoStages):
    """Stages whose `pretrain` takes no time, at a speed of 10 steps per second."""

    def command(self, *arguments: object) -> tuple[dict[str, Any], float]:
        """Record the command, and log the evaluations of a run whose loss falls."""
        words = [str(argument) for argument in arguments]
        self.commands = [*getattr(self, "commands", []), words]
        steps = int(words[words.index("--steps") + 1])
        every = int(words[words.index("--eval-every-steps") + 1]) if len(words) > 20 else steps
        (self.folder / "run").mkdir(exist_ok=True)
        with (self.folder / "run" / "metrics.jsonl").open("a") as log:
            for step in range(every, steps + 1, every):
                loss = 4.0 + 1000 / step
                log.write(json.dumps({"step": step, "split": "eval", "masked_lm_loss": loss}))
                log.write("\n")
        speed = 10.0 * demo.BATCH_SIZE * demo.MAX_SEQ_LENGTH
        return {"masked_lm_loss": loss, "tokens_per_sec": speed}, 12.0


def test_it_measures_the_warm_up_and_trains_as_long_as_the_time_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nword\n")
    monkeypatch.setattr(demo, "time", SimpleNamespace(monotonic=lambda: 1060.0))
    stages = Recorded(tmp_path)
    trained = demo.train(demo.Demo(), stages, begin=1000.0)
    warm_up, whole = stages.commands
    # The same training but for its length, so that the second command resumes the first.
    assert warm_up[:-2] == whole[:-4]
    assert warm_up[-2:] == ["--steps", "100"]
    # Of 360 s: 60 are over, 40 are for serving, and 2 of the first command's 12 for its start.
    assert whole[-4:] == ["--steps", "2600", "--eval-every-steps", "650"]
    assert trained["steps"] == 2600
    # 1000 / 1300 - 1000 / 2600, and half of that, since the doubling before gained twice as much.
    assert trained["gain_of_doubling"] == pytest.approx(1000 / 2600 / 2)


def test_a_number_of_steps_is_trained_at_once(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nword\n")
    stages = Recorded(tmp_path)
    assert demo.train(demo.Demo(steps=20), stages, begin=0.0)["steps"] == 20
    (words,) = stages.commands
    assert words[-4:] == ["--steps", "20", "--eval-every-steps", "5"]
    assert words[words.index("--warmup-steps") + 1] == "10"


def test_minutes_and_steps_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--steps", "5", "--minutes", "5"]) == 2
    assert "--minutes: --steps says how long it trains; leave one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("corpus", "message"),
    [
        ("nothing/*.txt", "--corpus nothing/*.txt: no file matches"),
        ("demo/corpus/*.txt", "is in demo, whose files the demo replaces; move it"),
    ],
)
def test_an_unusable_corpus_leaves_the_earlier_demo(
    corpus: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    earlier = demo_folder.prepare_folder(Path("demo"))
    (earlier / "corpus").mkdir()
    (earlier / "corpus" / "0.txt").write_text("One of an earlier demo.")
    demo_folder.record_files(earlier)
    assert main(["demo", "--corpus", corpus]) == 2
    assert message in capsys.readouterr().err
    assert (earlier / "corpus" / "0.txt").read_text() == "One of an earlier demo."


def test_a_corpus_without_a_held_out_document_is_too_small(tmp_path: Path) -> None:
    class Small(demo.DemoStages):
        def command(self, *words: object) -> tuple[dict[str, Any], float]:
            made = {"splits": {"train": 40}} if words[0] == "preprocess" else {}
            return {"pieces": 90, "words": 70} | made, 1.0

    with pytest.raises(InputError, match=r"no document was held out .* \(about one of 20 is\)"):
        demo.make_records(demo.Demo(), ("*.txt",), Small(tmp_path))


def test_the_summary_fits_80_columns_and_its_commands_can_be_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    folder = tmp_path / "a folder with a long name, which is longer than the table is wide" / "demo"
    stages = demo.DemoStages(demo_folder.prepare_folder(folder))
    (folder / "run").mkdir()
    stages.add("pretrain", "4,000 steps of 32 examples", "12,345 tokens/s", 321.0, folder / "run")
    verdict = {
        "words_found": 0, "words_asked": 0, "masked_lm_loss": 4.5, "masked_lm_accuracy": 0.3,
        "unigram_entropy_nats": 6.4, "gain_of_doubling": None, "steps": 4000,
        "masked_lm_learned": True, "next_sentence_accuracy": 0.8, "next_sentence_chance": 0.5,
        "next_sentence_margin": 0.02, "next_sentence_learned": True, "eval_examples": 900,
    }  # fmt: skip
    # No held-out sentence has a word to mask.
    demo.show(stages, {"filled": [], "pairs": []}, verdict, seconds=360.0)
    summary, _, after = capsys.readouterr().out.partition("Next steps:")
    table_lines = [line for line in summary.splitlines() if line[:1] in set("┏┃┡│└")]
    assert "pretrain │ 4,000 steps of 32 examples │ 12,345 tokens/s │   321.0" in summary
    assert max(map(len, table_lines)) <= 80
    commands = [shlex.split(line) for line in after.strip().splitlines()]
    assert [words[-1] for words in commands] == [
        str(folder / "models"), "The [MASK] is open.", "10", str(folder / "run"),
    ]  # fmt: skip


def test_a_corpus_with_too_little_held_out_text_is_refused_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_held_out(*_: object) -> None:
        raise InputError("too small")

    monkeypatch.setattr(demo, "make_records", lambda *_: ({"settings": {}}, {}))
    monkeypatch.setattr(demo, "held_out_questions", none_held_out)
    monkeypatch.setattr(demo, "train", lambda *_: pytest.fail("it trains"))
    with pytest.raises(InputError, match="too small"):
        demo._run_stages(demo.Demo(corpus=("*.txt",)), demo.DemoStages(tmp_path))


@contextlib.contextmanager
def running_stage(script: str, folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """A demo, in a session of its own, whose stage has printed that it started."""
    (folder / "command").write_text(script)
    (folder / "command").chmod(0o755)
    code = (
        "import sys; from pathlib import Path; from clozeline.commands import demo; "
        "from pipeline.stop_signals import unwinding; sys.executable = './command'\n"
        "with unwinding(): demo.DemoStages(Path()).command('pretrain')"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=folder, env=environment, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stderr
        assert "started\n" in iter(process.stderr.readline, "")
        yield process


SAVING = """#!/bin/sh
trap 'sleep 1; touch saved; exit 130' INT
sleep 1 # until the demo waits for it
echo started >&2
while :; do sleep 0.1; done
"""
"""A command that takes longer to save after Ctrl-C than `subprocess` waits for it."""


@pytest.mark.parametrize("interrupt", [os.killpg, os.kill], ids=["terminal", "kill"])
def test_an_interrupted_command_may_save_before_the_demo_ends(
    interrupt: Callable[[int, int], None], tmp_path: Path
) -> None:
    with running_stage(SAVING, tmp_path) as process:
        interrupt(process.pid, signal.SIGINT)  # a terminal sends it to the whole group
        process.communicate(timeout=120)
    assert process.returncode
    assert (tmp_path / "saved").exists()


TOLD = """#!/bin/sh
trap 'touch told; exit 143' TERM
echo started >&2
for second in $(seq 60); do sleep 1; done
"""


def test_a_command_is_told_to_end_when_the_demo_is_killed(tmp_path: Path) -> None:
    with running_stage(TOLD, tmp_path) as process:
        process.kill()
        process.communicate(timeout=300)  # until the command has ended, too
    assert (tmp_path / "told").exists()


def test_a_demo_that_is_told_to_end_waits_for_its_command(tmp_path: Path) -> None:
    with running_stage(TOLD, tmp_path) as process:
        process.terminate()
        process.communicate(timeout=300)
    assert (tmp_path / "told").exists()


LEFT = """
.corpus-6jm2fcgx/.lock .corpus-6jm2fcgx/new/os.txt
.clozeline-0123456789abcdef .vocab.txt-lock .vocab.txt-32979c22/word_counts.json vocab.txt
dataset/.lock dataset/_temporary-959bcf53/documents-79431215 dataset/eval-00000-of-00001.tfrecord
dataset/_temporary-959bcf53/train-00000-of-00001.61f24ea5 dataset/train-00000-of-00001.tfrecord
dataset/vocab.txt dataset/manifest.json model.json run/vocab.txt run/.lock run/config.json
run/.clozeline-0123456789abcdef run/logs/events.out.tfevents.1795828711.vm.20669.0.v2
run/metrics.jsonl run/curves.png run/checkpoints/best.json
run/checkpoints/partial-5/checkpoint_temp/part-00000-of-00001.data-00000-of-00001.tempstate1338650
run/checkpoints/partial-5/checkpoint.index run/checkpoints/step-00000005/checkpoint.index
run/checkpoints/step-00000005/checkpoint.data-00000-of-00001
run/checkpoints/step-00000005/checksums.json models/demo/.export-6jm2fcgx/new/assets/vocab.txt
models/demo/.export-6jm2fcgx/.lock models/demo/.lock models/demo/batching.config
models/demo/models.config models/demo/monitoring.config models/demo/1/saved_model.pb
models/demo/1/fingerprint.pb models/demo/1/assets/vocab.txt models/demo/1/variables/variables.index
models/demo/1/variables/variables.data-00000-of-00001
models/demo/1/assets.extra/tf_serving_warmup_requests
""".split()  # noqa: SIM905  (38 names)
"""Files that were seen while a demo ran, in the order of their appearance."""

OF_THE_USER = """
thesis.txt runs/notes.txt .vocab.txt.swp corpus/mine.txt corpus/os.txt~ dataset/notes.md
dataset/train-mine.tfrecord run/notes.txt run/logs/notes run/checkpoints/step-00000005/notes
models/demo/2/saved_model.pb models/demo/1/notes models/mine/1/saved_model.pb
""".split()  # noqa: SIM905


def write(folder: Path, *names: str) -> None:
    """Create files, with their folders."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def killed_demo(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A demo's folder with all files that one may leave, of which it has recorded none."""

    def write_corpus(corpus: Path, size_bytes: int) -> dict[str, int]:
        write(corpus, "os.txt", "os.path.txt")
        return {"documents": 2, "packages": 1, "bytes": size_bytes}

    monkeypatch.setattr("pipeline.corpus.docstrings.write_corpus", write_corpus)
    stages = demo.DemoStages(demo_folder.prepare_folder(folder))
    demo.make_corpus(demo.Demo(), stages)
    write(folder, *LEFT)
    return folder


def test_the_files_of_a_killed_demo_are_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = killed_demo(tmp_path / "demo", monkeypatch)
    assert sorted(path.name for path in (folder / "corpus").iterdir()) == ["os.path.txt", "os.txt"]
    demo_folder.prepare_folder(folder)
    assert [path.name for path in folder.rglob("*")] == [demo_folder.MARKER]


@pytest.mark.parametrize("is_killed", [True, False], ids=["killed", "finished"])
@pytest.mark.parametrize("name", OF_THE_USER)
def test_a_file_that_the_user_adds_while_a_demo_runs_stays(
    name: str, is_killed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = killed_demo(tmp_path / "demo", monkeypatch)
    write(folder, name)
    if not is_killed:
        demo_folder.record_files(folder)
    message = f"contains .*/demo/{re.escape(name)}, which no demo created .1 such files.; move them"
    with pytest.raises(InputError, match=message):
        demo_folder.prepare_folder(folder)
    assert all((folder / each).exists() for each in (*LEFT, "corpus/os.txt", name))
    (folder / name).unlink()
    demo_folder.prepare_folder(folder)
    assert [path.name for path in folder.rglob("*")] == [demo_folder.MARKER]


def test_a_half_written_corpus_is_in_a_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_corpus(corpus: Path, _size_bytes: int) -> dict[str, int]:
        assert corpus.relative_to(tmp_path).parts[0].startswith(".corpus-")
        raise InputError("no docstrings found")

    monkeypatch.setattr("pipeline.corpus.docstrings.write_corpus", write_corpus)
    with pytest.raises(InputError, match="no docstrings found"):
        demo.make_corpus(demo.Demo(), demo.DemoStages(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_what_the_user_makes_of_a_finished_demo_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = killed_demo(tmp_path / "demo", monkeypatch)
    demo_folder.record_files(folder)
    later = "run/checkpoints/step-00000009/checkpoint.index"  # a training that is resumed by hand
    write(folder, later)
    with pytest.raises(InputError, match=f"{later}, which no demo created .1 such files"):
        demo_folder.prepare_folder(folder)


def test_a_demo_that_was_killed_before_its_first_file_left_a_free_folder(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    demo_folder.prepare_folder(tmp_path / "demo")
    assert [path.name for path in (tmp_path / "demo").iterdir()] == [demo_folder.MARKER]


def test_a_second_demo_leaves_the_files_of_a_running_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = demo.Demo(output=tmp_path / "demo")

    def meanwhile(*_: object) -> dict[str, Any]:
        (tmp_path / "demo" / "vocab.txt").write_text("of the first demo")
        with pytest.raises(InputError, match=r"`output` .*demo: is being written by process"):
            demo.run_demo(options)
        return {"ok": (tmp_path / "demo" / "vocab.txt").exists()}

    monkeypatch.setattr(demo, "_run_stages", meanwhile)
    assert demo.run_demo(options) == {"ok": True}
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_a_server_that_ends_at_its_start_ends_the_demo_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "READY_SECS", 1e9)
    monkeypatch.setattr(demo, "module_command", lambda _: ("sh", "-c", "echo no >&2; exit 3"))
    with (
        pytest.raises(JobError, match="clozeline serve ended with exit code 3, see above"),
        demo.running_server(tmp_path),
    ):
        pytest.fail("it is ready")
    assert capfd.readouterr().err.splitlines()[-1] == "no"
