"""Measures of repetition in a text, all in linear or n·log(n) time.

Rae et al. 2021, "Scaling Language Models: Methods, Analysis & Insights from Training Gopher"
(arXiv 2112.11446), table A1. The definitions are those of datatrove's `GopherRepetitionFilter`.
"""

import re
from collections.abc import Iterable

import numpy as np

from pipeline.corpus.rules.text_view import TextView

_PARAGRAPHS = re.compile(r"\n{2,}")
_LINES = re.compile(r"\n+")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, so multiplication modulo 2^64 is a permutation


def duplicate_paragraph_rate(view: TextView) -> float:
    """Return the share of paragraphs that occurred before."""
    paragraphs = _PARAGRAPHS.split(view.text.strip())
    return _duplicates(paragraphs)[0] / len(paragraphs)


def duplicate_paragraph_character_rate(view: TextView) -> float:
    """Return the share of characters in paragraphs that occurred before."""
    return _duplicates(_PARAGRAPHS.split(view.text.strip()))[1] / len(view.text)


def duplicate_line_rate(view: TextView) -> float:
    """Return the share of lines that occurred before."""
    lines = _LINES.split(view.text)
    return _duplicates(lines)[0] / len(lines)


def duplicate_line_character_rate(view: TextView) -> float:
    """Return the share of characters in lines that occurred before."""
    return _duplicates(_LINES.split(view.text))[1] / len(view.text)


def duplicate_character_rate(view: TextView) -> float:
    """Return the same as `duplicate_line_character_rate`, without line breaks (FineWeb).

    Penedo et al. 2024, "The FineWeb Datasets" (arXiv 2406.17557), section 3.5.
    """
    return _duplicates(view.lines)[1] / max(len(view.text) - view.text.count("\n"), 1)


def _duplicates(parts: Iterable[str]) -> tuple[int, int]:
    """Return the number of parts that are equal to an earlier one, and their characters."""
    seen: set[str] = set()
    count = characters = 0
    for part in parts:
        if part in seen:
            count += 1
            characters += len(part)
        else:
            seen.add(part)
    return count, characters


def top_n_gram_rate(view: TextView, n: int) -> float:
    """Return the share of characters in the most frequent n-gram, spaces inside included.

    Of several with the same count, the one that occurs first is measured.
    """
    keys = _n_grams(view, n)
    if not len(keys):
        return 0.0
    ordered = np.sort(keys)
    ends = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(ordered) - 1)
    counts = np.diff(ends, prepend=-1)
    most = int(counts.max())
    # If no n-gram is repeated, all have the same count, and the first one is measured.
    first = 0 if most == 1 else int(np.isin(keys, ordered[ends[counts == most]]).argmax())
    characters = sum(map(len, view.words[first : first + n])) + n - 1
    return characters * most / len(view.text)


def duplicate_n_gram_rate(view: TextView, n: int) -> float:
    """Return the share of characters in n-grams of words that occurred before.

    A repeated n-gram is passed over as a whole, so no character counts twice.
    """
    keys = _n_grams(view, n)
    ordered = np.sort(keys)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(repeated):
        return 0.0
    positions = np.flatnonzero(np.isin(keys, np.unique(repeated)))
    lengths = view.distinct_lengths[view.word_ids]
    ends = np.concatenate([[0], np.cumsum(lengths)])
    sizes = ends[positions + n] - ends[positions]
    return _repeated(positions, keys[positions], sizes, n) / len(view.text)


def _repeated(positions: np.ndarray, keys: np.ndarray, sizes: np.ndarray, n: int) -> int:
    """Return the characters of n-grams that occurred before and do not overlap.

    Args:
        positions: index of the first word of each n-gram that occurs several times, ascending.
        keys: key of each n-gram.
        sizes: characters of each n-gram.
        n: words in an n-gram.
    """
    seen: set[int] = set()
    free = characters = 0  # `free`: the first word that no counted n-gram covers
    rows = zip(positions.tolist(), keys.tolist(), sizes.tolist(), strict=True)
    for position, key, size in rows:
        if position < free:
            continue
        if key in seen:
            characters += size
            free = position + n
        else:
            seen.add(key)
    return characters


def _n_grams(view: TextView, n: int) -> np.ndarray:
    """Return a 64-bit key of each n-gram of words, uint64 [words - n + 1]; empty if too few."""
    if n not in view.n_grams:
        view.n_grams[n] = _keys(view, n)
    return view.n_grams[n]


def _keys(view: TextView, n: int) -> np.ndarray:
    if n == 1:
        keys = view.word_ids.astype(np.uint64) * _MULTIPLIER
        # Else the keys of n-grams would be linear in the ids, which are small.
        keys ^= keys >> np.uint64(29)
        return keys
    keys = _n_grams(view, n - 1)[:-1] * _MULTIPLIER
    keys ^= keys >> np.uint64(32)
    keys += _n_grams(view, 1)[n - 1 :]
    return keys
