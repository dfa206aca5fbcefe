"""The run directory: what it says of itself and what it refuses."""

import dataclasses
import json
from pathlib import Path

import pytest

from model.config import BertConfig, TrainingConfig
from model.run import DatasetFacts, Metrics, RunConfig, load_run, open_run, read_config
from pipeline.errors import InputError
from pipeline.manifest import read_manifest

TRAINING = TrainingConfig(
    steps=9, batch_size=8, learning_rate=0.5, warmup_steps=3, weight_decay=0.25, seed=6
)


@pytest.fixture
def config(small_config: BertConfig, dataset: Path) -> RunConfig:
    return RunConfig(small_config, TRAINING, DatasetFacts.of(read_manifest(dataset)))


@pytest.fixture
def run(tmp_path: Path, config: RunConfig, dataset: Path) -> Path:
    """A run that was opened and has a checkpoint's directory."""
    path = tmp_path / "run"
    open_run(path, config, dataset)
    (path / "checkpoints" / "step-00000005").mkdir(parents=True)
    return path


def test_config_round_trip(run: Path, config: RunConfig) -> None:
    assert read_config(run) == config
    facts = json.loads((run / "config.json").read_text())["dataset"]
    assert facts == {
        "vocab_sha256": config.dataset.vocab_sha256,
        "lower_case": True,
        "max_seq_length": 16,
        "max_predictions": 3,
        "pairing": "nsp",
    }


def test_load_run(run: Path, config: RunConfig, dataset: Path) -> None:
    loaded = load_run(run)
    assert (loaded.config, loaded.training, loaded.dataset, None) == tuple(vars(config).values())
    assert loaded.vocabulary.pieces[5] == "word0"
    assert (run / "vocab.txt").read_bytes() == (dataset / "vocab.txt").read_bytes()


def test_no_temporary_file_is_left(run: Path) -> None:
    assert sorted(p.name for p in run.iterdir()) == ["checkpoints", "config.json", "vocab.txt"]


def test_more_steps_are_allowed(run: Path, config: RunConfig, dataset: Path) -> None:
    longer = dataclasses.replace(config, training=dataclasses.replace(TRAINING, steps=99))
    open_run(run, longer, dataset)
    assert load_run(run).training.steps == 99


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("model", {"num_hidden_layers": 5}, "started with model num_hidden_layers 2, not 5; give"),
        ("training", {"seed": 7}, "started with training seed 6, not 7; give the same again, or s"),
        ("dataset", {"max_seq_length": 32}, "started with dataset max_seq_length 16, not 32"),
        ("dataset", {"vocab_sha256": "abc"}, r"another vocabulary \(sha256 abc…\) than .* with \("),
    ],
)
def test_other_settings_are_refused(
    run: Path, config: RunConfig, dataset: Path, part: str, change: dict, message: str
) -> None:
    before = (run / "config.json").read_text()
    changed = dataclasses.replace(getattr(config, part), **change)
    with pytest.raises(InputError, match=message):
        open_run(run, dataclasses.replace(config, **{part: changed}), dataset)
    assert (run / "config.json").read_text() == before


def test_a_run_without_a_checkpoint_may_start_with_anything(
    run: Path, config: RunConfig, dataset: Path
) -> None:
    (run / "checkpoints" / "step-00000005").rmdir()
    other = dataclasses.replace(config, training=dataclasses.replace(TRAINING, seed=7))
    open_run(run, other, dataset)
    assert load_run(run).training.seed == 7


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no run \(no config.json\); make one with clozeline"):
        load_run(tmp_path / "nothing")


@pytest.mark.parametrize("text", ["{", "[]", '{"format": "clozeline-run/1"}'])
def test_unreadable_config(run: Path, text: str) -> None:
    (run / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config.json: cannot be read: .*; remove .* to start"):
        load_run(run)


def test_another_vocabulary_in_the_run(run: Path) -> None:
    with (run / "vocab.txt").open("a") as file:
        file.write("more\n")
    with pytest.raises(InputError, match=r"vocab.txt: not the vocabulary that .*config.json names"):
        load_run(run)


def test_no_weights_yet(run: Path) -> None:
    (run / "checkpoints" / "step-00000005").rmdir()
    with pytest.raises(InputError, match="no checkpoint yet; train it further with clozeline"):
        load_run(run).load_model()


def test_metrics_of_steps_to_be_done_again_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = Metrics(path, 0)
    for step in (5, 10, 15):
        log.add(step, "train", {"loss": step / 2})
    with path.open("a") as file:
        file.write('{"step": 1')  # cut off by a kill
    Metrics(path, 10).add(12, "eval", {"loss": 1.5})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 5, "split": "train", "loss": 2.5},
        {"step": 10, "split": "train", "loss": 5.0},
        {"step": 12, "split": "eval", "loss": 1.5},
    ]
