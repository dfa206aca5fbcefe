"""A text with what several rules measure in it, each computed once."""

import re
from collections import Counter
from collections.abc import Mapping
from functools import cached_property

import numpy as np

from pipeline.corpus.scripts import MARKS, UNSPACED

_HAS_UNSPACED = re.compile(f"[{UNSPACED}]")
_WORD = re.compile(rf"[{UNSPACED}][{MARKS}]*|[^\s{UNSPACED}]+")


class TextView:
    """A text as the quality rules see it.

    Words are separated by white space, as in Gopher's rules; a character of a script without spaces
    is a word, with the vowels and tones that combine with it.

    Attributes:
        text: the text, with LF line ends.
        language: ISO 639 code.
        changes: number of changes by kind that rules made so far.
        n_grams: keys of word n-grams by n, filled where they are measured (`repetition.py`).
    """

    def __init__(
        self, text: str, language: str = "en", changes: Mapping[str, int] | None = None
    ) -> None:
        self.text = text
        self.language = language
        self.changes = Counter(changes)
        self.n_grams: dict[int, np.ndarray] = {}

    def changed(self, text: str, changes: Mapping[str, int]) -> "TextView":
        """Return the view of a changed text."""
        return TextView(text, self.language, self.changes + Counter(changes))

    @cached_property
    def words(self) -> list[str]:
        """The words in order."""
        return _WORD.findall(self.text) if _HAS_UNSPACED.search(self.text) else self.text.split()

    @cached_property
    def distinct(self) -> list[str]:
        """The distinct words, in the order of their first occurrences."""
        return [*dict.fromkeys(self.words)]

    @cached_property
    def word_ids(self) -> np.ndarray:
        """Index of each word in `distinct`, int64 [words]."""
        index = {word: number for number, word in enumerate(self.distinct)}
        return np.fromiter(map(index.__getitem__, self.words), np.int64, len(self.words))

    @cached_property
    def distinct_counts(self) -> np.ndarray:
        """Number of occurrences of each distinct word, int64 [distinct words]."""
        return np.bincount(self.word_ids, minlength=len(self.distinct))

    @cached_property
    def distinct_lengths(self) -> np.ndarray:
        """Number of characters of each distinct word, int64 [distinct words]."""
        return np.fromiter(map(len, self.distinct), np.int64, len(self.distinct))

    @cached_property
    def lines(self) -> list[str]:
        """The lines that are not blank."""
        return [line for line in self.text.split("\n") if line.strip()]

    def share_of_lines(self, count: int) -> float:
        """Return a number of lines as a share of all lines that are not blank."""
        return count / max(len(self.lines), 1)

    def share_of_words(self, count: int) -> float:
        """Return a number as a multiple of the number of words."""
        return count / max(len(self.words), 1)
