"""Measures of repetition in a text, all in linear or n·log(n) time.

Rae et al. 2021, "Scaling Language Models: Methods, Analysis & Insights from Training Gopher"
(arXiv 2112.11446), table A1. The definitions are those of datatrove's `GopherRepetitionFilter`.
"""

import numpy as np

from pipeline.corpus.rules.text_view import Repeated, TextView


def duplicate_paragraph_rate(view: TextView) -> float:
    """Return the share of paragraphs that occurred before."""
    return view.duplicate_paragraphs.count / view.duplicate_paragraphs.of


def duplicate_paragraph_character_rate(view: TextView) -> float:
    """Return the share of characters in paragraphs that occurred before."""
    return view.duplicate_paragraphs.characters / len(view.text)


def duplicate_line_rate(view: TextView) -> float:
    """Return the share of lines that occurred before."""
    return view.duplicate_lines.count / view.duplicate_lines.of


def duplicate_line_character_rate(view: TextView) -> float:
    """Return the share of characters in lines that occurred before."""
    return view.duplicate_lines.characters / len(view.text)


def duplicate_character_rate(view: TextView) -> float:
    """Return the same as `duplicate_line_character_rate`, without line breaks (FineWeb).

    Penedo et al. 2024, "The FineWeb Datasets" (arXiv 2406.17557), section 3.5.
    """
    characters = len(view.text) - view.text.count("\n")
    return Repeated.among(view.lines).characters / max(characters, 1)


def top_n_gram_rate(view: TextView, n: int) -> float:
    """Return the share of characters in the most frequent n-gram, spaces inside included.

    Of several with the same count, the one that occurs first is measured.
    """
    if len(view.words) < n:
        return 0.0
    positions, numbers = repeats(view, n)
    # If no n-gram is repeated, all have the same count, and the first one is measured.
    first, most = 0, 1
    if len(positions):
        counts = np.bincount(numbers)
        most = int(counts.max())
        first = int(positions[(counts[numbers] == most).argmax()])
    characters = sum(map(len, view.words[first : first + n])) + n - 1
    return characters * most / len(view.text)


def duplicate_n_gram_rate(view: TextView, n: int) -> float:
    """Return the share of characters in n-grams of words that occurred before.

    A repeated n-gram is passed over as a whole, so no character counts twice.
    """
    positions, numbers = repeats(view, n)
    if not len(positions):
        return 0.0
    ends = np.concatenate([[0], np.cumsum(view.word_lengths)])
    sizes = ends[positions + n] - ends[positions]
    return _repeated(positions, numbers, sizes, n) / len(view.text)


def _repeated(positions: np.ndarray, numbers: np.ndarray, sizes: np.ndarray, n: int) -> int:
    """Return the characters of n-grams that occurred before and do not overlap.

    Args:
        positions: index of the first word of each n-gram that occurs several times, ascending.
        numbers: number of each distinct n-gram.
        sizes: characters of each n-gram.
        n: words in an n-gram.
    """
    seen: set[int] = set()
    free = characters = 0  # `free`: the first word that no counted n-gram covers
    rows = zip(positions.tolist(), numbers.tolist(), sizes.tolist(), strict=True)
    for position, number, size in rows:
        if position < free:
            continue
        if number in seen:
            characters += size
            free = position + n
        else:
            seen.add(number)
    return characters


def repeats(view: TextView, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the n-grams of words that occur several times.

    Returns:
        int64 [M]: index of the first word of each, ascending. int64 [M]: number of each distinct
        one, from 0.
    """
    if n not in view.repeats:
        view.repeats[n] = _repeats(view, n)
    return view.repeats[n]


def _repeats(view: TextView, n: int) -> tuple[np.ndarray, np.ndarray]:
    if n == 1:  # all words: those that occur once are few, and do no harm
        return np.arange(len(view.words)), view.word_ids
    # A repeated n-gram begins with a repeated one of one word less. Most texts soon have none.
    positions, numbers = repeats(view, n - 1)
    if not len(positions):
        return positions, numbers
    inside = np.searchsorted(positions, len(view.words) - n, side="right")
    positions, numbers = positions[:inside], numbers[:inside]
    keys = numbers * len(view.distinct) + view.word_ids[positions + n - 1]
    ordered = np.sort(keys)
    several = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(several):
        return several, several
    distinct = several[np.append(True, several[1:] != several[:-1])]
    numbers = np.minimum(np.searchsorted(distinct, keys), len(distinct) - 1)
    is_repeated = distinct[numbers] == keys
    return positions[is_repeated], numbers[is_repeated]
