"""Masking for the masked language model: which positions are predicted, and what replaces them.

Pieces are selected in units: a piece, a word, or a run of words. A record's masks depend only on
its pieces and its seed, so the same code masks records when they are written (static) and when
they are read (dynamic), in batches of any size.

Shapes: N records, L positions, P predictions.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

from pipeline import schema
from pipeline.configs import Masking
from pipeline.records.chinese_words import continues_chinese_word, han_characters
from pipeline.schema import JOINER, SPECIAL_TOKENS
from pipeline.text.tokenizer import Vocabulary

MASK_SHARE, RANDOM_SHARE = 0.8, 0.1
"""Shares of the selected pieces that are replaced by [MASK] and by a random piece; the rest is left
unchanged (BERT, section 3.1)."""

SPAN_END_RATE, MAX_SPAN_WORDS = 0.2, 10
"""Probability that a span ends after a word, and the maximum number of words in a span (SpanBERT,
Joshi et al. 2019, section 3.1: geometric distribution of lengths with p = 0.2, at most 10)."""


_GAMMA, _MIX_1, _MIX_2 = (
    np.uint64(number) for number in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


def split_mix(counters: np.ndarray) -> np.ndarray:
    """Return SplitMix64's output for each counter, uint64 of the same shape.

    Source: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators", figure 17.
    """
    # Integers wrap around modulo 2^64, as the source has it. NumPy does so in arrays without a
    # warning; for scalars it warns.
    mixed: np.ndarray = np.asarray(counters * _GAMMA)
    # In place: new arrays of this size would take half of the time.
    shifted = np.empty_like(mixed)
    for shift, factor in ((30, _MIX_1), (27, _MIX_2), (31, None)):
        np.right_shift(mixed, np.uint64(shift), out=shifted)
        mixed ^= shifted
        if factor is not None:
            mixed *= factor
    return mixed


def record_seeds(stream: str, indices: np.ndarray) -> np.ndarray:
    """Return a seed for each record of a named stream.

    Args:
        stream: name of the stream; streams with different names have independent seeds.
        indices: int64 [N]. Indices of the records in the stream.

    Returns:
        uint64 [N].
    """
    start = int.from_bytes(hashlib.blake2b(stream.encode(), digest_size=8).digest(), "little")
    return split_mix(np.uint64(start) + indices.astype(np.uint64))


NOISE_BITS = 24
"""Random bits of a number."""


class RecordNoise:
    """Random number generator for N records; the numbers of a record depend only on its seed.

    NumPy's generators have one state for a whole batch, so their numbers depend on the batch size.
    """

    def __init__(self, seeds: np.ndarray) -> None:
        """Start the sequence of every record; `seeds`: uint64 [N]."""
        self._first = split_mix(seeds)[:, None]
        self._drawn = 0

    def draw(self, columns: int) -> np.ndarray:
        """Return the next random numbers of every record: float32 [N, columns] in [0, 1)."""
        return self.draw_bits(columns).astype(np.float32) * np.float32(2**-NOISE_BITS)

    def draw_bits(self, columns: int) -> np.ndarray:
        """Return what `draw` does as integers: uint32 [N, columns], below 2^NOISE_BITS."""
        steps = np.arange(self._drawn, self._drawn + columns, dtype=np.uint64)
        self._drawn += columns
        # The upper bits of 64: as many as a float32 significand holds, so none rounds up to 1.
        bits = split_mix(self._first + steps[None, :]) >> np.uint64(64 - NOISE_BITS)
        return bits.astype(np.uint32)


@dataclass(frozen=True)
class Replacements:
    """Piece ids that replace selected pieces.

    Attributes:
        mask_id: id of [MASK].
        random_ids: int64 [R]. Ids that random replacements are drawn from: all but special tokens.
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
    """Select the pieces to predict and mask them (Devlin et al. 2018, section 3.1, appendix A.1).

    Args:
        input_ids: int64 [N, L].
        is_text: bool [N, L]. True for pieces that may be selected.
        noise: random numbers of the N records.
        masking: unit of selection. `token`: a piece. `whole-word`: all pieces of a word or none.
            `span`: a run of whole words whose pieces are all replaced the same way (SpanBERT).
        continues_word: bool [N, L]. True for pieces that continue a word: `##` pieces, and
            characters of a Chinese word but the first.
        mask_rate: share of the text pieces to predict (0 to 1), rounded to at least one piece. A
            unit larger than the remaining number of pieces is skipped, so fewer may be selected.
        max_predictions: P, the maximum number of predictions in a record.
        replacements: ids that replace the selected pieces.

    Returns:
        input_ids: int64 [N, L], masked; masked_lm_positions, masked_lm_ids: int64 [N, P], and
        masked_lm_weights: float32 [N, P], as in `pipeline.schema.record_features`.
    """
    limits = prediction_limits(is_text.sum(axis=1), mask_rate, max_predictions)  # [N]
    units = unit_numbers(is_text, continues_word, noise, masking)  # [N, L]
    chosen = choose_units(units, limits, noise)  # [N, L]
    counts = np.count_nonzero(chosen, axis=1)
    used = np.arange(max_predictions) < counts[:, None]  # [N, P]
    positions = np.zeros(used.shape, np.int64)
    # Both sides are in row-major order, so a record's k-th selected piece gets its slot k.
    positions[used] = np.nonzero(chosen)[1]
    labels = np.where(used, np.take_along_axis(input_ids, positions, axis=1), 0)
    # All pieces of a span are replaced the same way; with `whole-word`, each piece of a word is
    # replaced independently (as in google-research/bert).
    slots = _first_slots(units, positions) if masking == "span" else None
    hidden = _replaced(labels, slots, noise, replacements)  # [N, P]
    masked = input_ids.copy()
    row, slot = np.nonzero(used)
    masked[row, positions[row, slot]] = hidden[row, slot]
    return {
        schema.INPUT_IDS: masked,
        schema.MASKED_LM_POSITIONS: positions.astype(np.int64),
        schema.MASKED_LM_IDS: labels.astype(np.int64),
        schema.MASKED_LM_WEIGHTS: used.astype(np.float32),
    }


def prediction_limits(
    text_pieces: np.ndarray, mask_rate: float, max_predictions: int
) -> np.ndarray:
    """Return the maximum number of predictions of sequences with so many text pieces: int64 [N]."""
    limits = np.rint(text_pieces * mask_rate).astype(np.int64).clip(min=1)
    # Last, since a sequence may have no text, and one piece is asked for above.
    return np.minimum(limits, np.minimum(text_pieces, max_predictions))


def _replaced(
    labels: np.ndarray, slots: np.ndarray | None, noise: RecordNoise, replacements: Replacements
) -> np.ndarray:
    """Return the pieces that replace the selected ones: int64 [N, P].

    Args:
        labels: int64 [N, P]. The selected pieces.
        slots: int64 [N, P]. The prediction whose draw decides on [MASK], a random piece or the
            piece itself; None: each its own.
        noise: random numbers of the N records.
        replacements: ids that replace the selected pieces.
    """
    chance = noise.draw(labels.shape[1])
    if slots is not None:
        chance = np.take_along_axis(chance, slots, axis=1)
    pick = (noise.draw(labels.shape[1]) * len(replacements.random_ids)).astype(np.int64)
    # A float32 product close to the number of ids may round up to it.
    random = replacements.random_ids.take(pick, mode="clip")
    hidden = np.where(chance < MASK_SHARE + RANDOM_SHARE, random, labels)
    return np.where(chance < MASK_SHARE, replacements.mask_id, hidden)


def unit_numbers(
    is_text: np.ndarray, continues: np.ndarray, noise: RecordNoise, masking: Masking
) -> np.ndarray:
    """Number the units of each record from left to right.

    Args:
        is_text: bool [N, L].
        continues: bool [N, L]. True for pieces that continue a word.
        noise: random numbers that decide the lengths of spans.
        masking: unit of selection.

    Returns:
        int64 [N, L]: number of the piece's unit, starting at 1; 0 for positions without text.
    """
    follows_text = np.zeros_like(is_text)
    follows_text[:, 1:] = is_text[:, :-1]
    starts = is_text.copy()
    if masking != "token":
        # The first piece of a segment starts a unit, even a `##` piece whose word was truncated.
        starts &= ~(continues & follows_text)
    if masking == "span":
        starts = _span_starts(starts, follows_text, noise)
    return np.cumsum(starts, axis=1) * is_text


def _span_starts(
    word_starts: np.ndarray, follows_text: np.ndarray, noise: RecordNoise
) -> np.ndarray:
    """Return which words start a span: bool [N, L].

    Each word ends its span with the same probability, so lengths follow a geometric distribution.
    """
    ends_before = noise.draw(word_starts.shape[1]) < SPAN_END_RATE
    # A segment's first word begins a span whatever was drawn: spans do not cross [SEP].
    starts = word_starts & (ends_before | ~follows_text)
    # Spans longer than `MAX_SPAN_WORDS` are split: count the words since the last span start.
    word = np.cumsum(word_starts, axis=1)
    first_word = np.maximum.accumulate(np.where(starts, word, 0), axis=1)
    return starts | (word_starts & ((word - first_word) % MAX_SPAN_WORDS == 0))


def choose_units(units: np.ndarray, limits: np.ndarray, noise: RecordNoise) -> np.ndarray:
    """Select units in random order, skipping those larger than the remaining number of pieces.

    Args:
        units: int64 [N, L], see `unit_numbers`.
        limits: int64 [N]. Maximum number of pieces to select in each record.
        noise: random numbers that decide the order.

    Returns:
        bool [N, L]: True for the pieces of selected units.
    """
    rows, length = units.shape
    # Distinct numbers for the units of all records, so that one bincount returns every size.
    starts = np.arange(rows) * (length + 1)
    offsets = units + starts[:, None]
    sizes = np.bincount(offsets.ravel(), minlength=rows * (length + 1)).reshape(rows, length + 1)
    sizes[:, 0] = 0  # number 0 marks positions without text
    order = random_order(sizes > 0, noise)
    taken, size_of = np.zeros(sizes.size, bool), sizes.ravel()
    left = limits.copy()
    for rank in range(length):  # of one unit in every record: the loop is over units, not records
        # NumPy makes float64 of uint64 and int64 together.
        unit = order[:, rank].astype(np.int64) + starts
        size = size_of.take(unit)
        fits = size <= left
        fits &= size > 0
        taken[unit] = fits
        left -= size * fits
        # Units that exist come first, so after a rank without any there are no more.
        if not left.any() or not size.any():
            break
    return taken.take(offsets)


def random_order(exists: np.ndarray, noise: RecordNoise) -> np.ndarray:
    """Return the numbers of the units of each record in random order, those that exist first.

    Args:
        exists: bool [N, U + 1]. Whether a record has a unit with this number; number 0 is no unit.
        noise: random numbers that decide the order.

    Returns:
        uint32 or uint64 [N, U].
    """
    count = exists.shape[1] - 1
    shift = (count - 1).bit_length()
    # A random number and the unit's in one integer: sorting these is faster than an `argsort`.
    # One bit more than the random number has, for units that do not exist.
    kind = np.dtype("u4" if NOISE_BITS + 1 + shift <= 32 else "u8")
    # A number is drawn for number 0, too: which numbers follow decides the bytes of a dataset.
    keys: np.ndarray = noise.draw_bits(count + 1)[:, 1:].astype(kind)
    keys[~exists[:, 1:]] = 1 << NOISE_BITS  # above every random number
    np.left_shift(keys, shift, out=keys)
    np.bitwise_or(keys, np.arange(count, dtype=kind), out=keys)
    keys.sort(axis=1)
    np.bitwise_and(keys, (1 << shift) - 1, out=keys)
    return np.add(keys, 1, out=keys)


def _first_slots(units: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Return the index of the first prediction in each prediction's unit: int64 [N, P]."""
    unit = np.take_along_axis(units, positions, axis=1)
    begins = np.ones_like(unit, bool)
    begins[:, 1:] = unit[:, 1:] != unit[:, :-1]
    return np.maximum.accumulate(np.where(begins, np.arange(unit.shape[1]), 0), axis=1)


class Masker:
    """`mask_pieces` with the vocabulary and settings of a dataset."""

    def __init__(
        self, vocabulary: Vocabulary, *, masking: Masking, mask_rate: float, max_predictions: int
    ) -> None:
        special = [vocabulary.ids[token] for token in SPECIAL_TOKENS]
        self._not_text = np.array([vocabulary.cls_id, vocabulary.sep_id])
        self._masking = masking
        self._mask_rate = mask_rate
        self._max_predictions = max_predictions
        self._is_joined = np.array([p.startswith(JOINER) for p in vocabulary.pieces], bool)
        self._han = han_characters(vocabulary.pieces)
        self._replacements = Replacements(
            vocabulary.mask_id, np.setdiff1d(np.arange(len(vocabulary)), special)
        )

    def __call__(
        self, input_ids: np.ndarray, input_mask: np.ndarray, seeds: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Mask a batch of records.

        Args:
            input_ids: int64 [N, L]. Unmasked pieces.
            input_mask: int64 [N, L]. 1 = real piece, 0 = padding.
            seeds: uint64 [N], see `record_seeds`.

        Returns:
            The features of `mask_pieces`.
        """
        is_text = (input_mask == 1) & ~np.isin(input_ids, self._not_text)
        return mask_pieces(
            input_ids,
            is_text,
            RecordNoise(seeds),
            masking=self._masking,
            continues_word=self._word_continuations(input_ids),
            mask_rate=self._mask_rate,
            max_predictions=self._max_predictions,
            replacements=self._replacements,
        )

    def _word_continuations(self, input_ids: np.ndarray) -> np.ndarray:
        """Return which pieces continue a word: bool [N, L]."""
        continues = self._is_joined[input_ids]
        if self._masking != "token":
            continues |= continues_chinese_word(self._han[input_ids])
        return continues
