"""Show a server's response in the terminal."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.text import Text

from clozeline.show.terminal import table
from model import served
from model.tasks.task_kind import all_kinds
from serving.client.answers import Answer

_SHOWN_VALUES = 6


def show(texts: Sequence[str], answer: Answer) -> RenderableType:
    """Return a human-readable view of a response."""
    views = _SHOW | {
        kind.signature.name: _TASK_VIEWS[kind.signature.view]
        for kind in all_kinds()
        if kind.signature.view
    }
    views |= {
        kind.signature.n_best: ((served.ANSWERS, served.SCORES), _best_answers)
        for kind in all_kinds()
        if kind.signature.n_best
    }
    outputs = answer.outputs
    ranking = ((served.PASSAGES,), _ranking)
    needed, view = ranking if served.PASSAGES in outputs else views.get(answer.signature, _ANY)
    # A signature of another exporter may have the same name as ours but other outputs.
    shown = (view if outputs.keys() >= set(needed) else _values)(texts, outputs)
    if outputs.get(served.TRUNCATED):
        return Group(shown, "The text is longer than the model's maximum; its end was cut off.")
    return shown


def _ranking(_: Sequence[str], answer: dict[str, Any]) -> RenderableType:
    """Return a table of passages, the most relevant first."""
    # z: a number that is rounded to -0 is shown as 0.
    rows = [
        [each["line"], each[served.TEXT], f"{each[served.SCORE]:z.4f}"]
        for each in answer[served.PASSAGES]
    ]
    return table("", ["line", "passage", served.SCORE], rows, frozenset({1}))


def _fillings(texts: Sequence[str], answer: dict[str, Any]) -> RenderableType:
    """Return a table of the candidates for each mask, one column per mask."""
    tokens, probabilities = answer[served.TOKENS], answer[served.PROBABILITIES]
    # A negative position pads the row of a text with fewer masks.
    masks = [index for index, position in enumerate(answer[served.POSITIONS]) if position >= 0]
    rows = [
        [rank + 1, *(f"{tokens[m][rank]} {probabilities[m][rank]:.3f}" for m in masks)]
        for rank in range(len(tokens[0]))
    ]
    columns = ["", *(f"mask {index + 1}" for index in range(len(masks)))]
    return Group(Text(" ".join(texts), style="bold"), table("", columns, rows))


def _next_sentence(_: Sequence[str], answer: dict[str, Any]) -> RenderableType:
    return f"{answer[served.IS_NEXT_PROBABILITY]:.3f}  is the next sentence"


def _classes(_: Sequence[str], answer: dict[str, Any]) -> RenderableType:
    """Return the classes with their probabilities, the most probable first."""
    pairs = zip(answer[served.PROBABILITIES], answer[served.LABELS], strict=True)
    rows = [[label, f"{probability:.3f}"] for probability, label in sorted(pairs, reverse=True)]
    return table("", ["class", "probability"], rows)


def _score(_: Sequence[str], answer: dict[str, Any]) -> RenderableType:
    return f"{answer[served.SCORE]:z.3f}"


_AROUND = 60
"""Characters of a passage that are shown on each side of an answer."""


def _passage(texts: Sequence[str], answer: dict[str, Any]) -> RenderableType:
    """Return the answer, marked in its part of the passage."""
    # Python slices texts by code points.
    start, end = (answer[each + served.CODE_POINT] for each in (served.START, served.END))
    if not answer[served.ANSWER]:
        return f"no answer (score {answer[served.SCORE]:z.3f})"
    passage = texts[-1]
    part = Text("…" if start > _AROUND else "")
    part.append(passage[max(start - _AROUND, 0) : start])
    part.append(passage[start:end], style="bold reverse")
    part.append(passage[end : end + _AROUND] + ("…" if end + _AROUND < len(passage) else ""))
    return Group(
        Text(answer[served.ANSWER], style="bold"), part, f"score {answer[served.SCORE]:z.3f}"
    )


def _best_answers(_: Sequence[str], answer: dict[str, Any]) -> RenderableType:
    """Return a table of the answers, the best one first."""
    columns = zip(answer[served.ANSWERS], answer[served.SCORES], strict=True)
    rows = [[rank, text, f"{score:z.3f}"] for rank, (text, score) in enumerate(columns, 1) if text]
    return table("", ["", served.ANSWER, served.SCORE], rows)


def _vector(_: Sequence[str], answer: dict[str, Any]) -> RenderableType:
    # A model that was tuned for vectors has one of them, other models several.
    name = next((name for name in (served.VECTOR, served.MEAN) if name in answer), None)
    if name is None:
        return _values(_, answer)
    vector = np.array(answer[name])
    head = ", ".join(f"{value:+z.3f}" for value in vector[:_SHOWN_VALUES])
    title = "mean vector" if name == served.MEAN else name
    return f"{title}: {len(vector)} numbers, length {np.linalg.norm(vector):.3f}: {head}…"


def _attention(_: Sequence[str], answer: dict[str, Any]) -> RenderableType:
    """Return the piece that each piece attends to most, per layer, averaged over the heads."""
    # Without padding, which nothing attends to.
    real = [index for index, token in enumerate(answer[served.TOKENS]) if token]
    tokens = [answer[served.TOKENS][index] for index in real]
    scores = np.array(answer[served.SCORES])[:, :, real][:, :, :, real]
    scores = scores.mean(axis=1)  # [layers, L, L]
    rows = [
        [token, *(f"{tokens[layer[row].argmax()]} {layer[row].max():.2f}" for layer in scores)]
        for row, token in enumerate(tokens)
    ]
    columns = ["looks at", *(f"layer {number + 1}" for number in range(len(scores)))]
    return table("", columns, rows)


def _values(_: Sequence[str], answer: dict[str, Any]) -> RenderableType:
    """Return all outputs by name, long ones shortened."""
    return table("", ["output", "value"], [
        [name, _short(value)] for name, value in answer.items() if name not in _NOT_SHOWN
    ])  # fmt: skip


def _short(value: Any) -> str:
    if isinstance(value, list):
        more = ", …" if len(value) > 4 * _SHOWN_VALUES else ""
        return ", ".join(map(_short, value[: 4 * _SHOWN_VALUES])) + more
    return f"{value:z.3f}" if isinstance(value, float) else str(value)


_NOT_SHOWN = (served.TRUNCATED,)
_ANY: tuple[tuple[str, ...], Any] = ((), _values)
_SHOW = {
    served.FILL_MASK: ((served.TOKENS, served.PROBABILITIES, served.POSITIONS), _fillings),
    served.FILL_MASK_PAIR: ((served.TOKENS, served.PROBABILITIES, served.POSITIONS), _fillings),
    served.NEXT_SENTENCE: ((served.IS_NEXT_PROBABILITY,), _next_sentence),
    served.EMBED: ((), _vector),
    served.EMBED_DIMENSION: ((served.VECTOR,), _vector),
    served.SIMILARITY: ((served.SCORE,), _score),
    served.EMBED_TOKENS: ((served.MEAN,), _vector),
    served.ATTENTION: ((served.TOKENS, served.SCORES), _attention),
}
"""Outputs that the view of a signature requires, and its function, by signature."""

_TASK_VIEWS = {
    "classes": ((served.LABELS, served.PROBABILITIES), _classes),
    "number": ((served.SCORE,), _score),
    "passage": (
        (
            served.ANSWER,
            served.SCORE,
            served.START + served.CODE_POINT,
            served.END + served.CODE_POINT,
        ),
        _passage,
    ),
}
"""The same for task kinds, by the name of the view in the kind's signature."""
