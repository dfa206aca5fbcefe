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
        lines = [*map(str.strip, text.splitlines())]
        # Most texts have none of the phrases. One may appear when a citation is removed.
        may_have_phrase = (self.remove_citations and "[" in text) or self._has_phrase(text)
        for line in lines:
            rest = line
            if self.remove_citations and "[" in line:
                rest, count = _CITATION.subn("", line)
                citations += count
            if not line:
                kept.append(line)  # a blank line separates paragraphs
            elif (
                self._has_good_words(line)
                and self._ends_well(rest)
                and not (may_have_phrase and self._has_phrase(rest))
            ):
                kept.append(rest)
        # Blank lines are no lines that a rule removed.
        removed = sum(map(bool, lines)) - sum(map(bool, kept))
        changes = Counter(removed_lines=removed, removed_citations=citations)
        return "\n".join(kept).strip(), +changes

    def _has_good_words(self, line: str) -> bool:
        if len(line.split(None, self.min_words)) < self.min_words:
            return False
        longest = self.max_word_length
        # Only a line of more characters can have a longer word.
        return longest is None or len(line) <= longest or max(map(len, line.split())) <= longest

    def _ends_well(self, line: str) -> bool:
        # C4 removes lines that end with an ellipsis: the text was cut off.
        return not self.ends or (line.endswith(self.ends) and not line.endswith(_ELLIPSIS))

    def _has_phrase(self, text: str) -> bool:
        lower = text.lower()
        return any(phrase in lower for phrase in self._lower_phrases)

    @cached_property
    def _lower_phrases(self) -> tuple[str, ...]:
        return tuple(map(str.lower, self.phrases))
