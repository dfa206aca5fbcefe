"""Interface of the reference model: a served model must return the same answers."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from model import served
from model.training.config import Long
from pipeline.schema import Arrays
from pipeline.text.tokenizer import WordUnit


class ReferenceModel(Protocol):
    """A trained Python model that computes answers one text at a time, without padding.

    Attributes:
        max_seq_length: maximum number of positions of an input.
        doc_stride: pieces between the starts of two windows of a passage.
        long: parts that are read of a text that is too long.
        max_windows: number of windows of a text that are read; the rest is not.
    """

    max_seq_length: int
    doc_stride: int
    long: Long
    max_windows: int

    def about(self, *texts: str) -> Arrays:
        """Return the outputs of all signatures for a text or pair, and task_logits."""

    def words(self, text: str, unit: WordUnit) -> list[np.ndarray]:
        """Return the words of a text, their byte offsets, and the byte offsets after their ends."""

    def word_pieces(self, words: np.ndarray) -> list[list[int]]:
        """Return the piece ids of each word, at least one per word."""

    def text_pieces(self, text: str) -> list[int]:
        """Return the piece ids of a text."""

    def logits(self, inputs: Sequence[Sequence[list[int]]]) -> list[np.ndarray]:
        """Return the task logits at all positions of each input, of one or two segments of ids.

        Returns:
            float32 [L, C] each.
        """


PLACES: dict[str, Callable[[bytes], int]] = {
    "": len,
    served.CODE_POINT: lambda before: len(before.decode(errors="replace")),
    served.UTF16: lambda before: len(before.decode(errors="replace").encode("utf-16-le")) // 2,
}
"""Python's own count of what is before a byte, by the suffix of the unit."""


def farther(of_best: Any, of_chosen: Any, answered: Any) -> Any:
    """Return the expected value that differs more from the answer.

    An answer must agree with both values: the gate compares it with the returned one.
    """
    return np.where(np.abs(of_best - answered) > np.abs(of_chosen - answered), of_best, of_chosen)
