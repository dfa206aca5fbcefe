"""Repair text that was decoded with a wrong encoding, or that has remains of HTML."""

import html
import re
from collections import Counter

import ftfy
from ftfy.badness import is_bad

from pipeline.corpus.rules.rule import TextDocument

_MOJIBAKE = ftfy.TextFixerConfig(
    unescape_html=False,  # below, and counted
    remove_terminal_escapes=False,
    fix_latin_ligatures=False,
    fix_character_width=False,
    uncurl_quotes=False,
    fix_line_breaks=False,
    fix_surrogates=False,
    remove_control_chars=False,
    normalization=None,
)
"""Only wrong encodings: the rest would change text that is as its author wrote it."""

# With a semicolon, so that `?a=1&copy=2` stays.
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")

_INVISIBLE = re.compile("[\u00ad\u200b\u2060\ufeff]")
"""Soft hyphen, zero-width space, word joiner, byte-order mark. The zero-width joiner and non-joiner
stay: Persian, Hindi and emoji need them."""


_CONTROL = re.compile("[\x80-\x9f]")
"""Characters of Windows-1252 in text that was decoded as Latin-1 (`fix_c1_controls`)."""

_NOT_ASCII = re.compile(r"[^\x00-\x7f]")

_LONG_ASCII = re.compile(r"[\x00-\x7f]{9,}")


def repair(document: TextDocument) -> TextDocument:
    """Repair mojibake (with ftfy) and HTML entities, and remove invisible characters.

    Mojibake comes first, because its bytes may look like soft hyphens; entities come before the
    invisible characters that they may stand for.
    """
    text = _without_mojibake(document.text)
    mojibake = int(text != document.text)
    text, entities = _ENTITY.subn(lambda entity: html.unescape(entity[0]), text)
    if entities:
        text = text.encode("utf-8", "replace").decode()
    text, invisible = _INVISIBLE.subn("", text)
    changes = Counter(
        documents_with_mojibake=mojibake,
        html_entities=entities,
        invisible_characters=invisible,
    )
    return document.changed(text, **+changes) if +changes else document


def _without_mojibake(text: str) -> str:
    """Return a text with its mojibake repaired, line by line, as `ftfy.fix_text` does.

    ftfy takes some 20 microseconds for a line, which is minutes for a text of many short ones. So
    it gets only those that it might change: it asks `is_bad` first, too.
    """
    parts: list[str] = []
    done = 0
    while found := _NOT_ASCII.search(text, done):
        begin = max(text.rfind("\n", done, found.start()) + 1, done)
        end = text.find("\n", found.start()) + 1 or len(text)
        line = text[begin:end]
        may_change = _looks_bad(line) or _CONTROL.search(line)
        parts += [text[done:begin], ftfy.fix_text(line, _MOJIBAKE) if may_change else line]
        done = end
    return "".join([*parts, text[done:]])


def _looks_bad(line: str) -> bool:
    """Return what `is_bad` says of a line, without showing it the inside of long runs of ASCII.

    All that it finds contains a character outside of ASCII, with at most two of ASCII on each side,
    and its expression takes 200 ns for each character.
    """
    return is_bad(_LONG_ASCII.sub(lambda run: run[0][:4] + run[0][-4:], line))
