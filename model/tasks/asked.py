"""A trained Python model, asked about one text after another: what a served model is held to."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from pipeline.text.tokenizer import WordUnit


class Asked(Protocol):
    """A model that answers without batches or padding.

    Attributes:
        max_seq_length: the most positions that it reads.
    """

    max_seq_length: int

    def about(self, *texts: str) -> dict[str, Any]:
        """Return everything that any signature answers about a text or pair, and task_logits."""

    def words(self, text: str, unit: WordUnit) -> list[np.ndarray]:
        """Return a text's words, and the byte where each begins and the one after its end."""

    def word_pieces(self, words: np.ndarray) -> list[list[int]]:
        """Return the pieces of each word, at least one."""

    def text_pieces(self, text: str) -> list[int]:
        """Return the pieces of a text."""

    def logits(self, segments: Sequence[list[int]]) -> np.ndarray:
        """Return the task's logits at every position of one or two segments: float32 [L, C]."""


def farther(of_best: Any, of_chosen: Any, answered: Any) -> Any:
    """Return whichever of two numbers, both of which an answer must agree with, is farther off."""
    return np.where(np.abs(of_best - answered) > np.abs(of_chosen - answered), of_best, of_chosen)
