import numpy as np
import pytest

from pipeline.masking import Replacements, mask_pieces

MASK_ID = 4
REPLACEMENTS = Replacements(MASK_ID, np.arange(5, 1000))


@pytest.fixture(scope="module")
def records() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    input_ids = rng.integers(1000, 2000, (3000, 128))  # none of them is a replacement
    lengths = rng.integers(5, 127, 3000)
    position = np.arange(128)
    is_text = (position >= 1) & (position <= lengths[:, None]) & (position != 3)
    return input_ids, is_text


def mask(records: tuple[np.ndarray, np.ndarray], **changes: object) -> dict[str, np.ndarray]:
    settings = {"mask_rate": 0.15, "max_predictions": 20, "replacements": REPLACEMENTS} | changes
    return mask_pieces(*records, np.random.default_rng(5), **settings)  # type: ignore[arg-type]


def test_labels_put_back_give_the_text(records: tuple[np.ndarray, np.ndarray]) -> None:
    masked = mask(records)
    restored = masked["input_ids"].copy()
    row, slot = np.nonzero(masked["masked_lm_weights"])
    restored[row, masked["masked_lm_positions"][row, slot]] = masked["masked_lm_ids"][row, slot]
    np.testing.assert_array_equal(restored, records[0])


def test_only_text_is_chosen_once_and_in_order(records: tuple[np.ndarray, np.ndarray]) -> None:
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


def test_eighty_ten_ten(records: tuple[np.ndarray, np.ndarray]) -> None:
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


def test_every_position_is_as_likely(records: tuple[np.ndarray, np.ndarray]) -> None:
    full = np.ones((4000, 40), bool)
    masked = mask_pieces(
        np.full((4000, 40), 7), full, np.random.default_rng(1),
        mask_rate=0.15, max_predictions=20, replacements=REPLACEMENTS,
    )  # fmt: skip
    counts = np.bincount(masked["masked_lm_positions"][:, :6].ravel(), minlength=40)
    assert abs(counts - 600).max() < 5 * 22.6  # binomial, 4000 draws of 6 / 40


def test_more_slots_than_positions() -> None:
    masked = mask_pieces(
        np.array([[2, 50, 3]]), np.array([[False, True, False]]), np.random.default_rng(1),
        mask_rate=0.15, max_predictions=5, replacements=REPLACEMENTS,
    )  # fmt: skip
    assert masked["masked_lm_positions"].tolist() == [[1, 0, 0, 0, 0]]
    assert masked["masked_lm_ids"].tolist() == [[50, 0, 0, 0, 0]]
    assert masked["masked_lm_weights"].tolist() == [[1, 0, 0, 0, 0]]
