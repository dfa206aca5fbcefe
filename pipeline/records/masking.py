"""Which pieces a record asks for: the masked language model's positions, labels and noise.

Pieces are chosen a unit at a time: a piece, a word, or a run of words. A record's mask depends on
its pieces and its own seed alone, so the same code masks records for the disk and while they are
trained on, in batches of any size. Shapes: N records, L positions, P predictions.
"""

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline import schema
from pipeline.schema import JOINER, SPECIAL_TOKENS
from pipeline.text.tokenizer import Vocabulary

Masking = Literal["token", "whole-word", "span"]

MASK_SHARE, RANDOM_SHARE = 0.8, 0.1
"""Of the chosen pieces: replaced by [MASK], by a random piece; the rest stays (BERT, §3.1)."""

SPAN_END_RATE, MAX_SPAN_WORDS = 0.2, 10
"""Chance that a span ends after a word, and the most words in one (SpanBERT, Joshi et al. 2019,
section 3.1: lengths of a geometric distribution with p = 0.2, at most 10)."""


_GAMMA, _MIX_1, _MIX_2 = (
    np.uint64(number) for number in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


def split_mix(counters: np.ndarray) -> np.ndarray:
    """Return SplitMix64's output for each counter, uint64 of the same shape.

    Source: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators", figure 17.
    """
    mixed = counters * _GAMMA
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _MIX_1
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX_2
    return mixed ^ (mixed >> np.uint64(31))


def record_seeds(stream: str, indices: np.ndarray) -> np.ndarray:
    """Return a seed for each record of a named stream.

    Args:
        stream: name of the stream; every name has seeds of its own.
        indices: int64 [N]. Numbers of the records in it.

    Returns:
        uint64 [N].
    """
    start = int.from_bytes(hashlib.blake2b(stream.encode(), digest_size=8).digest(), "little")
    return split_mix(np.uint64(start) + indices.astype(np.uint64))


class RecordNoise:
    """Random numbers of N records, each record's a function of its seed alone."""

    def __init__(self, seeds: np.ndarray) -> None:
        """Begin every record's sequence; `seeds`: uint64 [N]."""
        self._first = split_mix(seeds)[:, None]
        self._drawn = 0

    def draw(self, columns: int) -> np.ndarray:
        """Return the next numbers of every record, float32 [N, columns], uniform in [0, 1)."""
        steps = np.arange(self._drawn, self._drawn + columns, dtype=np.uint64)
        self._drawn += columns
        bits = split_mix(self._first + steps[None, :]) >> np.uint64(40)
        return bits.astype(np.float32) * np.float32(2**-24)


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
    noise: RecordNoise,
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
        noise: source of every choice.
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
    units = unit_numbers(is_text, continues_word[input_ids], noise, masking)  # [N, L]
    chosen = choose_units(units, wanted, noise)  # [N, L]
    positions = np.sort(np.where(chosen, np.arange(length), length), axis=1)
    positions = _columns(positions, max_predictions, length)  # [N, P]
    used = positions < length
    positions[~used] = 0
    labels = np.where(used, np.take_along_axis(input_ids, positions, axis=1), 0)
    chance = noise.draw(max_predictions)  # [N, P]
    if masking == "span":
        # Pieces of a span share their fate; pieces of a word do not (as in google-research/bert).
        chance = np.take_along_axis(chance, _first_slots(units, positions), axis=1)
    pick = (noise.draw(max_predictions) * len(replacements.random_ids)).astype(np.int64)
    hidden = np.where(
        chance < MASK_SHARE + RANDOM_SHARE, replacements.random_ids.take(pick, mode="clip"), labels
    )
    hidden = np.where(chance < MASK_SHARE, replacements.mask_id, hidden)
    masked = input_ids.copy()
    row, slot = np.nonzero(used)
    masked[row, positions[row, slot]] = hidden[row, slot]
    return {
        schema.INPUT_IDS: masked,
        schema.MASKED_LM_POSITIONS: positions.astype(np.int64),
        schema.MASKED_LM_IDS: labels.astype(np.int64),
        schema.MASKED_LM_WEIGHTS: used.astype(np.float32),
    }


def unit_numbers(
    is_text: np.ndarray, continues: np.ndarray, noise: RecordNoise, masking: Masking
) -> np.ndarray:
    """Number the units of each record from left to right.

    Args:
        is_text: bool [N, L].
        continues: bool [N, L]. The piece belongs to the word before it.
        noise: source of the spans' lengths.
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
        starts = _span_starts(starts, follows_text, noise)
    return np.where(is_text, np.cumsum(starts, axis=1), 0)


def _span_starts(
    word_starts: np.ndarray, follows_text: np.ndarray, noise: RecordNoise
) -> np.ndarray:
    """Return where spans start, bool [N, L]; each end is a new draw, so lengths are geometric."""
    ends_before = noise.draw(word_starts.shape[1]) < SPAN_END_RATE
    starts = word_starts & (ends_before | ~follows_text)
    word = np.cumsum(word_starts, axis=1)
    first_word = np.maximum.accumulate(np.where(starts, word, 0), axis=1)
    return starts | (word_starts & ((word - first_word) % MAX_SPAN_WORDS == 0))


def choose_units(units: np.ndarray, wanted: np.ndarray, noise: RecordNoise) -> np.ndarray:
    """Choose whole units in random order, passing over those that do not fit any more.

    Args:
        units: int64 [N, L], see `unit_numbers`.
        wanted: int64 [N]. The most pieces to choose in each record.
        noise: source of the order.

    Returns:
        bool [N, L]: the piece's unit is chosen.
    """
    rows, length = units.shape
    offsets = units + np.arange(rows)[:, None] * (length + 1)
    sizes = np.bincount(offsets.ravel(), minlength=rows * (length + 1)).reshape(rows, length + 1)
    sizes[:, 0] = 0  # number 0 is no unit
    keys = np.where(sizes > 0, noise.draw(length + 1), np.float32(2))
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


def _first_slots(units: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Return for each prediction the first one of the same unit, int64 [N, P]."""
    unit = np.take_along_axis(units, positions, axis=1)
    begins = np.ones_like(unit, bool)
    begins[:, 1:] = unit[:, 1:] != unit[:, :-1]
    return np.maximum.accumulate(np.where(begins, np.arange(unit.shape[1]), 0), axis=1)


class Masker:
    """`mask_pieces` for a vocabulary and the settings of a dataset."""

    def __init__(
        self, vocabulary: Vocabulary, *, masking: Masking, mask_rate: float, max_predictions: int
    ) -> None:
        special = [vocabulary.ids[token] for token in SPECIAL_TOKENS]
        self._not_text = np.array([vocabulary.cls_id, vocabulary.sep_id])
        self._masking = masking
        self._mask_rate = mask_rate
        self._max_predictions = max_predictions
        self._continues_word = np.array([p.startswith(JOINER) for p in vocabulary.pieces], bool)
        self._replacements = Replacements(
            vocabulary.mask_id, np.setdiff1d(np.arange(len(vocabulary)), special)
        )

    def __call__(
        self, input_ids: np.ndarray, input_mask: np.ndarray, seeds: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Mask some records.

        Args:
            input_ids: int64 [N, L]. Pieces, none of them masked.
            input_mask: int64 [N, L]. 1 = real piece, 0 = padding.
            seeds: uint64 [N], see `record_seeds`.

        Returns:
            The features that `mask_pieces` returns.
        """
        is_text = (input_mask == 1) & ~np.isin(input_ids, self._not_text)
        return mask_pieces(
            input_ids,
            is_text,
            RecordNoise(seeds),
            masking=self._masking,
            continues_word=self._continues_word,
            mask_rate=self._mask_rate,
            max_predictions=self._max_predictions,
            replacements=self._replacements,
        )
