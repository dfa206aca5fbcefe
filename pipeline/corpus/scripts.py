"""Scripts without spaces between words; tables of our own, which no Unicode version changes."""

UNSPACED_RANGES = (
    (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF),
)  # fmt: skip
"""First and last character of each block: Thai and Lao, Burmese, Khmer, kana, Chinese.

Chinese is wider than the tokenizer's `CHINESE_RANGES`: all of planes 2 and 3, which hold ideographs
only, so that blocks that Unicode adds there are text without spaces, too.
"""

_MARK_RANGES = (
    (0x0E31, 0x0E31), (0x0E34, 0x0E3A), (0x0E47, 0x0E4E), (0x0EB1, 0x0EB1), (0x0EB4, 0x0EBC),
    (0x0EC8, 0x0ECE), (0x102B, 0x103E), (0x1056, 0x1059), (0x105E, 0x1060), (0x1062, 0x1064),
    (0x1067, 0x106D), (0x1071, 0x1074), (0x1082, 0x108D), (0x108F, 0x108F), (0x109A, 0x109D),
    (0x17B4, 0x17D3), (0x17DD, 0x17DD), (0x3099, 0x309A),
)  # fmt: skip


def _class(ranges: tuple[tuple[int, int], ...]) -> str:
    """Return the ranges as they stand inside the brackets of a regular expression."""
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)


UNSPACED = _class(UNSPACED_RANGES)
"""Characters of these scripts, for a class in a regular expression."""

MARKS = _class(_MARK_RANGES)
"""Those of them that combine with the character before: vowels, tones (Unicode's category M)."""
