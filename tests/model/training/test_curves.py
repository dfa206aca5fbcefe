"""The plot of a run's metrics."""

from pathlib import Path

import numpy as np
from PIL import Image

from model.training.curves import draw_curves


def line(step: int, split: str, **values: float) -> dict:
    return {"step": step, "split": split, **values}


LINES = [
    *(line(s, "train", masked_lm_loss=9 - s / 10, learning_rate=s / 100) for s in range(1, 50)),
    line(25, "eval", masked_lm_loss=6.0),
    line(50, "eval", masked_lm_loss=5.0),
]


def test_a_png_with_a_panel_for_each_measure(tmp_path: Path) -> None:
    sizes = {}
    for name, lines in (
        ("two", LINES),
        ("four", [{**x, "next_sentence_loss": 0.7, "gradient_norm": 1.0} for x in LINES]),
    ):
        draw_curves(tmp_path / f"{name}.png", lines, "run: mini")
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.format == "PNG"
            sizes[name] = picture.size
            assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 50
    assert sizes["four"][1] > 1.5 * sizes["two"][1]


def test_other_values_give_another_picture(tmp_path: Path) -> None:
    draw_curves(tmp_path / "a.png", LINES, "run: mini")
    draw_curves(tmp_path / "b.png", LINES[:-1], "run: mini")
    draw_curves(tmp_path / "c.png", LINES, "run: mini")
    a, b, c = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert a == c
    assert a != b
