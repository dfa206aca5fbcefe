"""Overlapping windows over the pieces of a long text: one arithmetic for NumPy and for the graph.

A window begins every `step` pieces and has at most `room` of them; the last one ends with the text.
"""

from dataclasses import dataclass
from typing import Any

from model import served
from pipeline.schema import Tensors
from pipeline.text.inputs import ARRAYS, Graph, Operations

_GRAPH = Graph()


def window_step(room: Any, stride: int, operations: Operations = ARRAYS) -> Any:
    """Return the pieces between the starts of two windows: the stride, but at most a window.

    Args:
        room: int, or int [N]. Maximum number of pieces in a window, at least 1.
        stride: requested pieces between two starts, at least 1.
        operations: NumPy or TensorFlow operations, matching the arguments.
    """
    return operations.minimum(room, stride)


def window_count(length: Any, room: Any, step: Any, operations: Operations = ARRAYS) -> Any:
    """Return the number of windows that cover a text; a text without pieces has one, too.

    Args:
        length: int, or int [N]. Pieces of the text.
        room: int, or int [N]. Maximum number of pieces in a window, at least 1.
        step: int, or int [N]. See `window_step`.
        operations: NumPy or TensorFlow operations, matching the arguments.
    """
    # minimum(…) is negative by the pieces that do not fit into the first window.
    return 1 - operations.minimum(room - length, 0) // step


def window_with_most_context(position: Any, room: Any, step: Any, count: Any) -> Any:
    """Return the window in which a piece is farthest from where the text was cut.

    That is the window with the nearest middle. The piece is in it, because `step` is at most
    `room`; the first and the last window take the pieces at the ends of the text.

    Args:
        position: int [N]. Index of the piece in its text.
        room: int, or int [N]. Maximum number of pieces in a window.
        step: int, or int [N]. See `window_step`.
        count: int [N]. Number of windows of the text.

    Returns:
        int [N]. Index of the window, from 0.
    """
    # Middles are at number · step + (room - 1) / 2; rounding to the nearest, all doubled to stay
    # whole.
    nearest = (2 * position - (room - 1) + step) // (2 * step)
    return nearest.clip(0, count - 1) if hasattr(nearest, "clip") else _clipped(nearest, count - 1)


def half_windows(max_seq_length: int) -> tuple[int, int]:
    """Return the number of pieces in a window of one text, and between the starts of two.

    Windows overlap by half, so every word has at least a quarter of a window on both sides, if the
    text has.
    """
    room = max_seq_length - 2
    return room, max(room // 2, 1)


def is_first_or_last(position: Any, length: Any, room: int) -> Any:
    """Return whether pieces are kept of a text of which beginning and end are read: bool [N].

    A quarter of the room is the beginning's, the rest the end's (Sun et al. 2019,
    https://arxiv.org/abs/1905.05583, section 5.3.1: 128 and 382 of 510). Of a text that fits, all
    pieces are kept.

    Args:
        position: int [N]. Index of each piece in its text.
        length: int, or int [N]. Pieces of the text.
        room: most pieces that are kept.
    """
    head = room // 4
    return (position < head) | (position >= length - (room - head))


def _clipped(values: Any, most: Any) -> Any:
    import tensorflow as tf

    return tf.clip_by_value(values, tf.zeros_like(values), most)


@dataclass(frozen=True)
class ReadTexts:
    """The texts of a served batch, their words, and the windows they were read in.

    Attributes:
        texts: string [B].
        words: the words of the texts, `WordPieces`; None where no words are asked for.
        rows: int64 [T]. Text of each window, ascending.
        counts: int64 [B]. Number of words of each text that were read; the others are at its end.
        most: int32 [B], for requests that name one: number of answers to each text; else None.
    """

    texts: Any
    words: Any
    rows: Any
    counts: Any
    most: Any = None

    def places(self, rows: Any, first: Any, last: Any) -> Tensors:
        """Return where words are in their texts, in the units that programming languages count in.

        Args:
            rows: int64 [...]. Text of each run of words.
            first: int32 [...]. First word; negative = no words.
            last: int32 [...]. Last word.

        Returns:
            start, end: int32 [...]. Byte offset of the words, and byte offset after their end; 0
                and 0 = no words.
            start_code_point, end_code_point, start_utf16, end_utf16: int32 [...]. The same in
                Unicode code points, and in the units of UTF-16.
        """
        import tensorflow as tf

        of_row = tf.gather(self.words.starts.row_starts(), rows)
        offsets = CharacterOffsets(self.texts)
        places: Tensors = {}
        for name, word, of_words in (
            (served.START, first, self.words.starts),
            (served.END, last, self.words.limits),
        ):
            at = _GRAPH.take(of_words.flat_values, of_row + tf.cast(word, tf.int64))
            # `take` clipped the index of "no words"; its place is 0.
            at = tf.where(first < 0, tf.zeros_like(at), at)
            counted = {"": at, **offsets.at(rows, at)}
            places |= {name + unit: tf.cast(value, tf.int32) for unit, value in counted.items()}
        return places


class CharacterOffsets:
    """Converts byte offsets in UTF-8 texts to offsets in code points and in units of UTF-16.

    Python counts in code points; JavaScript, Java and C# in units of UTF-16, which has two for a
    character outside the Basic Multilingual Plane.
    """

    def __init__(self, texts: Any) -> None:
        """Count the characters of texts, string [B]."""
        import tensorflow as tf

        lengths = tf.strings.length(texts)
        self._starts = tf.cumsum(lengths, exclusive=True)  # of each text in all of them
        data = tf.cast(tf.io.decode_raw(tf.strings.reduce_join(texts), tf.uint8), tf.int32)
        is_first = (data < 0x80) | (data >= 0xC0)  # not 10xxxxxx, a continuation byte
        is_beyond = data >= 0xF0  # the first of four bytes
        self._before = {
            served.CODE_POINT: _counts_before(is_first),
            served.UTF16: _counts_before(is_first) + _counts_before(is_beyond),
        }

    def at(self, rows: Any, offsets: Any) -> Tensors:
        """Return int32 [...] by the suffix of the unit.

        Args:
            rows: int64 [...]. Index of each offset's text.
            offsets: int64 [...]. Byte offset at the start of a character, or at the text's end.
        """
        import tensorflow as tf

        starts = tf.cast(tf.gather(self._starts, rows), tf.int64)
        return {
            unit: tf.gather(before, starts + offsets) - tf.gather(before, starts)
            for unit, before in self._before.items()
        }


def _counts_before(are_counted: Any) -> Any:
    """Return how many of bool [N] are True before each index, and in all: int32 [N + 1]."""
    import tensorflow as tf

    return tf.pad(tf.cumsum(tf.cast(are_counted, tf.int32)), [[1, 0]])
