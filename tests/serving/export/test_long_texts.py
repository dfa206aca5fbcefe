"""Served answers and tags of long texts equal those of `evaluate`, in any batch."""

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from model.bert.network import build_model, weights_by_name
from model.configs import EvaluateConfig
from model.evaluate import evaluate_run
from model.run import Run, load_run, write_run
from model.run_config import RunConfig
from model.tasks.task_kind import Task
from model.training.config import Long, TuningConfig
from pipeline import schema
from serving.export import text_graph
from serving.export.golden import Reference, largest_difference
from serving.export.signatures import TextModel
from tests.conftest import TOPICS, VERBS, make_sentences

SPAN = Task("span", (), takes_pairs=True)
TAGS = Task("tagging", ("O", "B-PER", "I-PER"), takes_pairs=False)
STRIDE_OF_RUN = 29  # 128, but at most a window

Ask = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def write(trained_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Task], Run]:
    """Write a run with random weights, whose head prefers no output on average."""

    def write_one(task: Task, long: Long = "first") -> Run:
        keras.utils.set_random_seed(5)
        path = tmp_path_factory.mktemp(task.kind) / "run"
        tuning = TuningConfig("", "", doc_stride=128, long=long)
        config = RunConfig(trained_run.config, None, trained_run.dataset, task=task, tuning=tuning)
        vocabulary = (trained_run.path / "vocab.txt").read_bytes()
        model = build_model(config.model, task)
        ids = np.random.default_rng(5).integers(5, config.model.vocab_size, (8, 32), np.int32)
        inputs = dict(zip(schema.ENCODER_INPUTS, (ids, ids * 0 + 1, ids * 0), strict=True))
        head = model.get_layer("task")
        logits = model(inputs)["task_logits"]
        head.bias.assign(-tf.reduce_mean(tf.reshape(logits, [-1, logits.shape[-1]]), axis=0))
        write_run(path, config, vocabulary, weights_by_name(model))
        return load_run(path)

    return write_one


@pytest.fixture(scope="module")
def span_run(write: Callable[[Task], Run]) -> Run:
    return write(SPAN)


@pytest.fixture(scope="module")
def signatures(span_run: Run) -> dict[str, Any]:
    return TextModel(span_run, span_run.load_model()).signatures()


@pytest.fixture(scope="module")
def questions() -> list[dict[str, str]]:
    """Questions about passages of 1 to 20 windows, some of them with unusual characters."""
    rng = Random(3)
    asked = []
    for windows in range(1, 21):
        passage = "Über 😀 "
        while len(passage.split()) < STRIDE_OF_RUN * (windows - 1) + 5:
            passage += " ".join(make_sentences(rng, rng.choice(list(TOPICS)), 1)) + " "
        asked.append({"id": str(windows), "question": rng.choice(VERBS), "context": passage})
    return asked


@pytest.fixture(scope="module")
def evaluated(
    span_run: Run, questions: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """What `evaluate` answers to the questions."""
    folder = tmp_path_factory.mktemp("squad")
    paragraphs = [
        {"context": one["context"], "qas": [{"id": one["id"], "question": one["question"]}]}
        for one in questions
    ]
    data = {"data": [{"paragraphs": paragraphs}]}
    (folder / "dev.json").write_text(json.dumps(data), encoding="utf-8")
    answers = folder / "answers.jsonl"
    evaluate_run(
        EvaluateConfig(
            run_dir=span_run.path, data=folder / "dev.json", predictions=answers, xla=False
        )
    )
    return [json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines()]


def ask(function: Ask, **inputs: Any) -> dict[str, np.ndarray]:
    found = function(**{name: tf.constant(values) for name, values in inputs.items()})
    return {name: values.numpy() for name, values in found.items()}


def ask_all(function: Ask, questions: list[dict[str, str]], **more: Any) -> dict[str, np.ndarray]:
    texts = {"text": [one["question"] for one in questions]}
    return ask(function, **texts, text_pair=[one["context"] for one in questions], **more)


def assert_evaluated(answer: dict[str, np.ndarray], evaluated: list[dict[str, Any]]) -> None:
    assert [text.decode() for text in answer["answer"]] == [one["answer"] for one in evaluated]
    np.testing.assert_allclose(answer["score"], [one["score"] for one in evaluated], atol=1e-4)


def test_answers_to_long_passages_are_the_evaluated_ones(
    signatures: dict[str, Any], questions: list[dict[str, str]], evaluated: list[dict[str, Any]]
) -> None:
    together = ask_all(signatures["answer"], questions)
    assert_evaluated(together, evaluated)
    assert sum(bool(one["answer"]) for one in evaluated) > 5
    starts = together["start"][together["score"] > 0]
    assert (starts > 400).any(), "no answer is behind the first windows"
    assert not together["truncated"].any()
    for row in (0, 7, 19):
        alone = ask_all(signatures["answer"], questions[row : row + 1])
        assert_evaluated(alone, evaluated[row : row + 1])


def test_windows_are_read_in_parts(
    span_run: Run,
    questions: list[dict[str, str]],
    evaluated: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(text_graph, "POSITIONS_TOGETHER", 100)  # three windows
    model = TextModel(span_run, span_run.load_model())
    sizes = []

    def encode(features: Any, **how: Any) -> Any:
        sizes.append(int(tf.shape(features["input_ids"])[0]))
        return type(model.network).encode(model.network, features, **how)

    monkeypatch.setattr(model.network, "encode", encode)
    texts = [[one[name] for one in questions] for name in ("question", "context")]
    found = model.task_answers_pair(*map(tf.constant, texts))  # eagerly
    assert_evaluated({name: values.numpy() for name, values in found.items()}, evaluated)
    assert max(sizes) == 3
    counts = np.bincount(model.texts.question_windows(*texts, 128, 64).read.rows)
    assert sum(sizes) == counts.sum()
    assert counts.min() == 1
    assert counts.max() >= 20


def test_the_place_of_an_answer_in_all_units(
    signatures: dict[str, Any], questions: list[dict[str, str]]
) -> None:
    answer = ask_all(signatures["answer"], questions)
    for row, one in enumerate(questions):
        text = answer["answer"][row].decode()
        place = {name: int(values[row]) for name, values in answer.items() if name != "answer"}
        passage = one["context"]
        utf16 = passage.encode("utf-16-le")
        assert passage[place["start_code_point"] : place["end_code_point"]] == text
        cut = utf16[2 * place["start_utf16"] : 2 * place["end_utf16"]]
        assert cut.decode("utf-16-le") == text
        assert passage.encode()[place["start"] : place["end"]].decode() == text
        if place["start"]:
            assert place["start"] > place["start_utf16"] > place["start_code_point"]


def test_the_n_best_answers(
    signatures: dict[str, Any], questions: list[dict[str, str]], evaluated: list[dict[str, Any]]
) -> None:
    counts = [1 + row % 6 for row in range(len(questions))]
    found = ask_all(signatures["answers"], questions, n_best=np.array(counts, np.int32))
    assert found["answers"].shape == (20, 6)
    for row, (count, one) in enumerate(zip(counts, evaluated, strict=True)):
        scores = found["scores"][row]
        assert scores[0] == pytest.approx(one["score"], abs=1e-4)
        assert not one["answer"] or found["answers"][row, 0].decode() == one["answer"]
        assert scores[:count].tolist() == sorted(scores[:count], reverse=True)
        places = set(zip(found["starts"][row, :count], found["ends"][row, :count], strict=True))
        assert len(places) == count
        assert not any(found["answers"][row, count:])
        assert not found["ends_utf16"][row, count:].any()
    few = ask(signatures["answers"], text=["owl"], text_pair=["the oak"], n_best=np.int32([50]))
    assert {text for text in few["answers"][0] if text} == {b"the", b"oak", b"the oak"}
    for wrong in (0, -1, 51):
        with pytest.raises(tf.errors.InvalidArgumentError, match="n_best must be from 1 to 50"):
            ask(signatures["answers"], text=["a"], text_pair=["b"], n_best=np.int32([wrong]))


def test_a_passage_of_more_windows_than_are_read(span_run: Run) -> None:
    model = TextModel(span_run, span_run.load_model(), max_windows=2)
    tail = " oak" * 7
    passage = "fox " * 56  # of 32 positions, 28 are free
    answer = model.signatures()["answer"]
    whole = ask(answer, text=["owl", "owl " * 40], text_pair=[passage, "the oak"])
    assert whole["truncated"].tolist() == [False, True]  # the question is too long
    longer = ask(answer, text=["owl", "owl"], text_pair=[passage + tail, passage])
    assert longer["truncated"].tolist() == [True, False]
    mixed = "fox owl " * 28
    huge = ask(answer, text=["owl"], text_pair=[mixed + "fox owl " * 2**17])  # more than 1 MB
    start = ask(answer, text=["owl"], text_pair=[mixed])
    assert huge.pop("truncated").tolist() == [True]
    assert start.pop("truncated").tolist() == [False]
    for name, values in start.items():
        assert huge[name].tolist() == pytest.approx(values.tolist()), name


def test_tags_of_long_texts_are_the_evaluated_ones(
    write: Callable[[Task], Run], tmp_path: Path
) -> None:
    run = write(TAGS)
    rng = Random(4)
    words = sorted({word for nouns in TOPICS.values() for word in nouns} | {"lighthouses", "😀a"})
    texts = [[rng.choice(words) for _ in range(count)] for count in (1, 25, 26, 400, 90, 33)]
    lines = ["".join(f"{word}\n" for word in text) for text in texts]
    (tmp_path / "dev.txt").write_text("\n".join(lines), encoding="utf-8")
    answers = tmp_path / "answers.jsonl"
    evaluate_run(
        EvaluateConfig(run_dir=run.path, data=tmp_path / "dev.txt", predictions=answers, xla=False)
    )
    expected = [json.loads(line)["answer"] for line in answers.read_text().splitlines()]
    tag = TextModel(run, run.load_model()).signatures()["tag"]
    found = ask(tag, text=[" ".join(text) for text in texts])
    assert len({label for text in expected for label in text}) == 3
    for row, text in enumerate(texts):
        labels = [label.decode() for label in found["labels"][row] if label]
        assert labels == expected[row]
        assert [word.decode() for word in found["words"][row] if word] == text
        assert found["end_code_point"][row, len(text) - 1] == len(" ".join(text))
    assert not found["truncated"].any()


@pytest.mark.parametrize("long", ["first", "first-last", "mean-of-windows"])
def test_long_texts_are_classified_as_they_are_evaluated(
    write: Callable[..., Run], tmp_path: Path, long: Long
) -> None:
    run = write(Task("single", ("bad", "good"), takes_pairs=False), long)
    rng = Random(6)
    texts = [" ".join(make_sentences(rng, "sea", count)) for count in (1, 3, 4, 8, 30, 2, 90)]
    texts.append("x " * 5000)  # of more windows than are read
    (tmp_path / "dev.tsv").write_text("\n".join(["text", *texts[:-1]]) + "\n", encoding="utf-8")
    answers = tmp_path / "answers.jsonl"
    evaluate_run(
        EvaluateConfig(run_dir=run.path, data=tmp_path / "dev.tsv", predictions=answers, xla=False)
    )
    expected = [json.loads(line) for line in answers.read_text().splitlines()]
    model = run.load_model()
    functions = TextModel(run, model).signatures()
    found = ask(functions["classify"], text=texts)
    labels = [label.decode() for label in found["label"]]
    assert labels[:-1] == [one["answer"] for one in expected]
    probabilities = found["probabilities"].max(axis=1)[:-1]
    np.testing.assert_allclose(probabilities, [one["probability"] for one in expected], atol=1e-5)
    are_long = [len(text.replace(".", " .").split()) > 30 for text in texts[:-1]]
    are_cut = [is_long and long != "mean-of-windows" for is_long in are_long]
    assert found["truncated"].tolist() == [*are_cut, True]
    golden = Reference(run, model).golden({"classify": functions["classify"]})[0]
    answer = ask(functions["classify"], **golden.inputs)
    assert largest_difference(golden, answer, run.vocabulary.ids) < 1e-5
