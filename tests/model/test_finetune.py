"""Runs tuned from a small encoder of ours: they learn, resume exactly, agree over devices."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from clozeline.commands.evaluate import Evaluate
from clozeline.commands.finetune import Finetune
from clozeline.main import main
from model.bert.config import BertConfig
from model.bert.network import build_model, weights_by_name
from model.run import load_run, write_run
from model.run_config import RunConfig, TextFacts
from model.tasks.kinds import KINDS
from model.tasks.task_kind import Task
from model.tasks.vectors import VectorSettings
from pipeline.errors import InputError
from pipeline.manifest import sha256
from tests.fork_server import FORKS

GOOD, BAD = ("fine", "lovely", "great"), ("awful", "dull", "poor")
pytestmark = pytest.mark.usefixtures("printed_engine_notes", "undrawn")


WORDS = ["the", "film", "was", "and", "so", "actors", "plot", "in", "rome", "paris", "who", "."]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of an encoder of one layer whose weights are random: most of a test is tracing."""
    return write_encoder(tmp_path_factory.mktemp("encoder") / "run", layers=1)


@pytest.fixture(scope="module")
def deep_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with two layers."""
    return write_encoder(tmp_path_factory.mktemp("deep") / "run", layers=2)


def write_encoder(path: Path, *, layers: int) -> Path:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *GOOD, *BAD]
    vocabulary = "".join(f"{piece}\n" for piece in pieces).encode()
    config = BertConfig(
        vocab_size=len(pieces),
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=24,
        initializer_range=0.2,
        hidden_dropout_prob=0.05,
        attention_probs_dropout_prob=0.0,
    )
    facts = TextFacts(sha256(vocabulary), lower_case=True, max_seq_length=24)
    tf.keras.utils.set_random_seed(3)
    weights = weights_by_name(build_model(config, None))
    write_run(path, RunConfig(config, None, facts, heads=("masked_lm",)), vocabulary, weights)
    return path


def reviews(count: int, seed: int) -> list[tuple[str, str]]:
    rng = Random(seed)
    found = []
    for index in range(count):
        words = rng.choices(WORDS, k=rng.randint(1, 12))
        label = ("bad", "good")[index % 2]
        words.insert(rng.randint(0, len(words)), rng.choice(GOOD if label == "good" else BAD))
        found.append((" ".join(words), label))
    return found


def table(path: Path, rows: list[tuple[str, ...]], *names: str) -> Path:
    path.write_text("\n".join(["\t".join(names), *("\t".join(row) for row in rows), ""]))
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Labelled files for every task that are easy to learn."""
    folder = tmp_path_factory.mktemp("labelled")
    made = {
        "train": table(folder / "train.tsv", reviews(96, 1), "text", "label"),
        "dev": table(folder / "dev.tsv", reviews(30, 2), "text", "label"),
    }
    numbers = [
        (text, str(sum(word in GOOD for word in text.split()) * 2.0 - 1))
        for text, _ in reviews(64, 3)
    ]
    made["numbers"] = table(folder / "numbers.tsv", numbers, "text", "label")
    lines = []
    for text, _ in reviews(64, 4):
        lines += [f"{word} {'B-X' if word in GOOD + BAD else 'O'}" for word in text.split()] + [""]
    made["tags"] = folder / "tags.conll"
    made["tags"].write_text("\n".join(lines))
    asked = []
    for index, (text, _) in enumerate(reviews(64, 5)):
        word = next(word for word in text.split() if word in GOOD + BAD)
        answers = [{"text": word, "answer_start": text.index(word)}]
        asked.append(
            {"context": text, "qas": [{"id": str(index), "question": "who", "answers": answers}]}
        )
    made["answers"] = folder / "answers.json"
    made["answers"].write_text(json.dumps({"data": [{"paragraphs": asked}]}))
    return made


@pytest.fixture
def options(encoder: Path, files: dict[str, Path], tmp_path: Path) -> Callable[..., Finetune]:
    """Flags that learn the reviews in a few seconds."""

    flags = common_flags(encoder, files) | {"run_dir": tmp_path / "run"}
    return lambda **more: Finetune(**flags | more)


def common_flags(encoder: Path, files: dict[str, Path]) -> dict[str, Any]:
    return {
        "task": "single",
        "train": files["train"],
        "dev": files["dev"],
        "init": encoder,
        "batch_size": 8,
        "steps": 60,
        "learning_rate": 1e-2,
        "precision": "float32",
        "xla": False,
    }


@pytest.fixture(scope="module")
def tuned(encoder: Path, files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run tuned for the reviews' labels in a few steps, not to be changed."""
    run = tmp_path_factory.mktemp("tuned") / "run"
    Finetune(**common_flags(encoder, files) | {"run_dir": run, "steps": 30}).run()
    return run


@pytest.fixture(scope="module")
def answering(
    encoder: Path, files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run tuned for answers in two steps, with a stride of 3; not to be changed."""
    run = tmp_path_factory.mktemp("answering") / "run"
    flags = {
        "task": "span", "train": files["answers"], "dev": None, "steps": 2, "run_dir": run,
        "max_seq_length": None, "doc_stride": 3,
    }  # fmt: skip
    Finetune(**common_flags(encoder, files) | flags).run()
    return run


def weights(run: Path) -> dict[str, np.ndarray]:
    return {weight.path: weight.numpy() for weight in load_run(run).load_model().weights}


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl"])
def test_no_folder_of_others_is_trained_over(
    options: Callable[..., Finetune], tmp_path: Path, name: str
) -> None:
    """Of several seeds none is trained if the directory of one holds other files."""
    folder = tmp_path / "run" / "seed-5"
    folder.mkdir(parents=True)
    (folder / name).touch()
    with pytest.raises(InputError, match=f"run/seed-5.*{name}"):
        options(seed=(4, 5)).run()
    assert [path for path in (tmp_path / "run").rglob("*") if path.is_file()] == [folder / name]


def test_a_classifier_learns_and_is_evaluated(
    options: Callable[..., Finetune], files: dict[str, Path], tmp_path: Path
) -> None:
    result = options(steps=300, eval_every_steps=100).run()
    assert result["accuracy"] > 0.9
    assert result["best_accuracy"] >= result["accuracy"]
    run = load_run(tmp_path / "run")
    assert run.task is not None
    assert run.task.labels == ("bad", "good")
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["split"] == "eval"] == [100, 200, 300]

    evaluate = Evaluate(
        run_dir=run.path, data=files["dev"], checkpoint="last", xla=False,
        predictions=tmp_path / "answers.jsonl", picture=tmp_path / "confusion.png", worst=3,
    )  # fmt: skip
    found = evaluate.run()
    for name in ("accuracy", "macro_f1", "f1", "matthews", "loss"):
        assert found[name] == pytest.approx(result[name], abs=1e-6)
    assert np.sum(found["confusion"]) == 30
    assert np.trace(found["confusion"]) == round(30 * found["accuracy"])
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    texts = [line.split("\t") for line in files["dev"].read_text().splitlines()[1:]]
    assert [[a["text"], a["expected"]] for a in answers] == texts
    right = sum(a["answer"] == a["expected"] for a in answers)
    assert right == round(30 * found["accuracy"])
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")
    # What it wrote, it writes again.
    first = [(tmp_path / name).read_bytes() for name in ("answers.jsonl", "confusion.png")]
    evaluate.run()
    assert [(tmp_path / name).read_bytes() for name in ("answers.jsonl", "confusion.png")] == first
    assert [row["error"] for row in found["worst"]] == sorted(
        (row["error"] for row in found["worst"]), reverse=True
    )


@pytest.mark.parametrize(
    ("task", "file", "measure", "least"),
    [
        ("regression", "numbers", "pearson", 0.7),
        ("tagging", "tags", "entity_f1", 0.9),
        pytest.param("span", "answers", "span_f1", 0.7, marks=pytest.mark.slow),
    ],
)
def test_other_tasks_learn(
    options: Callable[..., Finetune],
    files: dict[str, Path],
    tmp_path: Path,
    task: Any,
    file: str,
    measure: str,
    least: float,
) -> None:
    more = {} if task != "span" else {"max_seq_length": None, "steps": 120}
    result = options(task=task, train=files[file], dev=files[file], **more).run()
    assert result[measure] > least
    found = Evaluate(run_dir=tmp_path / "run", data=files[file], xla=False).run()
    assert found[measure] == pytest.approx(result[f"best_{measure}"], abs=1e-6)


def test_a_resumed_run_equals_an_uninterrupted_one(
    options: Callable[..., Finetune], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = {
        "steps": 12, "layer_decay": 0.8, "class_weights": "balanced", "dropout": 0.3, "xla": True,
    }  # fmt: skip
    options(**flags, run_dir=tmp_path / "whole").run()
    from model.training import session
    from model.training.run_log import RunLog

    original = session.Session._call_steps
    monkeypatch.setattr(session.Session, "_call_steps", lambda self, step: 1)

    def stop_at_5(self: Any, step: int, split: str, values: dict[str, float]) -> None:
        if step == 5 and split == "train":
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(RunLog, "add", stop_at_5)
    with pytest.raises(KeyboardInterrupt):
        options(**flags).run()
    monkeypatch.undo()
    assert session.Session._call_steps is original
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").glob("step-*")) == [
        "step-00000005"
    ]
    options(**flags).run()
    whole, gone_on = weights(tmp_path / "whole"), weights(tmp_path / "run")
    for name, values in whole.items():
        np.testing.assert_array_equal(values, gone_on[name], err_msg=name)
    saved = load_run(tmp_path / "run").saved
    assert saved.training is not None
    assert saved.training.dropout == 0.3
    assert saved.model.hidden_dropout_prob == 0.05  # the encoder's, for the next training


def test_several_seeds(options: Callable[..., Finetune], tmp_path: Path) -> None:
    result = options(seed=(1, 2), steps=6).run()
    losses = [run["loss"] for run in result["runs"]]
    assert [run["run"] for run in result["runs"]] == [
        str(tmp_path / "run" / name) for name in ("seed-1", "seed-2")
    ]
    assert losses[0] != losses[1]
    assert result["mean"]["loss"] == pytest.approx(np.mean(losses))
    assert result["sd"]["loss"] == pytest.approx(abs(losses[0] - losses[1]) / 2**0.5)


def test_a_run_of_one_seed_is_being_written(
    options: Callable[..., Finetune],
    tmp_path: Path,
    writer_of: Callable[[Path], subprocess.Popen],
) -> None:
    other = writer_of(tmp_path / "run" / "seed-2")
    with pytest.raises(InputError, match=rf"seed-2: is being written by process {other.pid}"):
        options(seed=(1, 2)).run()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["seed-2"]


def test_the_best_checkpoint_has_one_metric(
    options: Callable[..., Finetune], tmp_path: Path
) -> None:
    options(steps=2, epochs=1, eval_every_steps=1, metric="macro_f1").run()
    best = tmp_path / "run" / "checkpoints" / "best.json"
    before = best.read_bytes()
    fields = json.loads(before)
    assert fields.keys() == {"step", "metric", "value"}
    assert fields["metric"] == "macro_f1"
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    scores = {line["step"]: line["macro_f1"] for line in lines if line["split"] == "eval"}
    assert fields["value"] == scores[fields["step"]] == max(scores.values())
    with pytest.raises(InputError, match="selected by macro_f1, not accuracy; give `metric`"):
        options(steps=4, epochs=1, eval_every_steps=1).run()
    assert best.read_bytes() == before


def test_early_stopping(options: Callable[..., Finetune], tmp_path: Path) -> None:
    flags = options(steps=80, eval_every_steps=4, early_stopping=2, metric="accuracy")
    result = flags.run()
    assert result["steps"] == result["best_step"] + 8 < 80
    again = flags.run()  # it has given up already
    assert (again["steps"], again["best_step"]) == (result["steps"], result["best_step"])
    best = load_run(tmp_path / "run").load_model("best").weights
    last = load_run(tmp_path / "run").load_model("last").weights
    assert any(not np.array_equal(a, b) for a, b in zip(best, last, strict=True))


def test_frozen_layers_stay(
    options: Callable[..., Finetune], deep_encoder: Path, tmp_path: Path
) -> None:
    options(init=deep_encoder, freeze_layers=1, steps=3).run()
    before, after = weights(deep_encoder), weights(tmp_path / "run")
    same = {name for name, values in after.items() if np.array_equal(values, before.get(name))}
    assert {name.split("/")[0] for name in same} == {
        "token_embedding", "position_embedding", "segment_embedding", "embeddings_layer_norm",
        "transformer_layer_0",
    }  # fmt: skip


def test_a_run_can_start_from_a_tuned_run(
    options: Callable[..., Finetune], files: dict[str, Path], tuned: Path, tmp_path: Path
) -> None:
    best = Evaluate(run_dir=tuned, data=files["dev"], xla=False).run()
    same = options(init=tuned, run_dir=tmp_path / "same", steps=1, learning_rate=1e-9)
    assert same.run()["loss"] == pytest.approx(best["loss"], rel=1e-4)  # its head came along
    other = options(
        init=tuned, run_dir=tmp_path / "other", steps=1, task="tagging",
        train=files["tags"], dev=None,
    )  # fmt: skip
    assert other.run()["split"] == "train"
    assert weights(tmp_path / "other")["task/kernel"].shape == (16, 2)


def test_empty_texts_are_counted_and_not_learned_from(
    options: Callable[..., Finetune], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = table(
        tmp_path / "t.tsv", [*reviews(16, 1), (" ", "bad"), ("fine", "rare")], "t", "label"
    )
    options(train=file, epochs=1, steps=None).run()
    said = capsys.readouterr().err
    assert "18 examples of t, label · 1 empty" in said
    assert "one example only: rare" in said
    assert load_run(tmp_path / "run").training.steps == 3  # 17 examples


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"metric": "pearson"}, "`metric` pearson: expected one of loss, accuracy, macro_f1"),
        ({"max_seq_length": 25}, "`max_seq_length` 25: must be from 8 to the 24 positions"),
        ({"freeze_layers": 3}, "`freeze_layers` 3: .* has 2 layers"),
        ({"batch_size": 9, "accumulation_steps": 2}, "`batch_size` 9: must be a multiple"),
        ({"label_column": "class"}, "no column 'class'; it has 'text', 'label'; name the labels'"),
    ],
)
def test_flags_that_do_not_fit(
    options: Callable[..., Finetune], deep_encoder: Path, more: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        options(init=deep_encoder, **more).run()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"layer_decay": 1.5}, "`layer_decay` 1.5: must be above 0, and at most 1"),
        ({"seed": (1, 1)}, "`seed` 1 1: must differ"),
        ({"early_stopping": 2, "dev": None}, "`early_stopping`: needs `dev`"),
        ({"task": "span", "class_weights": "balanced"}, "a span task has no classes"),
        ({"epochs": 0}, "`epochs` 0: must be above 0"),
    ],
)
def test_flags_with_invalid_values(
    options: Callable[..., Finetune], more: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        options(**more)


LONG = " ".join(WORDS * 6)
"""Three times what the encoder reads."""


def long_examples(folder: Path) -> dict[str, tuple[Task, Path]]:
    """Return a task of each kind, with a file whose examples are longer than the encoder reads."""
    asked = [
        {
            "id": f"{index}",
            "question": question,
            "answers": [{"text": "so fine", "answer_start": 0}],
        }
        for index, question in enumerate(["who", LONG, "", LONG])
    ]
    passages = [
        {"context": f"so fine {LONG}", "qas": asked[:2]},
        {"context": "so fine", "qas": asked[2:]},
    ]
    tags = folder / "long.conll"
    tags.write_text("\n".join([*(f"{word} O" for word in LONG.split()), "", "fine B", ""]))
    answers = folder / "long.json"
    answers.write_text(json.dumps({"data": [{"paragraphs": passages}]}))
    # After each long row comes the part of it that fits into 24 positions with [CLS] and one or two
    # [SEP]. Of two texts, the longer one is truncated first.
    words = LONG.split()
    of_one, first, second = (" ".join(words[:count]) for count in (22, 11, 10))
    one = table(folder / "one.tsv", [(LONG, "b"), (of_one, "b")], "text", "label")
    pairs = [(LONG, LONG), (first, second), ("so", LONG), ("so", " ".join(words[:20]))]
    classes = [(*pair, label) for pair, label in zip(pairs, "bbaa", strict=True)]
    numbers = [(*pair, label) for pair, label in zip(pairs, ("1.5", "1.5", "2", "2"), strict=True)]
    names = ("text", "text_pair", "label")
    return {
        "single": (Task("single", ("a", "b"), takes_pairs=False), one),
        "pair": (
            Task("pair", ("a", "b"), takes_pairs=True),
            table(folder / "p.tsv", classes, *names),
        ),
        "regression": (
            Task("regression", (), takes_pairs=True),
            table(folder / "r.tsv", numbers, *names),
        ),
        "tagging": (Task("tagging", ("B", "O"), takes_pairs=False), tags),
        "span": (Task("span", (), takes_pairs=True), answers),
        "similarity": (
            Task("similarity", (), takes_pairs=False, vectors=VectorSettings(loss="cosent")),
            table(folder / "v.tsv", numbers, *names),
        ),
    }


def differing(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    return {name for name in one | other if one.get(name) != other.get(name)}


@pytest.mark.parametrize("kind", list(KINDS))
def test_examples_longer_than_the_model_reads_are_evaluated(
    encoder: Path, tmp_path: Path, kind: str
) -> None:
    """The run was imported: its config says nothing of a stride."""
    task, file = long_examples(tmp_path)[kind]
    of_encoder = load_run(encoder)
    config = RunConfig(of_encoder.config, None, of_encoder.dataset, task=task)
    weights = weights_by_name(build_model(of_encoder.config, task))
    write_run(tmp_path / "run", config, (encoder / "vocab.txt").read_bytes(), weights)
    evaluate = Evaluate(
        run_dir=tmp_path / "run", data=file, xla=False, predictions=tmp_path / "answers.jsonl"
    )
    assert np.isfinite(evaluate.run()["loss"])
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert len(answers) == {"single": 2, "tagging": 2}.get(kind, 4)
    if kind in ("single", "pair", "regression"):
        for whole, read in zip(answers[::2], answers[1::2], strict=True):
            assert len(whole) > 2
            assert differing(whole, read) <= {"text", "text_pair", "line"}
    if kind == "tagging":
        assert [len(answer["answer"]) for answer in answers] == [len(LONG.split()), 1]


def test_evaluation_has_the_stride_of_training(answering: Path) -> None:
    assert load_run(answering).doc_stride == 3


def test_labels_that_are_not_in_the_training_file(
    options: Callable[..., Finetune], tmp_path: Path, files: dict[str, Path]
) -> None:
    odd = table(tmp_path / "odd.tsv", [("so fine", "good"), ("so so", "mixed")], "text", "label")
    with pytest.raises(InputError, match=r"odd.tsv: line 3: the label 'mixed' is not in"):
        options(dev=odd).run()
    one = table(tmp_path / "one.tsv", [("so fine", "good")] * 2, "text", "label")
    with pytest.raises(InputError, match="all examples have the label 'good'"):
        options(train=one).run()
    with pytest.raises(InputError, match="not tuned for a task"):
        Evaluate(run_dir=options().init, data=files["dev"]).run()


def evaluated(run: Path, data: Path, **more: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the result of `evaluate` and its predictions."""
    predictions = data.with_suffix(".answers")
    found = Evaluate(run_dir=run, data=data, predictions=predictions, xla=False, **more).run()
    lines = predictions.read_text(encoding="utf-8").splitlines()
    return found, [json.loads(line) for line in lines]


def test_evaluation_without_labels(
    options: Callable[..., Finetune], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = [(text, str(int(label == "good"))) for text, label in reviews(24, 1)]
    options(train=table(tmp_path / "t.tsv", numbers, "text", "label"), dev=None, steps=3).run()
    run = tmp_path / "run"

    unknown = table(tmp_path / "test.tsv", [(text, "-1") for text, _ in numbers], "text", "label")
    found, answers = evaluated(run, unknown)
    assert (found["examples"], found["unlabelled"], len(answers)) == (24, 24, 24)
    assert "accuracy" not in found
    assert not any("expected" in answer for answer in answers)
    with pytest.raises(InputError, match=r"no example has a label .*; give `predictions` FILE"):
        Evaluate(run_dir=run, data=unknown).run()
    none = table(tmp_path / "none.tsv", [(text,) for text, _ in numbers], "text")
    assert [answer["answer"] for answer in evaluated(run, none)[1]] == [
        answer["answer"] for answer in answers
    ]

    mixed = [(text, "-1" if index % 3 else label) for index, (text, label) in enumerate(numbers)]
    found, answers = evaluated(run, table(tmp_path / "mixed.tsv", mixed, "text", "label"))
    assert [answer["text"] for answer in answers] == [text for text, _ in numbers]
    right = [answer["answer"] == answer["expected"] for answer in answers[::3]]
    assert found["accuracy"] == pytest.approx(np.mean(right))
    assert (found["examples"], found["unlabelled"]) == (24, 16)
    said = capsys.readouterr().err
    assert "mixed.tsv: 24 examples of text, label" in said
    assert "examples without a label, not measured: 16 of 24" in said
    with pytest.raises(InputError, match=r"`dev` .*test.tsv: no example has a label"):
        options(train=tmp_path / "t.tsv", dev=unknown).run()


def test_evaluation_with_renamed_labels(
    files: dict[str, Path], tuned: Path, tmp_path: Path
) -> None:
    expected, _ = evaluated(tuned, files["dev"])
    numbers = [(text, str(int(label == "good"))) for text, label in reviews(30, 2)]
    dev = table(tmp_path / "dev.tsv", numbers, "text", "label")
    found, answers = evaluated(tuned, dev, label_map=("0=bad", "1=good"))
    assert found["confusion"] == expected["confusion"]
    assert answers[1]["expected"] == "good"
    with pytest.raises(InputError, match=r"line 2: the label '0' .*map it with `label_map` 0=NAME"):
        evaluated(tuned, dev)


def squad(path: Path, *asked: tuple[str, dict[str, Any]]) -> Path:
    paragraphs = [
        {"context": passage, "qas": [{"id": str(index), "question": "who", **more}]}
        for index, (passage, more) in enumerate(asked)
    ]
    path.write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    return path


def test_every_question_has_a_prediction(
    options: Callable[..., Finetune],
    answering: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    unknown = squad(tmp_path / "unknown.json", ("rome was", {}), ("paris", {}))
    found, answers = evaluated(answering, unknown)
    assert {"span_f1", "exact_match", "loss"} & found.keys() == set()
    assert [answer["id"] for answer in answers] == ["0", "1"]
    assert not any("expected" in answer for answer in answers)
    with pytest.raises(InputError, match="no example has a label, so there is nothing to measure"):
        Evaluate(run_dir=answering, data=unknown).run()

    answer = {"text": "rome", "answer_start": 0}
    mixed = squad(
        tmp_path / "mixed.json",
        ("rome was", {"answers": [answer]}),
        ("the film", {}),
        ("so rome was", {"answers": [answer]}),  # not where the file says
        (" \n", {"answers": [], "is_impossible": True}),
    )
    found, answers = evaluated(answering, mixed)
    assert [answer["id"] for answer in answers] == ["0", "1", "2", "3"]
    assert [answer.get("expected") for answer in answers] == [["rome"], None, ["rome"], []]
    assert (answers[3]["answer"], answers[3]["score"]) == ("", None)
    right = [a["answer"] == (a["expected"] or [""])[0] for a in answers if "expected" in a]
    assert found["exact_match"] == pytest.approx(np.mean(right))
    assert np.isfinite(found["loss"])
    assert found["unlabelled"] == 1
    capsys.readouterr()
    options(task="span", train=mixed, dev=mixed, steps=1, run_dir=tmp_path / "more",
            max_seq_length=None).run()  # fmt: skip
    said = capsys.readouterr().err
    assert "examples without a label, skipped: 1" in said
    assert "1 answer not in its passage" in said
    misplaced = squad(tmp_path / "misplaced.json", ("so rome", {"answers": [answer]}))
    advice = r"is where the file says \(question 0\); answer_start counts the characters of the co"
    with pytest.raises(InputError, match=advice):
        options(task="span", train=misplaced, dev=None, max_seq_length=None).run()


def test_tag_schemes_are_reported(
    options: Callable[..., Finetune], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.conll"
    file.write_text("so U-X\nfine O\n\nrome B-X\nparis L-X\n\n")
    options(task="tagging", train=file, dev=file, steps=2).run()
    assert "tag scheme BILOU" in capsys.readouterr().err
    assert evaluated(tmp_path / "run", file)[0]["tag_scheme"] == "BILOU"
    words = tmp_path / "words.conll"
    words.write_text("so\nfine\n\nrome\nparis\n\n")
    found, answers = evaluated(tmp_path / "run", words)
    assert found.keys().isdisjoint({"entity_f1", "loss", "tag_scheme"})
    assert [answer["words"] for answer in answers] == [["so", "fine"], ["rome", "paris"]]
    assert [answer["answer"] for answer in answers] == [
        answer["answer"] for answer in evaluated(tmp_path / "run", file)[1]
    ]
    with pytest.raises(InputError, match=r"`train` .*words.conll: no example has a label"):
        options(task="tagging", train=words, dev=None).run()
    file.write_text("so U-X\nfine S-X\n")
    with pytest.raises(InputError, match=r"a.conll: the tags S-X, U-X follow no known scheme"):
        options(task="tagging", train=file, dev=None).run()


@pytest.mark.slow
def test_two_devices_and_parts_give_the_same_losses(
    options: Callable[..., Finetune], tmp_path: Path
) -> None:
    flags = dataclasses.asdict(options(steps=6, xla=True))
    cases: dict[str, dict[str, Any]] = {
        "one": {"strategy": "one"},
        "two": {"strategy": "mirrored"},
        "parts": {"strategy": "mirrored", "accumulation_steps": 2},
    }
    given = {name: flags | more | {"run_dir": tmp_path / name} for name, more in cases.items()}
    program = Path(__file__).with_name("tuned_losses.py")
    done = FORKS.run([sys.executable, str(program), json.dumps(given, default=str)])
    assert done.returncode == 0, done.stderr[-2000:]
    losses = json.loads(done.stdout.splitlines()[-1])
    assert losses["two"] == pytest.approx(losses["one"], abs=1e-5)
    assert losses["parts"] == pytest.approx(losses["one"], abs=1e-5)


def test_the_real_commands(
    encoder: Path, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(
        ["finetune", "--task", "single", "--train", str(files["train"]), "--dev",
         str(files["dev"]), "--init", str(encoder), "--run", str(tmp_path / "run"), "--steps", "2",
         "--batch-size", "8", "--seed", "4", "--no-xla", "--json"]
    )  # fmt: skip
    assert code == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["seed"], result["steps"], result["split"]) == (4, 2, "eval")
    code = main(["evaluate", "--run", str(tmp_path / "run"), "--data", str(tmp_path / "none.tsv")])
    assert code == 2
    assert "none.tsv: cannot be read: " in capsys.readouterr().err
