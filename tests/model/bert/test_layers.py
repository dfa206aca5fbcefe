"""One routine for every layer we define: serialize, dtype policies, save and load, one step."""

import importlib
import json
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import model
import pipeline
import serving
from model.bert.layers import (
    Dropout,
    EncoderLayer,
    LayerNorm,
    MaskedLMHead,
    SplitPositions,
    TokenEmbedding,
    WithAttentionScores,
)
from model.bert.pooling import TextVector

B, L, P, H, V, N = 3, 7, 2, 12, 11, 4
RNG = np.random.default_rng(5)
VECTORS = RNG.normal(size=(B, L, H)).astype(np.float32)
IDS = RNG.integers(0, V, (B, L), dtype=np.int32)
MASK = (np.arange(L) < [[7], [4], [5]]).astype(np.int32)
POSITIONS = RNG.integers(0, 4, (B, P), dtype=np.int32)
POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")


def token_embedding() -> TokenEmbedding:
    initializer = keras.initializers.TruncatedNormal(stddev=0.3, seed=1)
    return TokenEmbedding(V, H, embeddings_initializer=initializer, dtype="float32", name="tokens")


def encoder_layer() -> EncoderLayer:
    return EncoderLayer(
        intermediate_dim=20,
        num_heads=N,
        dropout=0.1,
        attention_dropout=0.2,
        activation="relu",
        layer_norm_epsilon=1e-3,
        kernel_initializer=keras.initializers.TruncatedNormal(stddev=0.3, seed=2),
        name="layer",
    )


def masked_lm_head() -> MaskedLMHead:
    embedding = token_embedding()
    embedding.build()
    return MaskedLMHead(
        token_embedding=embedding,
        intermediate_activation="relu",
        kernel_initializer=keras.initializers.TruncatedNormal(stddev=0.3, seed=3),
        name="head",
    )


@dataclass(frozen=True)
class Case:
    """A layer's constructor arguments, as in the networks, and its expected output.

    Attributes:
        inputs: arguments of a call.
        shapes: of the outputs.
        weights: number of the layer's weights.
        dtype: of the outputs; None: what the dtype policy computes in.
    """

    make: Callable[[], keras.layers.Layer]
    inputs: tuple[np.ndarray, ...]
    shapes: tuple[tuple[int, ...], ...]
    weights: int
    dtype: str | None = None


CASES = {
    TokenEmbedding: Case(token_embedding, (IDS,), ((B, L, H),), 1, "float32"),
    LayerNorm: Case(
        lambda: LayerNorm(epsilon=1e-3, dtype="float32"), (VECTORS,), ((B, L, H),), 2, "float32"
    ),
    Dropout: Case(lambda: Dropout(0.4, dtype="float32"), (VECTORS,), ((B, L, H),), 0, "float32"),
    EncoderLayer: Case(encoder_layer, (VECTORS, MASK), ((B, L, H),), 16),
    WithAttentionScores: Case(
        lambda: WithAttentionScores(encoder_layer()),
        (VECTORS, MASK),
        ((B, L, H), (B, N, L, L)),
        16,
    ),
    TextVector: Case(
        lambda: TextVector("mean", normalize=True), (VECTORS, MASK), ((B, H),), 0, "float32"
    ),
    SplitPositions: Case(
        SplitPositions, (VECTORS, POSITIONS), ((B, P, H), (B, L - P, H)), 0, "float32"
    ),
    MaskedLMHead: Case(masked_lm_head, (VECTORS, POSITIONS), ((B, P, V),), 6),
}


def test_every_layer_of_the_project_has_a_case() -> None:
    for package in (pipeline, model, serving):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    found, left = set(), [keras.layers.Layer]
    for layer in left:
        # Whole networks are layers to Keras, too: test_network.py has them.
        left.extend(kind for kind in layer.__subclasses__() if kind is not keras.Model)
        if layer.__module__.partition(".")[0] in ("pipeline", "model", "serving", "clozeline"):
            found.add(layer)
    assert found == set(CASES)


@pytest.fixture(params=POLICIES)
def policy(request: pytest.FixtureRequest) -> Iterator[str]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy(before)


each_layer = pytest.mark.parametrize("case", CASES.values(), ids=[kind.__name__ for kind in CASES])


def outputs_of(layer: Callable[..., Any], case: Case, **options: Any) -> list[tf.Tensor]:
    return tf.nest.flatten(layer(*map(tf.constant, case.inputs), **options))


def network(case: Case) -> keras.Model:
    """The layer in a functional network, with batch and length left open."""
    inputs = [keras.Input((None, *x.shape[2:]), dtype=x.dtype.name) for x in case.inputs]
    return keras.Model(inputs, case.make()(*inputs))


def as_float(values: tf.Tensor) -> np.ndarray:
    return tf.cast(values, tf.float32).numpy()


@each_layer
def test_serialized(case: Case, policy: str) -> None:
    layer = case.make()
    expected = outputs_of(layer, case)
    written = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    assert written["registered_name"] == f"clozeline>{type(layer).__name__}"
    # What the layer computes in is its own, whatever the policy is where it is read.
    keras.config.set_dtype_policy("float32")
    again = keras.saving.deserialize_keras_object(written)
    assert type(again) is type(layer)
    outputs_of(again, case)  # so that it has weights
    assert json.loads(json.dumps(again.get_config())) == json.loads(json.dumps(layer.get_config()))
    again.set_weights(layer.get_weights())
    for found, wanted in zip(outputs_of(again, case), expected, strict=True):
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(as_float(found), as_float(wanted))


@each_layer
def test_dtypes_and_shapes(case: Case, policy: str) -> None:
    layer = case.make()
    found = outputs_of(layer, case)
    computed_in = {"float32": "float32"}.get(policy, policy.removeprefix("mixed_"))
    assert [tuple(values.shape) for values in found] == list(case.shapes)
    assert [values.dtype.name for values in found] == [case.dtype or computed_in] * len(found)
    assert len(layer.weights) == case.weights
    assert {weight.dtype for weight in layer.trainable_weights} <= {"float32"}
    symbolic = tf.nest.flatten(network(case).output)
    for spec, values in zip(symbolic, found, strict=True):
        assert spec.dtype == values.dtype.name
        matches = [
            size in (None, int(real)) for size, real in zip(spec.shape, values.shape, strict=True)
        ]
        assert all(matches)
    keras.config.set_dtype_policy("float32")
    exact = case.make()
    outputs_of(exact, case)
    exact.set_weights(layer.get_weights())
    for values, wanted in zip(found, outputs_of(exact, case), strict=True):
        np.testing.assert_allclose(as_float(values), as_float(wanted), atol=0.1)


@pytest.mark.parametrize("length", [None, L])
@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("return_attention_scores", [False, True])
@pytest.mark.parametrize("positions", [None, keras.Input((P,), dtype="int32")])
def test_symbolic_outputs_of_encoder_layer_are_those_keras_traces(
    positions: Any, return_attention_scores: bool, is_packed: bool, length: int | None, policy: str
) -> None:
    layer = encoder_layer()
    rows = length if positions is None else P
    mask_shape = (rows, length) if is_packed else (length,)
    inputs = keras.Input((length, H)), keras.Input(mask_shape, dtype="int32")
    layer(*inputs, positions=positions)
    more = {"positions": positions, "return_attention_scores": return_attention_scores}
    symbolic = layer.compute_output_spec(*inputs, **more)
    traced = super(EncoderLayer, layer).compute_output_spec(*inputs, **more)
    assert [(spec.shape, spec.dtype) for spec in tf.nest.flatten(symbolic)] == [
        (spec.shape, spec.dtype) for spec in tf.nest.flatten(traced)
    ]


@each_layer
def test_saved_and_loaded(case: Case, policy: str, tmp_path: Path) -> None:
    saved = network(case)
    for weight in saved.trainable_weights:
        weight.assign(weight + RNG.normal(scale=0.1, size=weight.shape))
    saved.save(tmp_path / "network.keras")
    keras.config.set_dtype_policy("float32")
    loaded = keras.saving.load_model(tmp_path / "network.keras")
    names = [
        [weight.path.split("/")[-2:] for weight in network.weights] for network in (saved, loaded)
    ]
    assert names[0] == names[1]
    inputs = list(map(tf.constant, case.inputs))
    for found, wanted in zip(
        tf.nest.flatten(loaded(inputs)), tf.nest.flatten(saved(inputs)), strict=True
    ):
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(as_float(found), as_float(wanted))


@each_layer
def test_one_step(case: Case, policy: str) -> None:
    layer = case.make()
    outputs_of(layer, case)
    weights = layer.trainable_weights
    targets = [RNG.normal(size=shape).astype(np.float32) for shape in case.shapes]

    def loss() -> tf.Tensor:
        found = outputs_of(layer, case, **({"training": False} if type(layer) is Dropout else {}))
        pairs = zip(found, targets, strict=True)
        return tf.add_n([tf.reduce_mean((tf.cast(x, tf.float32) - y) ** 2) for x, y in pairs])

    before = [weight.numpy() for weight in weights]
    with tf.GradientTape() as tape:
        first = loss()
    gradients = tape.gradient(first, [weight.value for weight in weights])
    for weight, gradient in zip(weights, gradients, strict=True):
        assert gradient.dtype == tf.float32, weight.path
        assert np.isfinite(gradient).all(), weight.path
        weight.assign_sub(0.05 * gradient)
    changed = {
        weight.path for weight, values in zip(weights, before, strict=True)
        if not np.array_equal(weight.numpy(), values)
    }  # fmt: skip
    # A key's bias adds the same to all scores of a query, which softmax takes away again.
    assert {
        path for path in (weight.path for weight in weights) if "key/bias" not in path
    } <= changed
    assert not weights or loss() < first
