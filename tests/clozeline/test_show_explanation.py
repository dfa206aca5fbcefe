"""An explanation in the terminal."""

import dataclasses
import io

import numpy as np
from rich.console import Console, Group, RenderableType

from clozeline.show.explanation import attributed, shown
from model.explaining.attribution import Attribution
from model.explaining.example import Example
from model.explaining.explanation import Explanation, Prediction

PIECES = ("[CLS]", "light", "##house", "sea", "[SEP]")
EXAMPLE = Example(
    PIECES, ("[CLS]", "Light", "house", "sea", "[SEP]"), np.arange(5), np.zeros(5, int),
    np.array([True, False, False, False, True]), np.ones(5, bool), 0,
)  # fmt: skip


def attribution(error: float) -> Attribution:
    values = np.array([0, 0.3, 0.1, -0.2, 0], np.float32)
    return Attribution(0, values, 0.9, 0.7, error, 16)


def printed(renderable: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def explanation(error: float) -> Explanation:
    attention = np.zeros((2, 2, 5, 5), np.float32)
    attention[1, 0, 3, 1] = 0.75
    attention[0, 0, 4, 4] = 1.0  # of another layer
    prediction = Prediction(
        "single", "Which class?", "", "", None, (("yes", 0.9), ("no", 0.1)), attribution(error)
    )
    return Explanation(
        run="r", notes=("a note",), example=EXAMPLE, layer=1, head=0, steps=(),
        predictions=(prediction,), attention=attention, rollout=attention[0, 0],
    )  # fmt: skip


def test_answers_bars_and_links_are_printed() -> None:
    lines = printed(shown(explanation(0.002))).splitlines()
    assert lines[0] == "a note"
    answers = [line for line in lines if "yes" in line or "no  " in line]
    assert [line.count("█") for line in answers] == [18, 2]  # of 20
    strongest = lines[lines.index("Attention of layer 2, head 1: the strongest links") + 1]
    assert strongest.split() == ["0.750", "sea", "→", "Light", "█" * 15]


def test_completeness_is_stated_only_within_the_target_error() -> None:
    assert "the words add up to +0.2000: from 0.7000" in printed(shown(explanation(0.002)))
    assert "the words do NOT add up to +0.2000" in printed(shown(explanation(0.3)))


def test_a_number_that_is_rounded_to_zero_has_no_minus_sign() -> None:
    none = Attribution(0, np.zeros(5, np.float32), -1e-9, -1e-6, -1e-9, 16)
    prediction = Prediction("score", "Which score?", "", "", None, (("score", -1e-5),), none)
    text = printed(shown(dataclasses.replace(explanation(0), predictions=(prediction,))))
    assert "0.000  score" in text
    assert "add up to +0.0000: from 0.0000 at the baseline" in text
    assert "-0" not in text


def test_the_pieces_of_a_word_are_coloured_together() -> None:
    line = attributed(EXAMPLE, attribution(0))
    styles = {line.plain[span.start : span.end]: str(span.style) for span in line.spans}
    # Light + house add most, in green; sea takes away 2/3 of the largest piece's amount, in red.
    assert styles["Lighthouse"] == "white on rgb(0,140,70)"
    assert styles["sea"] == "white on rgb(133,40,27)"
    assert not styles.get("[CLS]")
    assert isinstance(shown(explanation(0)), Group)
