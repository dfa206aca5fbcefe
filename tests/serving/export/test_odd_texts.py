"""Signatures of fine-tuned models answer empty, binary, damaged and very long texts."""

import unicodedata
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from model.run import Run
from serving.export.signatures import TextModel
from tests.serving.export.untrained_tasks import TASKS, run_of

ODD: dict[str, bytes] = {
    "empty": b"",
    "white space": b" \t\r\n ",
    "NUL": b"\0",
    "NUL in a word": b"the f\0x barked",
    "no UTF-8": b"\xff\xfe the \x80 fox",
    "cut off within a letter": "the fox é".encode()[:-1],
    "a surrogate": b"the \xed\xa0\x80 fox",
    "overlong": b"\xc0\xaf the",
    "beyond Unicode": b"\xf4\x90\x80\x80 fox",
    "only accents": "\u0301\u0301 \u0301".encode(),
    "accents on a letter": ("e" + "\u0301" * 500).encode(),
    "no width": "\u200b\u200d\ufeff".encode(),
    "other spaces": "the\u00a0fox\u3000barked\u2028at\u0085it".encode(),
    "from right to left": "אבג the \u202efox\u202c".encode(),
    "emoji": "👩‍👩‍👧 🇫🇷".encode(),
    "one long word": b"fox" * 200,
    "special tokens": b"[CLS] [SEP] [MASK] [PAD] [UNK]",
    "longer than all windows": b"the fox barked at . " * 40,
}
"""Texts by what is odd in them."""

Answers = dict[str, np.ndarray]


@pytest.fixture(scope="module", params=["vectors", "questions", "names", "reviews"])
def asked(
    request: pytest.FixtureRequest, trained_run: Run, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """Functions of the signatures that read text, by name."""
    run, model = run_of(TASKS[request.param][1], trained_run, tmp_path_factory.mktemp("odd"))
    signatures = TextModel(run, model, max_windows=4).signatures()
    names = {TASKS[request.param][0], "similarity"} & signatures.keys()
    return {name: signatures[name] for name in sorted(names)}


def answered(function: Any, texts: list[bytes]) -> tuple[dict[str, list[bytes]], Answers]:
    """Return the inputs by name, and the outputs; second texts are the first ones, reversed."""
    inputs = {
        spec.name: texts if spec.name == "text" else texts[::-1]
        for spec in function.input_signature
    }
    found = function(**{name: tf.constant(values) for name, values in inputs.items()})
    return inputs, {name: values.numpy() for name, values in found.items()}


def without_controls(text: bytes) -> bytes:
    """Return a text without control characters; bytes that are no characters stay."""
    characters = text.decode("utf-8", "surrogateescape")
    kept = (each for each in characters if unicodedata.category(each) != "Cc")
    return "".join(kept).encode("utf-8", "surrogateescape")


def test_each_odd_text_has_the_same_answer_alone_and_among_others(asked: dict[str, Any]) -> None:
    texts = list(ODD.values())
    for name, function in asked.items():
        inputs, together = answered(function, texts)
        for output, values in together.items():
            assert len(values) == len(texts)
            if values.dtype.kind == "f":
                assert np.isfinite(values).all(), (name, output)
        for row, kind in enumerate(ODD):
            one = {key: tf.constant([values[row]]) for key, values in inputs.items()}
            for output, values in function(**one).items():
                alone, among = values.numpy(), together[output][row : row + 1]
                # Padded to the longest row of the batch.
                among = among[tuple(slice(size) for size in alone.shape)]
                message = f"{name} {output} {kind}"
                if alone.dtype.kind == "f":
                    np.testing.assert_allclose(among, alone, atol=1e-5, err_msg=message)
                else:
                    np.testing.assert_array_equal(among, alone, err_msg=message)


@pytest.mark.parametrize("asked", ["names"], indirect=True)
def test_tagged_words_are_parts_of_odd_texts(asked: dict[str, Any]) -> None:
    inputs, found = answered(asked["tag"], list(ODD.values()))
    for row, text in enumerate(inputs["text"]):
        words = zip(*(found[key][row] for key in ("words", "start", "end")), strict=True)
        for word, start, end in words:
            assert word == without_controls(text[start:end]), text


@pytest.mark.parametrize("asked", ["questions"], indirect=True)
def test_answers_are_parts_of_odd_passages(asked: dict[str, Any]) -> None:
    inputs, found = answered(asked["answer"], list(ODD.values()))
    for row, text in enumerate(inputs["text_pair"]):
        start, end = found["start"][row], found["end"][row]
        assert 0 <= start <= end <= len(text)
        assert found["answer"][row] == text[start:end]


@pytest.mark.parametrize("asked", ["vectors"], indirect=True)
def test_similarities_of_odd_texts(asked: dict[str, Any]) -> None:
    """A text is like itself, and the order of two texts does not count."""
    texts = tf.constant(list(ODD.values()))
    same = asked["similarity"](text=texts, text_pair=texts)
    np.testing.assert_allclose(same["score"], 1.0, atol=1e-5)
    _, scores = answered(asked["similarity"], list(ODD.values()))
    np.testing.assert_allclose(scores["score"], scores["score"][::-1], atol=1e-5)
    assert (np.abs(scores["score"]) <= 1.0 + 1e-5).all()


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("asked", ["vectors", "questions"], indirect=True)
def test_lists_of_different_lengths_are_named(asked: dict[str, Any], count: int) -> None:
    """Not the operation that fails for them, of which there are several."""
    function = asked["similarity" if "similarity" in asked else "answer"]
    texts, others = tf.constant(["fox", "owl"]), tf.constant(["oak"] * count, tf.string)
    with pytest.raises(tf.errors.InvalidArgumentError, match="text and text_pair differ in length"):
        function(text=texts, text_pair=others)
