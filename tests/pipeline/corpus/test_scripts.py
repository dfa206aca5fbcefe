"""Scripts without spaces: the tables agree with Unicode's."""

import re
import unicodedata

from pipeline.corpus.scripts import MARKS, UNSPACED, UNSPACED_RANGES


def test_marks_are_those_of_unicode() -> None:
    is_mark = re.compile(f"[{MARKS}]").match
    for first, last in UNSPACED_RANGES:
        for character in map(chr, range(first, last + 1)):
            category = unicodedata.category(character)
            if category != "Cn":  # unassigned in this Python's version of Unicode
                assert bool(is_mark(character)) == category.startswith("M"), hex(ord(character))


def test_scripts_with_spaces_are_not_among_them() -> None:
    assert re.findall(f"[{UNSPACED}]", "a ä я א ع क 한 国 か カ ไ") == ["国", "か", "カ", "ไ"]
