"""A text with what several rules measure in it, each computed once."""

import itertools
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from pipeline.corpus.scripts import MARKS, UNSPACED

_PARAGRAPHS = re.compile(r"\n{2,}")
_HAS_UNSPACED = re.compile(f"[{UNSPACED}]")
_WORD = re.compile(rf"[{UNSPACED}][{MARKS}]*|[^\s{UNSPACED}]+")


@dataclass(frozen=True)
class Repeated:
    """Parts of a text that are equal to an earlier one.

    Attributes:
        count: number of these parts.
        characters: their characters.
        of: number of all parts.
    """

    count: int
    characters: int
    of: int

    @classmethod
    def among(cls, parts: Sequence[str]) -> "Repeated":
        """Count the repeated ones of some parts."""
        distinct = {*parts}
        count = len(parts) - len(distinct)
        characters = sum(map(len, parts)) - sum(map(len, distinct)) if count else 0
        return cls(count, characters, len(parts))


_LETTER, _LETTER_OR_DIGIT = 1, 2


@cache
def _character_kinds() -> np.ndarray:
    """Return `_LETTER` and `_LETTER_OR_DIGIT` of each code point, as bits, uint8 [code points]."""
    count = sys.maxunicode + 1
    are_letters, are_either = (
        np.fromiter(map(is_one, map(chr, range(count))), np.uint8, count)
        for is_one in (str.isalpha, str.isalnum)
    )
    return are_letters * _LETTER + are_either * _LETTER_OR_DIGIT


class TextView:
    """A text as the quality rules see it.

    Words are separated by white space, as in Gopher's rules; a character of a script without spaces
    is a word, with the vowels and tones that combine with it.

    Attributes:
        text: the text, with LF line ends.
        language: ISO 639 code.
        changes: number of changes by kind that rules made so far.
        repeats: repeated word n-grams by n, filled where they are measured (`repetition.py`).
    """

    def __init__(
        self, text: str, language: str = "en", changes: Mapping[str, int] | None = None
    ) -> None:
        self.text = text
        self.language = language
        self.changes = Counter(changes)
        self.repeats: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def changed(self, text: str, changes: Mapping[str, int]) -> "TextView":
        """Return the view of a changed text."""
        return TextView(text, self.language, self.changes + Counter(changes))

    @cached_property
    def words(self) -> list[str]:
        """The words in order."""
        # `isascii` takes no time: Python knows it of every text.
        if self.text.isascii() or not _HAS_UNSPACED.search(self.text):
            return self.text.split()
        return _WORD.findall(self.text)

    @cached_property
    def distinct(self) -> list[str]:
        """The distinct words, in the order of their first occurrences."""
        return self._numbered[0]

    @cached_property
    def word_ids(self) -> np.ndarray:
        """Index of each word in `distinct`, int64 [words]."""
        return self._numbered[1]

    @cached_property
    def _numbered(self) -> tuple[list[str], np.ndarray]:
        # A new word gets the next number when it is looked up: one pass without Python code.
        numbers: defaultdict[str, int] = defaultdict(itertools.count().__next__)
        ids = np.fromiter(map(numbers.__getitem__, self.words), np.int64, len(self.words))
        return [*numbers], ids

    @cached_property
    def word_lengths(self) -> np.ndarray:
        """Number of characters of each word, int64 [words]."""
        return np.fromiter(map(len, self.words), np.int64, len(self.words))

    @cached_property
    def are_no_symbols(self) -> np.ndarray:
        """Whether each word has a letter or a digit, bool [words]."""
        return (self._word_kinds & _LETTER_OR_DIGIT).astype(bool)

    @cached_property
    def have_letters(self) -> np.ndarray:
        """Whether each word has a letter, bool [words]."""
        return (self._word_kinds & _LETTER).astype(bool)

    @cached_property
    def _word_kinds(self) -> np.ndarray:
        """Kinds of the characters of each word, as bits, uint8 [words]."""
        if not self.words:
            return np.zeros(0, np.uint8)
        # All words at once: a call per word would take longer than all other rules of words.
        encoded = "".join(self.words).encode("utf-32-le", "surrogatepass")
        kinds = _character_kinds().take(np.frombuffer(encoded, np.uint32))
        starts = np.cumsum(self.word_lengths) - self.word_lengths
        return np.bitwise_or.reduceat(kinds, starts)

    @cached_property
    def duplicate_paragraphs(self) -> "Repeated":
        """The paragraphs that occurred before; blank lines separate them."""
        text = self.text.strip()
        # Without a regular expression where that finds the same.
        return Repeated.among(_PARAGRAPHS.split(text) if "\n\n\n" in text else text.split("\n\n"))

    @cached_property
    def duplicate_lines(self) -> "Repeated":
        """The lines that occurred before."""
        first, *others = self.text.split("\n")
        # Line breaks in a row are one; those at the end still begin a line.
        return Repeated.among([first, *filter(None, others[:-1]), *others[-1:]])

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
