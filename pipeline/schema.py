"""The one table of what a record holds; writer, parser, exporter and tests loop over it."""

from dataclasses import dataclass
from typing import Literal

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""First lines of every vocabulary that `clozeline vocab` writes, so PAD is id 0."""

PAD, UNK, CLS, SEP, MASK = SPECIAL_TOKENS

JOINER = "##"
"""Begins a piece that continues a word."""

Pairing = Literal["nsp", "sop", "none"]
"""What stands in a record: A and the next or a random B (BERT), A and B in order or swapped
(ALBERT's sentence order), or whole sentences without a pair (RoBERTa)."""

Masks = Literal["static", "dynamic"]
"""Where pieces are masked: in the records, or anew in every epoch while they are trained on."""

Compression = Literal["none", "gzip"]
"""How a shard's bytes are packed."""

IS_NEXT, IS_RANDOM, IS_SWAPPED = 0, 1, 1
"""Values of `next_sentence_labels`: 0 = B follows A; 1 = B is random (as in google-research/bert),
or, in pairs of the kind `sop`, A follows B (as in google-research/albert)."""


MASKED_LM_FEATURES = ("masked_lm_positions", "masked_lm_ids", "masked_lm_weights")
"""What a record has of its masks, besides the masked pieces in `input_ids`."""

Kind = Literal["int64", "float32"]


@dataclass(frozen=True)
class Feature:
    """One feature of a `tf.train.Example`.

    Attributes:
        name: the field's own name, which every BERT trainer reads.
        kind: the `tf.train.Feature` list that holds it; `int64` or `float32`.
        length: number of values in every record.
    """

    name: str
    kind: Kind
    length: int


def record_features(
    max_seq_length: int, max_predictions: int, pairing: Pairing = "nsp", masks: Masks = "static"
) -> tuple[Feature, ...]:
    """Return the features of one record, L = max_seq_length, P = max_predictions.

    input_ids: int64 [L]. Pieces; [CLS] A [SEP] B [SEP] or [CLS] A [SEP], then [PAD].
    input_mask: int64 [L]. 1 = real piece, 0 = padding.
    segment_ids: int64 [L]. 0 = [CLS] A [SEP] and padding, 1 = B [SEP].

    Where masks are `static`, some pieces of input_ids are masked, and there are:
    masked_lm_positions: int64 [P]. Indices into input_ids, ascending; 0 where unused.
    masked_lm_ids: int64 [P]. The pieces that stood there; 0 where unused.
    masked_lm_weights: float32 [P]. 1 = a prediction, 0 = unused.

    Where the pairing is not `none`, there is:
    next_sentence_labels: int64 [1]. 0 = B follows A, 1 = B is from another document, or swapped.
    """
    features = [
        Feature("input_ids", "int64", max_seq_length),
        Feature("input_mask", "int64", max_seq_length),
        Feature("segment_ids", "int64", max_seq_length),
    ]
    if masks == "static":
        kinds: tuple[Kind, ...] = ("int64", "int64", "float32")
        features += [
            Feature(name, kind, max_predictions)
            for name, kind in zip(MASKED_LM_FEATURES, kinds, strict=True)
        ]
    if pairing != "none":
        features.append(Feature("next_sentence_labels", "int64", 1))
    return tuple(features)
