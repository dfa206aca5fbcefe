"""Prose to sentences."""

import re

_PARAGRAPH_END = re.compile(r"\n[^\S\n]*\n")


def split_sentences(text: str, language: str = "en") -> list[str]:
    """Split prose into sentences with Wikimedia's `sentencex`.

    It knows abbreviations ("Mr.", "e.g.", "Fig. 3"), initials, quotes and the CJK marks 。！？. A
    blank line ends a sentence in any case; other line breaks do not.

    Args:
        text: prose; paragraphs are separated by blank lines.
        language: ISO 639 code, which chooses the list of abbreviations.

    Returns:
        The sentences in order, stripped; none is empty.
    """
    import sentencex

    sentences = (
        sentence.strip()
        for paragraph in _PARAGRAPH_END.split(text)
        for sentence in sentencex.segment(language, paragraph)
    )
    return [sentence for sentence in sentences if sentence]
