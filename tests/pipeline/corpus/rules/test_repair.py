"""Repair of text: broken text is restored, intact text is not changed."""

import re
from random import Random

import ftfy
import pytest
from ftfy.badness import MOJIBAKE_CATEGORIES, is_bad

from pipeline.corpus.rules.repair import _MOJIBAKE, _looks_bad, _without_mojibake, repair
from pipeline.corpus.rules.rule import TextDocument

ORIGINALS = [
    "The café’s “naïve” owner — Zoë — paid 5 €.",
    "Größe und Übermut, Straße für Straße",
    "L’élève a été très naïf à l’œuvre",
    "Příliš žluťoučký kůň",
    "Съешь же ещё этих мягких французских булок",
]


def repaired(text: str) -> TextDocument:
    return repair(TextDocument(text, "en"))


@pytest.mark.parametrize("text", ORIGINALS)
def test_mojibake_is_repaired(text: str) -> None:
    broken = "".join(
        bytes([byte]).decode("windows-1252", "ignore") or chr(byte) for byte in text.encode()
    )
    assert broken != text
    assert repaired(broken) == TextDocument(text, "en", {"documents_with_mojibake": 1})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        *ORIGINALS,
        "ﬁne ligatures, ｆｕｌｌ width, “curly” quotes\u2028and lines\x1b[31m",
        "https://example.org/?a=1&copy=2&lt=3 AT&T &c; R&D",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 \u0915\u094d\u200d\u0937 👩\u200d🚀",
        "Plain.",
    ],
)
def test_intact_text_is_not_changed(text: str) -> None:
    document = TextDocument(text, "en")
    assert repair(document) is document


def test_entities_and_invisible_characters_are_counted() -> None:
    text = "\ufeffTom &amp; Jerry&nbsp;said &quot;op&#233;\u00adra&shy;tion&#x21;&quot;\u200b &bad;"
    assert repaired(text) == TextDocument(
        'Tom & Jerry\xa0said "opération!" &bad;',
        "en",
        {"html_entities": 8, "invisible_characters": 4},  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("entity", ["&#0;", "&#xD800;", "&#9999999;", "&#x110000;"])
def test_entities_without_a_character(entity: str) -> None:
    text = repaired(f"a{entity}b").text
    assert text.encode()
    assert entity not in text


def test_lines_are_repaired_as_ftfy_does() -> None:
    """Lines that ftfy would not change do not go through it: of all kinds, next to each other."""
    rng = Random(3)
    characters = "aZ \n\n\xa0éÃÂâ€™œ°вЂ\x80\x93ГўВ"
    changed = 0
    for _ in range(3000):
        text = "".join(rng.choices(characters, k=12))
        expected = ftfy.fix_text(text, _MOJIBAKE)
        assert _without_mojibake(text) == expected
        changed += expected != text
    assert changed > 500


def test_long_runs_of_ascii_change_no_judgement_of_ftfy() -> None:
    """All kinds of characters that ftfy looks at, next to runs of ASCII on both sides of 8."""
    rng = Random(5)
    special = [chr(code) for code in range(0x80, 0x10000) if _is_special(chr(code))]
    special += [*"ÂÃ" * 40, *"Œœ°ØÙà√≈вГў"]
    found = 0
    for _ in range(6_000):
        runs = ["".join(rng.choices("aaZ  .", k=rng.choice((0, 1, 6, 9, 12)))) for _ in "123"]
        text = runs[0]
        for run in runs[1:]:
            text += "".join(rng.choices(special, k=rng.choice((1, 1, 2)))) + run
        assert _looks_bad(text) == is_bad(text), text
        found += is_bad(text)
    assert 600 < found < 5_400


def _is_special(character: str) -> bool:
    return any(re.match(f"[{kind}]", character) for kind in MOJIBAKE_CATEGORIES.values())
