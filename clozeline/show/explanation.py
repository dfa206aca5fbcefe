"""Show an explanation in the terminal: the answers, and the words coloured by attribution."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.console import Group, RenderableType
from rich.text import Text

from model.explaining.attribution import Attribution
from model.explaining.example import Example
from model.explaining.explanation import Explanation, Prediction
from pipeline.storage.files import write_atomically

BAR_WIDTH = 20
SHOWN_ANSWERS = 5
STRONGEST_LINKS = 5
ADDS, TAKES = (0, 140, 70), (200, 60, 40)
"""Background colours (RGB) of words with positive and negative attribution."""


def shown(explanation: Explanation) -> RenderableType:
    """Return the summary of an explanation."""
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
        yield Text(f"  {value:z7.3f}  {answer:<16} ") + Text(bar, style="cyan")
    if prediction.attribution:
        of_words = prediction.attribution
        adds_up = "add up to" if of_words.is_complete else "do NOT add up to"
        yield Text(
            f"  the words {adds_up} {of_words.value - of_words.baseline_value:+z.4f}: from "
            f"{of_words.baseline_value:z.4f} at the baseline (error {of_words.error:z.2%})\n",
            style="dim",
        )


def attributed(example: Example, attribution: Attribution) -> Text:
    """Return the text; the background of each word shows its attribution."""
    line = Text("  ")
    largest = max(float(np.abs(attribution.by_piece).max()), 1e-12)
    for word in example.words:
        amount = float(attribution.by_piece[word].sum()) / largest
        line.append("".join(example.written[position] for position in word), _style(amount))
        line.append(" ")
    return line


def _style(amount: float) -> str:
    # The pieces of a word may add up to more than the largest piece.
    strength = min(abs(amount), 1.0)
    if strength < 0.05:
        return ""
    red, green, blue = (round(channel * strength) for channel in (ADDS if amount > 0 else TAKES))
    return f"white on rgb({red},{green},{blue})"


def _attention(explanation: Explanation) -> Iterator[RenderableType]:
    """Yield the largest attention weights of one head."""
    example, layer, head = explanation.example, explanation.layer, explanation.head
    shares = explanation.attention[layer, head]
    yield Text(f"Attention of layer {layer + 1}, head {head + 1}: the strongest links", "bold")
    # Without an axis, places are those of the flattened matrix: row · L + column.
    for place in np.argsort(-shares, axis=None, kind="stable")[:STRONGEST_LINKS]:
        reader, read = divmod(int(place), len(example))
        share = shares[reader, read]
        words = f"{example.written[reader]} → {example.written[read]}"
        yield Text(f"  {share:7.3f}  {words:<24} ") + Text(
            "█" * round(BAR_WIDTH * share), "magenta"
        )


def write_explanation(explanation: Explanation, path: Path) -> None:
    """Write an explanation as a page (.html) or a picture (.png)."""
    if path.suffix == ".png":
        from clozeline.show.attention_picture import picture

        write_atomically(path, picture(explanation))
    else:
        from serving.pages.explanation_page import page

        write_atomically(path, page(explanation))
