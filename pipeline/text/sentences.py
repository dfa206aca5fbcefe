"""Prose to sentences."""

import re
from collections.abc import Iterator

_PARAGRAPH_END = re.compile(r"\n[^\S\n]*\n")

# The library's time grows with a paragraph's square; such a part ends with a word.
_PART = re.compile(r".{1,100000}\S*", re.DOTALL)

# What stands between quotation marks; between single ones, apostrophes may.
_QUOTED = re.compile(
    r'"([^"]+)"|“([^“”]+)”|«([^«»]+)»|「([^「」]+)」|『([^『』]+)』'
    r"|(?<!\w)[‘']((?:[^‘’']|\b[’']\b)+)[’'](?!\w)"
)


def split_sentences(text: str, language: str = "en") -> list[str]:
    """Split prose into sentences with Wikimedia's `sentencex`.

    It knows abbreviations ("Mr.", "e.g.", "Fig. 3"), initials, and the CJK marks 。！？. What it
    leaves together between quotation marks is split too: dialogue is many sentences. None begins
    with a small letter ("No!" he said). A blank line ends a sentence in any case; other line
    breaks do not.

    Args:
        text: prose; paragraphs are separated by blank lines.
        language: ISO 639 code, which chooses the list of abbreviations.

    Returns:
        The sentences in order, stripped; none is empty.
    """
    sentences: list[str] = []
    for paragraph in _PARAGRAPH_END.split(text):
        begun = ""
        for part in _PART.findall(paragraph):
            for sentence in _split(part, language):
                if begun and not sentence.lstrip()[:1].islower():
                    sentences.append(begun.strip())
                    begun = ""
                begun += sentence
        sentences.append(begun.strip())
    return [sentence for sentence in sentences if sentence]


def _split(text: str, language: str) -> Iterator[str]:
    """Yield the library's sentences, each ended by those within quotation marks but their last."""
    import sentencex

    for segment in sentencex.segment(language, text):
        begin = 0
        for quoted in _QUOTED.finditer(segment):
            end = quoted.start(quoted.lastindex or 0)
            for sentence in sentencex.segment(language, quoted[quoted.lastindex or 0])[:-1]:
                end += len(sentence)
                yield segment[begin:end]
                begin = end
        yield segment[begin:]
