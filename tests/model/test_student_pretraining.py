"""Pretraining with a teacher: the relations of its layer, exact resume, and refusals."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax

from model.bert.config import BertConfig
from model.bert.network import build_model, encoder_layers, weights_by_name, with_intermediates
from model.configs import PretrainConfig
from model.pretrain import pretrain
from model.run import load_run, write_run
from model.run_config import RunConfig, TextFacts
from model.tasks.kinds import heads
from model.training.config import ExecutionConfig, RelationsConfig, UpdateConfig
from model.training.losses import StudentPretraining
from pipeline.errors import InputError
from pipeline.manifest import sha256
from tests.model.stopping import stop_after

UPDATES = UpdateConfig(batch_size=8, steps=4, learning_rate=0.01, precision="float32")
WIDER = {"hidden_size": 24, "num_attention_heads": 4, "num_hidden_layers": 3}

Make = Callable[..., PretrainConfig]

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def teacher(
    dataset: Path, small_config: BertConfig, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run of a wider and deeper encoder, with the dataset's vocabulary."""
    return write_teacher(tmp_path_factory.mktemp("teacher") / "run", dataset, small_config)


def write_teacher(path: Path, dataset: Path, small_config: BertConfig, more: str = "") -> Path:
    vocabulary = (dataset / "vocab.txt").read_bytes() + more.encode()
    size = len(vocabulary.decode().splitlines())
    config = dataclasses.replace(small_config, vocab_size=size, **WIDER)
    tf.keras.utils.set_random_seed(4)
    facts = TextFacts(sha256(vocabulary), lower_case=True, max_seq_length=16)
    saved = RunConfig(config, None, facts, heads=heads("nsp"))
    write_run(path, saved, vocabulary, weights_by_name(build_model(config, None)))
    return path


@pytest.fixture
def options(dataset: Path, small_model: str, teacher: Path, tmp_path: Path) -> Make:
    def make(**more: Any) -> PretrainConfig:
        fields: dict[str, Any] = {
            "run_dir": tmp_path / "run", "dataset": dataset, "model": small_model,
            "teacher": teacher, "updates": UPDATES, "execution": ExecutionConfig(xla=False),
        }  # fmt: skip
        return PretrainConfig(**fields | more)

    return make


def weights(run: Path) -> dict[str, np.ndarray]:
    return {weight.path: weight.numpy() for weight in load_run(run).load_model().weights}


def losses(run: Path, split: str = "train") -> list[dict[str, float]]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["split"] == split]


def batch_of(rng: np.random.Generator, vocab_size: int) -> dict[str, tf.Tensor]:
    mask = (np.arange(9) < np.array([[9], [5]])).astype(np.int32)
    return {
        "input_ids": tf.constant(rng.integers(5, vocab_size, (2, 9)), tf.int32),
        "input_mask": tf.constant(mask),
        "segment_ids": tf.zeros([2, 9], tf.int32),
        "masked_lm_positions": tf.constant([[1, 2], [3, 0]]),
        "masked_lm_ids": tf.constant([[7, 8], [9, 0]]),
        "masked_lm_weights": tf.constant([[1.0, 1.0], [1.0, 0.0]]),
        "next_sentence_labels": tf.constant([[0], [1]]),
        "example_weights": tf.constant([1.0, 1.0]),
    }


def layer_vectors(model: Any, index: int, batch: dict[str, tf.Tensor]) -> list[np.ndarray]:
    """Queries, not scaled, keys and values by head, as explanations have them: [B, N, L, D]."""
    encoder = model.encoder
    features = {name: batch[name] for name in ("input_ids", "input_mask", "segment_ids")}
    below = with_intermediates(encoder)(features)["hidden_states"][index]
    seen = encoder_layers(encoder)[index].inside(below, features["input_mask"])
    scale = seen["queries"].shape[-1] ** 0.5
    return [seen["queries"].numpy() * scale, seen["keys"].numpy(), seen["values"].numpy()]


def relations(vectors: np.ndarray, row: int, length: int, count: int) -> np.ndarray:
    joined = np.concatenate(list(vectors[row, :, :length]), axis=-1)  # [length, H]
    split = np.stack(np.split(joined, count, axis=-1))
    return log_softmax(split @ split.transpose(0, 2, 1) / split.shape[-1] ** 0.5, axis=-1)


@pytest.mark.parametrize(("layer", "count"), [(1, 2), (3, 6)])
def test_the_relations_of_the_teachers_layer(
    teacher: Path, small_config: BertConfig, layer: int, count: int
) -> None:
    run = load_run(teacher)
    teaching = run.load_model()
    objective = StudentPretraining(
        heads("nsp"),
        RelationsConfig("", "", layer, count),
        run.config,
        lambda weights: [weights[name].assign(value) for name, value in of_teacher.items()
                         if name in weights],
    )  # fmt: skip
    of_teacher = weights_by_name(teaching)
    student = objective.build_model(small_config)
    batch = batch_of(np.random.default_rng(1), small_config.vocab_size)
    sums = objective.sums(objective.outputs(student, batch, training=False), batch)
    expected = 0.0
    both = zip(
        layer_vectors(teaching, layer - 1, batch), layer_vectors(student, 1, batch), strict=True
    )
    for right, own in both:
        for row, length in enumerate((9, 5)):
            a, b = (relations(each, row, length, count) for each in (right, own))
            expected += (np.exp(a) * (a - b)).sum() / count
    assert sums["relation_loss"].numpy() == pytest.approx(expected, rel=1e-4)
    assert sums["relation_weight"].numpy() == 14


@pytest.mark.parametrize("teacher_only", [False, True])
def test_a_student_learns_the_relations(options: Make, teacher_only: bool) -> None:
    config = options(
        teacher_only=teacher_only, teacher_layer=2,
        updates=dataclasses.replace(UPDATES, steps=40, learning_rate=0.02),
    )  # fmt: skip
    result = pretrain(config)
    found = losses(config.run_dir)
    assert found[-1]["relation_loss"] < 0.7 * found[0]["relation_loss"]
    assert ("masked_lm_loss" in result.measured.values) != teacher_only
    saved = load_run(config.run_dir).saved
    assert saved.heads == (() if teacher_only else heads("nsp"))
    assert saved.relations is not None
    assert (saved.relations.layer, saved.relations.heads) == (2, 3)
    load_run(config.run_dir).load_model()  # the teacher is no part of it


@pytest.mark.slow
def test_a_student_resumes_exactly_and_in_parts(
    options: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, part = options(run_dir=tmp_path / "whole"), options()
    pretrain(whole)
    with monkeypatch.context() as stopping:
        stop_after(stopping, 2)
        with pytest.raises(KeyboardInterrupt):
            pretrain(part)
    pretrain(part)
    expected, found = weights(whole.run_dir), weights(part.run_dir)
    assert expected.keys() == found.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(values, found[name], err_msg=name)
    with pytest.raises(InputError, match="was started with relations layer 3, not 1"):
        pretrain(dataclasses.replace(part, teacher_layer=1))
    halves = options(run_dir=tmp_path / "halves",
                     execution=ExecutionConfig(xla=False, accumulation_steps=2))  # fmt: skip
    pretrain(halves)
    for name, value in losses(whole.run_dir)[-1].items():
        if name.endswith("_loss"):
            assert losses(halves.run_dir)[-1][name] == pytest.approx(value, rel=1e-3), name


def test_unusable_teachers(
    options: Make, dataset: Path, small_config: BertConfig, tmp_path: Path
) -> None:
    other = write_teacher(tmp_path / "other", dataset, small_config, "more\n")
    for fields, message in (
        ({"teacher": other}, "its vocabulary is not that of .*relations are between positions"),
        ({"teacher_layer": 4}, "`teacher_layer` 4: .* has 3 layers"),
        ({"relation_heads": 5}, "`relation_heads` 5: must divide the hidden size of"),
        ({"relation_heads": 8}, "must divide the hidden size of the student, 12"),
        ({"teacher": tmp_path / "none"}, "`teacher` .*: no such run or checkpoint"),
    ):
        with pytest.raises(InputError, match=message) as raised:
            pretrain(options(**fields))
        assert "\n" not in str(raised.value)
    for name, value in (("teacher_layer", 1), ("relation_heads", 2), ("teacher_only", True)):
        with pytest.raises(InputError, match=f"`{name}`: needs a `teacher`"):
            options(**{"teacher": None, name: value})
