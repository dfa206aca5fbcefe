"""Languages: the right ones pass, with their code."""

import pytest

from pipeline.configs import CorpusConfig
from pipeline.corpus.rules.language import Languages, check_languages, identify, sample
from pipeline.corpus.rules.rule import Rejection, TextDocument
from pipeline.errors import InputError

# Article 1 of the Universal Declaration of Human Rights.
TEXTS = {
    "en": "All human beings are born free and equal in dignity and rights. They are endowed with "
    "reason and conscience and should act towards one another in a spirit of brotherhood.",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft "
    "und Gewissen begabt und sollen einander im Geiste der Brüderlichkeit begegnen.",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués "
    "de raison et de conscience et doivent agir les uns envers les autres dans un esprit de "
    "fraternité.",
    "es": "Todos los seres humanos nacen libres e iguales en dignidad y derechos y, dotados como "
    "están de razón y conciencia, deben comportarse fraternalmente los unos con los otros.",
    "it": "Tutti gli esseri umani nascono liberi ed eguali in dignità e diritti. Essi sono dotati "
    "di ragione e di coscienza e devono agire gli uni verso gli altri in spirito di fratellanza.",
    "nl": "Alle mensen worden vrij en gelijk in waardigheid en rechten geboren. Zij zijn begiftigd "
    "met verstand en geweten, en behoren zich jegens elkander in een geest van broederschap te "
    "gedragen.",
    "pl": "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw. Są oni "
    "obdarzeni rozumem i sumieniem i powinni postępować wobec innych w duchu braterstwa.",
    "ru": "Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены "
    "разумом и совестью и должны поступать в отношении друг друга в духе братства.",
    "zh": "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。",
    "ja": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
}


@pytest.mark.parametrize("language", TEXTS)
def test_ten_languages(language: str) -> None:
    found, probability = identify(TEXTS[language])
    assert found == language
    assert 0.5 < probability <= 1
    document = TextDocument(TEXTS[language], "en")
    assert Languages((language, "sw"), 0.5)(document) == TextDocument(TEXTS[language], language)
    assert Languages(("sw",), 0.0)(document) == Rejection("language", language)


def test_an_uncertain_language_is_rejected_by_its_probability() -> None:
    text = "Hello Welt 12."
    language, probability = identify(text)
    found = Languages((language,), 0.99)(TextDocument(text, "en"))
    assert found == Rejection("language_probability", round(probability, 6), 0.99)


def test_varieties_have_the_name_of_their_language() -> None:
    assert isinstance(Languages(("yue",), 0.5)(TextDocument(TEXTS["zh"], "en")), TextDocument)


def test_a_sample_covers_the_whole_text() -> None:
    assert sample("short") == "short"
    text = "".join(map(chr, range(256, 256 + 10_000)))
    parts = sample(text).split("\n")
    assert [len(part) for part in parts] == [250] * 4
    assert [text.index(part) for part in parts] == [0, 3250, 6500, 9750]
    # A long text takes no more than a short one.
    assert len(sample("x" * 50_000_000)) == 1003


@pytest.mark.parametrize(
    ("code", "hint"),
    [("EN", "en"), ("zh-cn", "zh"), ("pt_BR", "pt"), ("deu", None), ("ger", None), ("fil", None)],
)
def test_only_the_same_language_is_suggested(code: str, hint: str | None) -> None:
    with pytest.raises(InputError) as error:
        check_languages([code])
    assert ("did you mean" in str(error.value)) == bool(hint)
    assert hint is None or f"did you mean {hint}?" in str(error.value)


@pytest.mark.parametrize("code", ["DE", "english", "", "e n", "de_DE"])
def test_a_language_of_the_splitter_is_a_code(code: str) -> None:
    with pytest.raises(InputError, match=f"`language` {code}: expected an ISO 639 code"):
        CorpusConfig(input=("a",), language=code)
    CorpusConfig(input=("a",), language="zh-Hant")


@pytest.mark.parametrize("code", ["english", "xx", "EN", "zxx", ""])
def test_an_unknown_language_is_one_line(code: str) -> None:
    with pytest.raises(InputError, match=f"`languages` {code}: no code of a language"):
        check_languages(["de", code])
