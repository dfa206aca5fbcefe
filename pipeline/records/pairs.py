"""Documents to sentence pairs: which pieces stand in A, which in B, and does B follow A.

A function for each kind of pairing walks a shard's documents and returns spans of its text; then
`lay_out` makes records of them. Shapes: S sentences and T pieces of a whole shard, N pairs, L
positions of a record.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

import numpy as np

from pipeline import schema
from pipeline.schema import IS_NEXT, IS_RANDOM, IS_SWAPPED, Pairing

SPECIAL_PIECES: dict[Pairing, int] = {"nsp": 3, "sop": 3, "none": 2}
"""[CLS] A [SEP] B [SEP], and [CLS] A [SEP]."""

NO_B = -1
"""Length of a B that is not there; its [SEP] is not there either."""


@dataclass(frozen=True)
class ShardText:
    """All documents of a shard as one run of pieces.

    Attributes:
        piece_ids: int32 [T].
        sentence_starts: int64 [S + 1]. Where each sentence begins in `piece_ids`; ends with T.
        document_starts: for each document its first sentence; ends with S.
        document_keys: bytes for each document; documents of equal text have equal keys.
    """

    piece_ids: np.ndarray
    sentence_starts: np.ndarray
    document_starts: tuple[int, ...]
    document_keys: tuple[bytes, ...]


@dataclass(frozen=True)
class Pairs:
    """Segments as spans of `ShardText.piece_ids`.

    Attributes:
        spans: int64 [N, 4]. Start and length of A, start and length of B.
        next_sentence_labels: int64 [N], see `pipeline.schema.record_features`; 0 without a B.
    """

    spans: np.ndarray
    next_sentence_labels: np.ndarray

    def __len__(self) -> int:
        """Return N."""
        return len(self.next_sentence_labels)


class DrawPairs(Protocol):
    """A kind of pairing: a shard's text to pairs, and the pieces cut off from them."""

    def __call__(
        self, text: ShardText, rng: Random, *, max_seq_length: int, short_seq_rate: float
    ) -> tuple[Pairs, int]:
        """Walk the shard once.

        Args:
            text: the shard.
            rng: source of every choice.
            max_seq_length: L; a pair has at most that many pieces, special ones included.
            short_seq_rate: share of pairs whose target length is drawn from 2 up (0 to 1).

        Returns:
            The pairs, and the number of pieces that were cut off because a pair was too long.
        """


def draw_next_sentence_pairs(
    text: ShardText, rng: Random, *, max_seq_length: int, short_seq_rate: float
) -> tuple[Pairs, int]:
    """Draw pairs as google-research/bert's `create_instances_from_document` does.

    Each document is walked once: whole sentences are gathered up to a target length, cut at a
    random sentence into A and its continuation; half of the time B is that continuation, half of
    the time a stretch of another document, and then the continuation is walked again.

    Unlike there, half of all pairs are random also where sentences are long or documents short: at
    least two sentences are gathered, and a last single sentence, whose B must be random, is made
    up for by the next pair that has a choice.

    The shard must have at least two documents of different keys.
    """
    limit = max_seq_length - SPECIAL_PIECES["nsp"]
    starts: list[int] = text.sentence_starts.tolist()
    spans: list[tuple[int, int, int, int]] = []
    labels: list[int] = []
    owed = 0  # pairs that had to be random, not yet made up for
    for document in range(len(text.document_keys)):
        first, end = text.document_starts[document], text.document_starts[document + 1]
        while first < end:
            target = _target(limit, short_seq_rate, rng)
            # Two sentences, where there are two, however long: else B could only be random.
            last = max(_gather(starts, first, end, target), min(first + 2, end))
            cut = rng.randint(first + 1, last - 1) if last - first > 1 else last
            a_start, a_length = starts[first], starts[cut] - starts[first]
            if cut == last:
                is_random, owed = True, owed + 1
            elif owed:
                is_random, owed = False, owed - 1
            else:
                is_random = rng.random() < 0.5
            if is_random:
                other = _another_document(text.document_keys, document, rng)
                b_first, b_last = _stretch(text, starts, other, target - a_length, rng)
                labels.append(IS_RANDOM)
                first = cut
            else:
                b_first, b_last = cut, last
                labels.append(IS_NEXT)
                first = last
            spans.append((a_start, a_length, starts[b_first], starts[b_last] - starts[b_first]))
    return _truncated(spans, labels, limit, rng)


def draw_sentence_order_pairs(
    text: ShardText, rng: Random, *, max_seq_length: int, short_seq_rate: float
) -> tuple[Pairs, int]:
    """Draw pairs of following segments, half of them swapped (ALBERT, Lan et al. 2019, §3.1).

    Documents are walked as for next sentences. A last single sentence is paired with the one before
    it, which then stands in two pairs. Every document must have at least two sentences.
    """
    limit = max_seq_length - SPECIAL_PIECES["sop"]
    starts: list[int] = text.sentence_starts.tolist()
    spans: list[tuple[int, int, int, int]] = []
    labels: list[int] = []
    for document in range(len(text.document_keys)):
        first, end = text.document_starts[document], text.document_starts[document + 1]
        while first < end:
            first = min(first, end - 2)
            last = max(_gather(starts, first, end, _target(limit, short_seq_rate, rng)), first + 2)
            cut = rng.randint(first + 1, last - 1)
            a = starts[first], starts[cut] - starts[first]
            b = starts[cut], starts[last] - starts[cut]
            is_swapped = rng.random() < 0.5
            spans.append((*b, *a) if is_swapped else (*a, *b))
            labels.append(IS_SWAPPED if is_swapped else IS_NEXT)
            first = last
    return _truncated(spans, labels, limit, rng)


def draw_packed_sentences(
    text: ShardText, rng: Random, *, max_seq_length: int, short_seq_rate: float
) -> tuple[Pairs, int]:
    """Pack whole sentences one after another (RoBERTa, Liu et al. 2019, §4.2, FULL-SENTENCES).

    A record runs over the end of a document into the next one. The text must have a [SEP] as the
    last sentence of every document, and no sentence longer than L - 2. Nothing is cut off.
    """
    limit = max_seq_length - SPECIAL_PIECES["none"]
    starts: list[int] = text.sentence_starts.tolist()
    separators = {end - 1 for end in text.document_starts[1:]}
    spans: list[tuple[int, int, int, int]] = []
    first, end = 0, len(starts) - 1
    while first < end:
        if first in separators:  # [CLS] stands there already
            first += 1
            continue
        target = _target(limit, short_seq_rate, rng)
        last = first + 1
        while last < end and starts[last + 1] - starts[first] <= target:
            last += 1
        stop = last - 1 if last - 1 in separators else last  # the record ends with its own [SEP]
        spans.append((starts[first], starts[stop] - starts[first], 0, NO_B))
        first = last
    drawn = np.array(spans, np.int64).reshape(-1, 4)
    return Pairs(drawn, np.zeros(len(drawn), np.int64)), 0


DRAW_PAIRS: dict[Pairing, DrawPairs] = {
    "nsp": draw_next_sentence_pairs,
    "sop": draw_sentence_order_pairs,
    "none": draw_packed_sentences,
}


def _target(limit: int, short_seq_rate: float, rng: Random) -> int:
    """Return how many pieces a pair should have."""
    return rng.randint(2, limit) if rng.random() < short_seq_rate else limit


def _truncated(
    spans: Sequence[tuple[int, int, int, int]], labels: Sequence[int], limit: int, rng: Random
) -> tuple[Pairs, int]:
    """Return pairs cut to the limit, and the number of pieces cut."""
    drawn = np.array(spans, np.int64).reshape(-1, 4)
    kept, cut_pieces = truncate(drawn, limit, np.random.default_rng(rng.getrandbits(128)))
    return Pairs(kept, np.array(labels, np.int64)), cut_pieces


def _gather(starts: Sequence[int], first: int, end: int, target: int) -> int:
    """Return the end of the shortest run of sentences from `first` with `target` pieces or more."""
    last = first + 1
    while last < end and starts[last] - starts[first] < target:
        last += 1
    return last


def _another_document(keys: Sequence[bytes], document: int, rng: Random) -> int:
    """Return a document of another text, each one equally likely."""
    while True:
        other = rng.randrange(len(keys))
        if keys[other] != keys[document]:
            return other


def _stretch(
    text: ShardText, starts: Sequence[int], document: int, target: int, rng: Random
) -> tuple[int, int]:
    """Return a run of sentences of a document, from a random one on, up to a target length."""
    first, end = text.document_starts[document], text.document_starts[document + 1]
    begin = rng.randrange(first, end)
    return begin, _gather(starts, begin, end, target)


def split_long(lengths: np.ndarray, longest: int) -> np.ndarray:
    """Split sentences that are longer than `longest` pieces into as few nearly equal parts.

    A line or a sentence may be longer than a record; as one part most of it would be cut off.

    Args:
        lengths: int [S], all above 0.
        longest: the most pieces of a part, above 0.

    Returns:
        int [parts in all], in the same order and with the same sum.
    """
    parts = -(-lengths // longest)
    number = np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)
    size, rest = np.divmod(lengths, parts)
    return np.repeat(size, parts) + (number < np.repeat(rest, parts))


def truncate(spans: np.ndarray, limit: int, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Cut pairs that are too long, as google-research/bert's `truncate_seq_pair` does.

    Pieces go one by one from the longer segment (B when they are equal), each from its front or
    its back with equal chance. Here the whole array is cut at once: the number of pieces each
    segment loses follows from the lengths, the number lost at the front is binomial.

    Args:
        spans: int64 [N, 4], see `Pairs`.
        limit: the most pieces A and B may have together.
        rng: source of front or back.

    Returns:
        int64 [N, 4], and the number of pieces cut in all.
    """
    a_start, a_length, b_start, b_length = spans.T
    # While both are above half the limit they are levelled; a short one keeps all it has.
    half = limit // 2
    a_kept = np.where(b_length <= half, limit - b_length, limit - half)
    a_kept = np.minimum(a_length, a_kept)
    b_kept = np.minimum(b_length, limit - a_kept)
    a_front = rng.binomial(a_length - a_kept, 0.5)
    b_front = rng.binomial(b_length - b_kept, 0.5)
    kept = np.stack([a_start + a_front, a_kept, b_start + b_front, b_kept], axis=1)
    return kept, int((a_length - a_kept + b_length - b_kept).sum())


def lay_out(
    text: ShardText, pairs: Pairs, *, max_seq_length: int, cls_id: int, sep_id: int, pad_id: int
) -> dict[str, np.ndarray]:
    """Lay pairs out as [CLS] A [SEP] B [SEP], or [CLS] A [SEP] where there is no B, padded.

    Returns:
        input_ids, input_mask, segment_ids: int64 [N, L]; next_sentence_labels: int64 [N, 1].
    """
    a_start, a_length, b_start, b_length = (column[:, None] for column in pairs.spans.T)
    position = np.arange(max_seq_length)[None, :]  # [1, L]
    first_sep = 1 + a_length  # [N, 1]
    last_sep = first_sep + 1 + b_length
    in_a = (position >= 1) & (position < first_sep)  # [N, L]
    in_b = (position > first_sep) & (position < last_sep)
    source = np.where(in_b, b_start + position - first_sep - 1, a_start + position - 1)
    is_text = in_a | in_b
    input_ids = np.where(is_text, text.piece_ids.take(source, mode="clip"), pad_id).astype(np.int64)
    input_ids[:, 0] = cls_id
    np.put_along_axis(input_ids, first_sep, sep_id, axis=1)
    np.put_along_axis(input_ids, last_sep, sep_id, axis=1)
    return {
        schema.INPUT_IDS: input_ids,
        schema.INPUT_MASK: (position <= last_sep).astype(np.int64),
        schema.SEGMENT_IDS: ((position > first_sep) & (position <= last_sep)).astype(np.int64),
        schema.NEXT_SENTENCE_LABELS: pairs.next_sentence_labels[:, None],
    }
