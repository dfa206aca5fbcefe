"""Which pieces a record asks for: the masked language model's positions, labels and noise.

Pieces are chosen a unit at a time: a piece, a word, or a run of words. Shapes: N records, L
positions, P predictions.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

Masking = Literal["token", "whole-word", "span"]

MASK_SHARE, RANDOM_SHARE = 0.8, 0.1
"""Of the chosen pieces: replaced by [MASK], by a random piece; the rest stays (BERT, §3.1)."""

SPAN_END_RATE, MAX_SPAN_WORDS = 0.2, 10
"""Chance that a span ends after a word, and the most words in one (SpanBERT, Joshi et al. 2019,
section 3.1: lengths of a geometric distribution with p = 0.2, at most 10)."""


@dataclass(frozen=True)
class Replacements:
    """What may stand in a masked position.

    Attributes:
        mask_id: of [MASK].
        random_ids: int64 [R]. Pieces drawn from for the random share; no special tokens.
    """

    mask_id: int
    random_ids: np.ndarray


def mask_pieces(
    input_ids: np.ndarray,
    is_text: np.ndarray,
    rng: np.random.Generator,
    *,
    masking: Masking,
    continues_word: np.ndarray,
    mask_rate: float,
    max_predictions: int,
    replacements: Replacements,
) -> dict[str, np.ndarray]:
    """Choose pieces to predict and hide them (Devlin et al. 2018, section 3.1 and appendix A.1).

    Args:
        input_ids: int64 [N, L].
        is_text: bool [N, L]. True where a piece may be chosen.
        rng: source of every choice.
        masking: the unit of choice. `token`: a piece. `whole-word`: all pieces of a word, or none
            of them. `span`: a run of whole words, hidden alike (SpanBERT).
        continues_word: bool [V]. By id: the piece belongs to the word before it (`##...`).
        mask_rate: share of the text pieces to predict (0 to 1), rounded, at least one. Larger
            units that do not fit in what is left of it are passed over, so there may be fewer.
        max_predictions: P, the most to predict.
        replacements: what is put in their place.

    Returns:
        input_ids: int64 [N, L], masked; masked_lm_positions, masked_lm_ids: int64 [N, P], and
        masked_lm_weights: float32 [N, P], as in `pipeline.schema.record_features`.
    """
    length = input_ids.shape[1]
    available = is_text.sum(axis=1)
    wanted = np.rint(available * mask_rate).astype(np.int64).clip(min=1)
    wanted = np.minimum(wanted, np.minimum(available, max_predictions))  # [N]
    units = unit_numbers(is_text, continues_word[input_ids], rng, masking)  # [N, L]
    chosen = choose_units(units, wanted, rng)  # [N, L]
    positions = np.sort(np.where(chosen, np.arange(length), length), axis=1)
    positions = _columns(positions, max_predictions, length)  # [N, P]
    used = positions < length
    positions[~used] = 0
    labels = np.where(used, np.take_along_axis(input_ids, positions, axis=1), 0)
    # Pieces of a span share their fate; pieces of a word do not (as in google-research/bert).
    chance = rng.random(input_ids.shape)
    if masking == "span":
        chance = np.take_along_axis(chance, units, axis=1)
    masked = input_ids.copy()
    row, slot = np.nonzero(used)
    at = row, positions[row, slot]
    masked[at] = _replace(labels[row, slot], chance[at], rng, replacements)
    return {
        "input_ids": masked,
        "masked_lm_positions": positions.astype(np.int64),
        "masked_lm_ids": labels.astype(np.int64),
        "masked_lm_weights": used.astype(np.float32),
    }


def unit_numbers(
    is_text: np.ndarray, continues: np.ndarray, rng: np.random.Generator, masking: Masking
) -> np.ndarray:
    """Number the units of each record from left to right.

    Args:
        is_text: bool [N, L].
        continues: bool [N, L]. The piece belongs to the word before it.
        rng: source of the spans' lengths.
        masking: what a unit is.

    Returns:
        int64 [N, L]: the unit's number, from 1 on; 0 where there is no text.
    """
    follows_text = np.zeros_like(is_text)
    follows_text[:, 1:] = is_text[:, :-1]
    starts = is_text.copy()
    if masking != "token":
        # A piece at the beginning of a segment starts a word, even one that truncation cut in two.
        starts &= ~(continues & follows_text)
    if masking == "span":
        starts = _span_starts(starts, follows_text, rng)
    return np.where(is_text, np.cumsum(starts, axis=1), 0)


def _span_starts(
    word_starts: np.ndarray, follows_text: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Return where spans start, bool [N, L]; each end is a new draw, so lengths are geometric."""
    ends_before = rng.random(word_starts.shape) < SPAN_END_RATE
    starts = word_starts & (ends_before | ~follows_text)
    word = np.cumsum(word_starts, axis=1)
    first_word = np.maximum.accumulate(np.where(starts, word, 0), axis=1)
    return starts | (word_starts & ((word - first_word) % MAX_SPAN_WORDS == 0))


def choose_units(units: np.ndarray, wanted: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Choose whole units in random order, passing over those that do not fit any more.

    Args:
        units: int64 [N, L], see `unit_numbers`.
        wanted: int64 [N]. The most pieces to choose in each record.
        rng: source of the order.

    Returns:
        bool [N, L]: the piece's unit is chosen.
    """
    rows, length = units.shape
    offsets = units + np.arange(rows)[:, None] * (length + 1)
    sizes = np.bincount(offsets.ravel(), minlength=rows * (length + 1)).reshape(rows, length + 1)
    sizes[:, 0] = 0  # number 0 is no unit
    keys = np.where(sizes > 0, rng.random(sizes.shape, np.float32), np.float32(2))
    order = np.argsort(keys, axis=1, kind="stable")  # [N, L + 1]
    taken = np.zeros_like(sizes, bool)
    left = wanted.copy()
    every_row = np.arange(rows)
    for rank in range(length):
        unit = order[:, rank]
        size = sizes[every_row, unit]
        fits = (size > 0) & (size <= left)
        taken[every_row, unit] = fits
        left -= np.where(fits, size, 0)
        if not left.any() or not size.any():
            break
    return np.take_along_axis(taken, units, axis=1)


def _columns(positions: np.ndarray, count: int, fill: int) -> np.ndarray:
    """Return the first columns of an array, filled up where it has fewer."""
    kept = positions[:, :count].copy()
    return np.pad(kept, ((0, 0), (0, count - kept.shape[1])), constant_values=fill)


def _replace(
    labels: np.ndarray, chance: np.ndarray, rng: np.random.Generator, replacements: Replacements
) -> np.ndarray:
    """Return what stands in the place of each chosen piece, int64 [number chosen]."""
    noise = rng.choice(replacements.random_ids, len(labels))
    hidden = np.where(chance < MASK_SHARE + RANDOM_SHARE, noise, labels)
    return np.where(chance < MASK_SHARE, replacements.mask_id, hidden)
