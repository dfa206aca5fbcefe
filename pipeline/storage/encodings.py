"""Recognize files that are not plain UTF-8 text, and say how to convert them."""

import codecs
import contextlib
from collections.abc import Iterable
from pathlib import Path

from pipeline.errors import InputError

UTF8 = "utf-8"

UTF16, NUL_BYTES, CR_ONLY, COMPRESSED = "utf16", "nul_bytes", "cr_only", "compressed"
NUL_IN_TEXT = "nul_in_text"
"""Suspicions about a file, from its beginning."""

CONVERT = "convert the file, for example with: iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW"
"""Advice about a file that must be in UTF-8 and is not."""

HEAD_BYTES = 1 << 16
"""Number of bytes of a file's first document that are searched for NUL bytes."""

MAX_CONTROLS_RATE = 0.1
"""Largest share of control characters in plain text with NUL bytes."""

_BYTE_ORDER_MARKS = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")  # UTF-16, UTF-32 big-endian
_MAGIC = (
    b"\x1f\x8b\x08",  # gzip
    *(b"BZh%d1AY&SY" % level for level in range(1, 10)),  # bzip2
    b"\xfd7zXZ\x00",  # xz
    b"\x28\xb5\x2f\xfd",  # zstd
    b"PK\x03\x04",  # zip
    b"\x04\x22\x4d\x18",  # lz4
    b"7z\xbc\xaf\x27\x1c",
    b"\x1f\x9d",  # compress (.Z)
)
"""Magic numbers of compressed files."""

MEANINGS = {
    UTF16: "UTF-16 or UTF-32, not UTF-8; convert with: iconv -f UTF-16 -t UTF-8 OLD > NEW",
    NUL_BYTES: "has NUL bytes, so it is UTF-16 without a byte order mark or no text at all; "
    "convert with: iconv -f UTF-16LE -t UTF-8 OLD > NEW",
    NUL_IN_TEXT: "has NUL bytes among plain text; remove them with: tr -d '\\000' < OLD > NEW",
    CR_ONLY: "has carriage returns alone as line ends (old Mac OS), so it is read as one line; "
    "convert with: tr '\\r' '\\n' < OLD > NEW",
    COMPRESSED: "compressed, but its name does not end in .gz, .bz2, .xz or .zst; rename it, or "
    "unpack it if it is of another kind",
}
"""Descriptions of these suspicions for people, with advice."""


def is_utf8(encoding: str) -> bool:
    """Return whether a name means UTF-8: codecs have several, such as utf8, UTF-8, utf-8-sig."""
    return codecs.lookup(encoding).name in (UTF8, "utf-8-sig")


def is_unicode(text: str) -> bool:
    """Return whether a text can be encoded as UTF-8.

    Lone surrogates cannot: JSON escapes may hold some, and Python makes them of other bytes in the
    arguments of a command.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_unicode(field: str, texts: Iterable[str]) -> None:
    """Check that the texts of a configuration's field can be encoded as UTF-8.

    Raises:
        InputError: one cannot.
    """
    for text in texts:
        if not is_unicode(text):
            raise InputError(f"`{field}` {text!a:.100}: has bytes that are not UTF-8; correct it")


def suspicion(document: bytes, codec: str = UTF8) -> str | None:
    """Return the kind of remark for a file, given its first document; None if it looks fine.

    Args:
        document: the document's bytes.
        codec: name of the codec that decodes them: UTF-16 has NUL bytes, too.
    """
    if document.startswith(_MAGIC):
        return COMPRESSED
    if not is_utf8(codec):
        with contextlib.suppress(UnicodeError):
            document = document[:HEAD_BYTES].decode(codec, "ignore").encode("utf-8", "replace")
    if document.startswith(_BYTE_ORDER_MARKS):
        return UTF16
    if b"\0" in document[:HEAD_BYTES]:
        return NUL_IN_TEXT if _is_plain(document[:HEAD_BYTES]) else NUL_BYTES
    if document.count(b"\r") > 1 and b"\n" not in document:
        return CR_ONLY
    return None


def _is_plain(head: bytes) -> bool:
    """Return whether bytes with NULs are UTF-8 text all the same.

    UTF-16 may be valid UTF-8, too. But half of its bytes are then zero or, as the high bytes of
    Greek or Cyrillic, other control characters.
    """
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # the last character may be cut off
    except UnicodeDecodeError:
        return False
    controls = sum(byte < 0x20 and byte not in b"\t\n\r\f" for byte in head)
    return controls <= MAX_CONTROLS_RATE * len(head)


def meaning(document: bytes) -> str | None:
    """Return the remark's text for a file, given its first bytes; None if it looks fine."""
    kind = suspicion(document)
    return kind and MEANINGS[kind]


def decoded(data: bytes, named: str) -> str:
    """Return the text of a file in UTF-8, without its byte order mark.

    Args:
        data: contents of the file.
        named: field that names the file, with its value, for messages.

    Raises:
        InputError: the file is not in UTF-8.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        why = why_not_utf8(data.split(b"\n"))
        raise InputError(f"{named}: cannot be read: {why}") from error


def decoded_lines(data: bytes, named: str) -> list[str]:
    r"""Return the lines of a file in UTF-8, without their ends.

    Lines end with \n or \r\n only, unlike `str.splitlines`: the other characters at which that
    splits, such as U+2028, U+0085 or a form feed, stand inside texts.

    Args, Raises: as `decoded`.
    """
    lines = decoded(data, named).split("\n")
    # What follows the last line break is a line unless it is empty.
    return [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]


def why_not_utf8(lines: Iterable[bytes]) -> str:
    """Return why a file is not in UTF-8, and what to do.

    Args:
        lines: lines of the file; those after the first one that is not UTF-8 are not read.
    """
    for number, line in enumerate(lines, start=1):
        kind = suspicion(line) if number == 1 else None
        if kind in (UTF16, NUL_BYTES, COMPRESSED):
            return MEANINGS[kind]
        try:
            line.decode()
        except UnicodeDecodeError as error:
            return f"line {number}: the byte 0x{line[error.start]:02x} is not UTF-8; {CONVERT}"
    return f"it is not in UTF-8; {CONVERT}"


def why_file_not_utf8(path: Path) -> str:
    """Return as `why_not_utf8` for a file; a pipe cannot be read again."""
    if not path.is_file():
        return why_not_utf8(())
    with path.open("rb") as file:
        return why_not_utf8(file)
