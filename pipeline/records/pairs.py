"""Sentence pairs from documents: the pieces of segments A and B, and whether B follows A.

One function per kind of pairing reads the documents of a shard and returns spans of its text;
`lay_out` turns the spans into records.

Shapes: S sentences and T pieces in a shard, N pairs, L positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

import numpy as np

from pipeline import schema
from pipeline.schema import IS_NEXT, IS_RANDOM, IS_SWAPPED, Overflow, Pairing
from pipeline.text import inputs
from pipeline.text.inputs import NO_B, PAIR_MARKS

SPECIAL_PIECES: dict[Pairing, int] = {
    "nsp": PAIR_MARKS,
    "sop": PAIR_MARKS,
    "none": PAIR_MARKS + NO_B,
}
"""Number of [CLS] and [SEP] in a record."""


@dataclass(frozen=True)
class ShardText:
    """All documents of a shard, concatenated.

    Attributes:
        piece_ids: int32 [T].
        sentence_starts: int64 [S + 1]. Index in `piece_ids` of the first piece of each sentence;
            the last element is T.
        document_starts: index of the first sentence of each document; the last element is S.
        document_keys: key of each document; documents with equal text have equal keys.
    """

    piece_ids: np.ndarray
    sentence_starts: np.ndarray
    document_starts: tuple[int, ...]
    document_keys: tuple[bytes, ...]


@dataclass(frozen=True)
class Pairs:
    """Segments A and B as spans of `ShardText.piece_ids`.

    Attributes:
        spans: int64 [N, 4]. Start and length of A, start and length of B.
        next_sentence_labels: int64 [N], see `pipeline.schema.record_features`; 0 without segment B.
    """

    spans: np.ndarray
    next_sentence_labels: np.ndarray

    def __len__(self) -> int:
        """Return N."""
        return len(self.next_sentence_labels)

    def __getitem__(self, part: slice) -> "Pairs":
        """Return some of the pairs."""
        return Pairs(self.spans[part], self.next_sentence_labels[part])


class DrawPairs(Protocol):
    """Function of a kind of pairing: draws pairs from the text of a shard."""

    def __call__(
        self,
        text: ShardText,
        rng: Random,
        *,
        max_seq_length: int,
        short_seq_rate: float,
        overflow: Overflow,
    ) -> tuple[Pairs, int]:
        """Draw pairs from all documents of the shard.

        Args:
            text: text of the shard.
            rng: random number generator.
            max_seq_length: L, the maximum number of pieces in a pair, special tokens included.
            short_seq_rate: share of pairs (0 to 1) whose target length is random, from 2 to L.
            overflow: treatment of the end of a sentence that does not fit into its pair.

        Returns:
            The pairs, and the number of pieces truncated because pairs were too long.
        """


def draw_next_sentence_pairs(
    text: ShardText,
    rng: Random,
    *,
    max_seq_length: int,
    short_seq_rate: float,
    overflow: Overflow,
) -> tuple[Pairs, int]:
    """Draw next-sentence pairs, as google-research/bert's `create_instances_from_document`.

    The sentences of a document are gathered up to a target length and split at a random sentence
    into A and its continuation. B is the continuation in half of the pairs. In the other half, B is
    sentences of another document, and the next pair starts with the unused continuation.

    Unlike google-research/bert, half of all pairs are random even if sentences are long or
    documents are short: at least two sentences are gathered, and if B must be random because A is
    the last sentence of its document, the next pair that can be either is not random.

    With `carry`, a pair that is longer than the limit ends inside of a sentence, and the next pair
    begins with the rest of it. Lengths have the same distribution, and all text is in a pair.

    The shard must have at least two documents with different keys.
    """
    limit = max_seq_length - SPECIAL_PIECES["nsp"]
    starts: list[int] = text.sentence_starts.tolist()
    spans: list[tuple[int, int, int, int]] = []
    labels: list[int] = []
    owed = 0  # pairs that had to be random and are not yet balanced by a pair that is not
    for document in range(len(text.document_keys)):
        first, end = text.document_starts[document], text.document_starts[document + 1]
        begin = starts[first]  # inside of the sentence `first` if its beginning is in a pair
        while first < end:
            target = _target(limit, short_seq_rate, rng)
            # At least two sentences if the document has two more: with one, B must be random.
            last = max(_gather(starts, first, end, begin + target), min(first + 2, end))
            cut = rng.randint(first + 1, last - 1) if last - first > 1 else last
            a_length = starts[cut] - begin
            # Above 0: A ends before the target, or is one sentence, of at most half of the limit
            # (`Settings.longest_sentence`).
            room = limit - a_length
            if cut == last:
                # A has no continuation in its document.
                is_random, owed = True, owed + 1
            elif owed:
                is_random, owed = False, owed - 1
            else:
                is_random = rng.random() < 0.5
            if is_random:
                other = _another_document(text.document_keys, document, rng)
                b_start, b_end = _stretch(text, starts, other, target - a_length, rng)
                labels.append(IS_RANDOM)
                first = cut
            else:
                b_start, b_end = starts[cut], starts[last]
                labels.append(IS_NEXT)
                first = last
            if overflow == "carry":
                b_end = min(b_end, b_start + room)
            spans.append((begin, a_length, b_start, b_end - b_start))
            # With `carry`, the next pair may begin inside of a sentence, which is then the first of
            # its own.
            begin = starts[cut] if is_random else b_end
            first = first - 1 if begin < starts[first] else first
    return _truncated(spans, labels, limit, rng)


def draw_sentence_order_pairs(
    text: ShardText,
    rng: Random,
    *,
    max_seq_length: int,
    short_seq_rate: float,
    overflow: Overflow,
) -> tuple[Pairs, int]:
    """Draw pairs of consecutive segments, half of them swapped (ALBERT, Lan et al. 2019, §3.1).

    Sentences are gathered as in `draw_next_sentence_pairs`. If one sentence is left at the end of a
    document, it is paired with the sentence before it, which is then part of two pairs. Every
    document must have at least two sentences.
    """
    limit = max_seq_length - SPECIAL_PIECES["sop"]
    starts: list[int] = text.sentence_starts.tolist()
    spans: list[tuple[int, int, int, int]] = []
    labels: list[int] = []
    for document in range(len(text.document_keys)):
        first, end = text.document_starts[document], text.document_starts[document + 1]
        begin = starts[first]  # inside of the sentence `first` if its beginning is in a pair
        while first < end:
            if first == end - 1:  # a single sentence is paired with the one before it
                first, begin = end - 2, starts[end - 2]
            stop = begin + _target(limit, short_seq_rate, rng)
            last = max(_gather(starts, first, end, stop), first + 2)
            cut = rng.randint(first + 1, last - 1)
            b_end = min(starts[last], begin + limit) if overflow == "carry" else starts[last]
            a = begin, starts[cut] - begin
            b = starts[cut], b_end - starts[cut]
            is_swapped = rng.random() < 0.5
            spans.append((*b, *a) if is_swapped else (*a, *b))
            labels.append(IS_SWAPPED if is_swapped else IS_NEXT)
            begin = b_end
            first = last - 1 if begin < starts[last] else last
    return _truncated(spans, labels, limit, rng)


def draw_packed_sentences(
    text: ShardText,
    rng: Random,
    *,
    max_seq_length: int,
    short_seq_rate: float,
    overflow: Overflow,  # noqa: ARG001 - sentences are whole
) -> tuple[Pairs, int]:
    """Pack whole sentences into records (RoBERTa, Liu et al. 2019, §4.2, FULL-SENTENCES).

    A record may cross document boundaries. The last sentence of every document in the text must be
    [SEP] alone, and no sentence may be longer than L - 2. Nothing is truncated.
    """
    limit = max_seq_length - SPECIAL_PIECES["none"]
    starts: list[int] = text.sentence_starts.tolist()
    separators = {end - 1 for end in text.document_starts[1:]}
    spans: list[tuple[int, int, int, int]] = []
    first, end = 0, len(starts) - 1
    while first < end:
        if first in separators:  # a record starts with [CLS], which already separates documents
            first += 1
            continue
        target = _target(limit, short_seq_rate, rng)
        last = first + 1
        while last < end and starts[last + 1] - starts[first] <= target:
            last += 1
        stop = last - 1 if last - 1 in separators else last  # `lay_out` adds the final [SEP]
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
    """Return the target length of a pair, in pieces."""
    return rng.randint(2, limit) if rng.random() < short_seq_rate else limit


def _truncated(
    spans: Sequence[tuple[int, int, int, int]], labels: Sequence[int], limit: int, rng: Random
) -> tuple[Pairs, int]:
    """Return the pairs truncated to the limit, and the number of pieces removed."""
    drawn = np.array(spans, np.int64).reshape(-1, 4)
    # NumPy draws for all pairs at once; its generator is seeded from `rng`, so that the result
    # depends on nothing else.
    kept, cut_pieces = truncate(drawn, limit, np.random.default_rng(rng.getrandbits(128)))
    return Pairs(kept, np.array(labels, np.int64)), cut_pieces


def _gather(starts: Sequence[int], first: int, end: int, stop: int) -> int:
    """Return the end of the shortest run of sentences from `first` that reaches the piece `stop`.

    The run stops at `end` if the document has fewer pieces.
    """
    last = first + 1
    while last < end and starts[last] < stop:
        last += 1
    return last


def _another_document(keys: Sequence[bytes], document: int, rng: Random) -> int:
    """Return a random document with a different text (uniform distribution)."""
    while True:  # ends, because the documents of a shard have at least two different keys
        other = rng.randrange(len(keys))
        if keys[other] != keys[document]:
            return other


def _stretch(
    text: ShardText, starts: Sequence[int], document: int, target: int, rng: Random
) -> tuple[int, int]:
    """Return the first piece and the end of a run of about `target` pieces.

    It begins with a random sentence of the document.
    """
    first, end = text.document_starts[document], text.document_starts[document + 1]
    begin = rng.randrange(first, end)
    return starts[begin], starts[_gather(starts, begin, end, starts[begin] + target)]


def split_long(lengths: np.ndarray, longest: int) -> np.ndarray:
    """Split sentences longer than `longest` pieces into the fewest parts, of nearly equal length.

    A sentence may be longer than a record; without splitting, most of it would be truncated.

    Args:
        lengths: int [S], all above 0.
        longest: the most pieces of a part, above 0.

    Returns:
        int [parts in all], in the same order and with the same sum.
    """
    parts = parts_of(lengths, longest)
    # The number of each part in its sentence; the first `rest` parts get one piece more.
    number = np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)
    size, rest = np.divmod(lengths, parts)
    return np.repeat(size, parts) + (number < np.repeat(rest, parts))


def parts_of(lengths: np.ndarray, longest: int) -> np.ndarray:
    """Return into how many parts `split_long` splits each sentence: int [S]."""
    return -(-lengths // longest)  # rounded up


def truncate(spans: np.ndarray, limit: int, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Truncate pairs longer than the limit, as google-research/bert's `truncate_seq_pair`.

    That function removes one piece at a time from the longer segment (B if they are equal), from
    its start or end with equal probability. Here all pairs are truncated at once: the number of
    pieces removed from a segment follows from the lengths, and how many of them are removed at its
    start has a binomial distribution.

    Args:
        spans: int64 [N, 4], see `Pairs`.
        limit: maximum number of pieces in A and B together.
        rng: random number generator.

    Returns:
        int64 [N, 4], and the total number of pieces removed.
    """
    a_start, a_length, b_start, b_length = spans.T
    a_kept, b_kept = inputs.truncated(a_length, b_length, limit)
    a_front = rng.binomial(a_length - a_kept, 0.5)
    b_front = rng.binomial(b_length - b_kept, 0.5)
    kept = np.stack([a_start + a_front, a_kept, b_start + b_front, b_kept], axis=1)
    return kept, int((a_length - a_kept + b_length - b_kept).sum())


def lay_out(
    text: ShardText, pairs: Pairs, *, max_seq_length: int, marks: inputs.Marks
) -> dict[str, np.ndarray]:
    """Return the pairs as [CLS] A [SEP] B [SEP], or [CLS] A [SEP] without segment B, padded to L.

    Returns:
        input_ids, input_mask, segment_ids: int64 [N, L]; next_sentence_labels: int64 [N, 1].
    """
    spans = inputs.Spans(*pairs.spans.T)
    laid = inputs.lay_out(text.piece_ids, spans, max_seq_length, marks)
    return laid | {schema.NEXT_SENTENCE_LABELS: pairs.next_sentence_labels[:, None]}
