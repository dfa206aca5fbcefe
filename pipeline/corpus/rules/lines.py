"""Remove lines that are no prose: menus, buttons, notices.

The line rules of C4 (Raffel et al. 2020, JMLR 21-140, section 2.2, and the code published with it,
`c4_utils.py` of TensorFlow Datasets).
"""

import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

_CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
_ELLIPSIS = "..."


@dataclass(frozen=True, kw_only=True)
class LineRules:
    """Which lines are removed.

    Attributes:
        ends: a line must end with one of these; empty = with anything.
        min_words: a line must have so many words.
        max_word_length: no word of a line may have more characters; None = no limit.
        phrases: a line must contain none of these, in any case.
        remove_citations: whether Wikipedia's marks are removed from lines, such as [1] and [edit].
    """

    ends: tuple[str, ...] = ()
    min_words: int = 0
    max_word_length: int | None = None
    phrases: tuple[str, ...] = ()
    remove_citations: bool = False

    def __call__(self, text: str) -> tuple[str, Counter[str]]:
        """Return the remaining lines, and the number of changes by kind."""
        kept: list[str] = []
        citations = 0
        lines = text.splitlines()
        for line in map(str.strip, lines):
            words = line.split()
            if self.remove_citations and "[" in line:
                line, count = _CITATION.subn("", line)
                citations += count
            if self._keeps(line, words):
                kept.append(line)
        # Blank lines are no lines that a rule removed.
        removed = sum(map(bool, map(str.strip, lines))) - sum(map(bool, kept))
        changes = Counter(removed_lines=removed, removed_citations=citations)
        return "\n".join(kept).strip(), +changes

    def _keeps(self, line: str, words: list[str]) -> bool:
        if not words:
            return True  # a blank line separates paragraphs
        if len(words) < self.min_words:
            return False
        if self.max_word_length is not None and max(map(len, words)) > self.max_word_length:
            return False
        # C4 removes lines that end with an ellipsis: the text was cut off.
        if self.ends and (not line.endswith(self.ends) or line.endswith(_ELLIPSIS)):
            return False
        lower = line.lower()
        return not any(phrase in lower for phrase in self._lower_phrases)

    @cached_property
    def _lower_phrases(self) -> tuple[str, ...]:
        return tuple(map(str.lower, self.phrases))
