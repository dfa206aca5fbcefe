"""Tokenize one or two texts for a run's model."""

from collections.abc import Sequence

import numpy as np

from model.explaining.example import Example
from model.run import Run
from pipeline import schema
from pipeline.errors import InputError
from pipeline.schema import CLS, SEP
from pipeline.text.inputs import (
    NO_B,
    PAIR_MARKS,
    Marks,
    Spans,
    WrittenPiece,
    lay_out,
    truncated,
    written_pieces,
)
from pipeline.text.tokenizer import build_tokenizer


def read_example(run: Run, texts: Sequence[str]) -> Example:
    """Tokenize one or two texts for a run's model, truncating them to its sequence length.

    Raises:
        InputError: a text is empty, or the run's model takes another number of texts.
    """
    _check_number(run, len(texts))
    tokenizer = build_tokenizer(run.vocabulary.pieces, lower_case=run.dataset.lower_case)
    parts = [written_pieces(tokenizer, text, run.vocabulary.mask_id) for text in texts]
    for text, part in zip(texts, parts, strict=True):
        # [CLS] [SEP] alone would have an explanation, of nothing.
        if not part:
            raise InputError(f"`text` {text!r}: has no word in it; give a sentence")
    first, second = (np.array([length]) for length in [*map(len, parts), NO_B][:2])
    kept = truncated(first, second, run.dataset.max_seq_length - PAIR_MARKS)
    spans = Spans(np.zeros_like(first), kept[0], first, kept[1])
    # The number of each piece is laid out instead of its id, because it leads to its text, too.
    marks = [WrittenPiece(run.vocabulary.ids[mark], mark, is_spaced=True) for mark in (CLS, SEP)]
    pieces = [*marks, *(piece for part in parts for piece in part)]
    numbers = np.arange(len(marks), len(pieces))
    no_padding = 0
    laid = lay_out(numbers, spans, spans.positions[0], Marks(0, 1, no_padding))
    shown = [pieces[number] for number in laid[schema.INPUT_IDS][0]]
    ids = np.array([piece.id for piece in shown], np.int32)
    special = [run.vocabulary.cls_id, run.vocabulary.sep_id, run.vocabulary.mask_id]
    return Example(
        pieces=tuple(run.vocabulary.pieces[index] for index in ids),
        written=tuple(piece.text for piece in shown),
        input_ids=ids,
        segment_ids=laid[schema.SEGMENT_IDS][0].astype(np.int32),
        is_special=np.isin(ids, special),
        is_spaced=np.array([piece.is_spaced for piece in shown]),
        cut_pieces=int(first[0] + second[0] - kept[0][0] - kept[1][0]),
    )


def _check_number(run: Run, texts: int) -> None:
    """Raise `InputError` if the run's model was not trained on this number of texts."""
    if run.task is not None and run.task.takes_pairs != (texts == 2):
        takes = "two texts" if run.task.takes_pairs else "one text"
        raise InputError(f"`text`: {run.path} takes {takes}; give {takes}")
    if run.heads == ("masked_lm",) and texts == 2:
        raise InputError(f"`text`: {run.path} was trained on single texts; give one text")
