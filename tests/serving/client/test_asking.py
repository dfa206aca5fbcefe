"""How texts are sent: the signature that fits them, and its inputs."""

from pathlib import Path

import pytest

from pipeline.errors import InputError
from serving.client import answers
from serving.client.client import Signature
from serving.configs import QueryConfig

PAIR = {"text": "DT_STRING", "text_pair": "DT_STRING"}
SPAN = {
    "answer": Signature(PAIR, {}),
    "answers": Signature({**PAIR, "n_best": "DT_INT32"}, {}),
    "embed": Signature({"text": "DT_STRING"}, {}),
}
TEXTS = ("Who left?", "Ada left.")


class Asked:
    """A client of a server with a span model."""

    def __init__(self, address: str) -> None:
        del address

    def signatures(self, model, version):
        return SPAN


@pytest.mark.parametrize(
    ("more", "signature", "n_best"),
    [({}, "answer", None), ({"n_best": 3}, "answers", 3), ({"signature": "answers"}, "answers", 5)],
)
def test_the_number_of_answers(more, signature, n_best, monkeypatch) -> None:
    monkeypatch.setattr(answers, "Client", Asked)
    seen = {}
    monkeypatch.setattr(
        Asked,
        "predict",
        lambda self, model, inputs, name, version: seen.update(inputs) or {},
        raising=False,
    )
    found = answers.query(QueryConfig(text=TEXTS, model="m", **more))
    assert found.signature == signature
    expected = {"text": [TEXTS[0]], "text_pair": [TEXTS[1]]}
    assert seen == expected | ({"n_best": [n_best]} if n_best else {})


def test_models_and_signatures_of_one_answer(monkeypatch) -> None:
    monkeypatch.setattr(answers, "Client", Asked)
    with pytest.raises(InputError, match="`n_best`: the signature answer gives one answer only"):
        answers.query(QueryConfig(text=TEXTS, model="m", n_best=3, signature="answer"))
    monkeypatch.setattr(Asked, "signatures", lambda *_: {"embed": SPAN["embed"]})
    with pytest.raises(InputError, match="`n_best`: the model has one answer only"):
        answers.query(QueryConfig(text=TEXTS, model="m", n_best=3))
    for wrong in (0, 51):
        with pytest.raises(InputError, match="`n_best`"):
            QueryConfig(text=TEXTS, model="m", n_best=wrong)


VECTORS = {
    "embed": Signature({"text": "DT_STRING"}, {}),
    "embed_dimension": Signature({"text": "DT_STRING", "dimension": "DT_INT32"}, {}),
}


def test_the_size_of_a_vector(monkeypatch) -> None:
    monkeypatch.setattr(answers, "Client", Asked)
    monkeypatch.setattr(Asked, "signatures", lambda *_: VECTORS)
    seen = {}
    monkeypatch.setattr(
        Asked,
        "predict",
        lambda self, model, inputs, name, version: seen.update(inputs) or {},
        raising=False,
    )
    for more in ({}, {"signature": "embed_dimension"}):
        seen.clear()
        found = answers.query(QueryConfig(text=TEXTS[:1], model="m", dimension=7, **more))
        assert found.signature == "embed_dimension"
        assert seen == {"text": ["Who left?"], "dimension": [7]}
    for more, message in (
        ({"dimension": 7, "signature": "embed"}, "`dimension`: the signature embed has vectors of"),
        ({"signature": "embed_dimension"}, "`signature` embed_dimension: needs `dimension`"),
    ):
        with pytest.raises(InputError, match=message):
            answers.query(QueryConfig(text=TEXTS[:1], model="m", **more))
    with pytest.raises(InputError, match="received 2 texts"):
        answers.query(QueryConfig(text=TEXTS, model="m", dimension=7))
    monkeypatch.setattr(Asked, "signatures", lambda *_: SPAN)
    with pytest.raises(InputError, match="`dimension`: the model has vectors of one size only"):
        answers.query(QueryConfig(text=TEXTS[:1], model="m", dimension=7))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"dimension": 0}, "`dimension` 0: must be from 1"),
        ({"dimension": 2**31}, "`dimension` 2147483648: must be from 1"),
        ({"dimension": 3, "n_best": 3}, "`n_best` and `dimension`: no signature takes both"),
        ({"dimension": 3, "passages": Path("p")}, "`dimension`: has no effect on the ranking"),
        ({"n_best": 3, "passages": Path("p")}, "`n_best`: has no effect on the ranking"),
    ],
)
def test_numbers_that_cannot_be_used(more, message) -> None:
    with pytest.raises(InputError, match=message):
        QueryConfig(text=TEXTS[:1], model="m", **more)
