"""Examples as pieces in positions: labels at the right ones, nothing lost."""

from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.tasks.encoded import NO_LABEL, SHORTEST_WINDOW, Encoded
from model.tasks.encoder import Encoder
from model.tasks.examples import Examples
from model.tasks.span import question_room, windows
from model.tasks.squad import Question, Questions
from model.tasks.tagging import TaggedSentences
from model.tasks.task_kind import Task
from model.tasks.texts import Texts, of_texts
from model.training.config import DOC_STRIDE, Long
from pipeline.errors import InputError
from pipeline.text.tokenizer import Vocabulary, build_tokenizer

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "d", "##x", "##y", ".", "é"]
CLS, SEP, A, B, C, D, X, Y, DOT = 2, 3, 5, 6, 7, 8, 9, 10, 11
UNK = 1
PATH = Path("file.tsv")
SINGLE = Task("single", ("no", "yes"), takes_pairs=False)


@pytest.fixture(autouse=True, scope="module")
def _one_tokenizer() -> Iterator[None]:
    """Build each tokenizer once: it takes 50 ms, and properties try hundreds of encoders."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("model.tasks.encoder.build_tokenizer", cache(build_tokenizer))
        yield


def encoder(length: int, doc_stride: int = DOC_STRIDE) -> Encoder:
    vocabulary = Vocabulary.parse("\n".join(PIECES).encode(), PATH)
    return Encoder(vocabulary, lower_case=True, max_seq_length=length, doc_stride=doc_stride)


def encoded(by: Encoder, examples: Examples, task: Task) -> Encoded:
    """Return a task's examples, encoded by an encoder."""
    return task.definition.encode(by, examples, task)


def lists(rows: list) -> list:
    return [row.tolist() for row in rows]


def test_texts() -> None:
    examples = Texts(PATH, [("A b",), (" ",), ("a ax b c",)], ["yes", "no", "no"], [2, 3, 4], [])
    found = encoded(encoder(6), examples, SINGLE)
    assert lists(found.input_ids) == [[CLS, A, B, SEP], [CLS, SEP], [CLS, A, A, X, B, SEP]]
    assert found.first_lengths.tolist() == [4, 2, 6]
    assert found.labels.tolist() == [1, 0, 0]
    assert found.counts == {"truncated": 1, "empty": 1}


def test_pairs_lose_the_end_of_the_longer_text() -> None:
    task = Task("regression", (), takes_pairs=True)
    texts = [("a b c d", "d"), ("a", "b c d a")]
    examples = Texts(PATH, texts, ["0.5", "-2"], [2, 3], [])
    found = encoded(encoder(6), examples, task)
    assert lists(found.input_ids) == [[CLS, A, B, SEP, D, SEP], [CLS, A, SEP, B, C, SEP]]
    assert found.first_lengths.tolist() == [4, 3]
    assert found.labels.tolist() == [0.5, -2]
    assert found.counts["truncated"] == 2


@pytest.mark.parametrize(
    ("task", "label", "message"),
    [
        (SINGLE, "maybe", r"file.tsv: line 8: the label 'maybe' is not in .* \(no, yes\)"),
        (Task("regression", (), takes_pairs=False), "high", "line 8: 'high' is not a number"),
        (Task("regression", (), takes_pairs=False), "nan", "line 8: 'nan' is not a finite number"),
        (Task("regression", (), takes_pairs=False), "-1e39", "'-1e39' is beyond 1e\\+15: its"),
        # In float32 it is a number, and its square is infinite.
        (Task("regression", (), takes_pairs=False), "1e38", "'1e38' is beyond .*; scale the num"),
    ],
)
def test_invalid_labels(task: Task, label: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        encoded(encoder(9), Texts(PATH, [("a",)], [label], [8], []), task)


TAGS = Task("tagging", ("B", "O"), takes_pairs=False)


def test_a_tag_is_at_the_first_piece_of_its_word() -> None:
    # A word of controls alone has no piece, and still has a tag.
    examples = TaggedSentences(PATH, [["axy", "b", "\u200b"]], [["B", "O", "B"]], [2])
    found = encoded(encoder(9), examples, TAGS)
    assert lists(found.input_ids) == [[CLS, A, X, Y, B, UNK, SEP]]
    assert lists(found.labels) == [[NO_LABEL, 0, NO_LABEL, NO_LABEL, 1, 0, NO_LABEL]]


def test_a_long_sentence_becomes_windows_that_overlap() -> None:
    examples = TaggedSentences(
        PATH, [["d"], ["a", "bx", "c", "dxyxy"]], [["O"], ["B", "O", "B", "O"]], [2, 4]
    )
    found = encoded(encoder(6), examples, TAGS)
    assert lists(found.input_ids) == [
        [CLS, D, SEP],
        [CLS, A, B, X, C, SEP],
        [CLS, X, C, D, X, SEP],
        [CLS, D, X, Y, X, SEP],
        [CLS, Y, X, Y, SEP],
    ]
    none = NO_LABEL  # a word is labelled once: where it is nearest to the middle of the window
    assert lists(found.labels) == [
        [none, 1, none],
        [none, 0, 1, none, none, none],
        [none, none, 0, 1, none, none],
        [none] * 6,
        [none] * 5,
    ]
    assert found.sources.tolist() == [0, 1, 1, 1, 1]
    assert found.counts == {"in parts": 1}


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=60), max_seq_length=st.integers(5, 40)
)
def test_every_word_of_a_long_sentence_is_labelled_once(
    lengths: list[int], max_seq_length: int
) -> None:
    words = ["a" + "x" * (length - 1) for length in lengths]
    tags = ["BO"[index % 7 // 4] for index in range(len(words))]
    examples = TaggedSentences(PATH, [words], [tags], [1])
    found = encoded(encoder(max_seq_length, 1), examples, TAGS)
    labels = np.concatenate(found.labels)
    assert ["BO"[label] for label in labels[labels != NO_LABEL]] == tags
    for ids, row in zip(found.input_ids, found.labels, strict=True):
        assert len(ids) == len(row) <= max_seq_length
        assert set(ids[row != NO_LABEL]) <= {A}  # at first pieces only


def test_an_unknown_tag() -> None:
    with pytest.raises(InputError, match="line 7: the tag 'X' of this sentence is not in"):
        encoded(encoder(9), TaggedSentences(PATH, [["a"]], [["X"]], [7]), TAGS)


SPAN = Task("span", (), takes_pairs=True)


def question(passage: str, *answers: tuple[str, int]) -> Questions:
    return Questions(PATH, [Question("id", "b b", passage, answers)])


def test_an_answer_is_labelled_at_the_pieces_of_its_words() -> None:
    # é has two bytes: characters and bytes differ from there on.
    found = encoded(encoder(20), question("é c ax. d", ("ax", 4)), SPAN)
    assert lists(found.input_ids) == [[CLS, B, B, SEP, UNK, C, A, X, DOT, D, SEP]]
    assert found.first_lengths.tolist() == [4]
    assert found.labels.tolist() == [[6, 7]]
    none = NO_LABEL
    assert lists(found.words) == [[none, none, none, none, 0, 1, 2, 2, 3, 4, none]]


def test_a_long_passage_becomes_parts_that_overlap() -> None:
    found = encoded(encoder(9, doc_stride=2), question("a b c d a b", ("d", 6)), SPAN)
    assert lists(found.input_ids) == [
        [CLS, B, B, SEP, A, B, C, D, SEP],
        [CLS, B, B, SEP, C, D, A, B, SEP],
    ]
    assert found.labels.tolist() == [[7, 7], [5, 5]]
    assert found.counts["in parts"] == 1
    cut = encoded(encoder(9, doc_stride=4), question("a b c d a b", ("d a", 6)), SPAN)
    assert cut.labels.tolist() == [[0, 0], [0, 0]]  # whole in none of them


@given(length=st.integers(0, 500), room=st.integers(1, 300), stride=st.integers(1, 600))
def test_windows_cover_a_passage_and_end(length: int, room: int, stride: int) -> None:
    found = windows(length, room, stride)
    assert found[0][0] == 0
    assert found[-1][1] == length
    assert all(end - first <= room for first, end in found)
    for (first, end), (following, _) in pairwise(found):
        assert first < following <= end < length  # advances, leaves no gap, and is not the last


@pytest.mark.parametrize(("room", "stride"), [(0, 1), (1, 0), (-3, 128), (128, -1)])
def test_windows_that_would_not_advance(room: int, stride: int) -> None:
    with pytest.raises(ValueError, match="room and stride must be at least 1, received"):
        windows(9, room, stride)


@settings(deadline=None)  # the first example builds the tokenizer
@given(
    question_pieces=st.integers(0, 80),
    passage_pieces=st.integers(0, 200),
    max_seq_length=st.integers(SHORTEST_WINDOW, 100),
    stride=st.integers(1, 150),
)
def test_every_question_with_every_passage_is_encoded(
    question_pieces: int, passage_pieces: int, max_seq_length: int, stride: int
) -> None:
    asked = Question("id", "b " * question_pieces, "c " * passage_pieces, ())
    found = encoded(encoder(max_seq_length, stride), Questions(PATH, [asked]), SPAN)
    read = min(question_pieces, question_room(max_seq_length))
    assert all(len(ids) <= max_seq_length for ids in found.input_ids)
    assert found.first_lengths.tolist() == [read + 2] * len(found)
    assert {int(word) for words in found.words for word in words} == {
        NO_LABEL, *range(passage_pieces),
    }  # fmt: skip


def test_windows_and_strides_out_of_range() -> None:
    with pytest.raises(InputError, match="reads 4 positions; at least 5 are needed"):
        encoder(4)
    with pytest.raises(ValueError, match="doc_stride must be at least 1, received 0"):
        encoder(9, doc_stride=0)


def test_an_answer_after_a_nul() -> None:
    found = encoded(encoder(20), question("c \x00 d ax.", ("ax", 6)), SPAN)
    assert lists(found.input_ids) == [[CLS, B, B, SEP, C, D, A, X, DOT, SEP]]
    assert found.labels.tolist() == [[6, 7]]
    assert found.word_bytes[0].tolist() == [[0, 1], [4, 5], [6, 8], [8, 9]]


def test_no_answer_and_no_passage() -> None:
    assert encoded(encoder(9), question("a b"), SPAN).labels.tolist() == [[0, 0]]
    found = encoded(encoder(9), question(""), SPAN)
    assert lists(found.input_ids) == [[CLS, B, B, SEP, SEP]]
    assert not np.any(np.concatenate(found.words) != NO_LABEL)


LONG_TEXT = "a b c d a b c d a b"


@pytest.mark.parametrize(
    ("long", "rows", "sources"),
    [
        ("first-last", [[A, C, D, A, B], [A, B]], [0, 1]),
        ("mean-of-windows", [[A, B, C, D, A], [C, D, A, B, C], [A, B, C, D, A], [C, D, A, B],
                             [A, B]], [0, 0, 0, 0, 1]),
    ],
)  # fmt: skip
def test_parts_of_a_long_text_that_are_read(long: Long, rows: list, sources: list[int]) -> None:
    vocabulary = Vocabulary.parse("\n".join(PIECES).encode(), PATH)
    reading = Encoder(vocabulary, lower_case=True, max_seq_length=7, long=long)
    examples = Texts(PATH, [(LONG_TEXT,), ("a b",)], ["yes", "no"], [2, 3], [])
    found = encoded(reading, examples, SINGLE)
    assert lists(found.input_ids) == [[CLS, *row, SEP] for row in rows]
    assert found.sources.tolist() == sources
    assert found.labels.tolist() == [1 - source for source in sources]
    assert found.counts == {"too long": 1, "empty": 0}
    logits = [np.float32([index, 1]) for index in range(len(rows))]
    averaged, labels = of_texts(found, logits)
    assert labels.tolist() == [1, 0]
    assert averaged[:, 0].tolist() == [(len(rows) - 2) / 2, len(rows) - 1]
