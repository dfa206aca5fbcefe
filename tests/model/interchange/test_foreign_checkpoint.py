"""Checks of a checkpoint's vocabulary and weights that all formats share."""

from pathlib import Path

import numpy as np
import pytest

from model.bert.config import BertConfig
from model.interchange.foreign_checkpoint import (
    WeightSource,
    by,
    by_layer,
    find_weights,
    is_cased,
    make_config,
    make_texts,
)
from model.interchange.google import _prefix
from model.interchange.names import encoder_weights, task_weights
from model.tasks.task_kind import Task
from pipeline.errors import InputError

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def texts(*pieces: str, lower_case: bool | None = None, length: int = 16, size: int = 8):
    data = "".join(f"{piece}\n" for piece in (*SPECIAL, *pieces)).encode()
    return make_texts(Path("m/vocab.txt"), data, lower_case, length, size)


def test_casing_is_guessed_from_capitals_if_no_file_specifies_it() -> None:
    assert texts("a", "b", "c").lower_case
    assert not texts("a", "B", "c").lower_case
    assert texts("a", "B", "c", lower_case=True).lower_case  # a file says so
    assert "pieces have capitals: cased" in texts("a", "B", "c").notes[-1]
    assert [is_cased(piece) for piece in ("[UNK]", "Über", "##É", "東", "a1")] == [
        False, True, True, False, False,
    ]  # fmt: skip


def test_rows_of_the_embedding_without_a_piece_get_a_name() -> None:
    padded = texts("a", size=8)
    assert padded.vocabulary.decode().split() == [*SPECIAL, "a", "[row6]", "[row7]"]
    assert padded.notes[0] == (
        "2 rows of the embedding without a piece in the vocabulary, named [rowN]"
    )


def test_vocabularies_and_configs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="8 pieces, but the config's vocab_size is 7"):
        texts("a", "b", "c", size=7)
    with pytest.raises(InputError, match="takes sequences of 2 pieces, too short for a text"):
        texts("a", length=2)
    names = {"num_hidden_layers": "n_layers"}
    with pytest.raises(InputError, match=r"c\.json: .*n_layers"):
        make_config(Path("c.json"), {"num_hidden_layers": -1, "vocab_size": 9}, names)


def test_summaries() -> None:
    assert by((2, 3)) == "2×3"
    assert by(()) == "()"
    names = ["encoder/0/kernel", "cls.predictions.bias", "encoder/1/bias"]
    assert by_layer(names) == "encoder (2), cls (1)"


@pytest.mark.parametrize(
    ("shape", "value", "message"),
    [
        (None, 0.0, "no bert/pooler/dense/kernel in it"),
        ((12, 13), 0.0, "pooler/dense/kernel has the shape 12×13, but the config requires 12×12"),
        ((12, 12), np.nan, "pooler/dense/kernel contains NaN or infinity"),
    ],
)
def test_a_weight_that_cannot_be_used_is_named(
    small_config: BertConfig, shape: tuple[int, ...] | None, value: float, message: str
) -> None:
    weights = encoder_weights(small_config)
    shapes = {weight.stored["google"].name: weight.stored["google"].shape for weight in weights}
    name = "bert/pooler/dense/kernel"
    assert shapes.pop(name) == (12, 12)
    if shape is not None:
        shapes[name] = shape
    source = WeightSource(
        Path("m"), shapes, lambda each: np.full(shapes[each], value if each == name else 0.5)
    )
    task = Task("single", ("no", "yes"), takes_pairs=False)
    head = {
        weight.stored["google"].name: weight.stored["google"].shape
        for weight in task_weights(small_config, task)
    }
    heads = WeightSource(Path("m"), head, lambda each: np.zeros(head[each]))
    with pytest.raises(InputError, match=message):
        find_weights(source, heads, "google", small_config, task)


def test_the_latest_of_several_tensorflow_checkpoints_is_read(tmp_path: Path) -> None:
    for step in (1, 20, 3):
        (tmp_path / f"model.ckpt-{step}.index").touch()
    with pytest.raises(InputError, match="several checkpoints, and no file that names the latest"):
        _prefix(tmp_path)
    # A path on the machine that trained it.
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/home/x/model.ckpt-20"\n')
    assert _prefix(tmp_path) == tmp_path / "model.ckpt-20"
