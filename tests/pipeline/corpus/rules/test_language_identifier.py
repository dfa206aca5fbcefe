"""The identifier gives the same languages and probabilities as py3langid's, bit for bit."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from random import Random

import numpy as np
import pytest
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from pipeline.corpus.rules.language_identifier import VectorizedIdentifier, load
from tests.pipeline.corpus.rules.language_texts import TEXTS


@pytest.fixture(scope="module")
def original() -> LanguageIdentifier:
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


@pytest.fixture(scope="module")
def ours() -> VectorizedIdentifier:
    return load()


def texts() -> Iterator[str | bytes]:
    """Texts in ten languages, parts of them, any characters, any bytes, one character again."""
    rng = Random(4)
    joined = "".join(TEXTS.values())
    yield from TEXTS.values()
    yield from ("", "a", "\n", "é", "\ud800", "NO", b"\xe4", b"\x00\xff")
    for size in (1, 2, 3, 4, 5, 6, 7, 8, 30, 200) * 20:
        start = rng.randrange(len(joined))
        yield joined[start : start + size]
        yield "".join(rng.choices(joined, k=size))
        yield "".join(chr(rng.randrange(0xD800)) for _ in range(size))
        yield rng.randbytes(size)
        yield rng.choice(joined) * size


def test_the_scores_are_the_same(original: LanguageIdentifier, ours: VectorizedIdentifier) -> None:
    for text in texts():
        encoded = original._encode(text)
        np.testing.assert_array_equal(ours._raw_score(encoded), original._raw_score(encoded))
        assert ours.classify(text) == original.classify(text)


def test_threads_share_an_identifier(ours: VectorizedIdentifier) -> None:
    several = [*texts()] * 2
    with ThreadPoolExecutor(4) as threads:
        assert [*threads.map(ours.classify, several)] == [*map(ours.classify, several)]
