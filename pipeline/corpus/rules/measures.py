"""What quality rules measure in a text, by the name that a file of thresholds uses.

Sources: Gopher = Rae et al. 2021 (arXiv 2112.11446), appendix A1.1. C4 = Raffel et al. 2020 (JMLR
21-140), section 2.2. FineWeb = Penedo et al. 2024 (arXiv 2406.17557), section 3.5. Where a paper
leaves a definition open, datatrove's is taken.
"""

from collections.abc import Callable, Collection
from functools import partial

from pipeline.corpus.rules import repetition
from pipeline.corpus.rules.text_view import TextView
from pipeline.text.sentences import split_sentences

Measure = Callable[..., float]
"""`TextView`, with the measure's parameters as keyword arguments → a number."""


def word_count(view: TextView) -> int:
    """Return the number of words that have a letter or a digit (Gopher)."""
    return int(view.are_no_symbols.sum())


def mean_word_length(view: TextView) -> float:
    """Return the mean number of characters of the words that `word_count` counts (Gopher)."""
    return float(view.word_lengths[view.are_no_symbols].sum() / max(word_count(view), 1))


def alphabetic_word_rate(view: TextView) -> float:
    """Return the share of words with a letter (Gopher)."""
    return view.share_of_words(int(view.have_letters.sum()))


def hash_rate(view: TextView) -> float:
    """Return the number of hash signs by the number of words (Gopher)."""
    return view.share_of_words(view.text.count("#"))


def ellipsis_rate(view: TextView) -> float:
    """Return the number of ellipses by the number of words (Gopher)."""
    return view.share_of_words(view.text.count("...") + view.text.count("…"))


def bullet_line_rate(view: TextView, *, bullets: Collection[str]) -> float:
    """Return the share of lines that begin with a bullet point (Gopher).

    Args:
        view: the text.
        bullets: beginnings of lines that are bullet points.
    """
    starts = tuple(bullets)
    return view.share_of_lines(sum(line.lstrip().startswith(starts) for line in view.lines))


def ellipsis_line_rate(view: TextView) -> float:
    """Return the share of lines that end with an ellipsis (Gopher)."""
    ends = ("...", "…")
    return view.share_of_lines(sum(line.rstrip().endswith(ends) for line in view.lines))


def stop_word_count(view: TextView, *, words: Collection[str]) -> int:
    """Return how many of the stop words occur (Gopher)."""
    return len({*words}.intersection(view.distinct))


def punctuated_line_rate(view: TextView, *, ends: Collection[str]) -> float:
    """Return the share of lines that end with a punctuation mark (FineWeb).

    Args:
        view: the text.
        ends: the punctuation marks.
    """
    marks = tuple(ends)
    return view.share_of_lines(sum(line.endswith(marks) for line in view.lines))


def short_line_rate(view: TextView, *, characters: int) -> float:
    """Return the share of lines of at most some characters (FineWeb)."""
    return view.share_of_lines(sum(len(line) <= characters for line in view.lines))


def line_break_rate(view: TextView) -> float:
    """Return the number of line breaks by the number of words (FineWeb)."""
    return view.share_of_words(view.text.count("\n"))


def phrase_count(view: TextView, *, phrases: Collection[str]) -> int:
    """Return how often some phrases occur, in any case (C4: lorem ipsum, curly brackets)."""
    lower = view.text.lower()
    return sum(lower.count(phrase.lower()) for phrase in phrases)


def sentence_count(view: TextView) -> int:
    """Return the number of sentences (C4), split as for the records."""
    return len(split_sentences(view.text, view.language))


MEASURES: dict[str, Measure] = {
    measure.__name__: measure
    for measure in (
        word_count,
        mean_word_length,
        alphabetic_word_rate,
        hash_rate,
        ellipsis_rate,
        bullet_line_rate,
        ellipsis_line_rate,
        stop_word_count,
        punctuated_line_rate,
        short_line_rate,
        line_break_rate,
        phrase_count,
        sentence_count,
        repetition.duplicate_paragraph_rate,
        repetition.duplicate_paragraph_character_rate,
        repetition.duplicate_line_rate,
        repetition.duplicate_line_character_rate,
        repetition.duplicate_character_rate,
    )
}
MEASURES |= {f"top_{n}_gram_rate": partial(repetition.top_n_gram_rate, n=n) for n in (2, 3, 4)}
MEASURES |= {
    f"duplicate_{n}_gram_rate": partial(repetition.duplicate_n_gram_rate, n=n) for n in range(5, 11)
}
