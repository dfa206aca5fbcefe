"""Recognize files that a command made: those it may replace when it runs again.

Each takes the beginning of a file, of up to `HEAD_BYTES`.
"""

from pipeline.storage.strict_json import from_json

HEAD_BYTES = 1 << 20

PICTURE = {"Software": "clozeline"}
"""Metadata of our pictures, as `Figure.savefig` takes them: a text chunk of the PNG."""

_CHUNK = b"tEXt" + b"\0".join(part.encode() for pair in PICTURE.items() for part in pair)
_GENERATOR = b'<meta name="generator" content="clozeline">'


def is_picture(head: bytes) -> bool:
    """Return whether a file is a PNG of ours."""
    return head.startswith(b"\x89PNG\r\n\x1a\n") and _CHUNK in head


def is_page(head: bytes) -> bool:
    """Return whether a file is an HTML page of ours."""
    return _GENERATOR in head


def is_answers(head: bytes) -> bool:
    """Return whether a file has a model's answers, as JSON Lines."""
    try:
        first = from_json(head.split(b"\n", 1)[0].decode())
    except ValueError:
        return False
    return isinstance(first, dict) and "answer" in first
