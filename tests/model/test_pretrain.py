"""The command: from flags to a finished run, interrupted and resumed, and what it refuses."""

import dataclasses
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import config as tf_config

import clozeline
from clozeline.commands.pretrain import Pretrain
from clozeline.main import main, parse
from model.bert.config import BertConfig
from model.configs import PretrainConfig
from model.pretrain import Dataset, PretrainingData, model_config, open_dataset, run_config
from model.run import load_run
from model.start import check_batch_size
from model.training.best_keeper import BestKeeper
from model.training.checkpoints import Best, Checkpoints
from model.training.config import Initialization
from model.training.divergence import DivergenceGuard
from model.training.evaluation_schedule import EvaluationSchedule
from model.training.loop import Trainer
from model.training.session import Session
from model.training.signals import stop_requested
from pipeline.errors import InputError
from pipeline.manifest import read_manifest
from tests.model.stopping import stop_after

pytestmark = pytest.mark.usefixtures("printed_engine_notes", "undrawn")


Options = Callable[..., Pretrain]


@pytest.fixture(scope="module")
def finished(
    dataset: Path, small_config: BertConfig, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The run of the flags of `options`, not to be changed."""
    return run_of_flags(dataset, small_config, tmp_path_factory.mktemp("finished"))


def run_of_flags(dataset: Path, config: BertConfig, folder: Path, **given: Any) -> Path:
    model = folder / "small.json"
    model.write_text(dataclasses.replace(config, num_hidden_layers=1).to_json())
    run = folder / "run"
    Pretrain(dataset=dataset, run_dir=run, model=str(model), **(FLAGS | given)).run()
    return run


FLAGS: dict[str, Any] = {
    "steps": 6,
    "batch_size": 8,
    "learning_rate": 0.01,
    "xla": False,
    "precision": "float32",
}


@pytest.fixture
def options(dataset: Path, small_model: str, tmp_path: Path) -> Options:
    """Flags for a few steps; some may be given."""

    def make(**given: Any) -> Pretrain:
        flags: dict[str, Any] = {
            "dataset": dataset,
            "run_dir": tmp_path / "run",
            "model": small_model,
        }
        return Pretrain(**(FLAGS | flags | given))

    return make


def weights_of(run: Path) -> dict[str, np.ndarray]:
    return {weight.path: weight.numpy() for weight in load_run(run).load_model().weights}


def lines_of(run: Path, split: str) -> list[dict]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["split"] == split]


def test_result_and_run(options: Options, finished: Path, small_config: BertConfig) -> None:
    result = options(eval_every_steps=4, checkpoint_every_steps=5).run()
    run = Path(result["run"])
    assert (result["steps"], result["split"]) == (6, "eval")
    assert result["loss"] == pytest.approx(result["masked_lm_loss"] + result["next_sentence_loss"])
    assert 0 <= result["masked_lm_accuracy"] <= 1
    assert result["tokens_per_sec"] > 0
    json.dumps(result)
    assert sorted(p.name for p in (run / "checkpoints").glob("step-*")) == [
        "step-00000004",  # the best one when it was evaluated
        "step-00000005",
        "step-00000006",
    ]
    assert [line["step"] for line in lines_of(run, "train")] == [1, 2, 3, 4, 5, 6]
    held_out = lines_of(run, "eval")
    assert [line["step"] for line in held_out] == [4, 6]
    assert held_out[-1]["masked_lm_loss"] == result["masked_lm_loss"]
    # Warm-up: a tenth of 6 steps, 1; then down to the last update, which has a fifth.
    rates = [line["learning_rate"] for line in lines_of(run, "train")]
    assert rates == pytest.approx([0.01, 0.01, 0.008, 0.006, 0.004, 0.002])
    assert load_run(run).config == dataclasses.replace(small_config, num_hidden_layers=1)
    assert list((run / "logs").iterdir())
    assert (finished / "curves.png").stat().st_size > 10_000
    for line in lines_of(run, "train"):
        assert 0 < line["padding_rate"] < 0.5  # records have 8 to 16 of 16 positions
        assert 0 <= line["data_wait_rate"] < 1
        assert line["mfu"] >= 0


def test_the_loaded_model_is_the_evaluated_one(finished: Path, dataset: Path) -> None:
    from model.tasks.kinds import heads
    from model.training.input import eval_batches
    from model.training.losses import Pretraining
    from model.training.sums import means

    result = lines_of(finished, "eval")[-1]
    model = load_run(finished).load_model()
    batch = next(iter(eval_batches(dataset, read_manifest(dataset), "eval", batch_size=11)))
    outputs = model({name: batch[name] for name in model.input})
    sums = Pretraining(heads("nsp")).sums(outputs, batch)
    found = means({name: float(value) for name, value in sums.items()})
    for name, value in found.items():
        assert result[name] == pytest.approx(value, rel=1e-5)


def test_pretraining_reduces_the_loss(options: Options) -> None:
    result = options(steps=100, learning_rate=0.02).run()
    losses = [line["loss"] for line in lines_of(Path(result["run"]), "train")]
    assert np.mean(losses[-20:]) < 0.8 * np.mean(losses[:20])


def test_determinism_ends_with_its_training(options: Options, tmp_path: Path) -> None:
    def measures_waits(name: str, deterministic: bool) -> bool:
        run = tmp_path / name
        options(run_dir=run, steps=1, deterministic=deterministic).run()
        return "data_wait_rate" in lines_of(run, "train")[0]

    # TensorFlow refuses to read a clock in deterministic operations.
    assert not measures_waits("deterministic", True)
    assert measures_waits("after it", False)
    try:
        tf.config.experimental.enable_op_determinism()
        assert not measures_waits("of a process that is deterministic", False)
        assert tf_config.is_op_determinism_enabled()
    finally:
        tf_config.disable_op_determinism()


@pytest.mark.parametrize("xla", [pytest.param(True, marks=pytest.mark.slow), False])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    options: Options,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    finished: Path,
    xla: bool,
) -> None:
    whole = tmp_path / "whole" if xla else finished
    if xla:
        options(run_dir=whole, xla=True).run()
    stopped = options(run_dir=tmp_path / "stopped", xla=xla)
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        with pytest.raises(KeyboardInterrupt):
            stopped.run()
    assert "stopped and saved at step 4 of 6: the same command resumes" in capsys.readouterr().err
    stopped.run()
    assert "resuming from step 4 of 6" in capsys.readouterr().err
    expected, found = weights_of(whole), weights_of(stopped.run_dir)
    assert expected.keys() == found.keys()
    for path, weight in expected.items():
        np.testing.assert_array_equal(found[path], weight)
    for split in ("train", "eval"):
        first, second = ([line["loss"] for line in lines_of(run, split)]
                         for run in (whole, stopped.run_dir))  # fmt: skip
        assert first == second


def stop_before_the_evaluation(patch: pytest.MonkeyPatch) -> None:
    stop_after(patch, 4)


def stop_in_the_evaluation(patch: pytest.MonkeyPatch) -> None:
    measure = PretrainingData.measure

    def measure_and_stop(data: PretrainingData, trainer: Trainer) -> Any:
        values = measure(data, trainer)
        if int(trainer.step) == 4:
            raise KeyboardInterrupt
        return values

    patch.setattr(PretrainingData, "measure", measure_and_stop)


def stop_before_the_best_is_marked(patch: pytest.MonkeyPatch) -> None:
    mark = BestKeeper.mark

    def mark_or_stop(best: BestKeeper, step: int, values: Any) -> None:
        if step == 4:
            raise KeyboardInterrupt
        mark(best, step, values)

    patch.setattr(BestKeeper, "mark", mark_or_stop)


EVERY_2_STEPS = {"eval_every_steps": 2, "checkpoint_every_steps": 2}


def measure_the_best_at_step_4(patch: pytest.MonkeyPatch) -> None:
    measure = PretrainingData.measure
    patch.setattr(
        PretrainingData,
        "measure",
        lambda data, trainer: measure(data, trainer) | {"loss": abs(int(trainer.step) - 4)},
    )


@pytest.fixture(scope="module")
def best_at_step_4(
    dataset: Path, small_config: BertConfig, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An uninterrupted run, not to be changed."""
    with pytest.MonkeyPatch.context() as patch:
        measure_the_best_at_step_4(patch)
        folder = tmp_path_factory.mktemp("best_at_step_4")
        return run_of_flags(dataset, small_config, folder, **EVERY_2_STEPS)


@pytest.mark.parametrize(
    "stop", [stop_before_the_evaluation, stop_in_the_evaluation, stop_before_the_best_is_marked]
)
def test_no_stop_costs_an_evaluation(
    options: Options,
    best_at_step_4: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop: Callable[..., None],
) -> None:
    measure_the_best_at_step_4(monkeypatch)
    with monkeypatch.context() as patch:
        stop(patch)
        with pytest.raises(KeyboardInterrupt):
            options(**EVERY_2_STEPS).run()
    for _ in ("resumed", "finished, and measured again"):
        options(**EVERY_2_STEPS).run()
        stopped = tmp_path / "run"
        assert [line["step"] for line in lines_of(stopped, "eval")] == [2, 4, 6]
        assert lines_of(stopped, "eval") == lines_of(best_at_step_4, "eval")
        assert Checkpoints(stopped / "checkpoints").best == Best(4, "loss", 0)


def test_a_recipe_is_recorded_and_resumes_bit_for_bit(
    options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe: dict[str, Any] = {
        "recipe": "cpu-hours",
        "initialization": "neighbours-and-matches",
        "dropout": 0.0,
        "next_sentence_weight": 0.2,
    }
    whole, stopped = (options(run_dir=tmp_path / name, **recipe) for name in ("whole", "stopped"))
    whole.run()
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        with pytest.raises(KeyboardInterrupt):
            stopped.run()
    with pytest.raises(
        InputError, match="training initialization neighbours-and-matches, not random"
    ):
        options(
            run_dir=stopped.run_dir,
            dropout=0.0,
            initializer_range=0.8 / 12**0.5,
            next_sentence_weight=0.2,
        ).run()
    with pytest.raises(InputError, match=r"training next_sentence_weight 0\.2, not 1\.0"):
        options(run_dir=stopped.run_dir, **recipe | {"next_sentence_weight": 1.0}).run()
    with pytest.raises(InputError, match=r"training dropout 0\.0, not 0\.1"):
        options(run_dir=stopped.run_dir, **recipe | {"dropout": 0.1}).run()
    stopped.run()
    expected, found = weights_of(whole.run_dir), weights_of(stopped.run_dir)
    for path, weight in expected.items():
        np.testing.assert_array_equal(found[path], weight)
    saved = load_run(whole.run_dir).saved
    assert saved.recipe == "cpu-hours"
    assert saved.training is not None
    assert saved.training.dropout == 0.0
    # A fine-tuning, here or by another tool, has the model's own rates again.
    assert saved.model.hidden_dropout_prob == 0.15
    assert saved.model.attention_probs_dropout_prob == 0.25
    assert saved.model.initializer_range == pytest.approx(0.8 / saved.model.hidden_size**0.5)


@pytest.mark.parametrize(
    ("pairing", "heads", "warnings"),
    [
        ("nsp", 3, []),
        ("sop", 2, ["needs 3 attention heads, and the model has 2; all of them"]),
        ("none", 3, ["the dataset has no sentence pairs, so one attention head"]),
        ("none", 2, ["the dataset has no sentence pairs"]),
    ],
)
def test_a_matching_head_without_use_or_room(
    dataset: Path,
    small_config: BertConfig,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    pairing: str,
    heads: int,
    warnings: list[str],
) -> None:
    manifest = read_manifest(dataset)
    manifest = dataclasses.replace(manifest, settings=manifest.settings | {"pairing": pairing})
    model = tmp_path / "model.json"
    model.write_text(dataclasses.replace(small_config, num_attention_heads=heads).to_json())
    for initialization, expected in (("neighbours-and-matches", warnings), ("neighbours", [])):
        config = PretrainConfig(
            run_dir=tmp_path / "run",
            dataset=dataset,
            model=str(model),
            initialization=cast(Initialization, initialization),
        )
        caplog.clear()
        run_config(config, [Dataset(dataset, manifest)], None, 1, "float32")
        assert len(caplog.messages) == len(expected)
        for message, part in zip(caplog.messages, expected, strict=True):
            assert message.startswith("`initialization` neighbours-and-matches: ")
            assert part in message


def test_initial_weights_of_a_run_exclude_those_of_a_recipe(options: Options) -> None:
    with pytest.raises(InputError, match="`init` brings its own weights; leave out `initiali"):
        options(init=Path("run"), initialization="neighbours")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dropout", 1.0),
        ("initializer_range", 0.0),
        ("next_sentence_weight", 0.0),
        ("next_sentence_weight", 1.5),
        ("next_sentence_weight", float("nan")),
    ],
)
def test_a_rate_out_of_range(options: Options, name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"`{name}` {value}: must be"):
        options(**{name: value})


def test_a_finished_run_says_so_and_measures_again(
    options: Options, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    again = options().run()
    assert "is finished (6 steps); give more `steps` to train further" in capsys.readouterr().err
    assert again["masked_lm_loss"] == lines_of(finished, "eval")[-1]["masked_lm_loss"]
    longer = options(steps=8).run()
    assert longer["steps"] == 8
    assert load_run(run).training.warmup_steps == 1


def test_a_run_has_one_writer(
    dataset: Path,
    small_model: str,
    tmp_path: Path,
    writer_of: Callable[[Path], subprocess.Popen],
    capsys: pytest.CaptureFixture,
) -> None:
    run = tmp_path / "run"
    arguments = ["pretrain", "--dataset", str(dataset), "--run", str(run), "--model", small_model]
    arguments += ["--steps", "3", "--batch-size", "8", "--no-xla"]
    other = writer_of(run)
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"clozeline: --run {run}: is being written by process {other.pid}, sinc")
    assert [path.name for path in run.iterdir()] == [".lock"]
    other.kill()
    other.wait()
    assert main(arguments) == 0
    assert f"process {other.pid}, since 20" in capsys.readouterr().err
    assert not (run / ".lock").exists()
    writer_of(run)  # who reads does not ask
    Checkpoints(run / "checkpoints", writes=False).restore({})
    assert load_run(run).load_model() is not None


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("config.json", "", "config.json: damaged: "),
        ("config.json", '{"model_type": "bert"}', "config.json: damaged: not a clozeline-run/1"),
        ("config.json/inside", "", "config.json: cannot be read: Is a directory"),
        ("vocab.txt", "[UNK]\n", "has another vocab.txt than "),
        ("metrics.jsonl", "{}\n", "has metrics.jsonl, which a training would change; choose "),
        ("curves.png", "PNG", "has curves.png, "),
        ("checkpoints/mine", "", "has checkpoints, "),
    ],
)
def test_a_folder_of_others_is_not_trained_over(
    options: Options, tmp_path: Path, name: str, contents: str, message: str
) -> None:
    file = tmp_path / "run" / name
    file.parent.mkdir(parents=True)
    file.write_text(contents)
    with pytest.raises(InputError, match=f"run.*{message}"):
        options(steps=1).run()
    assert [path for path in (tmp_path / "run").rglob("*") if path.is_file()] == [file]
    assert file.read_text() == contents


def test_a_folder_with_the_datasets_vocabulary_becomes_a_run(
    options: Options, dataset: Path, tmp_path: Path
) -> None:
    """As one does whose first start was interrupted between its two files."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run/vocab.txt").write_bytes((dataset / "vocab.txt").read_bytes())
    (tmp_path / "run/notes.md").touch()
    assert options(steps=1).run()["steps"] == 1


def test_without_an_eval_split(
    options: Options, make_dataset: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    make_dataset(tmp_path / "no-eval", evaluation=())
    no_eval = options(dataset=tmp_path / "no-eval")
    result = no_eval.run()
    assert result["split"] == "train"
    assert "nothing is held out, so the losses are of the last steps" in capsys.readouterr().err
    with pytest.raises(
        InputError, match=r"is finished, and nothing of .* is held out .*; give more"
    ):
        no_eval.run()


def test_epochs_give_steps(options: Options) -> None:
    assert options(steps=None, epochs=1.5).run()["steps"] == 8  # 60 examples in batches of 8


def test_another_vocabulary_or_size_is_refused(
    options: Options, finished: Path, make_dataset: Callable, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    make_dataset(tmp_path / "other", word="other")
    with pytest.raises(InputError, match=r"other has another vocabulary .* than .*run was trained"):
        options(dataset=tmp_path / "other").run()
    with pytest.raises(InputError, match="started with model hidden_size 12, not 128"):
        options(model="tiny").run()


def test_weights_with_nan_are_never_saved(options: Options) -> None:
    diverging = options(learning_rate=1e30, steps=20, checkpoint_every_steps=2)
    with pytest.raises(InputError, match=r"diverged before step \d+ .* lower `learning_rate`"):
        diverging.run()
    run = diverging.run_dir
    for checkpoint in (run / "checkpoints").glob("step-*"):
        reader = tf.train.load_checkpoint(str(checkpoint / "checkpoint"))
        names = [name for name in reader.get_variable_to_shape_map() if name.startswith("model/")]
        assert names
        for name in names:
            assert np.isfinite(reader.get_tensor(name)).all(), (checkpoint, name)


def test_weights_that_the_last_update_broke_are_no_result(options: Options) -> None:
    """The loss of the last step is that of the weights before it."""
    broken = options(learning_rate=1e35, warmup_steps=0, steps=1)
    with pytest.raises(InputError, match=r"diverged before step 1 \(last checkpoint: step 0\)"):
        broken.run()
    assert not list(broken.run_dir.glob("checkpoints/step-*"))


def blow_up_at(monkeypatch: pytest.MonkeyPatch, step: int, times: int = 1) -> None:
    """Make the loss a hundred times as high, and the weights broken, at an update."""
    train, left = Trainer.train, [times]

    def train_and_blow_up(trainer: Trainer, *arguments: Any) -> Any:
        sums = train(trainer, *arguments)
        if int(trainer.step) == step and left[0]:
            left[0] -= 1
            trainer.weights["pooled_dense/bias"].assign(np.full(12, 1e9))
            sums = {**sums, "masked_lm_loss": sums["masked_lm_loss"] * 100}
        return sums

    monkeypatch.setattr(Trainer, "train", train_and_blow_up)


def test_a_divergence_is_rolled_back_and_its_batches_skipped(
    options: Options, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    flags: dict[str, Any] = {"steps": 8, "checkpoint_every_steps": 2, "eval_every_steps": None}
    positions = []
    loop = Session._train_batches
    monkeypatch.setattr(
        Session,
        "_train_batches",
        lambda self: (positions.append(int(self.trainer.position)), loop(self))[1],
    )
    blow_up_at(monkeypatch, 5)
    result = options(**flags, on_blow_up="skip").run()
    said = capsys.readouterr().err
    assert "diverged before step 5 (last checkpoint: step 4): resuming there without" in said
    assert "without the batches of 1 step" in said
    assert positions == [0, 5]  # after four updates, the sixth batch
    run = Path(result["run"])
    assert [line["step"] for line in lines_of(run, "train")] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert max(line["masked_lm_loss"] for line in lines_of(run, "train")) < 10
    assert max(np.abs(weight).max() for weight in weights_of(run).values()) < 100


def test_an_evaluation_after_the_last_checkpoint_is_repeated_after_a_roll_back(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    blow_up_at(monkeypatch, 6)
    monkeypatch.setattr(EvaluationSchedule, "is_new_best", lambda *_: False)  # saves no checkpoint
    flags: dict[str, Any] = {"steps": 8, "checkpoint_every_steps": 4, "eval_every_steps": 5}
    run = Path(options(**flags, on_blow_up="skip").run()["run"])
    assert [line["step"] for line in lines_of(run, "eval")] == [5, 8]


def break_weights_at(monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
    """Make the weights NaN at updates, once for each: the step's loss is that of those before."""
    train, left = Trainer.train, list(steps)

    def train_and_break(trainer: Trainer, *arguments: Any) -> Any:
        sums = train(trainer, *arguments)
        if int(trainer.step) in left:
            left.remove(int(trainer.step))
            trainer.weights["pooled_dense/bias"].assign(np.full(12, np.nan))
        return sums

    monkeypatch.setattr(Trainer, "train", train_and_break)


def test_weights_that_only_an_evaluation_finds_broken_are_rolled_back(
    options: Options, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    break_weights_at(monkeypatch, 5, 5)
    flags: dict[str, Any] = {"steps": 6, "checkpoint_every_steps": 2, "eval_every_steps": 5}
    with pytest.raises(InputError, match=r"diverged before step 5 .*, or set `on_blow_up` skip"):
        options(**flags).run()
    run = Path(options(**flags, on_blow_up="skip").run()["run"])
    assert "step 5 (last checkpoint: step 4): resuming there without the" in capsys.readouterr().err
    assert [line["step"] for line in lines_of(run, "eval")] == [5, 6]
    assert np.isfinite([line["loss"] for line in lines_of(run, "eval")]).all()


@pytest.mark.parametrize("eval_every_steps", [2, None])
def test_broken_weights_are_not_saved_but_rolled_back(
    eval_every_steps: int | None,
    options: Options,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    break_weights_at(monkeypatch, 4, 6)
    flags: dict[str, Any] = {"steps": 6, "checkpoint_every_steps": 2, "on_blow_up": "skip"}
    run = Path(options(**flags, eval_every_steps=eval_every_steps).run()["run"])
    said = capsys.readouterr().err
    assert "diverged before step 4 (last checkpoint: step 2): resuming there without the" in said
    assert "diverged before step 6 (last checkpoint: step 4): resuming there without the" in said
    assert np.isfinite([weight.sum() for weight in weights_of(run).values()]).all()


def test_a_divergence_stops_by_default_and_after_too_many_roll_backs(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    blow_up_at(monkeypatch, 3, times=99)
    with pytest.raises(InputError, match=r"diverged before step 3 .*, or set `on_blow_up` skip"):
        options(checkpoint_every_steps=2).run()
    with pytest.raises(InputError, match=r"before step 3 .*, for the 6th time; start a new `run"):
        options(checkpoint_every_steps=2, on_blow_up="skip").run()


def test_a_checkpoint_is_written_to_its_end_before_a_failure_releases_the_lock(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = threading.Event()
    write, roll_back = Checkpoints._write, DivergenceGuard.roll_back

    def write_after_the_failure(checkpoints: Checkpoints, step: int) -> None:
        failed.wait()
        write(checkpoints, step)

    def fail(*arguments: Any) -> str:
        failed.set()
        return roll_back(*arguments)

    monkeypatch.setattr(Checkpoints, "_write", write_after_the_failure)
    monkeypatch.setattr(DivergenceGuard, "roll_back", fail)
    blow_up_at(monkeypatch, 3)
    with pytest.raises(InputError, match="diverged before step 3"):
        options(checkpoint_every_steps=2).run()
    written = (options().run_dir / "checkpoints").iterdir()
    assert [path.name for path in written] == ["step-00000002"]


def test_the_best_checkpoint_is_that_of_the_lowest_evaluation_loss(options: Options) -> None:
    # With a learning rate as high as this, it gets worse in the end.
    run = Path(options(steps=12, eval_every_steps=3, learning_rate=0.1).run()["run"])
    losses = {line["step"]: line["loss"] for line in lines_of(run, "eval")}
    assert len(losses) == 4
    best = min(losses, key=losses.__getitem__)
    assert Checkpoints(run / "checkpoints").best == Best(best, "loss", losses[best])
    assert (run / "checkpoints" / f"step-{best:08}").exists()


@pytest.fixture(scope="module")
def phases(
    make_dataset: Callable, small_config: BertConfig, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What `FLAGS` lack for five steps on records of 16, and three on records of 24."""
    folder = tmp_path_factory.mktemp("phases")
    make_dataset(folder / "long", max_seq_length=24, max_predictions=5, seed=2)
    model = dataclasses.replace(small_config, max_position_embeddings=24, num_hidden_layers=1)
    (folder / "long.json").write_text(model.to_json())
    return {
        "model": str(folder / "long.json"), "steps": 8,
        "phase2_dataset": folder / "long", "phase2_steps": 3,
    }  # fmt: skip


@pytest.fixture
def two_phases(options: Options, phases: dict[str, Any]) -> Options:
    """Flags of `phases`; some may be given."""
    return lambda **given: options(**phases | given)


@pytest.fixture(scope="module")
def both_phases(
    dataset: Path, phases: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The uninterrupted run of `phases`, not to be changed."""
    run = tmp_path_factory.mktemp("both") / "run"
    Pretrain(dataset=dataset, run_dir=run, **FLAGS | phases).run()
    return run


def test_two_phases_in_one_run(two_phases: Options, both_phases: Path, tmp_path: Path) -> None:
    one = {"phase2_dataset": None, "phase2_steps": None}
    alone = Path(two_phases(**one, run_dir=tmp_path / "alone").run()["run"])
    both, first = (lines_of(path, "train") for path in (both_phases, alone))
    # The schedule runs on over both; the first five updates are those of a run of one phase.
    names = ("loss", "learning_rate")
    assert [[x[n] for n in names] for x in both[:5]] == [[x[n] for n in names] for x in first[:5]]
    assert [line["step"] for line in both] == list(range(1, 9))
    assert [x["learning_rate"] for x in both] == [x["learning_rate"] for x in first]
    assert both[5]["loss"] != first[5]["loss"]
    assert [line["step"] for line in lines_of(both_phases, "eval")] == [5, 8]
    loaded = load_run(both_phases)
    assert loaded.dataset.max_seq_length == 24
    # As many positions an update: 8 × 16 = 128, and 5 × 24 = 120 is the most that fits.
    assert (loaded.training.phase2_steps, loaded.training.phase2_batch_size) == (3, 5)


@pytest.mark.parametrize(
    "stopped_at",
    [pytest.param(3, marks=pytest.mark.slow), 5, pytest.param(7, marks=pytest.mark.slow)],
)
def test_two_phases_resumed_in_either(
    two_phases: Options, both_phases: Path, monkeypatch: pytest.MonkeyPatch, stopped_at: int
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, stopped_at)
        with pytest.raises(KeyboardInterrupt):
            two_phases().run()
    stopped = Path(two_phases().run()["run"])
    expected, found = weights_of(both_phases), weights_of(stopped)
    for path, weight in expected.items():
        np.testing.assert_array_equal(found[path], weight)
    losses = ([x["loss"] for x in lines_of(run, "train")] for run in (both_phases, stopped))
    assert next(losses) == next(losses)
    assert lines_of(stopped, "eval") == lines_of(both_phases, "eval")


def test_a_finished_run_is_given_a_second_phase(two_phases: Options) -> None:
    one = {"phase2_dataset": None, "phase2_steps": None, "steps": 5}
    two_phases(**one).run()
    assert two_phases().run()["steps"] == 8


def test_invalid_second_phases(two_phases: Options, make_dataset: Callable, tmp_path: Path) -> None:
    make_dataset(tmp_path / "other", word="other")
    with pytest.raises(InputError, match=r"`phase2_dataset` .*other: its vocab_sha256 is not that"):
        two_phases(phase2_dataset=tmp_path / "other").run()
    with pytest.raises(InputError, match="`phase2_steps` 8: must be at least 1, and fewer than"):
        two_phases(phase2_steps=8).run()
    with pytest.raises(InputError, match=r"`phase2_steps` and .*: need a `phase2_dataset`"):
        two_phases(phase2_dataset=None)
    config = tmp_path / "short.json"
    long = Path(two_phases().model)
    config.write_text(long.read_text().replace(": 24", ": 16"))
    with pytest.raises(InputError, match=r"max_position_embeddings 16, but .* sequences have 24"):
        two_phases(model=str(config)).run()


def test_a_damaged_record_stops_the_training_with_its_file_named(
    options: Options, make_dataset: Callable, tmp_path: Path
) -> None:
    make_dataset(tmp_path / "damaged")
    file = tmp_path / "damaged" / "train-00000-of-00002.tfrecord"
    data = bytearray(file.read_bytes())
    data[-20] ^= 1
    file.write_bytes(data)
    with pytest.raises(InputError, match=r"train-00000-of-00002.tfrecord: record 22 is corrupt"):
        options(dataset=tmp_path / "damaged").run()


def test_a_missing_shard_stops_the_training_with_its_name(
    options: Options, make_dataset: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_dataset(tmp_path / "leaky")
    shard, train = tmp_path / "leaky" / "train-00001-of-00002.tfrecord", Trainer.train

    def train_and_lose(trainer: Trainer, *arguments: Any) -> Any:
        shard.unlink(missing_ok=True)
        return train(trainer, *arguments)

    monkeypatch.setattr(Trainer, "train", train_and_lose)
    with pytest.raises(InputError, match=r"train-00001-of-00002.tfrecord: is missing; put it back"):
        # So many, since some 1,500 records may have been read ahead.
        options(dataset=tmp_path / "leaky", steps=2000).run()


@pytest.mark.slow
def test_a_full_disk_stops_the_training_with_a_one_line_error(
    options: Options, finished: Path
) -> None:
    flags = options()
    shutil.copytree(finished, flags.run_dir)  # with a checkpoint that there was room for
    kept = sorted(path.name for path in (flags.run_dir / "checkpoints").iterdir())
    command = [
        sys.executable, "-m", "clozeline", "pretrain", "--no-xla",
        "--precision=float32", f"--dataset={flags.dataset}", f"--run={flags.run_dir}",
        f"--model={flags.model}", "--batch-size=8", "--learning-rate=0.01", "--steps=9",
        "--checkpoint-every-steps=2",
    ]  # fmt: skip
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert "step-00000008: cannot be written: " in last
    assert last.endswith("earlier checkpoints are intact")
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in (flags.run_dir / "checkpoints").iterdir()) == kept


def test_a_vocabulary_that_is_not_the_datasets(make_dataset: Callable, tmp_path: Path) -> None:
    make_dataset(tmp_path / "dataset")
    with (tmp_path / "dataset" / "vocab.txt").open("a") as file:
        file.write("more\n")
    with pytest.raises(
        InputError, match=r"vocab.txt: not the vocabulary that the dataset was made"
    ):
        open_dataset(tmp_path / "dataset")


def test_no_train_example(make_dataset: Callable, tmp_path: Path) -> None:
    make_dataset(tmp_path / "dataset", train=())
    with pytest.raises(InputError, match="no example in its train split; make it from more text"):
        open_dataset(tmp_path / "dataset")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("huge", "`model` huge: expected tiny, mini, .*, or a .json file"),
        ("none.json", "`model` none.json: cannot be used: .*No such file"),
        ("typo.json", "typo.json: cannot be used: unknown key 'hiden_size'"),
        ("vocab.json", "vocab_size 51, but the dataset's vocabulary has 50 pieces"),
        ("deep.json", "deep.json: cannot be used: nested too deeply"),
        ("fifo.json", "fifo.json: not a regular file"),
        ("nan.json", "nan.json: cannot be used: layer_norm_eps must be above 0, received nan"),
        ("short.json", "max_position_embeddings 8, but the dataset's sequences have 16; make"),
        ("wide.json", "wide.json: cannot be used: a model must have at most 100,000,000,000 para"),
        ("tall.json", "tall.json: cannot be used: num_hidden_layers must be at most 1000, rec"),
        (
            "large.json",
            r"large.json: training its 79,339,213,492 parameters takes at least 1269.4 GB, and",
        ),
    ],
)
def test_models_that_cannot_be_used(
    dataset: Path, tmp_path: Path, small_config: BertConfig, model: str, message: str
) -> None:
    (tmp_path / "typo.json").write_text('{"hiden_size": 8}')
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "nan.json").write_text('{"vocab_size": 50, "layer_norm_eps": NaN}')
    os.mkfifo(tmp_path / "fifo.json")
    sizes = {
        "wide": {"hidden_size": 10**9, "num_attention_heads": 1},
        "tall": {"num_hidden_layers": 10**9},
        "large": {"intermediate_size": 4_300_000},
    }
    for name, changed in sizes.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"vocab_size": 50, **changed}))
    other = dataclasses.replace(small_config, vocab_size=51)
    (tmp_path / "vocab.json").write_text(other.to_json())
    short = dataclasses.replace(small_config, max_position_embeddings=8)
    (tmp_path / "short.json").write_text(short.to_json())
    path = str(tmp_path / model) if (tmp_path / model).exists() else model
    with pytest.raises(InputError, match=message):
        model_config(path, read_manifest(dataset))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"steps": 0}, "`steps` 0: must be at least 1"),
        ({"batch_size": 0}, "`batch_size` 0: must be at least 1"),
        ({"checkpoint_every_steps": 0}, "`checkpoint_every_steps` 0: must be at least 1"),
        ({"eval_every_steps": 0}, "`eval_every_steps` 0: must be at least 1"),
        ({"warmup_steps": -1}, "`warmup_steps` -1: must be at least 0"),
        ({"weight_decay": -0.1}, "`weight_decay` -0.1: must be at least 0"),
        ({"seed": -1}, "`seed` -1: must be from 0 to 4294967295"),
        ({"learning_rate": float("nan")}, "`learning_rate` nan: must be above 0"),
        ({"steps": None, "epochs": 0.0}, "`epochs` 0.0: must be above 0"),
        ({"blow_up_ratio": 1.0}, "`blow_up_ratio` 1.0: must be above 1"),
        ({"epochs": 1.0}, "`steps` and `epochs`: expected one of them, got both"),
    ],
)
def test_flags_out_of_range(options: Options, flags: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        options(**flags)


def test_batch_size_must_divide() -> None:
    check_batch_size("batch_size", 12, 3)
    with pytest.raises(InputError, match=r"`batch_size` 10: must be a multiple of the 4 .* 12"):
        check_batch_size("batch_size", 10, 4)
    check_batch_size("batch_size", 12, 3, 2)
    with pytest.raises(InputError, match="the 3 devices, times 4 accumulation steps; try 24"):
        check_batch_size("batch_size", 15, 3, 4)


@pytest.mark.usefixtures("obeys_hang_up")
@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGHUP])
def test_the_second_signal_takes_effect_immediately(first: int) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stop_requested() as stopped:
        assert not stopped()
        os.kill(os.getpid(), first)
        assert stopped()
        assert signal.getsignal(signal.SIGTERM) is before
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_flags_at_the_front_door(dataset: Path, tmp_path: Path) -> None:
    flags = ["--dataset", str(dataset), "--run", str(tmp_path), "--no-xla", "--warmup-steps", "7"]
    parsed, unknown = parse("pretrain", flags)
    assert (parsed.run_dir, parsed.xla, parsed.warmup_steps, unknown) == (tmp_path, False, 7, [])


def test_help_needs_no_tensorflow() -> None:
    modules = ("pretrain", "finetune", "evaluate", "import_checkpoint", "export_hugging_face")
    imports = "".join(f"import clozeline.commands.{name}\n" for name in modules)
    code = f"{imports}import sys; sys.exit('tensorflow' in sys.modules)"
    root = str(Path(clozeline.__file__).parents[1])
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)


def test_a_run_starts_from_the_weights_of_another(
    options: Options, finished: Path, tmp_path: Path, make_dataset: Callable[..., Any]
) -> None:
    second = tmp_path / "second"
    options(init=finished, model="large", run_dir=second, steps=1, learning_rate=1e-12).run()
    after = weights_of(second)
    for name, values in weights_of(finished).items():
        np.testing.assert_allclose(values, after[name], atol=1e-6, err_msg=name)
    make_dataset(tmp_path / "other", word="other")
    with pytest.raises(InputError, match=r"`init` .*run: its vocabulary is not that of .*other"):
        options(init=finished, run_dir=second, dataset=tmp_path / "other", steps=1).run()
