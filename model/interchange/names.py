"""The table of every weight's name, shape and orientation in each checkpoint format.

Dimensions: V pieces, L positions, S segments, H hidden size, N heads, D = H / N, I intermediate
size, C outputs of a task.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np

from model.bert.config import BertConfig
from model.tasks.kinds import Head
from model.tasks.task_kind import Task

Format = Literal["hugging_face", "google", "keras_hub"]

ENCODER_PREFIX = "bert."
"""Hugging Face's prefix for the encoder's weights if the model has a head; not in this table."""

POOLER = "pooled_dense"
"""Name of the layer that computes `pooled_output`; not every published encoder has one."""


@dataclass(frozen=True)
class _Names:
    """The weights of a layer in each format; {n} is the index of a Transformer layer.

    Attributes:
        kind: key of `_PARTS`.
        ours: Keras path of our layer.
        inputs: input dimensions, one letter each; for a table, its rows.
        outputs: output dimensions, one letter each.
        hugging_face: name of the module in `transformers`.
        google: variable scope in google-research/bert; None = no such layer.
        keras_hub: group in KerasHub's HDF5 files, below `layers`; None = no such layer.
    """

    kind: str
    ours: str
    inputs: str
    outputs: str
    hugging_face: str
    google: str | None
    keras_hub: str | None


# fmt: off
# The names are facts of the other libraries' releases; tests load their own models with them.
_EMBEDDINGS = (
    _Names("table", "token_embedding", "V", "H", "embeddings.word_embeddings",
           "bert/embeddings/word_embeddings", "reversible_embedding"),
    _Names("table", "position_embedding", "L", "H", "embeddings.position_embeddings",
           "bert/embeddings/position_embeddings", "position_embedding"),
    _Names("table", "segment_embedding", "S", "H", "embeddings.token_type_embeddings",
           "bert/embeddings/token_type_embeddings", "embedding"),
    _Names("norm", "embeddings_layer_norm", "", "H", "embeddings.LayerNorm",
           "bert/embeddings/LayerNorm", "layer_normalization"),
)
_TRANSFORMER_LAYER = tuple(
    _Names(kind, f"transformer_layer_{{n}}/{ours}", inputs, outputs,
           f"encoder.layer.{{n}}.{hugging_face}",
           f"bert/encoder/layer_{{n}}/{hugging_face.replace('.', '/')}",
           # Keras numbers layers of a class from the second: transformer_encoder,
           # transformer_encoder_1, …
           f"transformer_encoder{{_n}}/{keras_hub}")
    for kind, ours, inputs, outputs, hugging_face, keras_hub in (
        ("dense", "self_attention_layer/query", "H", "ND",
         "attention.self.query", "_self_attention_layer/query_dense"),
        ("dense", "self_attention_layer/key", "H", "ND",
         "attention.self.key", "_self_attention_layer/key_dense"),
        ("dense", "self_attention_layer/value", "H", "ND",
         "attention.self.value", "_self_attention_layer/value_dense"),
        ("dense", "self_attention_layer/attention_output", "ND", "H",
         "attention.output.dense", "_self_attention_layer/output_dense"),
        ("norm", "self_attention_layer_norm", "", "H",
         "attention.output.LayerNorm", "_self_attention_layer_norm"),
        ("dense", "feedforward_intermediate_dense", "H", "I",
         "intermediate.dense", "_feedforward_intermediate_dense"),
        ("dense", "feedforward_output_dense", "I", "H",
         "output.dense", "_feedforward_output_dense"),
        ("norm", "feedforward_layer_norm", "", "H",
         "output.LayerNorm", "_feedforward_layer_norm"),
    )
)
_POOLER = _Names("dense", POOLER, "H", "H", "pooler.dense", "bert/pooler/dense", "dense")
_HEADS: dict[Head, tuple[_Names, ...]] = {
    "masked_lm": (
        _Names("dense", "masked_lm/intermediate_dense", "H", "H", "cls.predictions.transform.dense",
               "cls/predictions/transform/dense", "masked_lm_head/_intermediate_dense"),
        _Names("norm", "masked_lm/intermediate_layer_norm", "", "H",
               "cls.predictions.transform.LayerNorm", "cls/predictions/transform/LayerNorm",
               "masked_lm_head/_intermediate_layer_norm"),
        _Names("bias", "masked_lm", "", "V", "cls.predictions", "cls/predictions",
               "masked_lm_head"),
    ),
    "next_sentence": (
        _Names("head", "next_sentence", "H", "2", "cls.seq_relationship", "cls/seq_relationship",
               None),
    ),
}
HEADS = tuple(_HEADS)

_PARTS = {
    "table": (("embeddings", ".weight", ""),),
    "norm": (("gamma", ".weight", "/gamma"), ("beta", ".bias", "/beta")),
    "dense": (("kernel", ".weight", "/kernel"), ("bias", ".bias", "/bias")),
    "head": (("kernel", ".weight", "/output_weights"), ("bias", ".bias", "/output_bias")),
    "bias": (("output_bias", ".bias", "/output_bias"),),
}
"""Weights of each kind of layer: name suffixes in our model, in Hugging Face's and Google's."""
# fmt: on


@dataclass(frozen=True)
class Stored:
    """A weight as stored in a file.

    Attributes:
        name: name in the file.
        shape: shape in the file.
        is_transposed: whether it is stored as [outputs, inputs]; ours is [inputs, outputs].
    """

    name: str
    shape: tuple[int, ...]
    is_transposed: bool = False


@dataclass(frozen=True)
class Weight:
    """One weight of our model, and its stored forms.

    Attributes:
        path: Keras path in our model, as in `model.bert.network.weights_by_name`.
        shape: shape in our model.
        stored: name and shape in each format that has the weight.
    """

    path: str
    shape: tuple[int, ...]
    stored: dict[Format, Stored]

    def to_ours(self, values: np.ndarray, form: Format) -> np.ndarray:
        """Convert values from a file, of any float dtype, to our shape and float32."""
        # Transposed first: the reshape splits the axis of all heads, N · D, into two.
        if self.stored[form].is_transposed:
            values = values.T
        with np.errstate(over="ignore"):  # a float64 above float32's range becomes infinity
            return np.ascontiguousarray(values.reshape(self.shape), np.float32)

    def to_theirs(self, values: np.ndarray, form: Format) -> np.ndarray:
        """Convert our values to the shape that a format stores: float32."""
        stored = self.stored[form]
        # The reverse of `to_ours`: heads are joined to one axis before it is turned.
        if stored.is_transposed:
            values = values.reshape(stored.shape[::-1]).T
        return np.ascontiguousarray(values.reshape(stored.shape))


def encoder_weights(config: BertConfig) -> list[Weight]:
    """Return the weights of an encoder; the pooler's are last."""
    sizes = _sizes(config)
    weights = [weight for layer in _EMBEDDINGS for weight in _weights(layer, sizes)]
    for index in range(config.num_hidden_layers):
        for layer in _TRANSFORMER_LAYER:
            weights += _weights(layer, sizes, index)
    return [*weights, *_weights(_POOLER, sizes)]


def head_weights(config: BertConfig, head: Head) -> list[Weight]:
    """Return the weights of a pretraining head, without the tied token embedding."""
    return [weight for layer in _HEADS[head] for weight in _weights(layer, _sizes(config))]


def task_weights(config: BertConfig, task: Task) -> list[Weight]:
    """Return the weights of a task's head."""
    if not task.definition.has_head_weights:
        return []
    head = task.definition.foreign_head
    assert head is not None, "a kind without a head elsewhere is neither imported nor exported"
    layer = _Names("head", "task", "H", "C", head.hugging_face, head.google, head.keras_hub)
    return list(_weights(layer, {**_sizes(config), "C": task.num_outputs}))


def _sizes(config: BertConfig) -> dict[str, int]:
    """Return the dimensions by letter."""
    return {
        "V": config.vocab_size,
        "L": config.max_position_embeddings,
        "S": config.type_vocab_size,
        "H": config.hidden_size,
        "N": config.num_attention_heads,
        "D": config.hidden_size // config.num_attention_heads,
        "I": config.intermediate_size,
        "2": 2,
    }


def _weights(layer: _Names, sizes: dict[str, int], index: int = 0) -> Iterator[Weight]:
    """Yield the weights of a layer."""
    inputs = tuple(sizes[letter] for letter in layer.inputs)
    outputs = tuple(sizes[letter] for letter in layer.outputs)

    def named(name: str) -> str:
        return name.replace("{n}", str(index)).replace("{_n}", f"_{index}" if index else "")

    for index_in_layer, (ours, hugging_face, google) in enumerate(_PARTS[layer.kind]):
        is_matrix = ours == "kernel"
        # Keras's attention keeps heads as an axis, [H, N, D]; the others join them to [H, N · D].
        shape = (*inputs, *outputs) if ours in ("kernel", "embeddings") else outputs
        flat = (prod(inputs), prod(outputs)) if len(shape) > len(outputs) else (prod(outputs),)
        turned = (flat[::-1], True)
        stored: dict[Format, Stored] = {
            "hugging_face": Stored(
                named(layer.hugging_face + hugging_face), *(turned if is_matrix else (flat, False))
            )
        }
        if layer.google is not None:
            # google-research/bert multiplies its heads' weights with `transpose_b=True`.
            is_turned = is_matrix and layer.kind == "head"
            # `run_classifier.py` has the head's weights in the top scope, "".
            name = named(layer.google + google).removeprefix("/")
            stored["google"] = Stored(name, *(turned if is_turned else (flat, False)))
        if layer.keras_hub is not None:
            # HDF5 files of Keras number the variables of a layer in the order of their creation.
            name = named(f"layers/{layer.keras_hub}/vars/{index_in_layer}")
            stored["keras_hub"] = Stored(name, shape)
        yield Weight(named(f"{layer.ours}/{ours}"), shape, stored)
