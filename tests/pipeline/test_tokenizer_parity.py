"""Our tokenizer against two others: Google's own and Hugging Face's (see `tests/golden`).

`REWRITINGS` has every known difference as a rewriting of the text: ours of the rewritten text is
theirs of the text itself, to the piece.
"""

import hashlib
import json
import lzma
import os
import re
import sys
import unicodedata
from collections.abc import Callable
from functools import cache, partial, reduce
from operator import methodcaller
from pathlib import Path
from typing import Any

import pytest

from pipeline.schema import SPECIAL_TOKENS
from pipeline.tokenizer import build_tokenizer
from pipeline.word_count import split_words

FOLDER = Path(__file__).parent.parent / "golden"
GOLDEN: dict[str, Any] = json.loads((FOLDER / "tokenizer.json").read_text(encoding="utf-8"))
PUBLISHED = lzma.decompress((FOLDER / "vocab_uncased_en.txt.xz").read_bytes()).decode().split()

UNKNOWN = "\u0378"
"""A word that no vocabulary here has: no character yet."""


def long_words_unknown(text: str, characters: int) -> str:
    words = [word.decode() for word in split_words([text], lower_case=True).to_list()[0]]
    return " ".join(UNKNOWN if len(word) > characters else word for word in words)


def without_private_use(text: str) -> str:
    return "".join(character for character in text if unicodedata.category(character) != "Co")


def new_letters_lowered(text: str) -> str:
    return text.lower() if re.search("[\U00010570-\U000107bf]", text) else text


# Words of more than 200 characters are unknown to Google, of more than 100 to Hugging Face. Our
# limit is in bytes: 800 of them keep every word that one of the two keeps, whatever its script.
OVER_200 = partial(long_words_unknown, characters=200)
OVER_100 = partial(long_words_unknown, characters=100)
# To Hugging Face a capital sigma is never a final one, and private use is no text.
NO_FINAL_SIGMA = methodcaller("replace", "Σ", "σ")
NO_PRIVATE_USE = without_private_use
# Python 3.11 knows the cases of letters new in Unicode 14, TensorFlow's ICU does not.
NEW_LETTERS = new_letters_lowered

REWRITINGS: dict[tuple[str, str], list[Callable[[str], str]]] = {
    ("google", "published"): [OVER_200],
    ("google", "uncased"): [NEW_LETTERS],
    ("google", "cased"): [],
    ("huggingface", "published"): [NO_FINAL_SIGMA, NO_PRIVATE_USE, OVER_100],
    ("huggingface", "uncased"): [NO_FINAL_SIGMA, NEW_LETTERS, NO_PRIVATE_USE],
    ("huggingface", "cased"): [NO_PRIVATE_USE],
}


def tokens(texts: list[str], pieces: list[str], *, lower_case: bool) -> list[str]:
    rows = build_tokenizer(pieces, lower_case=lower_case).tokenize(texts).to_list()
    return [" ".join(pieces[index] for index in row) for row in rows]


def spelled(texts: list[str], alphabet: str, *, lower_case: bool) -> list[str]:
    """Each text's words, as a vocabulary of single characters spells them."""
    pieces = [*SPECIAL_TOKENS, *alphabet, *("##" + character for character in alphabet)]
    return [row.replace(" ##", "") for row in tokens(texts, pieces, lower_case=lower_case)]


def ours(texts: list[str], vocabulary: str) -> list[str]:
    if vocabulary == "published":
        return tokens(texts, PUBLISHED, lower_case=True)
    return spelled(texts, GOLDEN["alphabet"], lower_case=vocabulary == "uncased")


def theirs(reference: str, vocabulary: str) -> list[str]:
    """Each text by a reference, the special tokens that Hugging Face sees in it as text.

    Only a model's user may put special tokens into text, so to Google's and our tokenizer they are
    words like others; serving looks for `[MASK]` itself.
    """
    rows = [entry.get(reference, entry["google"]) for entry in GOLDEN["texts"][vocabulary]]
    for token, pieces in zip(SPECIAL_TOKENS, ours(list(SPECIAL_TOKENS), vocabulary), strict=True):
        rows = [
            row.replace(token, pieces) if token in entry["text"] else row
            for row, entry in zip(rows, GOLDEN["texts"][vocabulary], strict=True)
        ]
    return rows


def differences(
    reference: str, vocabulary: str, rewritings: list[Callable[[str], str]]
) -> dict[str, tuple[str, str]]:
    """By text: ours of the rewritten one, and theirs."""
    texts = [entry["text"] for entry in GOLDEN["texts"][vocabulary]]
    rewritten = [reduce(lambda text, rewrite: rewrite(text), rewritings, text) for text in texts]
    rows = zip(texts, ours(rewritten, vocabulary), theirs(reference, vocabulary), strict=True)
    return {text: (found, wanted) for text, found, wanted in rows if found != wanted}


def test_published_ids() -> None:
    ids = build_tokenizer(PUBLISHED, lower_case=True).tokenize(["The dog's café…"]).to_list()
    assert ids == [[1996, 3899, 1005, 1055, 7668, 1529]]
    assert [PUBLISHED.index(piece) for piece in SPECIAL_TOKENS] == [0, 100, 101, 102, 103]
    assert len(PUBLISHED) == 30522


@pytest.mark.parametrize(("reference", "vocabulary"), REWRITINGS)
def test_texts_but_for_the_known_differences(reference: str, vocabulary: str) -> None:
    assert differences(reference, vocabulary, REWRITINGS[reference, vocabulary]) == {}


@pytest.mark.parametrize(("reference", "vocabulary"), REWRITINGS)
def test_every_known_difference_is_still_there(reference: str, vocabulary: str) -> None:
    rewritings = REWRITINGS[reference, vocabulary]
    for index in range(len(rewritings)):
        assert differences(reference, vocabulary, rewritings[:index] + rewritings[index + 1 :])


def test_longest_word() -> None:
    found = tokens(["a" * 800, "a" * 801, "ก" * 266, "ก" * 267], PUBLISHED, lower_case=True)
    assert [row == "[UNK]" for row in found] == [False, True, False, True]


# Every character of Unicode, alone between two letters


def code_points(ranges: str) -> list[int]:
    """The numbers of for example `41-43 4F`."""
    bounds = [part.split("-") for part in ranges.split()]
    return [code for ends in bounds for code in range(int(ends[0], 16), int(ends[-1], 16) + 1)]


@cache
def characters() -> list[str]:
    """Those that the golden file knows: Hangul syllables and private use are a sample there."""
    return [
        chr(code)
        for code in range(sys.maxunicode + 1)
        if unicodedata.category(chr(code)) not in ("Cn", "Cs", "Co")
        and (not 0xAC00 <= code <= 0xD7A3 or code % 97 == 0)
    ]


def fates(mode: str) -> dict[str, str]:
    """What Google's tokenizer makes of `a`, the character and `b`."""
    found = {character: f"a{character}b" for character in characters()}
    for fate, ranges in GOLDEN["characters"][mode]["google"].items():
        for character in map(chr, code_points(ranges)):
            words = {"dropped": "ab", "space": "a b", "alone": f"a {character} b"}
            found[character] = words.get(fate, fate)
    return {character: found[character] for character in characters()}


def new_letters(mode: str) -> set[str]:
    """Capitals of Unicode 14, which TensorFlow does not lower."""
    codes = code_points("2C2F A7C0 A7D0 A7D6 A7D8 10570-1057A 1057C-1058A 1058C-10592 10594-10595")
    return set(map(chr, codes)) if mode == "uncased" else set()


def test_same_unicode() -> None:
    assert unicodedata.unidata_version == GOLDEN["made_with"]["unicode"]


@pytest.mark.parametrize("mode", ["uncased", "cased"])
def test_every_character_as_google(mode: str) -> None:
    texts = [f"a{character}b" for character in characters()]
    alphabet = "".join(c for c in characters() if unicodedata.category(c)[0] not in "CZ")
    rows = spelled(texts, alphabet, lower_case=mode == "uncased")
    found = dict(zip(characters(), rows, strict=True))
    differ = {character for character, fate in fates(mode).items() if found[character] != fate}
    assert differ == new_letters(mode)


@pytest.mark.parametrize("mode", ["uncased", "cased"])
def test_vocab_counts_the_words_that_the_tokenizer_sees(mode: str) -> None:
    texts = [f"a{character}b" for character in characters()]
    words = split_words(texts, lower_case=mode == "uncased").to_list()
    rows = [b" ".join(filter(None, row)).decode() for row in words]
    found = dict(zip(characters(), rows, strict=True))
    differ = {character for character, fate in fates(mode).items() if found[character] != fate}
    assert differ == new_letters(mode)


def test_hugging_face_differs_from_google_where_its_unicode_tables_are_older() -> None:
    for mode in ("uncased", "cased"):
        for fate, ranges in GOLDEN["characters"][mode]["huggingface"].items():
            for code in code_points(ranges):
                category = unicodedata.category(chr(code))
                assert (
                    category in ("Mn", "Mc", "Cf") or category[0] == "P"  # added since, or changed
                    or code == 0x166D  # punctuation until Unicode 12
                    or 0x2B820 <= code <= 0x2B91F  # begins CJK extension E too late: a slip
                    or (category, fate) == ("Co", "dropped")
                ), (hex(code), category, fate)  # fmt: skip


@pytest.mark.data
@pytest.mark.skipif("CLOZELINE_DATA" not in os.environ, reason="CLOZELINE_DATA names no folder")
@pytest.mark.parametrize("reference", ["google", "huggingface"])
def test_real_text(reference: str) -> None:
    tokenizer = build_tokenizer(PUBLISHED, lower_case=True)
    for name, digests in GOLDEN["files"].items():
        text = (Path(os.environ["CLOZELINE_DATA"]) / name).read_text(encoding="utf-8")
        ids = tokenizer.tokenize(text.split("\n")).flat_values.numpy()
        assert hashlib.sha256(ids.tobytes()).hexdigest() == digests[reference], name
