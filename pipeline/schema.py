"""The one table of what a record holds; writer, parser, exporter and tests loop over it."""

from dataclasses import dataclass
from typing import Literal

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""First lines of every vocabulary that `clozeline vocab` writes, so PAD is id 0."""

PAD, UNK, CLS, SEP, MASK = SPECIAL_TOKENS

JOINER = "##"
"""Begins a piece that continues a word."""

IS_NEXT, IS_RANDOM = 0, 1
"""Values of `next_sentence_labels`, as in google-research/bert: 0 = B follows A, 1 = random."""


@dataclass(frozen=True)
class Feature:
    """One feature of a `tf.train.Example`.

    Attributes:
        name: the field's own name, which every BERT trainer reads.
        kind: the `tf.train.Feature` list that holds it; `int64` or `float32`.
        length: number of values in every record.
    """

    name: str
    kind: Literal["int64", "float32"]
    length: int


def record_features(max_seq_length: int, max_predictions: int) -> tuple[Feature, ...]:
    """Return the features of one record, L = max_seq_length, P = max_predictions.

    input_ids: int64 [L]. Pieces with some masked; [CLS] A [SEP] B [SEP], then [PAD].
    input_mask: int64 [L]. 1 = real piece, 0 = padding.
    segment_ids: int64 [L]. 0 = [CLS] A [SEP] and padding, 1 = B [SEP].
    masked_lm_positions: int64 [P]. Indices into input_ids, ascending; 0 where unused.
    masked_lm_ids: int64 [P]. The pieces that stood there; 0 where unused.
    masked_lm_weights: float32 [P]. 1 = a prediction, 0 = unused.
    next_sentence_labels: int64 [1]. 0 = B follows A, 1 = B is from another document.
    """
    return (
        Feature("input_ids", "int64", max_seq_length),
        Feature("input_mask", "int64", max_seq_length),
        Feature("segment_ids", "int64", max_seq_length),
        Feature("masked_lm_positions", "int64", max_predictions),
        Feature("masked_lm_ids", "int64", max_predictions),
        Feature("masked_lm_weights", "float32", max_predictions),
        Feature("next_sentence_labels", "int64", 1),
    )
