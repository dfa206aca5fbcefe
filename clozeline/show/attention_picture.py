"""Draw an explanation as a picture for a slide: word attributions, and one head's attention."""

import io
import warnings
from typing import Any

import numpy as np

from model.explaining.explanation import Explanation
from pipeline.storage.recognition import PICTURE

MOST_LABELS = 48
"""Maximum number of words for which the heat map has labels; more labels would overlap."""

ADDS, TAKES = "#15935a", "#cf4a30"


def picture(explanation: Explanation) -> bytes:
    """Return a PNG image. Characters that no installed font has are drawn as boxes."""
    import matplotlib
    from matplotlib.figure import Figure  # not pyplot, which needs a display

    fonts = _fonts_for({*"".join(explanation.example.written)})
    attributed = [each for each in explanation.predictions if each.attribution]
    with matplotlib.rc_context({"font.family": fonts}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(12.8, 7.2), layout="constrained")
        axes = figure.subplots(1, 1 + bool(attributed), squeeze=False)[0]
        if attributed:
            _draw_words(axes[0], explanation, attributed[0])
        _draw_attention(axes[-1], explanation)
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=150, metadata=PICTURE)
    return png.getvalue()


def _fonts_for(letters: set[str]) -> list[str]:
    """Return matplotlib's default font, and installed fonts with the characters that it lacks."""
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    fonts = ["DejaVu Sans"]
    codes = {ord(letter) for letter in letters if not letter.isspace()}
    missing = codes - FT2Font(font_manager.findfont(fonts[0])).get_charmap().keys()
    for path in sorted(font_manager.findSystemFonts()) if missing else ():
        try:
            font = FT2Font(path)
        except RuntimeError:  # FreeType cannot read the file
            continue
        if font.scalable and missing & font.get_charmap().keys():  # not colour bitmaps (emoji)
            missing -= font.get_charmap().keys()
            font_manager.fontManager.addfont(path)
            fonts.append(font.family_name)
    return fonts


def _words(explanation: Explanation) -> list[str]:
    written = explanation.example.written
    return ["".join(written[at] for at in word) for word in explanation.example.words]


def _draw_words(axes: Any, explanation: Explanation, prediction: Any) -> None:
    """Draw the attribution of each word as a bar."""
    example, attribution = explanation.example, prediction.attribution
    # The baseline keeps special pieces, so they have no attribution.
    places = [i for i, word in enumerate(example.words) if not example.is_special[word[0]]]
    words = _words(explanation)
    amounts = [float(attribution.by_piece[example.words[place]].sum()) for place in places]
    colours = [ADDS if amount > 0 else TAKES for amount in amounts]
    axes.barh(range(len(places)), amounts, color=colours)
    # A word may have the sign $, which begins a formula for matplotlib.
    axes.set_yticks(range(len(places)), [words[place] for place in places], parse_math=False)
    axes.tick_params(axis="y", labelsize=_label_size(len(places)))
    axes.invert_yaxis()
    axes.axvline(0, color="0.5", linewidth=0.8)
    best, value = prediction.answers[0]
    baseline = f"{attribution.baseline_value:z.3f} at the baseline"
    title = f"{prediction.title}\n{best}: {value:z.3f}, {baseline}"
    axes.set_title(title, fontsize="medium", parse_math=False)
    axes.set_xlabel("attribution of each word (integrated gradients)")


def _draw_attention(axes: Any, explanation: Explanation) -> None:
    """Draw one head's attention weights between words as a heat map."""
    words, groups = _words(explanation), explanation.example.words
    shares = explanation.attention[explanation.layer, explanation.head]
    # From a word, the mean over its pieces; to a word, the sum (Clark et al. 2019,
    # https://arxiv.org/abs/1906.04341, section 4.1).
    rows = np.array([shares[group].mean(axis=0) for group in groups])
    # The sums come by key; transposed, rows are queries.
    cells = np.array([rows[:, group].sum(axis=1) for group in groups]).T
    axes.imshow(cells, cmap="Blues", vmin=0)
    if len(words) <= MOST_LABELS:
        ticks, size = range(len(words)), _label_size(len(words))
        axes.set_xticks(ticks, words, rotation=90, fontsize=size, parse_math=False)
        axes.set_yticks(ticks, words, fontsize=size, parse_math=False)
    where = f"layer {explanation.layer + 1}, head {explanation.head + 1}"
    axes.set_title(
        f"attention weights of {where} (rows: queries, columns: keys)", fontsize="medium"
    )


def _label_size(words: int) -> float:
    return float(np.clip(280 / max(words, 1), 5, 11))
