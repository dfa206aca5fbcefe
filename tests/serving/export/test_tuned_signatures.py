"""Signatures of fine-tuned models return the answers of the Python model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from docs.blocks import curl_requests
from model.run import Run
from model.tasks.task_kind import vector_task
from model.tasks.vectors import VectorSettings
from serving.export.accuracy import check_accuracy
from serving.export.golden import Reference, largest_difference
from serving.export.signatures import TextModel
from serving.tf_serving import DEFAULT_SIGNATURE
from tests.serving.export.untrained_tasks import TASKS, run_of

MORE_SIGNATURES = ("embed_dimension", "similarity")

Answers = dict[str, np.ndarray]


@pytest.fixture(scope="module", params=TASKS)
def tuned(
    request: pytest.FixtureRequest, trained_run: Run, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Run, Any, dict[str, Any]]:
    """A name of `TASKS`, a run with random weights, its model, and its signatures."""
    name = str(request.param)
    run, model = run_of(TASKS[name][1], trained_run, tmp_path_factory.mktemp("tuned"))
    return name, run, model, TextModel(run, model).signatures()


def ask(function: Any, inputs: dict[str, Any]) -> Answers:
    return {
        name: value.numpy()
        for name, value in function(**{k: tf.constant(v) for k, v in inputs.items()}).items()
    }


def test_equal_to_the_python_model_and_nothing_wrong_is_missed(tuned: Any) -> None:
    name, run, model, signatures = tuned
    signature = TASKS[name][0]
    assert signatures[DEFAULT_SIGNATURE] is signatures[signature]
    assert {"fill_mask", "next_sentence"}.isdisjoint(signatures)
    both = {key: signatures[key] for key in (DEFAULT_SIGNATURE, signature)}
    golden = Reference(run, model).golden(both)[1]
    answer = ask(signatures[signature], golden.inputs)
    assert largest_difference(golden, answer, run.vocabulary.ids) < 1e-5
    for output, values in answer.items():
        wrong = values.copy()
        place = np.unravel_index(0, values.shape)
        if values.dtype.kind == "O":
            wrong[place] = b"I-PER" if values[place] != b"I-PER" else b"O"
        elif values.dtype.kind == "b":
            wrong[place] = not values[place]
        else:
            wrong[place] += 1
        changed = {**answer, output: wrong}
        difference = largest_difference(golden, changed, run.vocabulary.ids)
        assert difference > 1e-4, output


def test_empty_batch_gives_an_empty_answer(tuned: Any) -> None:
    name, _, _, signatures = tuned
    function = signatures[TASKS[name][0]]
    empty = {spec.name: tf.zeros([0], tf.string) for spec in function.input_signature}
    for value in function(**empty).values():
        assert value.shape[0] == 0


def test_the_requests_of_the_documents(tuned: Any) -> None:
    name, _, _, signatures = tuned
    model = f"/v1/models/{name}:predict"
    bodies = [json.loads(body) for url, body in curl_requests() if url.endswith(model)]
    names = TASKS[name][1].signature_names
    assert [body["signature_name"] for body in bodies] == list(names)
    (instance,) = bodies[0]["instances"]
    inputs = instance if isinstance(instance, dict) else {"text": instance}
    answer = ask(signatures[TASKS[name][0]], {key: [value] for key, value in inputs.items()})
    labels = TASKS[name][1].labels
    if name == "names":
        assert answer["words"][0].tolist() == [b"Ada", b"Lovelace", b"left", b"."]
        assert answer["start"][0].tolist() == [0, 4, 13, 18]
        assert {label.decode() for label in answer["labels"][0]} <= set(labels)
    elif name == "questions":
        passage = inputs["text_pair"].encode()
        assert answer["answer"][0] == passage[answer["start"][0] : answer["end"][0]]
        assert (answer["score"][0] > 0) == bool(answer["answer"][0])
        (instance,) = bodies[1]["instances"]
        asked = {key: [value] for key, value in instance.items()}
        best = ask(signatures["answers"], asked | {"n_best": np.int32(asked["n_best"])})
        assert len(set(best["answers"][0])) == instance["n_best"]
    elif labels:
        assert answer["labels"][0].tolist() == [label.encode() for label in labels]
        assert answer["label"][0] == answer["labels"][0][answer["probabilities"][0].argmax()]
        assert answer["probabilities"][0].sum() == pytest.approx(1, abs=1e-5)
    elif name == "vectors":
        assert np.linalg.norm(answer["vector"], axis=1) == pytest.approx(1, abs=1e-5)
    else:
        assert answer["score"].shape == (1,)


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_every_pooling_is_served(trained_run: Run, tmp_path: Path, pooling: Any) -> None:
    """Also shortened, and as the cosine of two; not normalized, where the model is not."""
    settings = VectorSettings(pooling=pooling, normalize=pooling == "max")
    run, model = run_of(vector_task(settings), trained_run, tmp_path)
    signatures = TextModel(run, model).signatures()
    for golden in Reference(run, model).golden(signatures):
        if golden.signature in ("embed", *MORE_SIGNATURES):
            answer = ask(signatures[golden.signature], golden.inputs)
            assert largest_difference(golden, answer, run.vocabulary.ids) < 1e-5


PASSAGES = [["oak", "the owl sees the fox", "", "owl"], ["the fox", "fox", "the oak", "fox"]]


@pytest.mark.parametrize("tuned", ["entailment", "pairs"], indirect=True)
def test_passages_are_ranked(tuned: Any) -> None:
    """By the probability of the last class, or the number, of each pair alone."""
    name, run, model, signatures = tuned
    queries = ["the owl sees", "fox"]
    answer = ask(signatures["rerank"], {"text": queries, "passages": PASSAGES})
    for row, query in enumerate(queries):
        pairs = {"text": [query] * 4, "text_pair": PASSAGES[row]}
        alone = ask(signatures[TASKS[name][0]], pairs)
        scores = alone["score"] if name == "pairs" else alone["probabilities"][:, 1]
        np.testing.assert_allclose(answer["scores"][row], scores, atol=1e-6)
    order = answer["order"]
    assert np.sort(order, axis=1).tolist() == [[0, 1, 2, 3]] * 2
    assert (np.diff(np.take_along_axis(answer["scores"], order, axis=1)) <= 0).all()
    assert order[1].tolist().index(1) < order[1].tolist().index(3)  # the same text twice
    (golden,) = Reference(run, model).golden({"rerank": signatures["rerank"]})
    served = ask(signatures["rerank"], golden.inputs)
    assert largest_difference(golden, served, run.vocabulary.ids) < 1e-5
    for output, values in served.items():
        wrong = {**served, output: values[::-1] if output == "truncated" else values[:, ::-1]}
        assert largest_difference(golden, wrong, run.vocabulary.ids) > 1e-4, output
    none = ask(signatures["rerank"], {"text": ["owl"], "passages": np.zeros([1, 0], object)})
    assert none["scores"].shape == none["order"].shape == (1, 0)
    with pytest.raises(tf.errors.InvalidArgumentError, match="at most 64 of a text"):
        ask(signatures["rerank"], {"text": ["owl"], "passages": [["oak"] * 65]})
    with pytest.raises(tf.errors.InvalidArgumentError, match="text and passages differ in length"):
        ask(signatures["rerank"], {"text": ["owl"], "passages": PASSAGES})


def test_shortened_vectors(trained_run: Run, tmp_path: Path) -> None:
    run, model = run_of(vector_task(VectorSettings()), trained_run, tmp_path)
    signatures = TextModel(run, model).signatures()
    texts, size = ["the owl", "the oak owl sees"], run.config.hidden_size
    whole = ask(signatures["embed"], {"text": texts})["vector"]
    answer = ask(signatures["embed_dimension"], {"text": texts, "dimension": [2, 5]})
    assert answer["vector"].shape == (2, 5)
    np.testing.assert_allclose(answer["vector"][0, 2:], 0)
    for vector, full, count in zip(answer["vector"], whole, (2, 5), strict=True):
        shortened = full[:count] / np.linalg.norm(full[:count])
        np.testing.assert_allclose(vector[:count], shortened, atol=1e-6)
    for wrong in ([0, 1], [1, size + 1]):
        with pytest.raises(tf.errors.InvalidArgumentError, match="dimension must be at least 1"):
            ask(signatures["embed_dimension"], {"text": texts, "dimension": wrong})
    with pytest.raises(tf.errors.InvalidArgumentError, match="text and dimension differ in length"):
        ask(signatures["embed_dimension"], {"text": texts, "dimension": [1]})
    pairs = {"text": texts[:1], "text_pair": texts[1:]}
    score = ask(signatures["similarity"], pairs)["score"]
    np.testing.assert_allclose(score, [whole[0] @ whole[1]], atol=1e-6)


def test_the_accuracy_of_exported_vectors_is_measured(trained_run: Run, tmp_path: Path) -> None:
    run, model = run_of(vector_task(VectorSettings()), trained_run, tmp_path)
    path = tmp_path / "scored.tsv"
    rows = ["the owl\tthe oak\t1", "the fox\tthe owl\t2", "owl\tthe owl sees\t4"]
    path.write_text("\n".join(["sentence1\tsentence2\tscore", *rows]) + "\n")
    accuracy = check_accuracy(run, model, TextModel(run, model), path)
    assert (accuracy.examples, accuracy.metric, accuracy.agreement) == (3, "spearman", None)
    assert accuracy.in_float32 == accuracy.exported
    assert set(accuracy.others) == {"pearson"}


def test_requests_of_ids_in_one_batch(tuned: Any) -> None:
    """A model server fills each input with its own first element."""
    _, run, _, signatures = tuned
    vocabulary = run.vocabulary
    requests = [
        {
            "input_ids": np.array([[vocabulary.cls_id, *range(6, length + 4), vocabulary.sep_id]]),
            "input_mask": np.ones([1, length]),
            "segment_ids": np.array([[0, 0, *[1] * (length - 2)]]),
        }
        for length in (4, 9, 6)
    ]
    requests[1]["input_mask"][0, 7:] = 0  # its caller's own padding
    filled = {
        name: np.concatenate([
            np.pad(each[name], [(0, 0), (0, 9 - each[name].shape[1])],
                   constant_values=each[name][0, 0])
            for each in requests
        ]).astype(np.int32)
        for name in requests[0]
    }  # fmt: skip
    together = ask(signatures["predict_ids"], filled)
    for row, request in enumerate(requests):
        own = {name: ids.astype(np.int32) for name, ids in request.items()}
        alone = ask(signatures["predict_ids"], own)
        for name, (values,) in alone.items():
            mine = together[name][row][tuple(map(slice, values.shape))]
            np.testing.assert_allclose(mine, values, atol=1e-5, err_msg=name)
            if values.ndim == 2:
                assert not together[name][row, len(values) :].any()


@pytest.mark.parametrize("tuned", ["names"], indirect=True)
@pytest.mark.parametrize("text", ["", " \x00", "Ada"])
def test_texts_of_few_words_and_of_more_than_are_read(tuned: Any, text: str) -> None:
    tag = tuned[3]["tag"]
    alone = ask(tag, {"text": [text]})
    assert alone["words"][0].tolist() == [b"Ada"] * (text == "Ada")
    together = ask(tag, {"text": [text, "Ada left " * 600]})
    assert together["truncated"].tolist() == [False, True]
    assert together["words"].shape == (2, 1200)
    assert together["labels"][0].tolist()[: alone["labels"].shape[1]] == alone["labels"][0].tolist()
    assert not any(together["labels"][0][alone["labels"].shape[1] :])
    is_read = together["labels"][1] != b""
    assert is_read.sum() == 63 * 15 + 30  # 64 windows of 30 pieces, each word is one
    assert is_read.tolist() == sorted(is_read, reverse=True)  # those from the start


@pytest.mark.parametrize("tuned", ["names"], indirect=True)
@pytest.mark.parametrize(
    ("text", "words", "places"),
    [
        ("Ada \x00 left Rome", ["Ada", "left", "Rome"], [(0, 3), (6, 10), (11, 15)]),
        ("The U.N.\u3000met.", ["The", "U.N.", "met."], [(0, 3), (4, 8), (11, 15)]),
    ],
)
def test_words_that_are_tagged(
    tuned: Any, text: str, words: list[str], places: list[tuple[int, int]]
) -> None:
    answer = ask(tuned[3]["tag"], {"text": [text]})
    assert [word.decode() for word in answer["words"][0]] == words
    assert list(zip(answer["start"][0], answer["end"][0], strict=True)) == places
    assert set(answer["labels"][0]) <= {b"O", b"B-PER", b"I-PER"}
    assert not answer["truncated"][0]


@pytest.mark.parametrize("tuned", ["questions"], indirect=True)
def test_answers_are_at_the_highest_scores(tuned: Any) -> None:
    """Weights that score one word of a passage higher, or lower, than all other positions."""
    _, run, model, _ = tuned
    head = model.get_layer("task")
    owl = [(0, 3), (8, 11)]
    for factor in (1.0, -1.0):
        head.kernel.assign(tf.zeros_like(head.kernel))
        head.bias.assign([0.0, 0.0])
        encoder = model.get_layer("encoder")
        features = (
            TextModel(run, model)
            .texts.question_windows(tf.constant(["owl"]), tf.constant(["the oak owl"]), 128, 1)
            .layout(slice(None))[0]
        )
        vector = encoder(features)["sequence_output"][0, 5]  # [CLS] owl [SEP] the oak owl
        others = encoder(features)["sequence_output"][0, :5]
        direction = vector - tf.reduce_mean(others, axis=0)
        head.kernel.assign(tf.stack([direction, direction], axis=1) * factor)
        answer = ask(
            TextModel(run, model).signatures()["answer"],
            {"text": ["owl"], "text_pair": ["the oak owl"]},
        )
        start, end = int(answer["start"][0]), int(answer["end"][0])
        assert answer["answer"][0] == b"the oak owl"[start:end]
        assert ((start, end) == owl[1]) == (factor > 0)
