"""Measure the ranges of an int8 model's products on texts.

For each product the float32 model is run on the texts, and a sample of the rows that it multiplies
is kept. Of a few candidates, the range is chosen that gives the smallest squared error of the
product: larger numbers are cut off, and channels with large numbers may be divided. A product whose
error is still large stays bfloat16.

Shapes: R rows, K inputs, N outputs, S rows in the sample.
"""

from collections.abc import Iterable, Mapping
from itertools import product as combinations
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from model.run import Run
from pipeline import schema
from pipeline.errors import InputError, unreadable
from pipeline.storage.encodings import decoded_lines
from serving.export.dense import Dense
from serving.export.golden import PAIRS, TEXTS
from serving.export.inference_graph import PRODUCTS, Network, product_names
from serving.export.quantization import LARGEST, Plan, Range
from serving.export.signatures import TextModel

MOST_TEXTS = 512
"""Texts that are read; of a longer file, as many lines at equal distances."""

BATCH_SIZE = 16

ROWS_PER_BATCH = 32
"""Rows of a batch that are kept for each product."""

CUTS = (1.0, 0.85, 0.7, 0.55, 0.4, 0.3, 0.2)
"""Candidates: largest number of the range, as a share of the largest number that was seen."""

SHARES = (None, 0.35, 0.5, 0.65)
"""Candidates: exponent of the inputs' largest numbers in the divisors (SmoothQuant's alpha)."""

LARGEST_ERROR = 0.01
"""Error of a product, see `_error`, above which it stays bfloat16."""


class _Seen:
    """Inputs of a product: the largest number of each channel, and a sample of rows.

    Attributes:
        largest: float32 [K].
        rows: float32 [S, K].
    """

    def __init__(self) -> None:
        self.largest: Any = 0.0
        self._rows: list[np.ndarray] = []

    def add(self, rows: np.ndarray, chosen: np.ndarray) -> None:
        self.largest = np.maximum(self.largest, np.abs(rows).max(axis=0))
        self._rows.append(rows[chosen])

    @property
    def rows(self) -> np.ndarray:
        return np.concatenate(self._rows)


class _Observed(Dense):
    """A dense layer whose inputs are recorded."""

    def __init__(self, dense: Dense, batch: "_CalibrationRows", seen: _Seen) -> None:
        super().__init__(name="observed")
        self._dense = dense
        self._batch = batch
        self._seen = seen

    def __call__(self, x: Any) -> Any:
        rows = x.numpy()[self._batch.are_real]
        self._seen.add(rows, self._batch.chosen)
        return self._dense(x)


class _CalibrationRows:
    """Rows of the running batch: those that are no padding, and those of them that are kept."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)

    def start(self, input_mask: np.ndarray) -> None:
        self.are_real = input_mask.ravel() > 0
        count = int(self.are_real.sum())
        self.chosen = self._rng.choice(count, min(count, ROWS_PER_BATCH), replace=False)


def calibrate(run: Run, model: keras.Model, path: Path, vocabulary: Path | None = None) -> Plan:
    """Return the plan of a run's int8 model, measured on a file's texts and the golden set's.

    Args:
        run: the run.
        model: Keras model of the run.
        path: a text in each line, or two with a tab between them.
        vocabulary: local file of the run's vocabulary; None = the run's, which is local.

    Raises:
        InputError: the file cannot be read, or has no text.
    """
    in_float32 = TextModel(run, model, vocabulary=vocabulary)
    texts = [*_read(path), *zip(TEXTS, PAIRS, strict=True), *((text, "") for text in TEXTS)]
    # Sorted by length, so that batches have little padding.
    texts.sort(key=lambda pair: sum(map(len, pair)))
    batches = []
    for start in range(0, len(texts), BATCH_SIZE):
        firsts, seconds = zip(*texts[start : start + BATCH_SIZE], strict=True)
        encoding = in_float32.texts.encode_pairs(
            tf.constant(firsts), tf.constant(seconds), optional=True
        )
        batches.append(encoding.features)
    return measured_plan(in_float32.network, batches, run.config.hidden_act)


def _read(path: Path) -> list[tuple[str, str]]:
    """Return the texts of a file, at most `MOST_TEXTS`, each with its second text or ""."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise unreadable(f"`calibrate` {path}", error) from error
    lines = decoded_lines(data, f"`calibrate` {path}")
    texts = [line for line in lines if line.strip()]
    if not texts:
        raise InputError(f"`calibrate` {path}: contains no text; give one text per line")
    # At equal distances: a sorted file's first lines would be of one kind.
    chosen = np.linspace(0, len(texts) - 1, min(len(texts), MOST_TEXTS)).round().astype(int)
    parts = [texts[index].partition("\t") for index in chosen]
    return [(first, second) for first, _, second in parts]


def measured_plan(network: Network, batches: Iterable[Mapping[str, Any]], activation: str) -> Plan:
    """Return the plan of an int8 model, measured on texts.

    Args:
        network: the model in float32, layers in one part; its products are replaced by ones that
            record.
        batches: input_ids, input_mask, segment_ids: int32 [B, L] each, at least one batch.
        activation: activation of the feed-forward blocks.
    """
    seen = {}
    batch = _CalibrationRows()
    denses = {}
    for index, layer in enumerate(network.layers):
        (whole,) = layer.parts
        for attribute, name in zip(PRODUCTS, product_names(index), strict=True):
            denses[name], seen[name] = getattr(whole, attribute), _Seen()
            setattr(whole, attribute, _Observed(denses[name], batch, seen[name]))
    for features in batches:
        batch.start(np.asarray(features[schema.INPUT_MASK]))
        network.run(features)
    found = {
        name: _best(seen[name], denses[name].kernel.numpy(), name, activation) for name in denses
    }
    kept = frozenset(name for name, (_, error) in found.items() if error > LARGEST_ERROR)
    return Plan({name: each for name, (each, _) in found.items() if name not in kept}, kept)


def _best(seen: _Seen, kernel: np.ndarray, name: str, activation: str) -> tuple[Range, float]:
    """Return the best range of a product's input, and the relative squared error with it."""
    rows = seen.rows
    right = rows @ kernel
    # The input of this product is an activation, computed by the product before: it has no
    # divisors.
    is_activation = name.endswith("/output")
    shares = SHARES[:1] if is_activation else SHARES
    best: tuple[Range, float] | None = None
    for share, cut in combinations(shares, CUTS):
        divisors = None if share is None else _divisors(seen.largest, kernel, share)
        scaled = seen.largest if divisors is None else seen.largest / divisors
        # GELU is never below -0.17, so a symmetric range would waste almost half of the integers.
        low = float(rows.min()) if is_activation and activation != "relu" else 0.0
        candidate = _range(low, cut * float(scaled.max()), divisors)
        error = _error(_product(rows, kernel, candidate), right)
        if best is None or error < best[1]:
            best = candidate, error
    assert best is not None
    return best


def _error(rows: np.ndarray, right: np.ndarray) -> float:
    """Return the mean over the rows, float32 [S, N], of the squared error relative to the square.

    Each row counts the same, since what follows a product normalizes each row.
    """
    errors = np.square(rows - right).sum(axis=1) / np.maximum(np.square(right).sum(axis=1), 1e-12)
    return float(errors.mean())


def _divisors(largest: np.ndarray, kernel: np.ndarray, share: float) -> np.ndarray:
    """Return SmoothQuant's divisors of the input's channels, float32 [K], with a mean of 1."""
    inputs = np.maximum(largest, 1e-5)
    weights = np.maximum(np.abs(kernel).max(axis=1), 1e-5)
    # Equation 4 of SmoothQuant.
    divisors = inputs**share / weights ** (1 - share)
    normalized: np.ndarray = (divisors / np.exp(np.mean(np.log(divisors)))).astype(np.float32)
    return normalized


def _range(low: float, high: float, divisors: np.ndarray | None) -> Range:
    high = max(high, 1e-5)
    if not low:
        return Range(0.0, high, divisors)
    step = (high - low) / 255
    # A whole number of steps, so that 0 is one of the 256 numbers.
    low = round(low / step) * step
    return Range(low, low + 255 * step, divisors)


def _product(rows: np.ndarray, kernel: np.ndarray, inputs: Range) -> np.ndarray:
    """Return the int8 product of rows, float32 [S, N], as `int8_products` computes it."""
    if inputs.divisors is not None:
        rows = rows / inputs.divisors
    if inputs.low:
        step = (inputs.high - inputs.low) / 255
        integers = np.clip(np.rint((rows - inputs.low) / step), 0, 255) * step + inputs.low
    else:
        step = inputs.high / LARGEST
        integers = np.clip(np.rint(rows / step), -LARGEST, LARGEST) * step
    weights = inputs.weights(kernel)
    return (integers.astype(np.float32) @ weights.values.astype(np.float32)) * weights.scales
