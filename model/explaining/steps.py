"""The computation for one example step by step, with the model's own intermediate results.

Shapes: L positions, H hidden size, D = H / N the size of a head, I the feed-forward block's width,
V vocabulary size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from model import served
from model.bert.network import Intermediates
from pipeline import schema
from pipeline.schema import Tensors

DEVLIN = "Devlin et al. 2018, https://arxiv.org/abs/1810.04805"
VASWANI = "Vaswani et al. 2017, https://arxiv.org/abs/1706.03762"
BA = "Ba et al. 2016, https://arxiv.org/abs/1607.06450"
HENDRYCKS = "Hendrycks & Gimpel 2016, https://arxiv.org/abs/1606.08415"


@dataclass(frozen=True)
class Step:
    """One step of the computation.

    Attributes:
        name: identifier in the JSON result.
        title: short description.
        formula: formula that computes the values from earlier steps.
        shape: names of the axes of the values, for example `L × H`.
        source: reference for the formula.
        values: float32, of that shape.
    """

    name: str
    title: str
    formula: str
    shape: str
    source: str
    values: np.ndarray


class Recorder:
    """Collects steps; it removes the batch axis, of size 1, from their values."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def add(
        self, name: str, title: str, formula: str, shape: str, source: str, values: Any
    ) -> None:
        """Add a step with values [1, ...]."""
        numbers = np.asarray(values, np.float32)[0]
        self.steps.append(Step(name, title, formula, shape, source, numbers))


def worked_steps(
    encoder: keras.Model, inside: Intermediates, features: Tensors, layer: int, head: int
) -> list[Step]:
    """Return the steps from pieces to the pooled vector, through one layer and head.

    Args:
        encoder: encoder of a trained model.
        inside: outputs of `with_intermediates` for the features.
        features: the encoder's inputs, int32 [1, L] each.
        layer: layer to show, from 0.
        head: attention head to show, from 0.
    """
    recorder = Recorder()
    _embeddings(recorder.add, encoder, features)
    # Entry 0 is the embeddings, so entry `layer` is what that layer reads.
    below = inside["hidden_states"][layer]
    mask = features[schema.INPUT_MASK]
    # Computed once more from the layer's input: the training graph keeps no intermediate values.
    seen = encoder.get_layer(f"transformer_layer_{layer}").inside(below, mask)
    _attention(recorder.add, seen, layer, head)
    _feed_forward(recorder.add, seen, layer)
    recorder.add(
        "pooled", "The pooled vector", "tanh(W z₀ + b), z₀ = last layer's vector of [CLS]",
        "H", f"{DEVLIN}, section 3.1, task #2", inside[served.POOLED_OUTPUT],
    )  # fmt: skip
    return recorder.steps


Add = Callable[[str, str, str, str, str, Any], None]


def _embeddings(add: Add, encoder: keras.Model, features: Tensors) -> None:
    names = [
        f"{part}_embedding" for part in ("token", "segment", "position")
    ] + ["embeddings_add", "embeddings_layer_norm"]  # fmt: skip
    outputs = [encoder.get_layer(name).output for name in names]
    tokens, segments, positions, added, normalized = keras.Model(encoder.input, outputs)(features)
    figure = f"{DEVLIN}, figure 2"
    for name, title, formula, source, values in (
        ("token", "Token embedding", "E[id], a row of the matrix of all V pieces", figure, tokens),
        ("segment", "Segment embedding", "S[segment], one row for A, one for B", figure, segments),
        ("position", "Position embedding", "P[0], P[1], P[2], …", figure, positions),
        ("sum", "The sum", "e = E[id] + S[segment] + P[position]", figure, added),
        ("embedding", "Normalized: what the first layer reads",
         "x = γ (e − mean) / √(variance + ε) + β", f"{BA}, section 3", normalized),
    ):  # fmt: skip
        add(name, title, formula, "L × H", source, values)


def _attention(add: Add, seen: Tensors, layer: int, head: int) -> None:
    where = f"layer {layer + 1}, head {head + 1}"
    # Tensors of rank 4 have a part for each head: [B, N, L, …].
    parts = {name: seen[name][:, head] for name in seen if seen[name].shape.rank == 4}
    # The model has scaled the queries by 1/√D (see EncoderLayer._attend); undo that here, since
    # the formula shows Q without the scale.
    queries = parts["queries"] * parts["queries"].shape[-1] ** 0.5
    projected, equation = f"{VASWANI}, section 3.2.2", f"{VASWANI}, equation 1"
    for name, title, formula, shape, source, values in (
        ("queries", "Queries", "Q = x W_Q + b_Q", "L × D", projected, queries),
        ("keys", "Keys", "K = x W_K + b_K", "L × D", projected, parts["keys"]),
        ("values", "Values", "V = x W_V + b_V", "L × D", projected, parts["values"]),
        ("scores", "Scores", "Q Kᵀ / √D", "L × L", equation, parts["scores"]),
        ("weights", "Attention", "A = softmax(Q Kᵀ / √D), each row adds up to 1", "L × L",
         equation, parts["weights"]),
        ("gathered", "Weighted sums", "A V", "L × D", equation, parts["gathered"]),
    ):  # fmt: skip
        add(name, f"{title} of {where}", formula, shape, source, values)
    title, formula = f"All heads of layer {layer + 1} side by side", "C = concat(A V of each head)"
    add("concatenated", title, formula, "L × H", projected, seen["concatenated"])


def _feed_forward(add: Add, seen: Tensors, layer: int) -> None:
    for name, title, formula, shape, source in (
        ("attended", "Attention block", "y = LayerNorm(x + C W_O + b_O)", "L × H",
         f"{VASWANI}, sections 3.1 and 3.2.2"),
        ("intermediate", "Feed-forward block, inside", "GELU(y W₁ + b₁)", "L × I",
         f"{VASWANI}, equation 2, with GELU of {HENDRYCKS}"),
        ("output", "What the layer gives to the next", "LayerNorm(y + GELU(y W₁ + b₁) W₂ + b₂)",
         "L × H", f"{VASWANI}, sections 3.1 and 3.3"),
    ):  # fmt: skip
        add(name, f"Layer {layer + 1}: {title}", formula, shape, source, seen[name])
