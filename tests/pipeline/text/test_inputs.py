"""A served model reads a text as it was trained to: arrays and the graph, held equal.

What is right is written down here a second time, as google-research/bert does it: with lists, one
sequence after another.
"""

import itertools
import lzma
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import tensorflow as tf

from pipeline.schema import INPUT_IDS, INPUT_MASK, SEGMENT_IDS, SPECIAL_TOKENS
from pipeline.text.inputs import (
    ARRAYS,
    NO_B,
    PAIR_MARKS,
    Graph,
    Marks,
    Operations,
    Spans,
    join,
    lay_out,
    tokenize_by_word,
    tokenize_with_masks,
    truncated,
    written_pieces,
)
from pipeline.text.tokenizer import Tokenizer, Vocabulary, WordUnit, build_tokenizer

PUBLISHED = Path(__file__).parents[2] / "golden" / "vocab_uncased_en.txt.xz"
MARKS = Marks(101, 102, 7)
LENGTHS = [*itertools.product(range(10), range(NO_B, 10))]
BACKENDS = pytest.mark.parametrize("operations", [ARRAYS, Graph()], ids=["arrays", "graph"])


def reference(first: list[int], second: list[int] | None, max_seq_length: int) -> list[list[int]]:
    """Return ids and segments of a sequence, truncated by google-research/bert's loop."""
    first, kept = [*first], [*(second or [])]
    room = max_seq_length - (2 if second is None else 3)
    while len(first) + len(kept) > room:
        (first if len(first) > len(kept) else kept).pop()
    ids, segments = [101, *first, 102], [0] * (len(first) + 2)
    if second is not None:
        ids, segments = [*ids, *kept, 102], segments + [1] * (len(kept) + 1)
    return [ids, segments]


def rows_of(lengths: tuple[int, int]) -> tuple[list[int], list[int] | None]:
    first, second = lengths
    return [*range(200, 200 + first)], None if second == NO_B else [*range(300, 300 + second)]


@BACKENDS
@pytest.mark.parametrize("max_seq_length", [3, 4, 5, 8, 11, 64])
def test_every_pair_of_lengths(operations: Operations, max_seq_length: int) -> None:
    cases = [case for case in LENGTHS if max_seq_length > 3 or case[1] == NO_B]
    rows = [rows_of(case) for case in cases]
    flat = np.array([piece for row in rows for part in row for piece in part or ()], np.int32)
    lengths = np.array(cases, np.int64).T
    starts = np.cumsum(lengths.clip(0).T.ravel()) - lengths.clip(0).T.ravel()
    starts = starts.reshape(-1, 2).T

    def laid_out(pieces, starts, lengths):
        kept = truncated(lengths[0], lengths[1], max_seq_length - PAIR_MARKS, operations)
        spans = Spans(starts[0], kept[0], starts[1], kept[1])
        return lay_out(pieces, spans, max_seq_length, MARKS, operations)

    in_graph = laid_out if operations is ARRAYS else tf.function(laid_out, autograph=False)
    laid = {name: np.array(part) for name, part in in_graph(flat, starts, lengths).items()}
    for index, row in enumerate(rows):
        ids, segments = reference(*row, max_seq_length)
        missing = max_seq_length - len(ids)
        assert laid[INPUT_IDS][index].tolist() == ids + [7] * missing, cases[index]
        assert laid[SEGMENT_IDS][index].tolist() == segments + [0] * missing, cases[index]
        assert laid[INPUT_MASK][index].tolist() == [1] * len(ids) + [0] * missing, cases[index]


@BACKENDS
def test_no_piece_and_no_sequence(operations: Operations) -> None:
    for count in (0, 2):
        zeros, none = np.zeros(count, np.int64), np.full(count, NO_B)
        if operations is not ARRAYS:
            zeros, none = tf.constant(zeros), tf.constant(none)
        spans = Spans(zeros, zeros, zeros, none)
        laid = lay_out(np.zeros(0, np.int32), spans, 3, MARKS, operations)
        assert np.array(laid[INPUT_IDS]).tolist() == [[101, 102, 7]] * count


@pytest.mark.parametrize("count", [0, 1, 9_000])
def test_joined_rows_have_no_padding(count: int) -> None:
    first = [np.arange(200, 200 + number % 9, dtype=np.int32) for number in range(count)]
    second = [np.arange(300, 300 + number % 7, dtype=np.int32) for number in range(count)]
    for rows in (None, second):
        joined = join(first, rows, MARKS)
        assert [row.dtype for row in joined] == [np.dtype(np.int32)] * count
        for number, row in enumerate(joined):
            b = None if rows is None else rows[number].tolist()
            assert row.tolist() == reference(first[number].tolist(), b, 99)[0]


# ---- strings


@pytest.fixture(scope="module", params=[True, False], ids=["uncased", "cased"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return build_tokenizer(pieces(), lower_case=request.param)


def pieces() -> list[str]:
    return lzma.decompress(PUBLISHED.read_bytes()).decode().split()


def all_of_unicode() -> list[str]:
    """Return every character but surrogates, alone, in words and around masks.

    A text has several blocks: each call of `written_pieces` takes 15 ms, whatever its text is.
    """
    characters = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    blocks = [characters[at : at + 256] for at in range(0, len(characters), 256)]
    patterns = itertools.cycle(["a b", "", "[MASK]"])
    parts = [pattern.join(block) for block, pattern in zip(blocks, patterns, strict=False)]
    return [" ".join(parts[at : at + 64]) for at in range(0, len(parts), 64)]


MASKS = [
    "", "[MASK]", "[MASK][MASK]", " [MASK] ", "The [MASK] barked.", "The[MASK]s", "[MASK", "[mask]",
    "[[MASK]]", "[MASK]\n[MASK] .", "##[MASK]ing", "[MA\u200bSK]", "[CLS] [SEP]", "\0[MASK]\0",
    "\ufffd", "e\u0301 [MASK]\u0301", "\u200d", "[MASK] " * 300,
]  # fmt: skip


@pytest.mark.slow
def test_all_of_unicode_gives_the_same_pieces_in_arrays_and_in_the_graph(
    tokenizer: Tokenizer,
) -> None:
    check_same_pieces(tokenizer, all_of_unicode())


def test_masks_give_the_same_pieces_in_arrays_and_in_the_graph(tokenizer: Tokenizer) -> None:
    check_same_pieces(tokenizer, MASKS)


def check_same_pieces(tokenizer: Tokenizer, texts: list[str]) -> None:
    mask_id = pieces().index("[MASK]")
    specification = [tf.TensorSpec([None], tf.string)]
    graph = tf.function(
        lambda texts: tokenize_with_masks(tokenizer, texts, mask_id), input_signature=specification
    )
    for text, row in zip(texts, graph(texts).to_list(), strict=True):
        written = written_pieces(tokenizer, text, mask_id)
        assert [piece.id for piece in written] == row, text
        # Independent of both: the pieces of what is between the masks.
        parts = tokenizer.tokenize(text.split("[MASK]")).to_list()
        expected = list(itertools.chain(*([mask_id, *part] for part in parts)))[1:]
        assert row == expected, text


def test_the_text_of_each_piece(tokenizer: Tokenizer) -> None:
    found = written_pieces(tokenizer, "unwanted, [MASK]\u2014 中x", pieces().index("[MASK]"))
    assert "".join(piece.text for piece in found) == "unwanted,[MASK]\u2014中x"
    spaced = [piece.text for piece in found if piece.is_spaced]
    assert [spaced[0][:2], *spaced[1:]] == ["un", "[MASK]", "\u2014", "中"]


@pytest.mark.parametrize("unit", get_args(WordUnit))
def test_words_and_their_pieces_in_arrays_and_in_the_graph(
    tokenizer: Tokenizer, unit: WordUnit
) -> None:
    vocabulary = Vocabulary(tuple(pieces()), "")
    texts = ["", "Ada Lovelace's 中 \u200b U.N.", "\u200d", "one"]

    def parts(texts: Any) -> tuple[Any, ...]:
        found = tokenize_by_word(tokenizer, texts, vocabulary, unit)
        return found.words, found.starts, found.limits, found.pieces, found.word_numbers

    eager, graph = parts(tf.constant(texts)), tf.function(parts)(tf.constant(texts))
    rows = [part.to_list() for part in eager]
    assert rows == [part.to_list() for part in graph]
    for text, words, starts, limits, row, numbers in zip(texts, *rows, strict=True):
        assert [text.encode()[a:b] for a, b in zip(starts, limits, strict=True)] == words
        by_word = tokenizer.tokenize_words(words, vocabulary).to_list() if words else []
        assert row == [piece for word in by_word for piece in word]
        assert numbers == [index for index, word in enumerate(by_word) for _ in word]


def test_special_tokens_are_what_a_vocabulary_says() -> None:
    vocabulary = Vocabulary(("a", *reversed(SPECIAL_TOKENS)), "")
    assert Marks.of(vocabulary) == Marks(3, 2, 5)
