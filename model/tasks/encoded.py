"""Encoded examples: the model's inputs and labels, as NumPy arrays.

Shapes: N examples, L positions of an example.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

NO_LABEL = -1
"""Label of positions without a label; they do not contribute to the loss."""

SHORTEST_WINDOW = 5
"""Length of the shortest pair, [CLS] A [SEP] B [SEP] with one piece in each text."""


@dataclass
class Encoded:
    """Encoded examples; a long sentence or passage is split into several.

    Attributes:
        input_ids: N arrays, int32 [L]. [CLS] A [SEP], or [CLS] A [SEP] B [SEP].
        first_lengths: int32 [N]. Number of positions in [CLS] A [SEP].
        labels: int32 [N] classes; float32 [N] numbers; int32 [N, 2] first and last position of the
            answer, (0, 0) without an answer; or N arrays int32 [L] with a tag at the first piece of
            each word and `NO_LABEL` elsewhere. None if labels are unknown.
        sources: int32 [N]. Index of the file's example that the example is (a part of).
        words: N arrays, int32 [L], for span tasks: index of the passage's word at each position,
            `NO_LABEL` at other positions.
        word_bytes: one array per example of the file, int64 [W, 2], for span tasks: byte offset of
            each of the passage's W words, and byte offset after its end.
        counts: number of examples by event: `truncated`, `empty`, `in parts`, …
        teacher_logits: N arrays, float32 [C], or [L, C] for an answer per position: outputs of the
            teacher's head; empty = there is no teacher.
        are_labelled: bool [N]. Whether the label is known, if there is a teacher; else None. Labels
            of the others are the teacher's answers.
        groups: int32 [E, T]. Indices of the encoded texts of each example, if an example has T
            texts that are encoded one by one; the labels are those of the E examples. None = each
            encoded text, or pair of texts, is (a part of) an example.
    """

    input_ids: list[np.ndarray]
    first_lengths: np.ndarray
    labels: Any
    sources: np.ndarray
    words: list[np.ndarray] = field(default_factory=list)
    word_bytes: list[np.ndarray] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    teacher_logits: list[np.ndarray] = field(default_factory=list)
    are_labelled: np.ndarray | None = None
    groups: np.ndarray | None = None

    def chosen(self, rows: list[int]) -> "Encoded":
        """Return the encoded examples at these indices; `sources` and `word_bytes` stay valid."""
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
            teacher_logits=[self.teacher_logits[i] for i in rows] if self.teacher_logits else [],
            are_labelled=None if self.are_labelled is None else self.are_labelled[rows],
        )

    def joined(self, other: "Encoded") -> "Encoded":
        """Return the inputs and labels of these examples and of others, for a training."""
        labels: Any = [*self.labels, *other.labels]
        if isinstance(self.labels, np.ndarray):
            labels = np.concatenate([self.labels, other.labels])
        masks = [
            np.ones(len(each), bool) if each.are_labelled is None else each.are_labelled
            for each in (self, other)
        ]
        return Encoded(
            [*self.input_ids, *other.input_ids],
            np.concatenate([self.first_lengths, other.first_lengths]),
            labels,
            # Sources of both stay apart, for means over the windows of a text.
            np.concatenate([self.sources, other.sources + self.sources.max() + 1]),
            teacher_logits=[*self.teacher_logits, *other.teacher_logits],
            are_labelled=np.concatenate(masks),
        )

    def __len__(self) -> int:
        """Return N."""
        return len(self.input_ids)
