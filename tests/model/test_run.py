"""The run directory: what is saved and read, and which runs are refused."""

import dataclasses
import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.bert.config import BertConfig
from model.bert.network import build_model, weights_by_name
from model.run import load_run, write_run
from model.run_config import DatasetFacts, RunConfig, TextFacts, read_config
from model.source import open_source
from model.start import open_run
from model.tasks.task_kind import Task
from model.tasks.vectors import VectorSettings
from model.training.config import RelationsConfig, TrainingConfig, TuningConfig
from model.training.metrics_file import MetricsFile
from pipeline.errors import InputError, JobError
from pipeline.manifest import read_manifest, sha256
from pipeline.schema import ENCODER_INPUTS
from pipeline.storage.remote import path_from

TRAINING = TrainingConfig(
    steps=9, batch_size=8, learning_rate=0.5, warmup_steps=3, weight_decay=0.25, seed=6
)


def vocabulary(dataset: Path) -> bytes:
    return (dataset / "vocab.txt").read_bytes()


@pytest.fixture
def config(small_config: BertConfig, dataset: Path) -> RunConfig:
    facts = DatasetFacts.of(read_manifest(dataset))
    return RunConfig(small_config, TRAINING, facts, heads=("masked_lm", "next_sentence"))


@pytest.fixture
def run(tmp_path: Path, config: RunConfig, dataset: Path) -> Path:
    """A run that was opened and has a checkpoint's directory."""
    path = tmp_path / "run"
    open_run(path, config, vocabulary(dataset), dataset)
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
        "streams": 64,
        "sha256": config.dataset.sha256,
    }


def test_load_run(run: Path, config: RunConfig, dataset: Path) -> None:
    loaded = load_run(run)
    assert (loaded.config, loaded.training, loaded.dataset) == tuple(vars(config).values())[:3]
    assert (loaded.heads, loaded.task) == (("masked_lm", "next_sentence"), None)
    assert loaded.vocabulary.pieces[5] == "word0"
    assert (run / "vocab.txt").read_bytes() == (dataset / "vocab.txt").read_bytes()


def leaves(part: Any, path: str = "") -> dict[str, Any]:
    """Return each field of nested dataclasses, by its path."""
    found = {}
    for field in dataclasses.fields(part):
        value, name = getattr(part, field.name), f"{path}{field.name}"
        nested = dataclasses.is_dataclass(value)
        found |= leaves(value, f"{name}.") if nested else {name: (value, field.default)}
    return found


def test_every_field_survives_saving_and_loading(
    tmp_path: Path, small_config: BertConfig, dataset: Path
) -> None:
    sha = sha256(vocabulary(dataset))
    config = RunConfig(
        dataclasses.replace(
            small_config, hidden_act="relu", type_vocab_size=3, layer_norm_eps=1e-6,
            hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.3, initializer_range=0.4,
            max_position_embeddings=48,
        ),
        TrainingConfig(
            steps=9, batch_size=8, learning_rate=0.5, warmup_steps=3, weight_decay=0.25, seed=6,
            optimizer="lamb", schedule="cosine", precision="bfloat16", phase2_steps=2,
            phase2_batch_size=4, initialization="neighbours", next_sentence_weight=0.3,
            dropout=0.35,
        ),
        DatasetFacts(
            sha, lower_case=True, max_seq_length=16, max_predictions=3, pairing="sop", streams=8,
            sha256="abad",
        ),
        DatasetFacts(
            sha, lower_case=False, max_seq_length=32, max_predictions=5, pairing="none", streams=9,
            sha256="deaf",
        ),
        heads=("masked_lm",),
        task=Task(
            "similarity", (), takes_pairs=False,
            vectors=VectorSettings(
                pooling="max", normalize=False, dimensions=(12, 4), loss="triplet", scale=7.0,
                margin=0.25, both_directions=True, score_range=5.0,
                prompts=(("query", "find: "), ("document", "")), default_prompt="query",
            ),
        ),
        tuning=TuningConfig(
            "cafe", "a run", 0.9, 1, "balanced", 77, "first-last", "a teacher", "beef", 0.4, 2.5,
            "fade", layers_to_keep=(0, 1),
        ),
        recipe="cpu-hours",
        relations=RelationsConfig("another teacher", "feed", 3, 12),
    )  # fmt: skip
    for name, (value, default) in leaves(config).items():
        assert value != default, f"{name} has its default here: a lost value would not be seen"
    write_run(tmp_path / "run", config, vocabulary(dataset), {"weight": np.zeros(1)})
    loaded = load_run(tmp_path / "run")
    assert leaves(loaded.saved) == leaves(config)
    assert loaded.saved == config
    assert (loaded.config, loaded.training) == (config.model, config.training)
    assert (loaded.dataset, loaded.heads) == (config.phase2_dataset, config.heads)
    assert (loaded.task, loaded.doc_stride) == (config.task, 77)


def test_a_span_task_has_a_stride(tmp_path: Path, small_config: BertConfig, dataset: Path) -> None:
    facts = TextFacts(sha256(vocabulary(dataset)), lower_case=True, max_seq_length=9)
    imported = RunConfig(small_config, None, facts, task=Task("span", (), takes_pairs=True))
    write_run(tmp_path / "run", imported, vocabulary(dataset), {"weight": np.zeros(1)})
    assert load_run(tmp_path / "run").doc_stride == 128
    with pytest.raises(ValueError, match="doc_stride must be at least 1 for a span task, received"):
        dataclasses.replace(imported, tuning=TuningConfig("cafe", "a run"))


def test_no_temporary_file_is_left(run: Path) -> None:
    assert sorted(p.name for p in run.iterdir()) == ["checkpoints", "config.json", "vocab.txt"]


def test_more_steps_are_allowed(run: Path, config: RunConfig, dataset: Path) -> None:
    longer = dataclasses.replace(config, training=dataclasses.replace(TRAINING, steps=99))
    open_run(run, longer, vocabulary(dataset), dataset)
    assert load_run(run).training.steps == 99


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("model", {"num_hidden_layers": 5}, "started with model num_hidden_layers 2, not 5; give"),
        ("training", {"seed": 7}, "started with training seed 6, not 7; give the same again, or s"),
        ("dataset", {"max_seq_length": 32}, "started with dataset max_seq_length 16, not 32"),
        (
            "dataset",
            {"sha256": "feed" * 16},
            r"dataset has changed \(sha256 feedfeedfeed…\) since .* was started with it \(sha256 ",
        ),
        ("dataset", {"vocab_sha256": "abc"}, r"another vocabulary \(sha256 abc…\) than .* with \("),
    ],
)
def test_other_settings_are_refused(
    run: Path, config: RunConfig, dataset: Path, part: str, change: dict, message: str
) -> None:
    before = (run / "config.json").read_text()
    changed = dataclasses.replace(getattr(config, part), **change)
    with pytest.raises(InputError, match=message):
        open_run(run, dataclasses.replace(config, **{part: changed}), vocabulary(dataset), dataset)
    assert (run / "config.json").read_text() == before


@pytest.mark.parametrize(
    ("before", "now", "remedy"),
    [
        ("cpu-hours", "bert-2018", "give the same again, with `recipe` cpu-hours, or start a"),
        ("cpu-hours", "", "give the same again, with `recipe` cpu-hours, or start a"),
        ("", "bert-2018", "give the same again, without `recipe`, or start a"),
        ("cpu-hours", "cpu-hours", "give the same again, or start a"),
    ],
)
def test_another_recipe_is_named_where_its_values_are_refused(
    run: Path, config: RunConfig, dataset: Path, before: str, now: str, remedy: str
) -> None:
    started = dataclasses.replace(config, recipe=before)
    open_run(run, started, vocabulary(dataset), dataset)
    training = dataclasses.replace(TRAINING, dropout=0.3)
    other = dataclasses.replace(config, recipe=now, training=training)
    with pytest.raises(InputError) as error:
        open_run(run, other, vocabulary(dataset), dataset)
    assert f"started with training dropout None, not 0.3; {remedy}" in str(error.value)


def test_a_run_of_an_older_release_resumes_with_its_own_dataset_only(
    run: Path, config: RunConfig, dataset: Path
) -> None:
    """Such a run says nothing about the records, and such a dataset has no streams."""
    saved = json.loads((run / "config.json").read_text())
    del saved["dataset"]["streams"], saved["dataset"]["sha256"]
    (run / "config.json").write_text(json.dumps(saved))
    with pytest.raises(InputError, match=r"dataset has 64 record streams, and .* by an older rele"):
        open_run(run, config, vocabulary(dataset), dataset)
    old = dataclasses.replace(config.dataset, streams=None)
    open_run(run, dataclasses.replace(config, dataset=old), vocabulary(dataset), dataset)
    assert load_run(run).dataset == old


def test_a_run_without_a_checkpoint_may_change_its_config(
    run: Path, config: RunConfig, dataset: Path
) -> None:
    (run / "checkpoints" / "step-00000005").rmdir()
    other = dataclasses.replace(config, training=dataclasses.replace(TRAINING, seed=7))
    open_run(run, other, vocabulary(dataset), dataset)
    assert load_run(run).training.seed == 7


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no run \(no config.json\); make one with clozeline"):
        load_run(tmp_path / "nothing")


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000, '{"format": "clozeline-run/1"}'])
def test_unreadable_config(run: Path, text: str) -> None:
    (run / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config.json: damaged: .*; put it back from a copy"):
        load_run(run)


def test_files_that_cannot_be_read_now_are_not_called_damaged(
    run: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, **_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_text", fail)
    with pytest.raises(InputError, match=r"config.json: cannot be read: Permission denied$"):
        read_config(run)
    with pytest.raises(InputError, match=r"manifest.json: cannot be read: Permission denied$"):
        read_manifest(dataset)


def test_another_vocabulary_in_the_run(run: Path) -> None:
    with (run / "vocab.txt").open("a") as file:
        file.write("more\n")
    with pytest.raises(InputError, match=r"vocab.txt: not the vocabulary that .*config.json names"):
        load_run(run)


def test_imported_run(tmp_path: Path, small_config: BertConfig, dataset: Path) -> None:
    run = tmp_path / ("r" * 255)  # as long as a name can be
    facts = TextFacts(sha256(vocabulary(dataset)), lower_case=False, max_seq_length=11)
    config = RunConfig(small_config, None, facts, heads=("masked_lm",))
    model = build_model(small_config, None)
    write_run(run, config, vocabulary(dataset), weights_by_name(model))
    loaded = load_run(run)
    assert (loaded.training, loaded.dataset, loaded.heads) == (None, facts, ("masked_lm",))
    for weight, before in zip(loaded.load_model().weights, model.weights, strict=True):
        np.testing.assert_array_equal(weight, before)
    assert [path.name for path in tmp_path.iterdir()] == [run.name]
    with pytest.raises(InputError, match="already exists; choose another directory"):
        write_run(run, config, vocabulary(dataset), weights_by_name(model))
    trained = dataclasses.replace(config, training=TRAINING)
    with pytest.raises(InputError, match="has been imported; give it as `init`"):
        open_run(run, trained, vocabulary(dataset), dataset)


@pytest.mark.parametrize(
    ("task", "shape"),
    [
        (Task("single", ("no", "yes", "both"), takes_pairs=False), (5, 3)),
        (Task("regression", (), takes_pairs=True), (5, 1)),
        (Task("tagging", ("O", "B-x", "I-x", "B-y"), takes_pairs=False), (5, 7, 4)),
        (Task("span", (), takes_pairs=True), (5, 7, 2)),
    ],
)
def test_tuned_run(
    tmp_path: Path, small_config: BertConfig, dataset: Path, task: Task, shape: tuple[int, ...]
) -> None:
    facts = TextFacts(sha256(vocabulary(dataset)), lower_case=True, max_seq_length=9)
    tuning = TuningConfig("cafe", "a run", layer_decay=0.9, frozen_layers=1, doc_stride=5)
    config = RunConfig(small_config, TRAINING, facts, task=task, tuning=tuning)
    model = build_model(small_config, task)
    write_run(tmp_path / "run", config, vocabulary(dataset), weights_by_name(model))
    assert read_config(tmp_path / "run") == config
    loaded = load_run(tmp_path / "run")
    assert (loaded.task, loaded.heads) == (task, ())
    features = {name: np.ones((5, 7), np.int32) for name in ENCODER_INPUTS}
    expected = model(features)["task_logits"]
    assert expected.shape == shape
    np.testing.assert_array_equal(loaded.load_model()(features)["task_logits"], expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("pairs", ("a",), True), "kind must be one of single, pair"),
        (("single", (), False), "a single task has different labels, received"),
        (("single", ("a", "a"), False), "different labels"),
        (("span", ("a",), True), "a span task has no labels"),
        (("pair", ("a", "b"), False), "takes_pairs must be True for pair"),
        (("tagging", ("a", "b"), True), "takes_pairs must be False for tagging"),
    ],
)
def test_invalid_tasks(settings: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Task(*settings)


def test_no_weights_yet(run: Path) -> None:
    (run / "checkpoints" / "step-00000005").rmdir()
    with pytest.raises(InputError, match="no checkpoint yet; run its training command"):
        load_run(run).load_model()


def test_metrics_of_repeated_steps_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsFile(path, 0)
    for step in (5, 10, 15):
        log.add(step, "train", {"loss": step / 2})
    with path.open("a") as file:
        file.write('{"step": 1')  # cut off by a kill
    MetricsFile(path, 10).add(12, "eval", {"loss": 1.5})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 5, "split": "train", "loss": 2.5},
        {"step": 10, "split": "train", "loss": 5.0},
        {"step": 12, "split": "eval", "loss": 1.5},
    ]


def test_a_resume_ends_a_line_of_metrics_whose_end_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 5}')
    MetricsFile(path, 5).add(6, "train", {})
    assert path.read_text() == '{"step": 5}\n{"step": 6, "split": "train"}\n'


def test_a_full_disk_stops_an_import_with_a_one_line_error(
    tmp_path: Path, small_config: BertConfig, dataset: Path, full_disk: Callable[[int], Any]
) -> None:
    facts = TextFacts(sha256(vocabulary(dataset)), lower_case=False, max_seq_length=11)
    config = RunConfig(small_config, None, facts, heads=("masked_lm",))
    weights = weights_by_name(build_model(small_config, None))
    for room in (0, 100, 2_000):  # for the vocabulary, the config, the checkpoint
        with full_disk(room), pytest.raises(JobError, match=r"cannot be written: .*File too large"):
            write_run(tmp_path / "new" / "run", config, vocabulary(dataset), weights)
        assert list(tmp_path.iterdir()) == []


def test_damaged_lines_of_metrics_are_skipped(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl", 0)
    for step in (1, 2, 3):
        metrics.add(step, "train", {"loss": step / 2})
    whole = metrics.path.read_bytes().splitlines(keepends=True)
    for damaged in (
        b"\xff" + whole[1],
        b"[2]\n",
        b"null\n",
        b'{"step": "\xff"}\n',
        b"\x00\n",
        b'{"step": Infinity}\n',
    ):
        metrics.path.write_bytes(whole[0] + damaged + whole[2])
        assert [line["step"] for line in metrics.lines()] == [1, 3]
        metrics.cut(2)
        assert metrics.path.read_bytes() == whole[0]


def test_remote_run_is_complete_when_its_config_is_there(
    store: Any, config: RunConfig, dataset: Path
) -> None:
    path = path_from("gs://bucket/imported")
    model = build_model(config.model, None)
    write_run(path, config, vocabulary(dataset), weights_by_name(model))
    written = [key for method, key in store.requests if method == "put"]
    assert written[-1] == "bucket/imported/config.json"
    loaded = weights_by_name(load_run(path).load_model("auto"))
    for name, values in weights_by_name(model).items():
        np.testing.assert_array_equal(loaded[name].numpy(), values.numpy())
    source = open_source(path)
    assert (source.path, source.vocabulary) == (path, vocabulary(dataset))
    with pytest.raises(InputError, match="gs://bucket/imported: already exists"):
        write_run(path, config, vocabulary(dataset), weights_by_name(model))
    with pytest.raises(InputError, match=r"gs://bucket/none: no run \(no config.json\)"):
        load_run(path_from("gs://bucket/none"))
