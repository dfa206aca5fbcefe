"""Labelled examples as a model takes them, as plain arrays.

Shapes: N examples, L positions of one of them.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

NO_LABEL = -1
"""Label of a position that nothing is learned from."""

SHORTEST_WINDOW = 5
"""Positions of [CLS] A [SEP] B [SEP] with a piece of each text."""


@dataclass
class Encoded:
    """Examples of any task; a long sentence or passage may have become several.

    Attributes:
        input_ids: int32 [L] each. [CLS] A [SEP], or [CLS] A [SEP] B [SEP].
        first_lengths: int32 [N]. Positions of [CLS] A [SEP].
        labels: int32 [N] classes; float32 [N] numbers; int32 [N, 2] first and last position of an
            answer, 0 and 0 without; or int32 [L] each, a tag's at a word's first piece and
            `NO_LABEL` elsewhere. None where nothing is known.
        sources: int32 [N]. Which example of the file it is, or is a part of.
        words: of a span task, int32 [L] each: which word of the passage stands at a position;
            `NO_LABEL` where none does.
        word_bytes: of a span task, int64 [W, 2] for each example of the file: the byte of the
            passage where each of its W words begins, and the byte after its end.
        counts: what happened on the way, by name: `truncated`, `empty`, `in parts`, …
    """

    input_ids: list[np.ndarray]
    first_lengths: np.ndarray
    labels: Any
    sources: np.ndarray
    words: list[np.ndarray] = field(default_factory=list)
    word_bytes: list[np.ndarray] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def chosen(self, rows: list[int]) -> "Encoded":
        """Return the examples of these numbers; what belongs to the file's examples stays."""
        labels = self.labels
        if labels is not None:
            labels = labels[rows] if isinstance(labels, np.ndarray) else [labels[i] for i in rows]
        return replace(
            self,
            input_ids=[self.input_ids[i] for i in rows],
            first_lengths=self.first_lengths[rows],
            labels=labels,
            sources=self.sources[rows],
            words=[self.words[i] for i in rows] if self.words else [],
        )

    def __len__(self) -> int:
        """Return N."""
        return len(self.input_ids)
