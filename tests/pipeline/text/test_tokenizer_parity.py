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
from collections.abc import Callable
from functools import cache, partial, reduce
from operator import methodcaller
from pathlib import Path
from random import Random
from typing import Any, get_args

import numpy as np
import pytest
import tensorflow as tf
import tokenizers
from tokenizers.models import WordLevel
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from pipeline.schema import SPECIAL_TOKENS
from pipeline.text.tokenizer import Tokenizer, WordUnit, build_tokenizer, normalized_words
from tests.golden.unicode import VERSION, category

FOLDER = Path(__file__).parents[2] / "golden"
GOLDEN: dict[str, Any] = json.loads((FOLDER / "tokenizer.json").read_text(encoding="utf-8"))
PUBLISHED = lzma.decompress((FOLDER / "vocab_uncased_en.txt.xz").read_bytes()).decode().split()

UNKNOWN = "\u0378"
"""A word that no vocabulary here has: no character yet."""


def long_words_unknown(text: str, characters: int) -> str:
    words = [word.decode() for word in normalized_words([text], lower_case=True).to_list()[0]]
    return " ".join(UNKNOWN if len(word) > characters else word for word in words)


def without_private_use(text: str) -> str:
    return "".join(character for character in text if category(character) != "Co")


def new_letters_lowered(text: str) -> str:
    return text.lower() if re.search("[\U00010570-\U000107bf]", text) else text


# Words of more than 200 characters are unknown to Google, of more than 100 to Hugging Face. Our
# limit is in bytes: 800 of them keep every word that one of the two keeps, whatever its script.
OVER_200 = partial(long_words_unknown, characters=200)
OVER_100 = partial(long_words_unknown, characters=100)
# To Hugging Face a capital sigma is never a final one, and private use is no text.
NO_FINAL_SIGMA = methodcaller("replace", "Σ", "σ")
NO_PRIVATE_USE = without_private_use
# Python knows the cases of letters new in Unicode 14, TensorFlow's ICU does not.
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
def test_texts_except_known_differences(reference: str, vocabulary: str) -> None:
    assert differences(reference, vocabulary, REWRITINGS[reference, vocabulary]) == {}


@pytest.mark.parametrize(("reference", "vocabulary"), REWRITINGS)
def test_every_known_difference_still_exists(reference: str, vocabulary: str) -> None:
    rewritings = REWRITINGS[reference, vocabulary]
    for index in range(len(rewritings)):
        assert differences(reference, vocabulary, rewritings[:index] + rewritings[index + 1 :])


def assert_a_list_has_the_pieces_of_its_texts(tokenizer: Tokenizer, texts: list[str]) -> None:
    ids, lengths = tokenizer.tokenize_list(texts)
    wanted = tokenizer.tokenize(tf.constant(texts, tf.string))
    rows = tf.RaggedTensor.from_row_lengths(ids, lengths)
    different = [
        (text, ours, theirs)
        for text, ours, theirs in zip(texts, rows.to_list(), wanted.to_list(), strict=True)
        if ours != theirs
    ]
    assert (different, ids.dtype, lengths.dtype) == ([], np.int32, np.int64)


@pytest.mark.parametrize("lower_case", [False, True])
@pytest.mark.parametrize("fast", [False, True])
def test_a_list_has_the_pieces_of_its_texts(
    lower_case: bool, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts in ASCII are tokenized elsewhere: each control character, alone and with letters."""
    if not fast:
        monkeypatch.setitem(sys.modules, "nanotoken", None)  # its import fails
    texts = [entry["text"] for each in GOLDEN["texts"].values() for entry in each]
    texts += [f"A{chr(code)}b {chr(code)} C{chr(code)}" for code in range(0x180)]
    texts += [letter * count for letter in ("a", "A1", "x.") for count in (400, 401, 800, 801)]
    assert sum(text.isascii() for text in texts) > 100
    tokenizer = build_tokenizer(PUBLISHED, lower_case=lower_case)
    for some in (texts, [text for text in texts if text.isascii()], ["é"], ["a"], [""], []):
        assert_a_list_has_the_pieces_of_its_texts(tokenizer, some)


@pytest.mark.parametrize("seed", range(40))
def test_a_list_has_the_pieces_of_its_texts_with_any_vocabulary(seed: int) -> None:
    """Random texts in ASCII, and vocabularies whose pieces may have punctuation and spaces in."""
    random = Random(seed)
    odd = "".join(random.sample(list(map(chr, range(128))), 4))
    alphabet = ["a", "b", "B", "1", "#", "-", " ", *odd]

    def text(longest: int) -> str:
        return "".join(random.choices(alphabet, k=random.randint(1, longest)))

    drawn = [random.choice(["", "##"]) + text(4) for _ in range(60)]
    pieces = [*dict.fromkeys([*SPECIAL_TOKENS, "##", *drawn])]
    texts = [text(24) for _ in range(500)] + [*SPECIAL_TOKENS, *pieces]
    for lower_case in (False, True):
        tokenizer = build_tokenizer(pieces, lower_case=lower_case)
        assert_a_list_has_the_pieces_of_its_texts(tokenizer, texts)


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
        if category(chr(code)) not in ("Cn", "Cs", "Co")
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
    assert GOLDEN["made_with"]["unicode"] == VERSION


@pytest.mark.parametrize("mode", ["uncased", "cased"])
def test_every_character_as_google(mode: str) -> None:
    texts = [f"a{character}b" for character in characters()]
    alphabet = "".join(c for c in characters() if category(c)[0] not in "CZ")
    rows = spelled(texts, alphabet, lower_case=mode == "uncased")
    found = dict(zip(characters(), rows, strict=True))
    differ = {character for character, fate in fates(mode).items() if found[character] != fate}
    assert differ == new_letters(mode)


@pytest.mark.parametrize("mode", ["uncased", "cased"])
def test_vocab_counts_the_words_that_the_tokenizer_sees(mode: str) -> None:
    texts = [f"a{character}b" for character in characters()]
    words = normalized_words(texts, lower_case=mode == "uncased").to_list()
    rows = [b" ".join(filter(None, row)).decode() for row in words]
    found = dict(zip(characters(), rows, strict=True))
    differ = {character for character, fate in fates(mode).items() if found[character] != fate}
    assert differ == new_letters(mode)


# Words with their places in the text

KINDS = {
    "a ##b": "dropped",
    "a b": "space",
    "a [UNK] b": "alone",
    "[UNK]": "letter",
    "a ##b ##b": "letter",
}
"""What a character is, by the pieces of `a`, it, and `b`; there are no other pieces than those."""


def places(texts: list[str], *, lower_case: bool) -> np.ndarray:
    """The first and end byte of each word, int [N, W, 2]; -1 where a text has fewer words."""
    tokenizer = build_tokenizer([*SPECIAL_TOKENS, "a"], lower_case=lower_case)
    _, starts, limits = tokenizer.split_words(texts)
    return np.stack([starts.to_tensor(-1), limits.to_tensor(-1)], axis=-1)


@pytest.mark.parametrize("mode", ["uncased", "cased"])
def test_words_of_every_character_are_those_of_the_tokenizer(mode: str) -> None:
    lower_case = mode == "uncased"
    every = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code <= 0xDFFF]
    sizes = np.array([len(character.encode()) for character in every])
    joined, spaced = [f"a{c}b" for c in every], [f"a {c} b" for c in every]
    pieces = [*SPECIAL_TOKENS, "a", "b", "##b"]
    by_tokenizer = np.array([KINDS[row] for row in tokens(joined, pieces, lower_case=lower_case)])
    found = [places(texts, lower_case=lower_case) for texts in (joined, spaced)]
    for size in range(1, 5):
        two, three = ((0, 1), (size + 3, size + 4)), ((0, 1), (2, size + 2), (size + 3, size + 4))
        expected = {
            "dropped": (((0, size + 2),), two),
            "space": (((0, 1), (size + 1, size + 2)), two),
            "alone": (((0, 1), (1, size + 1), (size + 1, size + 2)), three),
            "letter": (((0, size + 2),), three),
        }
        for kind, both in expected.items():
            of_kind = (by_tokenizer == kind) & (sizes == size)
            for rows, words in zip(found, both, strict=True):
                padded = np.full((3, 2), -1)
                padded[: len(words)] = words
                differ = of_kind & (rows != padded).any(axis=(1, 2))
                assert [hex(ord(every[row])) for row in np.flatnonzero(differ)] == []


@pytest.mark.parametrize("lower_case", [True, False])
def test_pieces_of_the_words_are_the_pieces_of_the_text(lower_case: bool) -> None:
    texts = [entry["text"] for entry in GOLDEN["texts"]["published"]]
    texts += ["so\u00adft a\x00b \x00 c\u200b", "!\u0301 \u0301 ≠x", "Ada \x00 left Rome."]
    tokenizer = build_tokenizer(PUBLISHED, lower_case=lower_case)
    expected = tokenizer.tokenize(texts).to_list()
    for unit in get_args(WordUnit):
        words = tokenizer.split_words(texts, unit)[0]
        found = words.with_flat_values(tokenizer.tokenize(words.flat_values)).merge_dims(1, 2)
        rows = zip(texts, expected, found.to_list(), strict=True)
        assert [text for text, one, other in rows if one != other] == []
        assert tokenizer.tokenize(words.flat_values).row_lengths().numpy().all()


def test_answer_spans_equal_those_of_hugging_face() -> None:
    reference = tokenizers.Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    reference.normalizer = BertNormalizer(lowercase=False, strip_accents=False)
    reference.pre_tokenizer = BertPreTokenizer()
    texts = [without_private_use(entry["text"]) for entry in GOLDEN["texts"]["cased"]]
    texts += [
        "\ufeffAda \x00 left\u200b Rome.",
        "so\u00adft a\x00b \u200b c\u200b",
        "é\u3000\x85中é。",
    ]
    tokenizer = build_tokenizer([*SPECIAL_TOKENS, "a"], lower_case=False)
    words, starts, limits = (part.to_list() for part in tokenizer.split_words(texts))
    for row, text in enumerate(texts):
        offsets = [
            (len(text[:start].encode()), len(text[:end].encode()))
            for start, end in reference.encode(text).offsets
        ]
        assert list(zip(starts[row], limits[row], strict=True)) == offsets, text
        for word, (start, end) in zip(words[row], offsets, strict=True):
            written = text.encode()[start:end].decode()
            assert word.decode() == "".join(c for c in written if category(c) != "Cc")


def test_hugging_face_differs_from_google_where_its_unicode_tables_are_older() -> None:
    for mode in ("uncased", "cased"):
        for fate, ranges in GOLDEN["characters"][mode]["huggingface"].items():
            for code in code_points(ranges):
                kind = category(chr(code))
                assert (
                    kind in ("Mn", "Mc", "Cf") or kind[0] == "P"  # added since, or changed
                    or code == 0x166D  # punctuation until Unicode 12
                    or 0x2B820 <= code <= 0x2B91F  # begins CJK extension E too late: a slip
                    or (kind, fate) == ("Co", "dropped")
                ), (hex(code), kind, fate)  # fmt: skip


@pytest.mark.data
@pytest.mark.skipif("CLOZELINE_DATA" not in os.environ, reason="CLOZELINE_DATA names no folder")
@pytest.mark.parametrize("reference", ["google", "huggingface"])
def test_real_text(reference: str) -> None:
    tokenizer = build_tokenizer(PUBLISHED, lower_case=True)
    for name, digests in GOLDEN["files"].items():
        text = (Path(os.environ["CLOZELINE_DATA"]) / name).read_text(encoding="utf-8")
        ids = tokenizer.tokenize(text.split("\n")).flat_values.numpy()
        assert hashlib.sha256(ids.tobytes()).hexdigest() == digests[reference], name
