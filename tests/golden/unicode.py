"""The general categories of all characters in one version of Unicode (`make_unicode_golden.py`)."""

import json
from functools import cache
from pathlib import Path

_GOLDEN = json.loads((Path(__file__).parent / "unicode.json").read_text())
VERSION: str = _GOLDEN["version"]


@cache
def _categories() -> dict[int, str]:
    return {
        code: category
        for category, ranges in _GOLDEN["categories"].items()
        for first, _, last in (part.partition("-") for part in ranges.split())
        for code in range(int(first, 16), int(last or first, 16) + 1)
    }


def category(character: str) -> str:
    """Return what `unicodedata.category` does where Python has this version of Unicode."""
    return _categories()[ord(character)]
