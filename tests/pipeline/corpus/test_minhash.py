"""MinHash signatures, against hashes in plain Python and exact Jaccard similarities."""

import re
from random import Random

import numpy as np
import pytest

from pipeline.corpus import minhash
from pipeline.corpus.minhash import Bands, band_hashes, hash_bands, signatures
from tests.conftest import make_sentences

FUNCTIONS = 112

MASK = (1 << 64) - 1
BASE = 0x9E3779B97F4A7C15


def mix(x: int) -> int:
    """SplitMix64's output for a counter."""
    x = x * BASE & MASK
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ x >> 27) * 0x94D049BB133111EB & MASK
    return x ^ x >> 31


def plain_signature(words: list[str]) -> list[int]:
    """What `signatures` must return for a text of these words, without NumPy."""
    hashed = [mix(sum(ord(c) * pow(BASE, i, 1 << 64) for i, c in enumerate(w))) for w in words]
    grams = [hashed[i : i + 5] for i in range(max(len(words) - 4, 1))]
    grams = [gram + [0] * (5 - len(gram)) for gram in grams]
    values = [mix(sum(h * pow(BASE, 4 - i, 1 << 64) for i, h in enumerate(g))) for g in grams]
    numbers = [mix(i) for i in range(1, 2 * FUNCTIONS + 1)]
    functions = zip(numbers[:FUNCTIONS], numbers[FUNCTIONS:], strict=True)
    return [min((a | 1) * value + b & MASK for value in values) >> 32 for a, b in functions]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The fox, the OWL & the 2 boats -- all!", "the fox the owl the 2 boats all"),
        ("One.", "one"),
        ("three short\nwords", "three short words"),
        ("Ähre   don’t\u00a0stop_İ", "ähre don t stop i\u0307"),
        ("北京 is 首都。ไทย", "北 京 is 首 都 ไ ท ย"),
    ],
)  # fmt: skip
def test_golden(text: str, words: str) -> None:
    assert signatures([text], FUNCTIONS).tolist() == [plain_signature(words.split())]


def test_texts_do_not_depend_on_each_other_or_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = Random(1)
    texts = ["\n".join(make_sentences(rng, "sea", rng.randrange(80))) for _ in range(40)]
    texts[3:3] = ["", "...", "a", "b", "x" * 300]
    together = signatures(texts, FUNCTIONS)
    assert [len(row) for row in together] == [FUNCTIONS] * 45
    for text, row in zip(texts, together, strict=True):
        np.testing.assert_array_equal(signatures([text], FUNCTIONS)[0], row)
    assert np.flatnonzero(~band_hashes(texts, Bands(4, 2))[1]).tolist() == [
        number for number, text in enumerate(texts) if not re.search(r"\w", text)
    ]
    monkeypatch.setattr(minhash, "BLOCK_CHARACTERS", 400)
    np.testing.assert_array_equal(signatures(texts, FUNCTIONS), together)
    assert signatures([], FUNCTIONS).shape == (0, FUNCTIONS)


def ngrams(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"[^\W_]+", text.lower())
    return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}


def test_agreement_estimates_the_jaccard_similarity() -> None:
    rng = Random(2)
    pairs = []
    for _ in range(300):
        words = [f"w{rng.randrange(5000)}" for _ in range(300)]
        changed = [w if rng.random() < 0.96 else "changed" for w in words]
        pairs.append((" ".join(words), " ".join(changed)))
    one, other = (signatures([*side], FUNCTIONS) for side in zip(*pairs, strict=True))
    exact = np.array([len(a & b) / len(a | b) for a, b in (map(ngrams, pair) for pair in pairs)])
    error = (one == other).mean(axis=1) - exact
    spread = np.sqrt((exact * (1 - exact)).mean() / (FUNCTIONS))  # of the binomial distribution
    assert 0.5 < exact.mean() < 0.8
    assert abs(error.mean()) < 4 * spread / len(pairs) ** 0.5
    assert 0.85 * spread < error.std() < 1.15 * spread


def test_bands_are_equal_where_all_their_values_are() -> None:
    values = np.arange(112, dtype=np.uint32)
    other = values + (np.arange(112) == 3 * 8 + 2)
    one, another = hash_bands(np.stack([values, other]).astype(np.uint32), Bands(14, 8))
    assert np.flatnonzero(one != another).tolist() == [3]
    same = hash_bands(np.zeros((1, 112), np.uint32), Bands(14, 8))[0]
    assert len({*same.tolist()}) == 14  # a band is only compared with the same one


def test_the_threshold_of_the_usual_bands() -> None:
    assert round(Bands(14, 8).threshold, 2) == 0.72  # 14 ** (-1 / 8)
