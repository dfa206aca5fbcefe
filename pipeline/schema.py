"""The record schema: one table of features that writer, parser, exporter and tests loop over."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

if TYPE_CHECKING:
    import numpy as np
    import tensorflow as tf

# Strings, because the front door imports this module before the libraries.
Arrays: TypeAlias = "dict[str, np.ndarray]"
"""Arrays by name: features of records, inputs or outputs of a model; strings are objects."""

Tensors: TypeAlias = "dict[str, tf.Tensor]"
"""Tensors by name, eager or in a graph. TensorFlow publishes no types: to mypy they are `Any`."""

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""Special tokens, in the order in which `clozeline vocab` writes them; [PAD] has id 0."""

PAD, UNK, CLS, SEP, MASK = SPECIAL_TOKENS

JOINER = "##"
"""Prefix of a piece that continues a word."""

Pairing = Literal["nsp", "sop", "none"]
"""How a sequence is composed. `nsp`: A and the next or a random B (BERT). `sop`: A and B in order
or swapped (ALBERT's sentence-order prediction). `none`: whole sentences, no pair (RoBERTa)."""

Overflow = Literal["cut", "carry"]
"""Treatment of the pieces of a pair above the maximum length. `cut`: they are in no record
(BERT). `carry`: the next pair begins with them."""

Masks = Literal["static", "dynamic"]
"""When pieces are masked: in the stored records, or during training, differently each epoch."""

Deduplicate = Literal[
    "none", "documents", "near", "paragraphs", "lines", "near+paragraphs", "near+lines"
]
"""Duplicates to drop. `documents`: documents of equal text, or id. `near`: also documents
that differ in a few words. `paragraphs`, `lines`: duplicate documents, and then all but one of each
paragraph or line. `near+...`: both."""

NEAR = "near"

Unit = Literal["paragraphs", "lines"]
"""Parts of documents that are compared with those of all documents."""


def compared_unit(deduplicate: Deduplicate) -> Unit | None:
    """Return the parts of documents that are compared; None = only whole documents are."""
    last = deduplicate.split("+")[-1]
    return last if last in get_args(Unit) else None  # type: ignore[return-value]


def finds_near(deduplicate: Deduplicate) -> bool:
    """Return whether near-duplicates are looked for."""
    return NEAR in deduplicate.split("+")


NO_OTHER_DOCUMENT = "no_other_document"
"""Reason for dropping a document: its shard has no other one to draw random sentences from."""

Compression = Literal["none", "gzip"]
"""Compression of the shard files."""

IS_NEXT, IS_RANDOM, IS_SWAPPED = 0, 1, 1
"""Values of `next_sentence_labels`: 0 = B follows A; 1 = B is random (as in google-research/bert)
or, if the pairing is `sop`, A follows B (as in google-research/albert)."""


INPUT_IDS, INPUT_MASK, SEGMENT_IDS = "input_ids", "input_mask", "segment_ids"
MASKED_LM_POSITIONS = "masked_lm_positions"
MASKED_LM_IDS = "masked_lm_ids"
MASKED_LM_WEIGHTS = "masked_lm_weights"
NEXT_SENTENCE_LABELS = "next_sentence_labels"
POSITION_IDS = "position_ids"
NEXT_SENTENCE_POSITIONS = "next_sentence_positions"
NEXT_SENTENCE_WEIGHTS = "next_sentence_weights"
# Every other module takes a feature's name from here: a name that is typed twice can be mistyped
# once, and the two ends then exchange nothing.

ENCODER_INPUTS = (INPUT_IDS, INPUT_MASK, SEGMENT_IDS)
"""Features that the encoder reads."""

MASKED_LM_FEATURES = (MASKED_LM_POSITIONS, MASKED_LM_IDS, MASKED_LM_WEIGHTS)
"""Features that hold a record's masked-LM targets; the masked pieces are in `input_ids`."""

Kind = Literal["int64", "float32"]


@dataclass(frozen=True)
class Feature:
    """One feature of a `tf.train.Example`.

    Attributes:
        name: the standard name of BERT's pretraining data.
        kind: dtype, `int64` or `float32`, which selects the `tf.train.Feature` list.
        length: number of values in every record.
    """

    name: str
    kind: Kind
    length: int


def record_features(
    max_seq_length: int,
    max_predictions: int,
    pairing: Pairing = "nsp",
    masks: Masks = "static",
    max_pairs: int = 1,
) -> tuple[Feature, ...]:
    """Return the features of one record.

    L = max_seq_length, P = max_predictions, K = max_pairs.

    input_ids: int64 [L]. Pieces; [CLS] A [SEP] B [SEP] or [CLS] A [SEP], then [PAD].
    input_mask: int64 [L]. 1 = real piece, 0 = padding.
    segment_ids: int64 [L]. 0 = [CLS] A [SEP] and padding, 1 = B [SEP].

    Where masks are `static`, some pieces of input_ids are masked, and there are:
    masked_lm_positions: int64 [P]. Indices into input_ids, ascending; 0 where unused.
    masked_lm_ids: int64 [P]. The original pieces at these positions; 0 where unused.
    masked_lm_weights: float32 [P]. 1 = a prediction, 0 = unused.

    Where the pairing is not `none`, there is:
    next_sentence_labels: int64 [K]. 0 = B follows A, 1 = B is from another document, or swapped.

    Where K > 1, a record holds up to K pairs one after another, then [PAD], and there are:
    position_ids: int64 [L]. Position of each piece in its pair, from 0; 0 for padding.
    next_sentence_positions: int64 [K]. Index of each pair's [CLS]; 0 where unused.
    next_sentence_weights: float32 [K]. 1 = a pair, 0 = unused.
    """
    features = [
        Feature(INPUT_IDS, "int64", max_seq_length),
        Feature(INPUT_MASK, "int64", max_seq_length),
        Feature(SEGMENT_IDS, "int64", max_seq_length),
    ]
    if masks == "static":
        kinds: tuple[Kind, ...] = ("int64", "int64", "float32")
        features += [
            Feature(name, kind, max_predictions)
            for name, kind in zip(MASKED_LM_FEATURES, kinds, strict=True)
        ]
    if pairing != "none":
        features.append(Feature(NEXT_SENTENCE_LABELS, "int64", max_pairs))
    if max_pairs > 1:
        features += [
            Feature(POSITION_IDS, "int64", max_seq_length),
            Feature(NEXT_SENTENCE_POSITIONS, "int64", max_pairs),
            Feature(NEXT_SENTENCE_WEIGHTS, "float32", max_pairs),
        ]
    return tuple(features)
