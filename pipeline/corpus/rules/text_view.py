"""A text with what several rules measure in it, each computed once."""

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

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


class WordsWith(dict[str, bool]):
    """Whether words have a character of a kind, remembered: most words of a text are frequent."""

    def __init__(
        self, is_one: Callable[[str], bool], *, most: int = 100_000, longest: int = 64
    ) -> None:
        """Remember no word yet.

        Args:
            is_one: whether a character is of the kind.
            most: number of words to remember; when it is reached, all are forgotten.
            longest: length of words to remember, in characters.
        """
        super().__init__()
        self._is_one = is_one
        self._most, self._longest = most, longest

    def __missing__(self, word: str) -> bool:
        # Most words begin with such a character; only others are looked at letter by letter.
        found = self._is_one(word[0]) or any(map(self._is_one, word))
        if len(word) <= self._longest:
            if len(self) >= self._most:
                self.clear()
            self[word] = found
        return found


_WITH_LETTER_OR_DIGIT, _WITH_LETTER = WordsWith(str.isalnum), WordsWith(str.isalpha)


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
    def distinct_counts(self) -> np.ndarray:
        """Number of occurrences of each distinct word, int64 [distinct words]."""
        return np.bincount(self.word_ids, minlength=len(self.distinct))

    @cached_property
    def distinct_lengths(self) -> np.ndarray:
        """Number of characters of each distinct word, int64 [distinct words]."""
        return np.fromiter(map(len, self.distinct), np.int64, len(self.distinct))

    @cached_property
    def are_no_symbols(self) -> np.ndarray:
        """Whether each distinct word has a letter or a digit, bool [distinct words]."""
        return self._which(_WITH_LETTER_OR_DIGIT)

    @cached_property
    def have_letters(self) -> np.ndarray:
        """Whether each distinct word has a letter, bool [distinct words]."""
        return self._which(_WITH_LETTER)

    def _which(self, words: WordsWith) -> np.ndarray:
        return np.fromiter(map(words.__getitem__, self.distinct), bool, len(self.distinct))

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
