"""Packing: several pairs in one record, so that fewer positions are padding.

Pairs in a record do not see each other: each has its own positions, attention, masked pieces and
next-sentence label, so a model's outputs for it are those for the pair alone (Krell et al. 2021,
https://arxiv.org/abs/2107.02027).

Shapes: N pairs, M records, L positions, P predictions, K pairs of a record at most.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline import schema
from pipeline.schema import Arrays


def pairs_of_records(
    lengths: Sequence[int],
    predictions: Sequence[int],
    *,
    max_seq_length: int,
    max_predictions: int,
    max_pairs: int,
) -> list[list[int]]:
    """Choose which pairs share a record, by best-fit decreasing.

    Each pair, the longest first, goes into the record with the least room that has enough for it.
    The result depends on nothing but the arguments.

    Args:
        lengths: number of positions of each pair, 1 to L.
        predictions: maximum number of predictions of each pair, 0 to P.
        max_seq_length: L.
        max_predictions: P.
        max_pairs: K.

    Returns:
        The indices of the pairs of each record. A record's first pair is its longest one, and
        records are in the order of these: where pairs are shuffled, so are the records.
    """
    records: list[list[int]] = []
    slots_left: list[int] = []  # predictions that a record still has room for
    with_room: list[list[int]] = [[] for _ in range(max_seq_length + 1)]  # records by their room
    rooms = 0  # bit r is set where a record has room for r more positions
    for pair in sorted(range(len(lengths)), key=lambda pair: (-lengths[pair], pair)):
        length, needed = lengths[pair], predictions[pair]
        # Without the bits below `length`: records with room for the pair.
        candidates = rooms >> length << length
        while candidates:
            # The lowest bit that is set, which x & -x has alone: the least room.
            room = (candidates & -candidates).bit_length() - 1
            # Only one record of each room is tried: there may be as many as pairs.
            record = with_room[room][-1]
            if needed <= slots_left[record]:
                with_room[room].pop()
                rooms ^= 0 if with_room[room] else 1 << room
                break
            candidates &= candidates - 1  # without the lowest bit that is set
        else:
            room, record = max_seq_length, len(records)
            records.append([])
            slots_left.append(max_predictions)
        records[record].append(pair)
        slots_left[record] -= needed
        if len(records[record]) < max_pairs:
            with_room[room - length].append(record)
            rooms |= 1 << (room - length)
    return sorted(records)


def pack(
    pairs: Mapping[str, np.ndarray],
    record_of: np.ndarray,
    *,
    max_predictions: int,
    max_pairs: int,
    pad_id: int,
) -> Arrays:
    """Lay pairs out one after another in their records.

    Args:
        pairs: features of N pairs, each as a record of its own, with or without masks:
            input_ids, input_mask, segment_ids: int64 [N, L], next_sentence_labels: int64 [N, 1].
        record_of: int64 [N]. Number of each pair's record, ascending, every number from 0 to M - 1.
        max_predictions: P.
        max_pairs: K.
        pad_id: id of [PAD].

    Returns:
        The features of M records, see `pipeline.schema.record_features`.
    """
    count, length = int(record_of[-1]) + 1, pairs[schema.INPUT_IDS].shape[1]
    lengths = pairs[schema.INPUT_MASK].sum(axis=1)
    first, slot = _before(lengths, record_of), _before(np.ones_like(record_of), record_of)
    row, position = np.nonzero(pairs[schema.INPUT_MASK])
    real = record_of[row], first[row] + position
    ids = np.full((count, length), pad_id)
    ids[real] = pairs[schema.INPUT_IDS][row, position]
    packed = {schema.INPUT_IDS: ids}
    for name in (schema.INPUT_MASK, schema.SEGMENT_IDS):
        packed[name] = _scattered((count, length), real, pairs[name][row, position])
    packed[schema.POSITION_IDS] = _scattered((count, length), real, position)
    of_pairs = record_of, slot
    for name, values in (
        (schema.NEXT_SENTENCE_POSITIONS, first),
        (schema.NEXT_SENTENCE_LABELS, pairs[schema.NEXT_SENTENCE_LABELS][:, 0]),
        (schema.NEXT_SENTENCE_WEIGHTS, np.ones(len(first), np.float32)),
    ):
        packed[name] = _scattered((count, max_pairs), of_pairs, values)
    if schema.MASKED_LM_WEIGHTS in pairs:
        packed |= _packed_predictions(pairs, record_of, first, max_predictions)
    return packed


def _packed_predictions(
    pairs: Mapping[str, np.ndarray], record_of: np.ndarray, first: np.ndarray, max_predictions: int
) -> Arrays:
    """Return the masked-LM features of packed records; `first`: int64 [N], index of each [CLS]."""
    positions, ids, weights = (pairs[name] for name in schema.MASKED_LM_FEATURES)
    row, slot = np.nonzero(weights)
    before = _before(np.count_nonzero(weights, axis=1), record_of)
    used = record_of[row], before[row] + slot
    values = first[row] + positions[row, slot], ids[row, slot], weights[row, slot]
    shape = int(record_of[-1]) + 1, max_predictions
    return {
        name: _scattered(shape, used, each)
        for name, each in zip(schema.MASKED_LM_FEATURES, values, strict=True)
    }


def _before(sizes: np.ndarray, record_of: np.ndarray) -> np.ndarray:
    """Return the sum of the sizes of the pairs before each pair in its record: int64 [N]."""
    ends = np.cumsum(sizes)
    starts = ends - sizes
    # `record_of` ascends, so this is the index of the first pair of each pair's record.
    first_pairs = np.searchsorted(record_of, record_of)
    before: np.ndarray = starts - starts[first_pairs]
    return before


def _scattered(
    shape: tuple[int, int], where: tuple[np.ndarray, np.ndarray], values: np.ndarray
) -> np.ndarray:
    scattered = np.zeros(shape, values.dtype)
    scattered[where] = values
    return scattered


def unpack(records: Mapping[str, np.ndarray], pad_id: int) -> tuple[Arrays, np.ndarray, np.ndarray]:
    """Return the pairs of packed records without masks, each as a record of its own.

    Args:
        records: features of M packed records.
        pad_id: id of [PAD].

    Returns:
        The features of the N pairs as `pack` takes them; the number of each pair's record, and its
        number in that record, from 0: int64 [N] each.
    """
    record_of, slot = np.nonzero(records[schema.NEXT_SENTENCE_WEIGHTS])
    position_ids = records[schema.POSITION_IDS]
    # A pair begins where a real position has number 0.
    record, index = np.nonzero(records[schema.INPUT_MASK])
    place = position_ids[record, index]
    row = np.cumsum(place == 0) - 1
    shape = len(record_of), position_ids.shape[1]
    ids = np.full(shape, pad_id)
    ids[row, place] = records[schema.INPUT_IDS][record, index]
    pairs = {schema.INPUT_IDS: ids}
    for name in (schema.INPUT_MASK, schema.SEGMENT_IDS):
        pairs[name] = _scattered(shape, (row, place), records[name][record, index])
    labels = records[schema.NEXT_SENTENCE_LABELS][record_of, slot]
    pairs[schema.NEXT_SENTENCE_LABELS] = labels[:, None]
    return pairs, record_of, slot
