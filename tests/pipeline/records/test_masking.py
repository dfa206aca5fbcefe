from pathlib import Path

import numpy as np
import pytest

from pipeline.records.masking import (
    Masker,
    Masking,
    RecordNoise,
    Replacements,
    mask_pieces,
    record_seeds,
    split_mix,
    unit_numbers,
)
from pipeline.text.tokenizer import Vocabulary

MASK_ID = 4
REPLACEMENTS = Replacements(MASK_ID, np.arange(5, 1000))


def noise(rows: int, stream: str = "test") -> RecordNoise:
    return RecordNoise(record_seeds(stream, np.arange(rows)))


CONTINUES = np.arange(2000) % 3 == 0  # by id; a third of the pieces


@pytest.fixture(scope="module")
def records() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    input_ids = rng.integers(1000, 2000, (3000, 128))  # none of them is a replacement
    lengths = rng.integers(5, 127, 3000)
    position = np.arange(128)
    is_text = (position >= 1) & (position <= lengths[:, None]) & (position != 3)
    return input_ids, is_text


def mask(records: tuple[np.ndarray, np.ndarray], **changes: object) -> dict[str, np.ndarray]:
    settings = {
        "masking": "token", "continues_word": CONTINUES[records[0]], "mask_rate": 0.15,
        "max_predictions": 20,
        "replacements": REPLACEMENTS,
    } | changes  # fmt: skip
    return mask_pieces(*records, noise(len(records[0])), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("masking", ["token", "whole-word", "span"])
def test_labels_put_back_give_the_text(
    masking: str, records: tuple[np.ndarray, np.ndarray]
) -> None:
    masked = mask(records, masking=masking)
    restored = masked["input_ids"].copy()
    row, slot = np.nonzero(masked["masked_lm_weights"])
    restored[row, masked["masked_lm_positions"][row, slot]] = masked["masked_lm_ids"][row, slot]
    np.testing.assert_array_equal(restored, records[0])


def test_masked_positions_are_text_distinct_and_in_order(
    records: tuple[np.ndarray, np.ndarray],
) -> None:
    masked = mask(records)
    used = masked["masked_lm_weights"] == 1
    row, slot = np.nonzero(used)
    assert records[1][row, masked["masked_lm_positions"][row, slot]].all()
    for positions, count in zip(masked["masked_lm_positions"], used.sum(axis=1), strict=True):
        assert (np.diff(positions[:count]) > 0).all()
    assert (masked["masked_lm_positions"][~used] == 0).all()
    assert (masked["masked_lm_ids"][~used] == 0).all()
    assert (np.diff(used.astype(int), axis=1) <= 0).all()  # used slots come first


def test_rate_is_rounded_and_bounded(records: tuple[np.ndarray, np.ndarray]) -> None:
    text = records[1].sum(axis=1)
    expected = np.minimum(np.maximum(np.rint(text * 0.15), 1), 20)
    np.testing.assert_array_equal(mask(records)["masked_lm_weights"].sum(axis=1), expected)
    few = mask(records, max_predictions=3)["masked_lm_weights"].sum(axis=1)
    np.testing.assert_array_equal(few, np.minimum(expected, 3))


def test_masked_pieces_are_replaced_80_10_10(records: tuple[np.ndarray, np.ndarray]) -> None:
    masked = mask(records)
    row, slot = np.nonzero(masked["masked_lm_weights"])
    there = masked["input_ids"][row, masked["masked_lm_positions"][row, slot]]
    kept = (there == masked["masked_lm_ids"][row, slot]).mean()
    hidden = (there == MASK_ID).mean()
    assert len(there) > 25_000  # standard errors: 0.0025 and 0.0019
    assert abs(hidden - 0.8) < 0.01
    assert abs(kept - 0.1) < 0.008
    noise = there[(there != MASK_ID) & (there < 1000)]
    assert noise.min() >= 5
    assert len(np.unique(noise)) > 700


def test_every_position_is_equally_likely(records: tuple[np.ndarray, np.ndarray]) -> None:
    full = np.ones((4000, 40), bool)
    masked = mask_pieces(
        np.full((4000, 40), 7), full, noise(4000),
        masking="token", continues_word=~full, mask_rate=0.15, max_predictions=20,
        replacements=REPLACEMENTS,
    )  # fmt: skip
    counts = np.bincount(masked["masked_lm_positions"][:, :6].ravel(), minlength=40)
    assert abs(counts - 600).max() < 5 * 22.6  # binomial, 4000 draws of 6 / 40


def test_more_slots_than_positions() -> None:
    masked = mask_pieces(
        np.array([[2, 50, 3]]), np.array([[False, True, False]]), noise(1),
        masking="token", continues_word=np.zeros((1, 3), bool), mask_rate=0.15, max_predictions=5,
        replacements=REPLACEMENTS,
    )  # fmt: skip
    assert masked["masked_lm_positions"].tolist() == [[1, 0, 0, 0, 0]]
    assert masked["masked_lm_ids"].tolist() == [[50, 0, 0, 0, 0]]
    assert masked["masked_lm_weights"].tolist() == [[1, 0, 0, 0, 0]]


def words_of(row_ids: np.ndarray, row_is_text: np.ndarray) -> list[list[int]]:
    """Positions of each word, the slow and obvious way."""
    words: list[list[int]] = []
    for position in np.flatnonzero(row_is_text):
        if CONTINUES[row_ids[position]] and words and words[-1][-1] == position - 1:
            words[-1].append(int(position))
        else:
            words.append([int(position)])
    return words


@pytest.mark.parametrize("masking", ["whole-word", "span"])
def test_a_word_is_masked_completely_or_not_at_all(
    masking: str, records: tuple[np.ndarray, np.ndarray]
) -> None:
    masked = mask(records, masking=masking)
    wanted = np.minimum(np.maximum(np.rint(records[1].sum(axis=1) * 0.15), 1), 20)
    used = masked["masked_lm_weights"].sum(axis=1)
    assert (used <= wanted).all()
    assert used.sum() > 0.9 * wanted.sum()
    longer = 0
    for row in range(300):
        chosen = set(masked["masked_lm_positions"][row][masked["masked_lm_weights"][row] == 1])
        for word in words_of(records[0][row], records[1][row]):
            assert len(chosen & set(word)) in (0, len(word))
            longer += len(word) > 1 and word[0] in chosen
    assert longer > 300


def test_whole_word_masking_fills_the_budget(records: tuple[np.ndarray, np.ndarray]) -> None:
    masked = mask(records, masking="whole-word")
    wanted = np.minimum(np.maximum(np.rint(records[1].sum(axis=1) * 0.15), 1), 20)
    for row in range(300):
        chosen = set(masked["masked_lm_positions"][row][masked["masked_lm_weights"][row] == 1])
        left = wanted[row] - len(chosen)
        others = [w for w in words_of(records[0][row], records[1][row]) if w[0] not in chosen]
        assert all(len(word) > left for word in others)


def test_spans_are_runs_of_words_hidden_alike() -> None:
    rows, length = 4000, 60
    masked = mask_pieces(
        np.full((rows, length), 7), np.ones((rows, length), bool), noise(rows),
        masking="span", continues_word=np.zeros((rows, length), bool), mask_rate=0.5,
        max_predictions=30,
        replacements=REPLACEMENTS,
    )  # fmt: skip
    hidden = np.zeros((rows, length), bool)
    row, slot = np.nonzero(masked["masked_lm_weights"])
    hidden[row, masked["masked_lm_positions"][row, slot]] = True
    # Every word is one piece here. Chosen neighbours merge, so runs are longer than single spans
    # (mean 4.46 words); single pieces would give runs of 2.
    runs = (np.diff(hidden.astype(int), axis=1) == 1).sum() + hidden[:, 0].sum()
    assert hidden.sum() / runs > 5
    is_mask = masked["input_ids"] == MASK_ID
    together = hidden[:, 1:] & hidden[:, :-1]
    # Independent decisions would agree with a chance of 0.8 ** 2 + 0.2 ** 2 = 0.68.
    assert (is_mask[:, 1:] == is_mask[:, :-1])[together].mean() > 0.85


def test_span_lengths_are_geometric_up_to_ten() -> None:
    units = unit_numbers(
        np.ones((5000, 100), bool), np.zeros((5000, 100), bool), noise(5000), "span"
    )
    # The first span of each record starts at its beginning: no run is cut at the left.
    first = (units == 1).sum(axis=1)
    assert first.max() == 10
    for words in range(1, 10):
        expected = 0.2 * 0.8 ** (words - 1)
        assert abs((first == words).mean() - expected) < 5 * (expected / 5000) ** 0.5


def test_a_word_cut_by_truncation_is_a_word() -> None:
    is_text = np.array([[False, True, True, False, True, True, False]])
    continues = np.array([[False, True, True, False, True, False, False]])
    units = unit_numbers(is_text, continues, noise(1), "whole-word")
    assert units.tolist() == [[0, 1, 1, 0, 2, 3, 0]]


def test_split_mix_is_the_published_generator() -> None:
    # The first outputs of Vigna's splitmix64.c for the seed 1234567 (its state advances by gamma
    # before the first one, so output n is that of the counter state / gamma + n).
    gamma = 0x9E3779B97F4A7C15
    start = 1234567 * pow(gamma, -1, 2**64) % 2**64
    counters = np.array([(start + n) % 2**64 for n in (1, 2, 3)], np.uint64)
    assert split_mix(counters).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


def test_noise_is_uniform_and_not_correlated() -> None:
    numbers = noise(20_000).draw(8).astype(np.float64)
    assert abs(numbers.mean() - 0.5) < 5 * (1 / 12 / numbers.size) ** 0.5
    assert abs(numbers.var() - 1 / 12) < 0.001
    correlation = np.corrcoef(numbers.T) - np.eye(8)
    assert abs(correlation).max() < 5 / 20_000**0.5
    neighbours = np.corrcoef(numbers[1:, 0], numbers[:-1, 0])[0, 1]
    assert abs(neighbours) < 5 / 20_000**0.5


@pytest.mark.parametrize("masking", ["token", "whole-word", "span"])
def test_a_record_is_masked_alike_in_any_batch(masking: Masking, vocab_path: Path) -> None:
    vocabulary = Vocabulary.read(vocab_path)
    masker = Masker(vocabulary, masking=masking, mask_rate=0.15, max_predictions=5)
    rng = np.random.default_rng(1)
    ids = rng.integers(5, len(vocabulary), (40, 24))
    ids[:, 0], ids[:, 9], ids[:, 19] = vocabulary.cls_id, vocabulary.sep_id, vocabulary.sep_id
    real = np.tile(np.arange(24) < 20, (40, 1)).astype(np.int64)
    whole = masker(ids, real, record_seeds("s", np.arange(40)))
    for rows in (slice(0, 1), slice(7, 20), slice(39, 40)):
        part = masker(ids[rows], real[rows], record_seeds("s", np.arange(40)[rows]))
        for name, values in part.items():
            np.testing.assert_array_equal(values, whole[name][rows], err_msg=name)
    other = masker(ids, real, record_seeds("t", np.arange(40)))
    same = (other["masked_lm_positions"] == whole["masked_lm_positions"]).all(axis=1)
    assert same.mean() < 0.2
    used = whole["masked_lm_weights"] == 1
    assert not {0, 9, *range(19, 24)} & set(whole["masked_lm_positions"][used].tolist())
