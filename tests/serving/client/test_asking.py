"""How texts are sent: the signature that fits them, and its inputs."""

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
