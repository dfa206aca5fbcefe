"""Numbers in 8 bits: weights with a scale per column or row, and measured ranges of inputs.

Shapes: K inputs, N outputs, V rows of an embedding, H hidden size.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

LARGEST = 127.0
"""Largest int8 of a symmetric range; -128 has no positive counterpart."""


@dataclass(frozen=True)
class Quantized:
    """A matrix: `values` times `scales`.

    Attributes:
        values: int8 [K, N] or [V, H]. -127 to 127.
        scales: float32, above 0: [N], one per column, or [V], one per row.
    """

    values: np.ndarray
    scales: np.ndarray


def by_column(kernel: np.ndarray) -> Quantized:
    """Quantize float32 [K, N] with one scale for each column (output channel)."""
    return _quantized(kernel, axis=0)


def by_row(table: np.ndarray) -> Quantized:
    """Quantize float32 [V, H] with one scale for each row."""
    return _quantized(table, axis=1)


def _quantized(matrix: np.ndarray, axis: int) -> Quantized:
    largest = np.abs(matrix).max(axis=axis, keepdims=True, initial=0.0)
    # A column of zeros has any scale but 0, by which it would be divided.
    scales = np.where(largest > 0, largest, 1.0).astype(np.float32) / np.float32(LARGEST)
    # The largest number becomes exactly ±127, so nothing is clipped.
    values = np.rint(matrix / scales).astype(np.int8)
    return Quantized(values, np.squeeze(scales, axis))


@dataclass(frozen=True)
class Range:
    """Measured range of a product's input.

    Attributes:
        low: 0 = symmetric, -`high` to `high` in -127 to 127; else the number that 0 of 0 to 255
            stands for, a whole number of steps below 0.
        high: largest number, above 0.
        divisors: float32 [K], above 0. The input is divided by them before, and the rows of the
            kernel are multiplied by them: channels with large numbers then need no larger range
            (SmoothQuant, https://arxiv.org/abs/2211.10438). None = no division.
    """

    low: float
    high: float
    divisors: np.ndarray | None = None

    def weights(self, kernel: np.ndarray) -> Quantized:
        """Quantize the kernel, float32 [K, N], for divided inputs."""
        return by_column(kernel if self.divisors is None else kernel * self.divisors[:, np.newaxis])

    def column_sums(self, kernel: np.ndarray) -> np.ndarray:
        """Return the sums of the quantized kernel's columns: float32 [N]."""
        quantized = self.weights(kernel)
        # int8 sums would overflow from two rows on.
        return quantized.values.sum(axis=0, dtype=np.int64) * quantized.scales


@dataclass(frozen=True)
class Plan:
    """How the products of an int8 model are computed; they are named `LAYER/PRODUCT`.

    Attributes:
        ranges: measured range of each product's input. Other products quantize each row by its own
            largest number.
        kept: products that stay bfloat16.
    """

    ranges: Mapping[str, Range] = field(default_factory=dict)
    kept: frozenset[str] = frozenset()
