"""Languages: the right ones pass, with their code."""

import pytest

from pipeline.configs import CorpusConfig
from pipeline.corpus.rules.language import Languages, check_languages, identify, sample
from pipeline.corpus.rules.rule import Rejection, TextDocument
from pipeline.errors import InputError
from tests.pipeline.corpus.rules.language_texts import TEXTS


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
