from random import Random

import numpy as np
import pytest

from pipeline.records.pairs import DRAW_PAIRS, Pairs, ShardText, lay_out, split_long, truncate
from pipeline.schema import IS_NEXT, IS_RANDOM, IS_SWAPPED, Overflow, Pairing
from pipeline.text.inputs import NO_B, Marks


def shard(documents: list[list[int]], keys: list[bytes] | None = None) -> ShardText:
    """Documents given as sentence lengths; piece number n of the shard has id 100 + n."""
    lengths = [length for document in documents for length in document]
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return ShardText(
        piece_ids=np.arange(100, 100 + starts[-1], dtype=np.int32),
        sentence_starts=starts,
        document_starts=tuple(np.concatenate([[0], np.cumsum([len(d) for d in documents])])),
        document_keys=tuple(keys or [b"%d" % i for i in range(len(documents))]),
    )


def draw(
    text: ShardText,
    seed: int,
    pairing: Pairing = "nsp",
    *,
    length: int = 64,
    short_seq_rate: float = 0.1,
    overflow: Overflow = "cut",
) -> tuple[Pairs, int]:
    return DRAW_PAIRS[pairing](
        text,
        Random(seed),
        max_seq_length=length,
        short_seq_rate=short_seq_rate,
        overflow=overflow,
    )


def document_of(text: ShardText, piece: int) -> int:
    sentence = int(np.searchsorted(text.sentence_starts, piece, side="right")) - 1
    return int(np.searchsorted(text.document_starts, sentence, side="right")) - 1


@pytest.fixture(scope="module")
def big() -> ShardText:
    rng = Random(3)
    return shard([[rng.randint(2, 30) for _ in range(rng.randint(2, 40))] for _ in range(300)])


@pytest.fixture(scope="module")
def drawn(big: ShardText) -> Pairs:
    return draw(big, 11)[0]


def test_true_next_follows_in_the_same_document(big: ShardText, drawn: Pairs) -> None:
    starts = set(big.sentence_starts.tolist())
    for (a, a_length, b, b_length), label in zip(
        drawn.spans, drawn.next_sentence_labels, strict=True
    ):
        if label == IS_NEXT:
            assert document_of(big, a) == document_of(big, b)
            # Between the end of A and the beginning of B nothing but what truncation took away.
            gap_has_sentence_start = any(p in starts for p in range(a + a_length, b + 1))
            assert a + a_length <= b
            assert gap_has_sentence_start or b == a + a_length
        else:
            assert document_of(big, a) != document_of(big, b)
        assert b_length > 0


@pytest.mark.parametrize("sentences", [2, 3, 40])
@pytest.mark.parametrize("length", [5, 90])
def test_half_of_the_pairs_are_random(sentences: int, length: int) -> None:
    # Documents of two or three sentences end, half of the time, with one that has no continuation;
    # sentences of 90 pieces fill a pair alone.
    text = shard([[length] * sentences for _ in range(6000 // sentences)])
    pairs, _ = draw(text, 1)
    rate = (pairs.next_sentence_labels == IS_RANDOM).mean()
    assert abs(rate - 0.5) < 5 * 0.5 / len(pairs) ** 0.5


def test_random_next_is_spread_over_all_documents(big: ShardText) -> None:
    counts = np.zeros(300)
    for seed in range(5):
        pairs, _ = draw(big, seed)
        for start, label in zip(pairs.spans[:, 2], pairs.next_sentence_labels, strict=True):
            if label == IS_RANDOM:
                counts[document_of(big, start)] += 1
    expected = counts.sum() / 300
    chi_square = ((counts - expected) ** 2 / expected).sum()
    # 299 degrees of freedom: mean 299, standard deviation 24.5.
    assert chi_square < 299 + 5 * 24.5


def test_every_sentence_is_used_as_a_or_true_b() -> None:
    text = shard([[3, 4, 5], [6, 2]])
    pairs, cut = draw(text, 5, short_seq_rate=0.0)
    covered = set()
    for (a, a_length, b, b_length), label in zip(
        pairs.spans.tolist(), pairs.next_sentence_labels, strict=True
    ):
        covered |= set(range(a, a + a_length))
        if label == IS_NEXT:
            covered |= set(range(b, b + b_length))
    assert cut == 0
    assert covered == set(range(20))


def test_documents_of_equal_text_are_not_each_others_random_next() -> None:
    text = shard([[4, 4], [4, 4], [5, 5, 5]], [b"same", b"same", b"other"])
    pairs, _ = draw(text, 2, length=32, short_seq_rate=0.0)
    for (a, _, b, _), label in zip(pairs.spans.tolist(), pairs.next_sentence_labels, strict=True):
        if label == IS_RANDOM:
            assert {document_of(text, a), document_of(text, b)} & {2}


def reference_truncate(a: int, b: int, limit: int) -> tuple[int, int]:
    """google-research/bert's loop, on lengths."""
    while a + b > limit:
        if a > b:
            a -= 1
        else:
            b -= 1
    return a, b


@pytest.mark.parametrize("limit", [2, 5, 10, 11])
def test_truncate_keeps_what_the_reference_loop_keeps(limit: int) -> None:
    spans = np.array([[7, a, 900, b] for a in range(1, 25) for b in range(1, 25)], np.int64)
    kept, cut = truncate(spans, limit, np.random.default_rng(1))
    expected = [reference_truncate(a, b, limit) for _, a, _, b in spans.tolist()]
    np.testing.assert_array_equal(kept[:, [1, 3]], expected)
    assert cut == spans[:, [1, 3]].sum() - np.sum(expected)
    assert (kept[:, 0] >= 7).all()
    assert (kept[:, 0] + kept[:, 1] <= 7 + spans[:, 1]).all()


def test_truncate_takes_from_both_ends() -> None:
    spans = np.tile(np.array([[0, 200, 1000, 20]], np.int64), (500, 1))
    kept, _ = truncate(spans, 100, np.random.default_rng(1))
    # 120 of A's pieces go, about half of them at the front.
    assert (kept[:, 1] == 80).all()
    assert abs(kept[:, 0].mean() - 60) < 1.5
    assert kept[:, 0].std() > 3


def test_lay_out_golden() -> None:
    text = shard([[2, 3], [4]])
    pairs = Pairs(np.array([[0, 2, 2, 3], [5, 1, 7, 2]]), np.array([IS_NEXT, IS_RANDOM]))
    arrays = lay_out(text, pairs, max_seq_length=9, marks=Marks(2, 3, 0))
    expected = {
        "input_ids": [[2, 100, 101, 3, 102, 103, 104, 3, 0], [2, 105, 3, 107, 108, 3, 0, 0, 0]],
        "input_mask": [[1, 1, 1, 1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1, 0, 0, 0]],
        "segment_ids": [[0, 0, 0, 0, 1, 1, 1, 1, 0], [0, 0, 0, 1, 1, 1, 0, 0, 0]],
        "next_sentence_labels": [[0], [1]],
    }
    assert arrays.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(arrays[name], values, err_msg=name)


@pytest.mark.parametrize("short_seq_rate", [0.0, 0.3, 1.0])
def test_short_pairs_have_the_configured_rate(short_seq_rate: float) -> None:
    # Sentences of one piece fill any target exactly, so a short pair is one below the limit.
    text = shard([[1] * 400 for _ in range(200)])
    pairs, _ = draw(text, 1, short_seq_rate=short_seq_rate)
    lengths = pairs.spans[:, 1] + pairs.spans[:, 3]
    tail_rate = 0.15  # ends of documents are short, too
    assert short_seq_rate - 0.05 < (lengths < 61).mean() < short_seq_rate + tail_rate


def test_split_long() -> None:
    lengths = np.array([3, 10, 11, 1, 25, 20])
    assert split_long(lengths, 10).tolist() == [3, 10, 6, 5, 1, 9, 8, 8, 10, 10]
    assert split_long(np.array([], np.int32), 10).tolist() == []


def test_sentence_order_pairs_follow_each_other_in_either_order(big: ShardText) -> None:
    pairs, cut = draw(big, 3, "sop")
    starts = set(big.sentence_starts.tolist())
    for (a, a_length, b, b_length), label in zip(
        pairs.spans.tolist(), pairs.next_sentence_labels, strict=True
    ):
        assert document_of(big, a) == document_of(big, b)
        first, second = ((b, b_length), (a, a_length)) if label == IS_SWAPPED else (
            (a, a_length), (b, b_length))  # fmt: skip
        end = first[0] + first[1]
        assert end <= second[0]
        # Only truncation parts them: a sentence begins right there, or between them.
        assert end == second[0] or any(p in starts for p in range(end, second[0] + 1))
        assert min(a_length, b_length) > 0
    assert abs((pairs.next_sentence_labels == IS_SWAPPED).mean() - 0.5) < 2.5 / len(pairs) ** 0.5
    assert cut > 0


def test_sentence_order_pairs_leave_no_sentence_out() -> None:
    text = shard([[3, 4, 5], [6, 2], [1, 1, 1, 1, 1]])
    pairs, cut = draw(text, 4, "sop", length=12, short_seq_rate=0.0)
    covered = {
        piece
        for a, a_length, b, b_length in pairs.spans.tolist()
        for piece in (*range(a, a + a_length), *range(b, b + b_length))
    }
    assert len(covered) >= 25 - cut
    assert {document_of(text, a) for a in pairs.spans[:, 0]} == {0, 1, 2}


def packed(seed: int, short_seq_rate: float) -> tuple[ShardText, list[tuple[int, int]]]:
    rng = Random(9)
    documents = [[rng.randint(1, 62) for _ in range(rng.randint(1, 9))] + [1] for _ in range(200)]
    text = shard(documents)
    pairs, cut = draw(text, seed, "none", short_seq_rate=short_seq_rate)
    assert cut == 0
    assert (pairs.spans[:, 3] == NO_B).all()
    return text, [(a, a + a_length) for a, a_length, _, _ in pairs.spans.tolist()]


def test_packed_sentences_are_whole_and_all_there_once() -> None:
    text, spans = packed(1, 0.1)
    starts = set(text.sentence_starts.tolist())
    separators = {int(text.sentence_starts[end - 1]) for end in text.document_starts[1:]}
    here = 0
    for begin, end in spans:
        assert {begin, end} <= starts
        assert 0 < end - begin <= 62
        assert begin not in separators
        assert end - 1 not in separators
        assert set(range(here, begin)) <= separators  # nothing else is left out
        here = end
    assert set(range(here, len(text.piece_ids))) <= separators


def test_packed_sentences_fill_the_record() -> None:
    text, spans = packed(1, 0.0)
    lengths = np.diff(text.sentence_starts)
    for begin, end in spans[:-1]:
        after = int(np.searchsorted(text.sentence_starts, end))
        if lengths[after] == 1:  # a [SEP] that ends a document, or else a short sentence
            after += 1
            end += 1
        assert end - begin + lengths[after] > 62


def test_lay_out_without_a_pair() -> None:
    text = shard([[2, 3]])
    pairs = Pairs(np.array([[1, 4, 0, NO_B]]), np.array([0]))
    arrays = lay_out(text, pairs, max_seq_length=8, marks=Marks(2, 3, 0))
    assert arrays["input_ids"].tolist() == [[2, 101, 102, 103, 104, 3, 0, 0]]
    assert arrays["input_mask"].tolist() == [[1, 1, 1, 1, 1, 1, 0, 0]]
    assert not arrays["segment_ids"].any()


def own_text(pairs: Pairs, pairing: Pairing) -> np.ndarray:
    """How many segments a document's own walk puts each piece in; a random B is not of it."""
    own = (pairs.next_sentence_labels != IS_RANDOM) | (pairing == "sop")
    spans = np.concatenate([pairs.spans[:, :2], pairs.spans[own, 2:]])
    return np.bincount(np.concatenate([np.arange(a, a + length) for a, length in spans]))


@pytest.mark.parametrize("length", [9, 64, 500])
def test_overflow_is_carried_into_the_next_pair(big: ShardText, length: int) -> None:
    documents = [[min(s, (length - 3) // 2) for s in np.diff(big.sentence_starts)[i : i + 20]]
                 for i in range(0, 4000, 20)]  # fmt: skip
    text = shard(documents)
    pairs, cut = draw(text, 4, length=length, overflow="carry")
    assert cut == 0
    assert own_text(pairs, "nsp").tolist() == [1] * len(text.piece_ids)
    for (a, a_length, b, b_length), label in zip(
        pairs.spans.tolist(), pairs.next_sentence_labels, strict=True
    ):
        assert min(a_length, b_length) > 0
        assert a_length + b_length <= length - 3
        assert document_of(text, a) == document_of(text, a + a_length - 1)
        assert document_of(text, b) == document_of(text, b + b_length - 1)
        assert (
            (b == a + a_length)
            if label == IS_NEXT
            else document_of(text, b) != document_of(text, a)
        )
        assert b in text.sentence_starts


def test_sentence_order_pairs_carry_overflow(big: ShardText) -> None:
    pairs, cut = draw(big, 4, "sop", overflow="carry")
    assert cut == 0
    counts = own_text(pairs, "sop")
    assert len(counts) == len(big.piece_ids)
    assert counts.min() == 1
    assert (counts > 1).mean() < 0.05  # single sentences at the ends of documents
    for (a, a_length, b, b_length), label in zip(
        pairs.spans.tolist(), pairs.next_sentence_labels, strict=True
    ):
        assert a == b + b_length if label == IS_SWAPPED else b == a + a_length
        assert a_length + b_length <= 61


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference of two cumulative distributions (Kolmogorov-Smirnov)."""
    values = np.union1d(one, other)
    shares = (np.searchsorted(np.sort(each), values, "right") / len(each) for each in (one, other))
    return float(abs(next(shares) - next(shares)).max())


@pytest.mark.parametrize("pairing", ["nsp", "sop"])
def test_carried_pairs_have_the_statistics_of_cut_ones(pairing: Pairing) -> None:
    rng = Random(8)
    text = shard([[rng.randint(2, 30) for _ in range(400)] for _ in range(60)])
    (usual, cut), (carried, _) = (draw(text, 5, pairing, overflow=how) for how in ("cut", "carry"))
    assert cut > 0.1 * len(text.piece_ids)
    assert len(carried) > 1.05 * len(usual)
    for label in (0, 1):
        lengths = [
            each.spans[each.next_sentence_labels == label][:, [1, 3]].sum(axis=1)
            for each in (usual, carried)
        ]
        # Above 1.95 standard deviations of the difference, with a probability of 0.001.
        limit = 1.95 * sum(1 / len(each) for each in lengths) ** 0.5
        assert distance(*lengths) < limit
        assert abs(np.mean(lengths[0] < 61) - np.mean(lengths[1] < 61)) < limit
    half = 2 * carried.next_sentence_labels.mean() - 1
    assert abs(half) < 4 / len(carried) ** 0.5


def test_the_length_of_a_carried_b_does_not_tell_its_label() -> None:
    rng = Random(8)
    text = shard([[rng.randint(2, 30) for _ in range(400)] for _ in range(60)])
    pairs, _ = draw(text, 6, overflow="carry")
    is_next = pairs.next_sentence_labels == IS_NEXT
    lengths = pairs.spans[is_next, 3], pairs.spans[~is_next, 3]
    assert distance(*lengths) < 1.95 * sum(1 / len(each) for each in lengths) ** 0.5
