"""An explanation in a terminal: words coloured by what they add, and the answers."""

from collections.abc import Iterator

import numpy as np
from rich.console import Group, RenderableType
from rich.text import Text

from model.explaining.attribution import Attribution
from model.explaining.example import Example
from model.explaining.explanation import Explanation, Prediction

BAR_WIDTH = 20
SHOWN_ANSWERS = 5
STRONGEST_LINKS = 5
ADDS, TAKES = (0, 140, 70), (200, 60, 40)
"""Backgrounds of the words that speak for an answer, and against it."""


def shown(explanation: Explanation) -> RenderableType:
    """Return the short form of an explanation."""
    example = explanation.example
    parts: list[RenderableType] = [Text(note, style="yellow") for note in explanation.notes]
    for prediction in explanation.predictions:
        parts += _prediction(example, prediction)
    parts += _attention(explanation)
    return Group(*parts)


def _prediction(example: Example, prediction: Prediction) -> Iterator[RenderableType]:
    yield Text(prediction.title, style="bold")
    if prediction.attribution:
        yield attributed(example, prediction.attribution)
    for answer, value in prediction.answers[:SHOWN_ANSWERS]:
        bar = "" if prediction.kind == "score" else "█" * round(BAR_WIDTH * value)
        yield Text(f"  {value:7.3f}  {answer:<16} ") + Text(bar, style="cyan")
    if prediction.attribution:
        found = prediction.attribution
        adds_up = "add up to" if found.is_complete else "do NOT add up to"
        yield Text(
            f"  the words {adds_up} {found.value - found.baseline_value:+.4f}: from "
            f"{found.baseline_value:.4f} without them (off by {found.error:.2%})\n",
            style="dim",
        )


def attributed(example: Example, attribution: Attribution) -> Text:
    """Return the text with each word on a background as strong as what it adds."""
    line = Text("  ")
    largest = max(float(np.abs(attribution.by_piece).max()), 1e-12)
    for word in example.words:
        amount = float(attribution.by_piece[word].sum()) / largest
        line.append("".join(example.written[position] for position in word), _style(amount))
        line.append(" ")
    return line


def _style(amount: float) -> str:
    strength = min(abs(amount), 1.0)
    if strength < 0.05:
        return ""
    red, green, blue = (round(channel * strength) for channel in (ADDS if amount > 0 else TAKES))
    return f"white on rgb({red},{green},{blue})"


def _attention(explanation: Explanation) -> Iterator[RenderableType]:
    """Yield where one head looks most, and which words are most in the last layer."""
    example, layer, head = explanation.example, explanation.layer, explanation.head
    shares = explanation.attention[layer, head]
    yield Text(f"Attention of layer {layer + 1}, head {head + 1}: the strongest links", "bold")
    for place in np.argsort(-shares, axis=None, kind="stable")[:STRONGEST_LINKS]:
        reader, read = divmod(int(place), len(example))
        share = shares[reader, read]
        words = f"{example.written[reader]} → {example.written[read]}"
        yield Text(f"  {share:7.3f}  {words:<24} ") + Text(
            "█" * round(BAR_WIDTH * share), "magenta"
        )
