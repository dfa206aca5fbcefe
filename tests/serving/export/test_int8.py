"""int8 products and exports, compared with NumPy and with the Python model in float32."""

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from clozeline.main import main
from model.bert.network import build_model, weights_by_name
from model.run import Run, load_run, write_run
from model.run_config import RunConfig
from model.tasks.task_kind import Task
from serving.export import calibration
from serving.export.accuracy import Accuracy, check_accuracy
from serving.export.export import Exported
from serving.export.golden import PAIRS, TEXTS
from serving.export.int8_products import (
    CalibratedDense,
    DynamicDense,
    Int8Embedding,
    Int8Matrix,
    check_cpu,
    layer_norm,
)
from serving.export.quantization import Range, by_column, by_row
from serving.export.signatures import TextModel

ROWS, INPUTS, OUTPUTS = 5, 24, 10


@pytest.fixture(scope="module", autouse=True)
def multiplies_int8() -> None:
    """Skip the tests on a CPU that multiplies int8 inexactly."""

    def check() -> None:
        check_cpu()

    try:
        tf.function(check, autograph=False)()
    except tf.errors.InvalidArgumentError as error:
        pytest.skip(error.message)


def numpy_int8(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each row as integers and its scale, written without the code under test."""
    rows, scales = [], []
    for row in x.astype(np.float64):
        scale = max(abs(number) for number in row) / 127 or 1.0
        rows.append([int(np.rint(number / scale)) for number in row])
        scales.append(scale)
    return np.array(rows), np.array(scales)[:, np.newaxis]


def numpy_dense(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    rows, row_scales = numpy_int8(x)
    columns, column_scales = numpy_int8(kernel.T)
    return (rows @ columns.T) * row_scales * column_scales.T + bias


def run(layer: Callable[[Any], Any], x: np.ndarray) -> np.ndarray:
    spec = tf.TensorSpec([None, *x.shape[1:]], x.dtype)
    function = tf.function(layer.__call__, input_signature=[spec], autograph=False)
    result: np.ndarray = function(tf.constant(x)).numpy()
    return result


@pytest.fixture
def kernel() -> np.ndarray:
    columns = np.linspace(0.01, 3.0, OUTPUTS)  # channels of different sizes
    values = np.random.default_rng(1).standard_normal((INPUTS, OUTPUTS)) * columns
    values[:, 4] = 0.0
    return values.astype(np.float32)


@pytest.fixture
def bias() -> np.ndarray:
    return np.random.default_rng(2).standard_normal(OUTPUTS).astype(np.float32)


@pytest.fixture
def x() -> np.ndarray:
    values = np.random.default_rng(3).standard_normal((ROWS, INPUTS))
    values[1] *= 1e3
    values[2] *= 1e-6
    values[3] = 0.0
    return values.astype(np.float32)


def test_a_product_is_that_of_the_integers(
    x: np.ndarray, kernel: np.ndarray, bias: np.ndarray
) -> None:
    dense = DynamicDense(Int8Matrix(by_column(kernel)), bias)
    right = numpy_dense(x, kernel, bias)
    np.testing.assert_allclose(run(dense, x), right, rtol=2e-6, atol=1e-6)
    np.testing.assert_allclose(right[0], x[0] @ kernel + bias, atol=0.2)  # and close to the float


def test_a_row_does_not_depend_on_the_others(
    x: np.ndarray, kernel: np.ndarray, bias: np.ndarray
) -> None:
    dense = DynamicDense(Int8Matrix(by_column(kernel)), bias)
    alone = np.concatenate([run(dense, row[np.newaxis]) for row in x])
    np.testing.assert_array_equal(run(dense, x), alone)


def test_no_rows(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> None:
    dense = DynamicDense(Int8Matrix(by_column(kernel)), bias)
    assert run(dense, x[:0]).shape == (0, OUTPUTS)


def test_an_embedding_is_also_a_transposed_kernel(
    x: np.ndarray, kernel: np.ndarray, bias: np.ndarray
) -> None:
    table = Int8Matrix(by_row(kernel.T))  # [OUTPUTS, INPUTS]
    logits = run(DynamicDense(table, bias, transposed=True), x)
    np.testing.assert_allclose(logits, numpy_dense(x, kernel, bias), rtol=2e-6, atol=1e-6)
    rows, scales = numpy_int8(kernel.T)
    ids = np.array([[3, 9], [0, 4]], np.int32)
    vectors = run(Int8Embedding(table), ids)
    np.testing.assert_allclose(vectors, (rows * scales)[ids], rtol=1e-6)


def test_scales_at_the_address_of_other_scales(
    x: np.ndarray, kernel: np.ndarray, bias: np.ndarray
) -> None:
    """TensorFlow keeps a product's program by the address of its scales, which may be reused."""
    first, second = Int8Matrix(by_column(kernel)), Int8Matrix(by_column(kernel[:, ::-1]))
    ranges = tf.Variable(first.ranges)
    first.ranges = ranges
    run(DynamicDense(first, bias), x)
    ranges.assign_add(second.ranges - ranges)  # in place
    second.ranges = ranges
    answer = run(DynamicDense(second, bias), x)
    right = numpy_dense(x, kernel[:, ::-1], bias)
    np.testing.assert_allclose(answer, right, rtol=2e-5, atol=1e-5)


def numpy_calibrated(
    x: np.ndarray, kernel: np.ndarray, bias: np.ndarray, low: float, high: float
) -> np.ndarray:
    step = (high - low) / 255 if low else high / 127
    limits = (0, 255) if low else (-127, 127)
    rows = np.clip(np.rint((x.astype(np.float64) - low) / step), *limits)
    columns, column_scales = numpy_int8(kernel.T)
    return ((rows * step + low) @ columns.T) * column_scales.T + bias


LOW = -3 * 4 / 255
"""A whole number of steps below 0."""


@pytest.mark.parametrize(("low", "high"), [(0.0, 2.0), (LOW, 4 + LOW)])
def test_a_calibrated_product(
    low: float, high: float, x: np.ndarray, kernel: np.ndarray, bias: np.ndarray
) -> None:
    dense = CalibratedDense(kernel, bias, Range(low, high))
    right = numpy_calibrated(x, kernel, bias, low, high)  # row 1 is outside the range
    np.testing.assert_allclose(run(dense, x), right, rtol=1e-5, atol=1e-5)


def test_channels_that_are_divided(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> None:
    divisors = np.linspace(0.5, 4.0, INPUTS).astype(np.float32)
    dense = CalibratedDense(kernel, bias, Range(0.0, 2.0, divisors))
    right = numpy_calibrated(
        (x * (1 / divisors)).astype(np.float32), kernel * divisors[:, np.newaxis], bias, 0.0, 2.0
    )
    np.testing.assert_allclose(run(dense, x), right, rtol=1e-4, atol=1e-4)


def test_a_residual_is_added(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> None:
    addend = np.random.default_rng(4).standard_normal((ROWS, OUTPUTS)).astype(np.float32)
    dense = CalibratedDense(kernel, bias, Range(0.0, 2.0))
    function = tf.function(dense.plus, autograph=False)
    answer = function(tf.constant(x), tf.constant(addend)).numpy()
    right = numpy_calibrated(x, kernel, bias, 0.0, 2.0) + addend
    np.testing.assert_allclose(answer, right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_an_activation_stays_8_bits_wide(
    activation: str, x: np.ndarray, kernel: np.ndarray, bias: np.ndarray
) -> None:
    outputs = Range(LOW, 4 + LOW)
    dense = CalibratedDense(kernel, bias, Range(0.0, 2.0), outputs)
    function = tf.function(lambda rows: dense.activated(rows, activation), autograph=False)
    answer = tf.bitcast(function(tf.constant(x)), tf.uint8).numpy().astype(int)
    inner = numpy_calibrated(x, kernel, bias, 0.0, 2.0)
    erf = np.vectorize(math.erf)
    right = {
        "gelu": inner / 2 * (1 + erf(inner / np.sqrt(2))),
        "gelu_new": inner / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (inner + 0.044715 * inner**3))),
        "relu": np.maximum(inner, 0),
    }[activation]
    integers = np.clip(np.rint((right - LOW) / (4 / 255)), 0, 255)
    assert np.abs(answer - integers).max() <= 1  # a half may be rounded either way
    assert (answer == integers).mean() > 0.9


def test_layer_norm(x: np.ndarray) -> None:
    gamma, beta = np.linspace(0.5, 2, INPUTS), np.linspace(-1, 1, INPUTS)
    function = tf.function(
        lambda rows: layer_norm(rows, np.float32(gamma), np.float32(beta), 1e-12), autograph=False
    )
    rows = x.astype(np.float64)
    centred = rows - rows.mean(axis=1, keepdims=True)
    right = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-12) * gamma + beta
    np.testing.assert_allclose(function(tf.constant(x)).numpy(), right, rtol=2e-5, atol=2e-5)


NO_VNNI = """
import tensorflow as tf
from serving.export.int8_products import check_cpu

@tf.function(autograph=False)
def check():
    with tf.control_dependencies([check_cpu()]):
        return tf.constant("exact")

try:
    print(check().numpy().decode())
except tf.errors.InvalidArgumentError as error:
    print(error.message)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variables", "answer"),
    [
        ({"TF_ENABLE_ONEDNN_OPTS": "0"}, "exact"),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}, "an int8 model needs a CPU with VNNI or AMX"),
        ({"ONEDNN_MAX_CPU_ISA": "AVX2"}, "an int8 model needs a CPU with VNNI or AMX"),
    ],
)
def test_a_cpu_that_multiplies_int8_inexactly_is_refused(
    variables: dict[str, str], answer: str
) -> None:
    command = [sys.executable, "-c", NO_VNNI]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)
    assert answer in done.stdout, done.stderr


# ---- exports


def export(run: Run, model: Path, *flags: str) -> int:
    return main(["export", "--run", str(run.path), "--output", str(model), *flags])


@pytest.mark.slow
def test_export(
    trained_run: Run, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each row by its own largest number: no data is needed."""
    assert export(trained_run, tmp_path / "fox", "--precision", "int8", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert 1e-5 < result["largest_difference"] < 0.1
    assert result["kept"] == []
    weights = [
        next((version / "variables").glob("*.data*")).stat().st_size
        for version in (tmp_path / "fox" / "1", exported)
    ]
    # The small heads, positions and norms of a tiny model are half of it; they are not int8.
    assert weights[0] < 0.6 * weights[1]
    plan = json.loads((tmp_path / "fox" / "1" / "assets.extra" / "int8.json").read_text())
    assert set(plan["products"].values()) == {"int8 by row"}
    assert "0/qkv" in plan["products"]


def test_calibrated_export(
    trained_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("The dog barked.\n\nHe left.\tShe stayed at home.\n" * 20, encoding="utf-8")
    flags = ["--precision", "int8", "--calibrate", str(texts), "--json"]
    assert export(trained_run, tmp_path / "fox", *flags) == 0
    result = json.loads(capsys.readouterr().out)
    assert 1e-5 < result["largest_difference"] < 0.1
    plan = json.loads((tmp_path / "fox" / "1" / "assets.extra" / "int8.json").read_text())
    measured = plan["products"]["0/intermediate"]
    assert measured["high"] == -measured["low"] > 0
    activation = plan["products"]["0/output"]
    assert -0.2 < activation["low"] < 0 < activation["high"]


@pytest.mark.parametrize(
    ("content", "flags", "message"),
    [
        (None, ["--precision", "int8"], "texts.txt: cannot be read: .*No such file"),
        (b"\n \n", ["--precision", "int8"], "texts.txt: contains no text; give one text per line"),
        (b"caf\xe9\n", ["--precision", "int8"], "texts.txt: cannot be read: line 1: the byte 0xe9"),
        (b"a\n", [], "--calibrate: has an effect only with --precision int8"),
    ],
)
def test_texts_that_cannot_be_used(
    content: bytes | None,
    flags: list[str],
    message: str,
    trained_run: Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    texts = tmp_path / "texts.txt"
    if content is not None:
        texts.write_bytes(content)
    model = tmp_path / "models" / "fox"
    assert export(trained_run, model, "--calibrate", str(texts), *flags) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not model.exists()


def test_a_product_with_a_large_error_stays_bfloat16(
    trained_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "LARGEST_ERROR", 0.0)
    texts = tmp_path / "texts.txt"
    texts.write_text("The dog barked.\n", encoding="utf-8")
    plan = calibration.calibrate(trained_run, trained_run.load_model(), texts)
    assert plan.ranges == {}
    assert len(plan.kept) == 4 * trained_run.config.num_hidden_layers
    model = trained_run.load_model()
    asked = {"text": tf.constant(["The dog barked."])}
    right, *others = (
        TextModel(trained_run, model, precision, plan=kept).signatures()["embed"](**asked)["mean"]
        for precision, kept in (("float32", None), ("int8", plan))
    )
    np.testing.assert_allclose(others[0], right, atol=0.05)


def test_ranges_are_those_of_the_texts(trained_run: Run, tmp_path: Path) -> None:
    """The input of the first layer is the normalized embedding, which Keras computes here."""
    texts = tmp_path / "texts.txt"
    texts.write_text("a dog\n", encoding="utf-8")
    model = trained_run.load_model()
    encoder = TextModel(trained_run, model).texts
    asked = [("a dog", ""), *zip(TEXTS, PAIRS, strict=True), *((text, "") for text in TEXTS)]
    firsts, seconds = (tf.constant(each) for each in zip(*asked, strict=True))
    features = encoder.encode_pairs(firsts, seconds, optional=True).features
    layers = model.get_layer("encoder")
    embedded = keras.Model(layers.input, layers.get_layer("embeddings_dropout").output)(features)
    rows = embedded.numpy()[features["input_mask"].numpy() > 0]
    measured = calibration.calibrate(trained_run, model, texts).ranges["0/qkv"]
    divisors = 1.0 if measured.divisors is None else measured.divisors
    share = measured.high / np.abs(rows / divisors).max()
    assert np.isclose(share, calibration.CUTS, rtol=1e-4).any()


# ---- accuracy on labelled examples

LABELS = ("bad", "good")


@pytest.fixture(scope="module")
def classifier(trained_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that is tuned for classes, with random weights."""
    path = tmp_path_factory.mktemp("classifier") / "run"
    task = Task("single", LABELS, takes_pairs=False)
    weights = weights_by_name(build_model(trained_run.config, task))
    config = RunConfig(trained_run.config, None, trained_run.dataset, task=task)
    write_run(path, config, (trained_run.path / "vocab.txt").read_bytes(), weights)
    return load_run(path)


@pytest.fixture(scope="module")
def examples(classifier: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts with the labels that the model in float32 gives them, but for the first one."""
    texts = [f"The {animal} {did}." for animal in ("dog", "fox", "cat") for did in ("ran", "sat")]
    labels = answers(TextModel(classifier, classifier.load_model()), texts)
    labels[0] = LABELS[1 - LABELS.index(labels[0])]
    rows = [f"{text}\t{label}\n" for text, label in zip(texts, labels, strict=True)]
    path = tmp_path_factory.mktemp("examples") / "dev.tsv"
    path.write_text("text\tlabel\n" + "".join(rows), encoding="utf-8")
    return path


def answers(module: TextModel, texts: list[str]) -> list[str]:
    found = module.signatures()["classify"](text=tf.constant(texts))["label"]
    return [label.decode() for label in found.numpy()]


def test_accuracy_before_and_after(classifier: Run, examples: Path) -> None:
    model = classifier.load_model()
    same = check_accuracy(classifier, model, TextModel(classifier, model), examples)
    assert replace(same, others={}) == Accuracy(6, "accuracy", 5 / 6, 5 / 6, 0.0, 1.0)
    assert all(before == after for before, after in same.others.values())
    module = TextModel(classifier, model, "int8")
    # Class "bad" always wins in the module, and only there.
    module.network.task_dense.bias.assign([1e3, -1e3])
    measured = check_accuracy(classifier, model, module, examples)
    texts, labels = zip(*[row.split("\t") for row in rows_of(examples)], strict=True)
    share = labels.count("bad") / 6
    assert measured.exported == pytest.approx(share)
    assert measured.loss == pytest.approx(5 / 6 - share)
    assert measured.others["f1"] == pytest.approx((same.others["f1"][0], 0.0))  # f1 of "good"
    in_float32 = answers(TextModel(classifier, model), list(texts))
    assert measured.agreement == pytest.approx(in_float32.count("bad") / 6)


def rows_of(examples: Path) -> list[str]:
    return examples.read_text(encoding="utf-8").splitlines()[1:]


def test_export_prints_the_loss(
    classifier: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    accuracy = Accuracy(6, "accuracy", 0.9, 0.89, 0.01, 0.5, {"f1": (0.8, 0.7), "mcc": (0.6, 0.5)})
    exported = Exported(tmp_path / "fox" / "1", ("embed",), 0.01, ("1/output",), accuracy)
    monkeypatch.setattr("serving.export.export.export", lambda _: exported)
    monkeypatch.chdir(tmp_path)
    Path("dev.tsv").touch()
    flags = ["--run", str(classifier.path), "--output", "fox", "--precision", "int8"]
    flags += ["--check", "dev.tsv"]
    assert main(["export", *flags]) == 0
    said = capsys.readouterr().out.splitlines()
    assert "dev.tsv: accuracy 0.8900 in int8, 0.9000 in float32; 50.00% same answers" in said
    assert "other metrics: f1 0.7000, 0.8000 in float32; mcc 0.5000, 0.6000 in float32" in said
    assert "products that stay bfloat16: 1/output" in said
    assert main(["export", *flags, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["accuracy"]["loss"] == 0.01
    assert printed["kept"] == ["1/output"]


@pytest.mark.parametrize("loss", [0.02, math.nan])
def test_a_larger_loss_is_refused(
    loss: float,
    classifier: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    accuracy = Accuracy(6, "accuracy", 0.9, 0.9 - loss, loss, 0.5)
    monkeypatch.setattr("serving.export.export.check_accuracy", lambda *_: accuracy)
    file = tmp_path / "dev.tsv"
    file.touch()
    flags = ["--precision", "int8", "--check", str(file), "--max-loss", "0.01"]
    assert export(classifier, tmp_path / "models" / "fox", *flags) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert "not exported: accuracy is" in message
    assert message.endswith("on 6 examples: worse by more than 0.01")
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("content", "flags", "message"),
    [
        (None, [], "--check .*dev.tsv: cannot be read"),
        ("text\nThe dog ran.\n", [], "--check .*dev.tsv: no example has a label"),
        ("text\tlabel\nThe dog ran.\tugly\n", [], "dev.tsv.*ugly"),
        ("text\tlabel\nThe dog ran.\tgood\n", ["--max-loss", "-1"], "--max-loss -1.0: must be"),
    ],
)
def test_examples_that_cannot_be_used(
    content: str | None,
    flags: list[str],
    message: str,
    classifier: Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "dev.tsv"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    assert export(classifier, tmp_path / "models" / "fox", "--check", str(path), *flags) == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_machine_that_cannot_run_the_model(
    classifier: Run,
    examples: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail() -> Any:
        return tf.debugging.Assert(tf.constant(value=False), ["no VNNI here"])

    monkeypatch.setattr("serving.export.inference_graph.check_cpu", fail)
    flags = ["--precision", "int8", "--check", str(examples)]
    assert export(classifier, tmp_path / "models" / "fox", *flags) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert re.match(r"clozeline: not exported: .*no VNNI here", message)


def test_a_run_without_a_task_has_no_metric(
    trained_run: Run, examples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(trained_run, tmp_path / "models" / "fox", "--check", str(examples)) == 2
    assert "is not tuned for a task, so it has no metric" in capsys.readouterr().err
    assert export(trained_run, tmp_path / "models" / "fox", "--max-loss", "1") == 2
    assert "--max-loss: has an effect only with --check" in capsys.readouterr().err
