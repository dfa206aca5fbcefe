"""Which signature `query` chooses."""

import pytest

from pipeline.errors import InputError
from serving.client import Signature
from serving.client.answers import signature_for

ONE, TWO = Signature({"text": "DT_STRING"}, {}), Signature(dict.fromkeys(("text", "text_pair")), {})
PRETRAINED = {
    "serving_default": ONE, "fill_mask": ONE, "fill_mask_pair": TWO, "next_sentence": TWO,
    "embed": ONE, "embed_tokens": TWO, "attention": TWO, "tokenize": TWO,
}  # fmt: skip
ENCODER = {name: PRETRAINED[name] for name in ("embed", "embed_tokens", "attention", "tokenize")}


@pytest.mark.parametrize(
    ("texts", "known", "expected"),
    [
        (["The [MASK] barked."], PRETRAINED, "fill_mask"),
        (["It barked.", "A [MASK]."], PRETRAINED, "fill_mask_pair"),
        (["It barked."], PRETRAINED, "embed"),
        (["It barked.", "It slept."], PRETRAINED, "next_sentence"),
        (["It barked.", "It slept."], ENCODER, "embed_tokens"),
        (["The [MASK] barked."], ENCODER, "embed"),
        (["It barked."], ENCODER | {"classify": ONE}, "classify"),
        (["It barked.", "It slept."], ENCODER | {"classify": TWO}, "classify"),
        (["It barked."], ENCODER | {"classify": TWO}, "embed"),
        (["It barked.", "It slept."], ENCODER | {"score": TWO}, "score"),
        (["It barked."], ENCODER | {"tag": ONE}, "tag"),
        (["What barked?", "The dog."], ENCODER | {"answer": TWO}, "answer"),
    ],
)
def test_signature_for(texts, known, expected):
    assert signature_for(texts, known) == expected


def test_no_signature_for_so_many_texts():
    with pytest.raises(InputError, match="takes 2 such texts; name one of embed, tokenize with `s"):
        signature_for(["a", "b"], {"tokenize": ONE, "embed": ONE})
