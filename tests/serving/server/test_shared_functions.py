"""Signatures that share functions answer as they did, and the functions exist once."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from serving.server.shared_functions import shared

NUMBERS = tf.TensorSpec([None], tf.float32, "x")
OTHERS = tf.TensorSpec([None], tf.float32, "y")


class Model(tf.Module):
    """Signatures around two functions that read variables."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = tf.Variable(3.0)
        self.unused = tf.Variable(5.0)
        keys = tf.constant(["a", "b"])
        initializer = tf.lookup.KeyValueTensorInitializer(keys, tf.constant([1.0, 2.0]))
        self.table = tf.lookup.StaticHashTable(initializer, 0.0)

    @tf.function(input_signature=[NUMBERS, OTHERS])
    def encode(self, x: Any, y: Any) -> Any:
        return self.factor * x - y, tf.reduce_sum(x)

    @tf.function(input_signature=[NUMBERS])
    def once(self, x: Any) -> Any:
        return self.unused + x

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
    def of_text(self, text: Any) -> Any:
        numbers = self.table.lookup(text)
        product, total = self.encode(numbers, tf.ones_like(numbers))
        # One result is an argument, one a constant, one comes from before the call.
        return {
            "text": text,
            "three": tf.constant([3.0]),
            "known": numbers > 0.0,
            "z": product / total * self.factor,
        }

    @tf.function(input_signature=[NUMBERS])
    def twice(self, x: Any) -> Any:
        first, _ = self.encode(x, x)
        second, total = self.encode(first + 1.0, x)
        return {"z": second + x, "total": tf.fill(tf.shape(x), total)}

    @tf.function(input_signature=[OTHERS, NUMBERS])
    def checked(self, y: Any, x: Any) -> Any:
        tf.debugging.assert_equal(tf.size(x), tf.size(y), "x and y differ in length")
        return {"z": self.encode(x, y)[0]}

    @tf.function(input_signature=[NUMBERS])
    def repeated(self, x: Any) -> Any:
        return {"z": tf.while_loop(lambda z: z[0] < 9.0, lambda z: self.encode(z, x)[:1], [x])[0]}

    @tf.function(input_signature=[NUMBERS])
    def alone(self, x: Any) -> Any:
        return {"z": self.once(x)}


ARGUMENTS: dict[str, dict[str, Any]] = {
    "of_text": {"text": ["a", "b", "c"]},
    "twice": {"x": [1.0, 2.0]},
    "checked": {"y": [1.0, 5.0], "x": [4.0, 2.0]},
    "repeated": {"x": [1.0]},
    "alone": {"x": [1.0, -1.0]},
}
ARGUMENTS["serving_default"] = ARGUMENTS["of_text"]


def save(module: tf.Module, path: Path, signatures: Mapping[str, Any]) -> Any:
    tf.saved_model.save(module, str(path), signatures=dict(signatures))
    return tf.saved_model.load(str(path))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    model = Model()
    names = ("of_text", "twice", "checked", "repeated", "alone")
    signatures = {name: getattr(model, name) for name in names}
    path = tmp_path_factory.mktemp("model")
    return save(model, path, {"serving_default": model.of_text, **signatures})


@pytest.mark.parametrize("name", ARGUMENTS)
def test_every_signature_answers_as_before(loaded: Any, name: str) -> None:
    arguments = {key: tf.constant(value) for key, value in ARGUMENTS[name].items()}
    expected = loaded.signatures[name](**arguments)
    answer = shared(loaded.signatures)[name](**arguments)
    assert answer.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(answer[key].numpy(), value.numpy())


def test_only_what_is_called_more_than_once_outside_of_loops_is_split(loaded: Any) -> None:
    functions = shared(loaded.signatures)
    whole = [name for name in functions if functions[name] is loaded.signatures[name]]
    assert sorted(whole) == ["alone", "repeated"]
    assert functions["serving_default"] is functions["of_text"]


def test_a_failed_check_is_reported_as_before(loaded: Any) -> None:
    arguments = {"y": tf.constant([1.0]), "x": tf.constant([1.0, 2.0])}
    messages = []
    for functions in (loaded.signatures, shared(loaded.signatures)):
        with pytest.raises(tf.errors.InvalidArgumentError, match="differ in length") as error:
            functions["checked"](**arguments)
        # The names of the functions are numbered.
        messages.append(re.sub(r"function_node \S+|Op:\w+", "", error.value.message))
    assert messages[0] == messages[1]


class Random(tf.Module):
    """Two signatures that call a function with a kernel that has a state."""

    def __init__(self, factor: Any) -> None:
        super().__init__()
        self.factor = factor

    @tf.function(input_signature=[NUMBERS])
    def draw(self, x: Any) -> Any:
        return self.factor * (x + tf.random.uniform([1], seed=7))

    @tf.function(input_signature=[NUMBERS])
    def one(self, x: Any) -> Any:
        return {"z": self.draw(x)}

    @tf.function(input_signature=[NUMBERS])
    def other(self, x: Any) -> Any:
        return {"z": self.draw(x + 0.0)}


@pytest.mark.parametrize("kind", [tf.Variable, tf.constant])
def test_a_shared_function_has_its_kernels_once(tmp_path: Path, kind: Any) -> None:
    """Each kernel of a seeded random operation begins with the same number."""
    model = Random(kind(1.0))
    loaded = save(model, tmp_path, {"one": model.one, "other": model.other})

    def drawn(functions: Mapping[str, Any]) -> list[float]:
        zero = tf.constant([0.0])
        return [float(functions[name](x=zero)["z"][0]) for name in ("one", "other")]

    first, second = drawn(loaded.signatures)
    assert first == second
    first, second = drawn(shared(loaded.signatures))
    assert first != second


def test_a_model_of_tensorflow_1_stays_whole(save_classifier: Any, tmp_path: Path) -> None:
    save_classifier(tmp_path / "1")
    signatures = tf.saved_model.load(str(tmp_path / "1")).signatures
    functions = shared(signatures)
    assert all(functions[name] is signatures[name] for name in signatures)
