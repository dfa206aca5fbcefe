"""Render an explanation as a self-contained HTML file that works offline.

Style, scripts and data are embedded in the file. Its content security policy allows only the style
and script with these hashes, and no network access.
"""

import base64
import hashlib
import zlib
from importlib import resources

import numpy as np

from model.explaining.explanation import Explanation
from model.explaining.plain import prediction_as_plain
from model.explaining.steps import Step
from pipeline import schema
from pipeline.storage.strict_json import JsonObject, to_json

PAGES = resources.files("serving") / "pages"
SCRIPTS = ("attention.js", "explanation.js")

SHOWN_COLUMNS = 10
"""Number of components of each vector in the tables of the steps."""

LEVELS = (255, 127, 63, 31, 15, 7)
"""Quantization levels for square roots of attention weights; the first that fits is used."""

MOST_ATTENTION_BYTES = 4_200_000
"""Size limit of the packed attention, so that the whole page stays below 5 MB."""


def page(explanation: Explanation) -> bytes:
    """Return the HTML file."""
    style = (PAGES / "style.css").read_text(encoding="utf-8")
    script = "\n".join((PAGES / name).read_text(encoding="utf-8") for name in SCRIPTS)
    # Hashes allow exactly these two texts, so nothing in the data can run as a script.
    policy = f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}"
    html = (PAGES / "explanation.html").read_text(encoding="utf-8")
    # The data are inserted last: they are user text, and might contain one of the placeholders.
    for name, text in (
        ("POLICY", policy),
        ("STYLE", style),
        ("SCRIPT", script),
        ("DATA", _script_safe(page_data(explanation))),
    ):
        before, mark, after = html.partition(f"<!--{name}-->")
        assert mark, name
        html = before + text + after
    return html.encode()


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _script_safe(data: JsonObject) -> str:
    """Return JSON that cannot close the <script> element which contains it."""
    text = to_json(data, compact=True)
    return text.replace("<", "\\u003c")


def page_data(explanation: Explanation) -> JsonObject:
    """Return the data that the page's script reads."""
    example = explanation.example
    layers, heads = explanation.attention.shape[:2]
    return {
        "run": explanation.run,
        "notes": explanation.notes,
        "pieces": example.pieces,
        "written": example.written,
        schema.INPUT_IDS: example.input_ids.tolist(),
        schema.SEGMENT_IDS: example.segment_ids.tolist(),
        "is_special": example.is_special.tolist(),
        "words": example.words,
        "layers": layers,
        "heads": heads,
        "layer": explanation.layer,
        "head": explanation.head,
        "attention": packed(explanation.attention),
        "rollout": packed(explanation.rollout),
        "predictions": [prediction_as_plain(each) for each in explanation.predictions],
        "steps": [_step(step) for step in explanation.steps],
    }


def packed(shares: np.ndarray) -> JsonObject:
    """Quantize the square roots of attention weights to a byte each, deflated and in base64.

    Square roots, because most weights of a long text are near 0, where differences must stay
    visible. Deflate only uses run-length matches (`Z_RLE`): the bytes have no other repetitions,
    and searching for them took minutes.
    """
    roots = np.sqrt(np.clip(shares, 0, 1))
    # The coarsest level is used even if it does not fit: a large page is better than none.
    for levels in LEVELS:
        data = np.round(roots * levels).astype(np.uint8).tobytes()
        deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS, memLevel=9, strategy=zlib.Z_RLE)
        text = base64.b64encode(deflate.compress(data) + deflate.flush()).decode()
        if len(text) <= MOST_ATTENTION_BYTES:
            break
    return {"levels": levels, "deflated": text}


def _step(step: Step) -> JsonObject:
    """Return a step with the first components of its vectors, to four significant digits."""
    rows = np.atleast_2d(step.values)
    return {
        "name": step.name,
        "title": step.title,
        "formula": step.formula,
        "shape": step.shape,
        "source": step.source,
        "size": step.values.shape,
        "largest": float(np.abs(rows).max()),
        "rows": [[float(f"{value:.4g}") for value in row[:SHOWN_COLUMNS]] for row in rows],
    }
