"""Plot a run's metrics as a PNG."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.storage.files import write_atomically

PANELS = (
    ("masked_lm_loss", "masked LM loss, nats"),
    ("masked_lm_accuracy", "masked LM accuracy"),
    ("next_sentence_loss", "next-sentence loss, nats"),
    ("next_sentence_accuracy", "next-sentence accuracy"),
    ("task_loss", "loss"),
    ("task_accuracy", "accuracy"),
    ("macro_f1", "macro F1"),
    ("pearson", "Pearson correlation"),
    ("entity_f1", "entity F1"),
    ("span_f1", "answer F1"),
    ("learning_rate", "learning rate"),
    ("gradient_norm", "global gradient norm"),
)
COLUMNS = 2

PANEL = (5.5, 2.8)
"""Width and height of a panel with its labels, in inches."""

Styles = Mapping[str, Mapping[str, float | str]]
"""Matplotlib's settings of a line, by split."""

STYLES: Styles = {"train": {"linewidth": 1}, "eval": {"marker": "o"}}


def draw_curves(
    path: Path,
    lines: Sequence[Mapping[str, Any]],
    title: str,
    styles: Styles = STYLES,
) -> None:
    """Plot every metric against the steps, as a PNG.

    Args:
        path: file to write.
        lines: lines of `metrics.jsonl`.
        title: title of the figure.
        styles: Matplotlib line settings by split.
    """
    # Not pyplot: it would require a display.
    from matplotlib.figure import Figure

    panels = [(name, words) for name, words in PANELS if any(name in line for line in lines)]
    rows = -(-len(panels) // COLUMNS)
    width, height = PANEL[0] * COLUMNS, PANEL[1] * rows
    figure = Figure(figsize=(width, height))
    figure.suptitle(title, y=1 - 0.1 / height, verticalalignment="top")
    axes = figure.subplots(rows, COLUMNS, squeeze=False, sharex=True).flat
    # Margins in inches, with room for labels such as "0.00025". Matplotlib's automatic layouts
    # take longer than the drawing, and this is drawn at the end of every training.
    figure.subplots_adjust(
        left=0.75 / width,
        right=1 - 0.2 / width,
        bottom=0.55 / height,
        top=1 - 0.7 / height,
        wspace=0.85 / (PANEL[0] - 0.85),
        hspace=0.45 / (PANEL[1] - 0.45),
    )
    for panel, (name, words) in zip(axes, panels, strict=False):
        for split, style in styles.items():
            points = [(line["step"], line[name]) for line in lines
                      if line["split"] == split and name in line]  # fmt: skip
            if points:
                panel.plot(*zip(*points, strict=True), label=split, **style)
        panel.set_title(words, fontsize="medium")
        panel.grid(alpha=0.3)
        panel.legend(fontsize="small")
    for panel in list(axes)[len(panels) :]:
        panel.remove()
    for panel in figure.axes[-COLUMNS:]:
        panel.set_xlabel("step")
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    write_atomically(path, picture.getvalue())
