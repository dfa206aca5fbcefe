"""The model exported from a run trained for two steps, helper models, and a browser."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tensorflow as tf

from clozeline.main import main
from clozeline.show.terminal import printed_notes
from docs.browser import Browser
from model.run import Run


@pytest.fixture(scope="session")
def exported(trained_run: Run, once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """`exported/fox/1`."""

    def export(models: Path) -> None:
        arguments = ["export", "--run", str(trained_run.path), "--output", str(models / "fox")]
        assert main(arguments) == 0

    return once("exported", export) / "fox" / "1"


@pytest.fixture
def notes(capsys: pytest.CaptureFixture[str]) -> Iterator[pytest.CaptureFixture[str]]:
    """What is printed, with the server's log messages as the front door prints them.

    `caplog` would miss some: `serve` lets the handlers of this process write one line a minute.
    """
    with printed_notes(str):
        yield capsys


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    made = Browser(tmp_path_factory.mktemp("chromium"))
    yield made
    made.driver.quit()


# ---- models that need no BERT


class Plus(tf.Module):
    """Adds ten."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def run(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": x + 10.0}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `plus/7`."""
    base = tmp_path_factory.mktemp("models")
    module = Plus()
    signatures = {"serving_default": module.run}
    tf.saved_model.save(module, str(base / "plus" / "7"), signatures=signatures)
    return base


# ---- models that TensorFlow Serving was recorded with


def spec(shape: list[int | None], dtype: tf.DType, name: str) -> tf.TensorSpec:
    return tf.TensorSpec(shape, dtype, name)


class Types(tf.Module):
    """One signature per kind of input and output."""

    @tf.function(input_signature=[spec([None], tf.float32, "x")])
    def double(self, x):
        return {"y": 2.0 * x}

    @tf.function(
        input_signature=[
            spec([None, 2], tf.float32, "f"),
            spec([None], tf.int32, "i"),
            spec([None], tf.string, "s"),
        ]
    )
    def multi(self, f, i, s):
        return {
            "fsum": tf.reduce_sum(f, axis=1),
            "d": tf.cast(f, tf.float64) / 3.0,
            "i64": tf.cast(i, tf.int64) * 10_000_000_000,
            "b": i > 0,
            "mat": f[:, :, None] * f[:, None, :],
            "s": s + "!",
            "raw_bytes": s + "ÿ",
        }

    @tf.function(input_signature=[spec([None], tf.float32, "x")])
    def special(self, x):
        return {"y": tf.math.log(x)}

    @tf.function(input_signature=[spec([], tf.float32, "x")])
    def scalar(self, x):
        return {"y": 2.0 * x}

    @tf.function(input_signature=[spec([None], tf.float32, "x"), spec([], tf.int32, "k")])
    def mixed(self, x, k):
        return {"y": x * tf.cast(k, tf.float32), "n": tf.size(x)}

    @tf.function(
        input_signature=[
            spec([None], tf.float16, "h"),
            spec([None], tf.uint8, "u"),
            spec([None], tf.bool, "b"),
        ]
    )
    def small(self, h, u, b):
        return {"h": h + 1, "u": u, "nb": tf.logical_not(b)}


@pytest.fixture(scope="session")
def save_types() -> Callable[[Path], None]:
    """Save a model with a signature for each kind of tensor."""

    def save(path: Path) -> None:
        types = Types()
        names = ("multi", "special", "scalar", "mixed", "small")
        signatures = {name: getattr(types, name) for name in names}
        signatures["serving_default"] = types.double
        tf.saved_model.save(types, str(path), signatures=signatures)

    return save


@pytest.fixture(scope="session")
def save_classifier() -> Callable[[Path], None]:
    """Save a model that classifies and regresses examples."""
    return _save_classifier


def _save_classifier(path: Path) -> None:
    """A model of TensorFlow 1: only its exporter writes the signatures' kinds."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        ex = tf.compat.v1.placeholder(tf.string, [None], "ex")
        features = {"x": tf.io.FixedLenFeature([], tf.float32, 0.0)}
        x = tf.io.parse_example(ex, features)["x"]
        scores = tf.stack([x, 1.0 - x], axis=1)
        classes = tf.tile([["pos", "neg"]], [tf.shape(x)[0], 1])
        numbers = tf.reshape(2.0 * x + 1.0, [-1, 1])
        info = tf.compat.v1.saved_model.build_tensor_info
        make = tf.compat.v1.saved_model.build_signature_def
        signatures = {
            "serving_default": make(
                {"inputs": info(ex)},
                {"classes": info(classes), "scores": info(scores)},
                "tensorflow/serving/classify",
            ),
            "reg": make(
                {"inputs": info(ex)}, {"outputs": info(numbers)}, "tensorflow/serving/regress"
            ),
            "pred": make(
                {"examples": info(ex)},
                {"y": info(numbers), "classes": info(classes)},
                "tensorflow/serving/predict",
            ),
        }
        builder = tf.compat.v1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(session, ["serve"], signatures)
        builder.save()
