"""Split prose into sentences."""

import itertools
import re
from collections.abc import Iterator
from functools import lru_cache

PARAGRAPH_END = re.compile(r"\n[^\S\n]*\n")

# sentencex takes time quadratic in the length of a paragraph, and looks for the end of a quotation
# from each of these marks. So a paragraph of many characters or marks is split after a word.
_PART_CHARACTERS, _PART_MARKS = 100_000, 5_000
_MARKS = "'`«»‘“„‹《「"
# Bounded: text without spaces is split inside of a word.
_WORD_END = r"\S{0,1000}"
_PART = re.compile(rf".{{1,{_PART_CHARACTERS}}}{_WORD_END}", re.DOTALL)
_MARKED_PART = re.compile(
    # `*+` is possessive: giving characters back could not lead to a mark.
    rf"(?:[^{_MARKS}]*+[{_MARKS}]){{1,{_PART_MARKS}}}{_WORD_END}|.+",
    re.DOTALL,
)

# Text in quotation marks; text in single quotation marks may contain apostrophes.
_QUOTED = re.compile(
    r'"([^"]+)"|“([^“”]+)”|«([^«»]+)»|「([^「」]+)」|『([^『』]+)』'
    r"|(?<!\w)[‘']((?:[^‘’']|\b[’']\b)+)[’'](?!\w)"
)
# sentencex panics if a white space outside ASCII is between such a letter and the period.
_LETTER_BEFORE_PERIOD = re.compile(r"(?<![^\W_])[A-Z]\s+(?=\.)")
_SPACE_OUTSIDE_ASCII = re.compile(r"[^\S\x00-\x7f]")
_SPACES_OUTSIDE_ASCII = [c for c in map(chr, range(0x80, 0x10000)) if c.isspace()]
"""Those that `\\s` matches; there are none above."""

_OPENING = re.compile("[\"“«「『‘']")
"""The first characters of `_QUOTED`. Searching for one of some characters is faster."""


def split_sentences(text: str, language: str = "en") -> list[str]:
    """Split prose into sentences with Wikimedia's `sentencex`.

    `sentencex` knows abbreviations ("Mr.", "e.g.", "Fig. 3"), initials, and the CJK marks 。！？.
    It does not split text in quotation marks; this function does, because dialogue is many
    sentences. A sentence never starts with a lower-case letter ("No!" he said). A blank line always
    ends a sentence; other line breaks do not.

    Args:
        text: prose with blank lines between paragraphs.
        language: ISO 639 code that selects the list of abbreviations.

    Returns:
        Non-empty sentences in order, without surrounding white space.
    """
    sentences: list[str] = []
    for paragraph in PARAGRAPH_END.split(text):
        is_short = len(paragraph) <= _PART_CHARACTERS
        sentences += (_remembered if is_short else _paragraph_sentences)(paragraph, language)
    return sentences


def _paragraph_sentences(paragraph: str, language: str) -> tuple[str, ...]:
    sentences: list[str] = []
    begun = ""
    # A paragraph has at most as many marks as characters.
    for part in [paragraph] if len(paragraph) <= _PART_MARKS else _parts(paragraph):
        for sentence in _split(part, language):
            if sentence.lstrip()[:1].islower():
                begun += sentence
            else:
                sentences.append(begun.strip())
                begun = sentence
    sentences.append(begun.strip())
    return tuple(filter(None, sentences))


def _parts(paragraph: str) -> Iterator[str]:
    """Yield the parts of a long paragraph that are split into sentences one by one."""
    is_short = len(paragraph) <= _PART_CHARACTERS
    for part in [paragraph] if is_short else _PART.findall(paragraph):
        has_many = sum(map(part.count, _MARKS)) > _PART_MARKS
        yield from _MARKED_PART.findall(part) if has_many else [part]


# A quality rule counts the sentences of a text that is split for its records next.
_remembered = lru_cache(maxsize=128)(_paragraph_sentences)


def _split(text: str, language: str) -> list[str]:
    """Return sentencex's sentences; they also end after each quoted one but the last of a quote."""
    segments = _segments(text, language)
    if not _OPENING.search(text):
        return segments
    sentences = []
    for segment in segments:
        begin = 0
        for quoted in _quotations(segment):
            end = quoted.start(quoted.lastindex or 0)
            for sentence in _segments(quoted[quoted.lastindex or 0], language)[:-1]:
                end += len(sentence)
                sentences.append(segment[begin:end])
                begin = end
        sentences.append(segment[begin:])
    return sentences


def _segments(text: str, language: str) -> list[str]:
    """Return sentencex's sentences; joined, they are the text."""
    import sentencex

    readable = text
    # The regular expression alone would take a third of the time.
    if not text.isascii() and any(space in text for space in _SPACES_OUTSIDE_ASCII):
        readable = _LETTER_BEFORE_PERIOD.sub(lambda m: _SPACE_OUTSIDE_ASCII.sub(" ", m[0]), text)
    segments: list[str] = sentencex.segment(language, readable)
    if readable == text:
        return segments
    # `readable` has the length of the text, so each segment is cut from the text itself.
    ends = [0, *itertools.accumulate(map(len, segments))]
    return [text[start:end] for start, end in itertools.pairwise(ends)]


def _quotations(text: str) -> Iterator[re.Match[str]]:
    """Yield the matches of `_QUOTED`, as its `finditer` does."""
    end = 0
    for mark in _OPENING.finditer(text):
        if mark.start() >= end and (quoted := _QUOTED.match(text, mark.start())):
            yield quoted
            end = quoted.end()
