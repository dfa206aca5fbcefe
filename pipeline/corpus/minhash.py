"""MinHash signatures of documents over word 5-grams, and their LSH bands.

Two documents are near-duplicates if the sets of their word 5-grams are similar. A signature holds
the minimum of each of K hash functions over a document's 5-grams; two documents agree in one value
with a probability equal to the Jaccard similarity J of their sets (Broder 1997). The values are cut
into bands. Documents that agree in a whole band are near-duplicates, which has the probability
1 - (1 - J^rows)^bands (Leskovec et al., "Mining of Massive Datasets", section 3.4).

All hashes are computed here with 64-bit integer arithmetic, so that they are the same on every
machine and with every version of Python and NumPy. The text is handled in blocks: memory grows
neither with the length of a document nor with their number, except for the results.

Shapes: D documents, K hash functions.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.corpus.scripts import UNSPACED_RANGES
from pipeline.records.masking import split_mix

NGRAM_WORDS = 5

BLOCK_CHARACTERS = 1 << 16
"""Amount of text that is hashed at a time; its arrays fit into a CPU's cache."""

_SEPARATOR, _WORD, _WHOLE_WORD = range(3)
"""Classes of characters: between words, part of a word, a word by itself."""

_SEPARATORS = (
    (0x00, 0x2F), (0x3A, 0x40), (0x5B, 0x60), (0x7B, 0xA9), (0xAB, 0xB4), (0xB6, 0xB9),
    (0xBB, 0xBF), (0x2000, 0x206F), (0x3000, 0x3004), (0x3008, 0x3020), (0xFF00, 0xFF0F),
    (0xFF1A, 0xFF20), (0xFF3B, 0xFF40), (0xFF5B, 0xFF65),
)  # fmt: skip
"""Control characters, white space and punctuation. A table of our own, since the one of Python
changes with its version of Unicode."""


def _character_classes() -> np.ndarray:
    classes = np.full(0x110000, _WORD, np.uint8)
    for ranges, kind in ((_SEPARATORS, _SEPARATOR), (UNSPACED_RANGES, _WHOLE_WORD)):
        for first, last in ranges:
            classes[first : last + 1] = kind
    return classes


_CLASSES = _character_classes()

_BASE = 0x9E3779B97F4A7C15  # odd, so it has an inverse modulo 2^64
_POWERS, _INVERSE_POWERS = (
    # Twice the block's length: lower-casing "İ" gives two characters.
    np.cumprod(np.full(2 * BLOCK_CHARACTERS, base, np.uint64))
    for base in (_BASE, pow(_BASE, -1, 1 << 64))
)

_NO_VALUE = np.iinfo(np.uint32).max


@dataclass(frozen=True)
class Bands:
    """How a signature is cut.

    Attributes:
        count: number of bands.
        rows: number of values in a band.
    """

    count: int
    rows: int

    @property
    def threshold(self) -> float:
        """The Jaccard similarity around which documents become near-duplicates."""
        return (1 / self.count) ** (1 / self.rows)


def signatures(texts: Sequence[str], functions: int) -> np.ndarray:
    """Return the MinHash signature of each text.

    Words are lower-cased runs of letters and digits; a Chinese character is a word. A text with
    fewer than five words has one n-gram: all its words.

    Args:
        texts: the texts.
        functions: K, the number of hash functions.

    Returns:
        uint32 [D, K]. All values of a text without a word are 2^32 - 1.
    """
    factors, offsets = split_mix(np.arange(1, 2 * functions + 1, dtype=np.uint64)).reshape(2, -1)
    factors |= np.uint64(1)  # odd, so that multiplying is one-to-one modulo 2^64
    minima = np.full((functions, len(texts)), _NO_VALUE, np.uint32)
    for ngrams, documents in _ngrams(texts):
        # Texts come in order, so the n-grams of each are next to each other.
        starts = np.flatnonzero(np.diff(documents, prepend=-1))
        columns = documents[starts]
        hashed = np.empty_like(ngrams)
        for row, factor, offset in zip(minima, factors, offsets, strict=True):
            np.multiply(ngrams, factor, out=hashed)
            np.add(hashed, offset, out=hashed)
            # The upper half: the low bits of a product depend on the low bits of the n-gram only.
            lowest = np.minimum.reduceat(hashed, starts) >> np.uint64(32)
            row[columns] = np.minimum(row[columns], lowest)
    return minima.T


def band_hashes(texts: Sequence[str], bands: Bands) -> tuple[np.ndarray, np.ndarray]:
    """Return a hash of each band of the texts' signatures, and which texts have a word.

    Equal bands have equal hashes. Bands of different contents or numbers have different ones.

    Returns:
        uint64 [D, bands.count] and bool [D].
    """
    minima = signatures(texts, bands.count * bands.rows)
    return hash_bands(minima, bands), (minima != _NO_VALUE).any(axis=1)


def hash_bands(minima: np.ndarray, bands: Bands) -> np.ndarray:
    """Return a hash of each band, uint64 [D, bands.count], of signatures, uint32 [D, K]."""
    values = minima.reshape(-1, bands.count, bands.rows).astype(np.uint64)
    numbers = split_mix(np.arange(1, bands.count + 1, dtype=np.uint64))
    hashed = np.broadcast_to(numbers, values.shape[:2])
    for row in range(bands.rows):
        hashed = split_mix(hashed ^ values[:, :, row])
    return hashed


def _ngrams(texts: Sequence[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield hashes of word n-grams, uint64 [N], and the numbers of their texts, int64 [N].

    The last words of a block are carried into the next one, so that n-grams do not depend on where
    blocks end.
    """
    after = NGRAM_WORDS - 1
    # Words of no text, so that those before them have successors, too.
    end = np.zeros(after, np.uint64), np.full(after, len(texts))
    words, documents = np.empty(0, np.uint64), np.empty(0, np.int64)
    before = -1  # number of the text that has the word before `words[0]`
    for more_words, more_documents in itertools.chain(hashed_words(texts), [end]):
        words = np.append(words, more_words)
        documents = np.append(documents, more_documents)
        count = len(words) - after
        if count > 0:
            hashed, used = _hashed_ngrams(words, documents, before)
            if len(used):
                yield hashed, documents[used]
            before = documents[count - 1]
            words, documents = words[count:], documents[count:]


def _hashed_ngrams(
    words: np.ndarray, documents: np.ndarray, before: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return hashes of the n-grams inside of texts, and the index of the first word of each.

    Args:
        words: uint64 [W]. Hashes of words.
        documents: int64 [W]. Number of the text that each word is in.
        before: number of the text that has the word before the first one.
    """
    count = len(words) - NGRAM_WORDS + 1
    here = documents[:count]
    is_first = np.diff(here, prepend=before) != 0
    hashed = words[:count].copy()
    for offset in range(1, NGRAM_WORDS):
        hashed *= np.uint64(_BASE)
        hashed += np.where(documents[offset:][:count] == here, words[offset:][:count], 0)
    # A text of fewer words has one n-gram, which begins at its first word.
    used = np.flatnonzero((documents[NGRAM_WORDS - 1 :] == here) | is_first)
    return split_mix(hashed[used]), used


def hashed_words(texts: Sequence[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield hashes of words, uint64 [W], and the numbers of their texts, int64 [W], by block."""
    block: list[str] = []
    numbers: list[int] = []
    size = 0
    for number, text in enumerate(texts):
        for part in _parts(text):
            if size + len(part) > 2 * BLOCK_CHARACTERS:
                yield _hashed(block, numbers)
                block, numbers, size = [], [], 0
            block.append(part)
            numbers.append(number)
            size += len(part)
    if block:
        yield _hashed(block, numbers)


def _parts(text: str) -> Iterator[str]:
    """Yield a text in lower case, in parts of a block at most that end between words."""
    start = 0
    while start < len(text):
        end = start + BLOCK_CHARACTERS - 1
        if end < len(text):
            # A word as long as a block is cut.
            end = max(text.rfind(" ", start, end), text.rfind("\n", start, end)) + 1 or end
        yield text[start:end].lower() + "\n"
        start = end


def _hashed(parts: Sequence[str], numbers: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return hashes of the words of some parts of texts, and the number of each word's text.

    A word's hash is a polynomial of its characters, computed from prefix sums of the block.
    """
    characters = np.frombuffer("".join(parts).encode("utf-32-le", "replace"), np.uint32)
    kinds = _CLASSES[characters]
    is_part, is_whole = kinds == _WORD, kinds == _WHOLE_WORD
    starts = np.flatnonzero(is_whole | (is_part & ~np.append(False, is_part[:-1])))
    ends = np.flatnonzero(is_whole | (is_part & ~np.append(is_part[1:], False))) + 1
    terms = characters * _POWERS[: len(characters)]
    sums = np.append(np.uint64(0), np.cumsum(terms, dtype=np.uint64))
    # Divided by the power at its start, a word has the same hash anywhere in a block.
    hashed = split_mix((sums[ends] - sums[starts]) * _INVERSE_POWERS[starts])
    part_ends = np.cumsum([len(part) for part in parts])
    return hashed, np.array(numbers)[np.searchsorted(part_ends, starts, side="right")]
