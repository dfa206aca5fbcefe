"""The best answer spans of windows: one search for evaluation and for the served graph.

Shapes: K windows, L positions, S spans of each window.
"""

from typing import Any

from model.tasks.encoded import NO_LABEL
from pipeline.text.tokenizer import MAX_WORD_BYTES

MAX_ANSWER_WORDS = 30
"""Maximum number of words of an answer, as in google-research/bert (run_squad.py), which counts
pieces."""

IMPOSSIBLE = -1e9
"""Scores below this are those of runs of words that cannot be an answer."""

_LOWEST = -1e30
"""Score of a position that no answer starts or ends at; the sum of two is still a number."""


def best_spans(scores: Any, at: Any, count: Any = 1) -> tuple[Any, Any, Any]:
    """Return the best answers in each window: their scores, first words and last words, [K, S].

    An answer starts at the first or a later piece of a word, does not end before its start, and has
    at most `MAX_ANSWER_WORDS` words. Its score is the sum of the scores of its start and its end,
    the best of the pieces of its first and its last word; so no two answers of a window have the
    same words. Of equal ones, the first and shortest stands first. All starts and ends are
    combined, not the best 20 of each as in google-research/bert, so that a window with words always
    has an answer.

    This is part of the exported graph; evaluation calls it with arrays.

    Args:
        scores: float32 [K, L, 2]. Scores of starts and ends.
        at: int32 [K, L]. Index of the word at each position, `NO_LABEL` at other positions. The
            positions of a window's words are one run, in the order of the text.
        count: int. S, from 1 to `MAX_SPANS`.

    Returns:
        score: float32 [K, S]. Descending; below `IMPOSSIBLE` if the window has fewer answers.
        first, last: int32 [K, S]. Indices of words; `NO_LABEL` = the window has fewer answers.
    """
    import tensorflow as tf

    windows, length = tf.unstack(tf.shape(at))
    of_word = at != NO_LABEL
    # Positions without a word must not be the minimum.
    before = tf.reduce_min(tf.where(of_word, at, tf.int32.max), axis=1, keepdims=True)
    # Words are counted from the first one of their window, so their number is below L.
    row = tf.range(windows)[:, tf.newaxis] * length
    word = tf.where(of_word, row + at - before, NO_LABEL)

    def by_word(values: Any) -> Any:
        """Return the maximum of [K, L] over the pieces of each word: [K, L] by word."""
        best = tf.math.unsorted_segment_max(
            tf.reshape(values, [-1]), tf.reshape(word, [-1]), windows * length
        )
        return tf.maximum(tf.reshape(best, [windows, length]), _LOWEST)

    starts, ends = scores[:, :, 0], scores[:, :, 1]
    # In one word, the start must not come after the end; in two, it cannot.
    within = by_word(_best_start_before(starts, word) + ends)
    # The answers that start with a word: of this word alone, and of so many more.
    following = tf.range(length)[:, tf.newaxis] + tf.range(1, MAX_ANSWER_WORDS)
    later = tf.pad(by_word(ends), [[0, 0], [0, MAX_ANSWER_WORDS]], constant_values=_LOWEST)
    longer = by_word(starts)[:, :, tf.newaxis] + tf.gather(later, following, axis=1)
    totals = tf.concat([within[:, :, tf.newaxis], longer], axis=2)  # [K, L, words of the answer]
    flat = tf.reshape(totals, [windows, length * MAX_ANSWER_WORDS])
    # top_k returns the lower index first among equals: the first and shortest answer.
    best, places = tf.math.top_k(flat, count)
    # A place is (first word, number of further words) in one number.
    first = before + places // MAX_ANSWER_WORDS
    last = first + places % MAX_ANSWER_WORDS
    is_answer = best > IMPOSSIBLE
    return best, tf.where(is_answer, first, NO_LABEL), tf.where(is_answer, last, NO_LABEL)


def _best_start_before(starts: Any, word: Any) -> Any:
    """Return the maximum of the starts from the first piece of a word to each piece: [K, L].

    Each step doubles the number of pieces that the maximum is over.

    Args:
        starts: float32 [K, L].
        word: int32 [K, L]. Word at each position; equal for all pieces of a word.
    """
    import tensorflow as tf

    best, length = starts, tf.shape(word)[1]
    reach = 1
    while reach < MAX_WORD_BYTES:  # a piece has at least a byte
        shift = tf.minimum(reach, length)
        earlier, of_earlier = (
            tf.pad(each, [[0, 0], [shift, 0]], constant_values=nothing)[:, :length]
            for each, nothing in ((best, _LOWEST), (word, NO_LABEL))
        )
        best = tf.where(of_earlier == word, tf.maximum(best, earlier), best)
        reach *= 2
    return best
