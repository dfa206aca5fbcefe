"""Table of the kinds of task, and the pretraining heads."""

from dataclasses import dataclass
from typing import Literal

from pipeline.schema import Pairing

Head = Literal["masked_lm", "next_sentence"]


@dataclass(frozen=True)
class KindEntry:
    """An entry of `KINDS`.

    Attributes:
        path: MODULE:NAME of the kind's object; it is imported on first use, to keep `--help` fast.
        summary: description of the kind's examples, for `--help`.
    """

    path: str
    summary: str


KINDS = {
    "single": KindEntry("model.tasks.classification:SINGLE", "classes of texts"),
    "pair": KindEntry("model.tasks.classification:PAIR", "classes of pairs of texts"),
    "regression": KindEntry("model.tasks.regression:REGRESSION", "numbers for texts or pairs"),
    "tagging": KindEntry("model.tasks.tagging:TAGGING", "tags of words, in CoNLL's columns"),
    "span": KindEntry("model.tasks.span:SPAN", "answers out of passages, in SQuAD's JSON"),
    "similarity": KindEntry("model.tasks.similarity:SIMILARITY", "vectors of texts, from pairs"),
}
"""All kinds of task by name. To add a kind, add an entry here."""


def numbered_labels(count: int) -> tuple[str, ...]:
    """Return default names for the outputs of a head, the same as in `transformers`."""
    return tuple(f"LABEL_{index}" for index in range(count))


def heads(pairing: Pairing) -> tuple[Head, ...]:
    """Return the heads that are trained on a dataset: without pairs, only the masked LM head."""
    return ("masked_lm",) if pairing == "none" else ("masked_lm", "next_sentence")
