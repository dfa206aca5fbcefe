"""py3langid's identifier with its loop over bytes in NumPy: the same scores in less time.

py3langid counts byte n-grams with an automaton (Aho and Corasick 1975), one byte after another in
Python. The state after a byte follows from the last bytes alone, as many as the longest n-gram has.
So all positions of a text can be walked at once, each from the root over the bytes before it.

Shapes: N bytes of a text, S states of the automaton, F features, C classes.
"""

import threading
from typing import Any

import numpy as np
from py3langid.langid import MODEL_FILE, LanguageIdentifier

_BYTES = 256


class VectorizedIdentifier(LanguageIdentifier):
    """A `LanguageIdentifier` that gives the same results faster."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Prepare the tables of the model, with the arguments of `LanguageIdentifier`."""
        super().__init__(*args, **kwargs)
        self._moves = np.asarray(self.tk_nextmove)  # uint32 [rows * 256]: the next state
        self._rows = np.asarray(self.tk_row, np.intp) * _BYTES  # [S]: where a state's moves begin
        self._features = np.asarray(self.tk_output, np.intp)  # [S]: number of a feature; -1 = none
        self._longest = _longest_walk(self._moves.reshape(-1, _BYTES), self._rows // _BYTES)
        self._after_one = self._moves[self._rows[0] :][:_BYTES].astype(np.intp)
        second = self._rows[self._after_one][:, None] + np.arange(_BYTES)
        self._after_two = self._moves[second].ravel().astype(np.intp)
        # As the scores are added; the model is of 16 bits, which NumPy would convert each time.
        self._weights = self.nb_ptc.astype(np.float32)  # [F, C]
        self._scratch = _Scratch(self._weights.shape)

    def _raw_score(self, text: bytes) -> np.ndarray:
        """Return the score of each class, float32 [C], as the overridden method does."""
        features = self._visited(np.frombuffer(text, np.uint8).astype(np.intp))
        if not len(features):
            return np.asarray(super()._raw_score(text))
        distinct, counts = self._counted(features)
        weights = self._scratch.weights(len(distinct))
        self._weights.take(distinct, axis=0, out=weights, mode="clip")
        return np.asarray(np.log1p(counts) @ weights + self.nb_pc)

    def _visited(self, text: np.ndarray) -> np.ndarray:
        """Return the features of a text in order, intp [n], given its bytes, intp [N]."""
        # `walked`: the state after the last n bytes, where there are so many. NumPy's `clip` is
        # faster than a check of the indices, which are all inside.
        walked = self._after_two.take(text[:-1] * _BYTES + text[1:], mode="clip")
        states = np.append(self._after_one[text[:1]], walked)
        for length in range(3, min(self._longest, len(text)) + 1):
            where = self._rows.take(walked[:-1], mode="clip") + text[length - 1 :]
            walked = self._moves.take(where, mode="clip").astype(np.intp)
            states[length - 1 :] = walked
        features = self._features.take(states, mode="clip")
        return features[features >= 0]

    def _counted(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the distinct features, intp [n], and the count of each, float32 [n].

        They are in the order of their first occurrences: float32 sums depend on the order.
        """
        index = np.arange(len(features))
        first_index = self._scratch.first_index
        # Backwards: of several values for an index, NumPy keeps the last, here the first
        # occurrence.
        first_index[features[::-1]] = index[::-1]
        first = first_index.take(features, mode="clip")
        is_first = first == index
        counts = np.bincount(first, minlength=len(features))[is_first]
        return features[is_first], counts.astype(np.float32)


class _Scratch(threading.local):
    """Arrays that every text overwrites; each thread has its own, since threads share a model.

    New arrays of these sizes would cost more than the work: the system has to clear them.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        features, classes = shape
        self.first_index = np.empty(features, np.intp)
        self._classes = classes
        self._weights = np.empty((0, classes), np.float32)

    def weights(self, count: int) -> np.ndarray:
        """Return an array for the weights of some features, float32 [count, C]."""
        if len(self._weights) < count:
            self._weights = np.empty((2 * count, self._classes), np.float32)
        return self._weights[:count]


def _longest_walk(moves: np.ndarray, rows: np.ndarray) -> int:
    """Return the number of bytes after which every state can have been reached from the root.

    Args:
        moves: int [rows, 256]. The next state.
        rows: int [S]. The row of each state; several states have the same one.
    """
    is_new = np.zeros(len(rows), bool)
    is_new[0] = True
    seen = is_new
    length = -1
    while is_new.any():
        reached = np.zeros(len(rows), bool)
        reached[moves[np.unique(rows[is_new])]] = True
        is_new = reached & ~seen
        seen = seen | reached
        length += 1
    return length


def load() -> VectorizedIdentifier:
    """Return the identifier with the model in py3langid's wheel."""
    # Normalized to probabilities: the raw scores grow with the length of the text.
    identifier: VectorizedIdentifier = VectorizedIdentifier.from_model_file(
        MODEL_FILE, norm_probs=True
    )
    return identifier
