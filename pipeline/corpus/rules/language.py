"""Identify the language of a document, and reject documents in other languages.

py3langid 0.4 identifies 140 languages with a model of 4.6 MB inside its wheel.
"""

import re
from collections.abc import Collection
from dataclasses import replace
from functools import cache
from typing import Any

from pipeline.corpus.rules.rule import Rejection, TextDocument
from pipeline.errors import InputError

SAMPLE_PARTS, PART_CHARACTERS = 4, 250
"""Parts of a long text that are read, at equal distances: the work does not grow with the text, and
a header in another language does not decide."""

UNIDENTIFIED = "zxx"
"""ISO 639-2: no linguistic content."""

_VARIETIES = {"wuu": "zh", "yue": "zh", "nb": "no", "nn": "no"}
"""Languages that are written alike, of which users name one."""

_DIGITS = 6


@cache
def _identifier() -> Any:
    from pipeline.corpus.rules.language_identifier import load

    return load()


def check_languages(languages: Collection[str]) -> None:
    """Check that each language can be identified.

    Raises:
        InputError: the identifier does not know a code.
    """
    known = _known() if languages else set()
    for language in languages:
        if language not in known:
            # A similar code is that of another language: deu and eu.
            base = re.split(r"[-_]", language.lower())[0]
            hint = f"; did you mean {base}?" if base in known else ""
            raise InputError(
                f"`languages` {language}: no code of a language that can be identified{hint}; "
                "expected ISO 639 codes such as en, de, zh, of three letters only where there are "
                "none of two"
            )


def unidentified(languages: Collection[str]) -> list[str]:
    """Return the codes of languages that no document can be identified as."""
    known = _known()
    return [language for language in languages if language not in known]


def _known() -> set[str]:
    return {*_identifier().labels, *_VARIETIES} - {UNIDENTIFIED}


def sample(text: str) -> str:
    """Return the parts of a text that its language is identified from."""
    if len(text) <= SAMPLE_PARTS * PART_CHARACTERS:
        return text
    step = (len(text) - PART_CHARACTERS) / (SAMPLE_PARTS - 1)
    starts = [round(part * step) for part in range(SAMPLE_PARTS)]
    return "\n".join(text[start : start + PART_CHARACTERS] for start in starts)


def identify(text: str) -> tuple[str, float]:
    """Return the most probable language of a text (ISO 639 code), and its probability (0 to 1)."""
    language, probability = _identifier().classify(sample(text))
    return _VARIETIES.get(language, language), float(probability)


class Languages:
    """A rule that lets documents pass in some languages, and notes the language."""

    def __init__(self, languages: Collection[str], threshold: float) -> None:
        """Set the rule.

        Args:
            languages: ISO 639 codes.
            threshold: smallest probability of the language (0 to 1).
        """
        self._languages = {_VARIETIES.get(language, language) for language in languages}
        self._threshold = threshold

    def __call__(self, document: TextDocument) -> TextDocument | Rejection:
        """Return the document with its language, or a rejection."""
        language, probability = identify(document.text)
        # Two rules in the counts: another language, and a language that is uncertain.
        if language not in self._languages:
            return Rejection("language", language)
        if probability < self._threshold:
            return Rejection("language_probability", round(probability, _DIGITS), self._threshold)
        return replace(document, language=language)
