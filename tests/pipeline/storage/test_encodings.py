"""Text that is not UTF-8: where it is, and what to do about it."""

import gzip
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.storage.encodings import decoded, decoded_lines, why_file_not_utf8, why_not_utf8

ROWS = b"text,label\ngood,1\ncaf\xe9,0\n"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (ROWS, "line 3: the byte 0xe9 is not UTF-8; convert the file, .*iconv -f WINDOWS-1252"),
        (ROWS.replace(b"\n", b"\r\n"), "line 3: the byte 0xe9"),
        ("größe\n".encode("cp1252"), "line 1: the byte 0xf6"),
        (b"ok \xc3\xa9\n\xe2\x82", "line 2: the byte 0xe2"),  # cut in the middle of a character
        (b"caf\xe9\rna\xefve\r", "line 1: the byte 0xe9"),  # old Mac OS
        ("é,1\n".encode("utf-16"), "UTF-16 or UTF-32"),
        ("é,1\n".encode("utf-16-be"), "has NUL bytes, so it is UTF-16"),
        (gzip.compress(b"a,1\n", mtime=0), "compressed, but"),
    ],
)
def test_the_first_line_that_is_not_utf8_is_named(data: bytes, why: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"^`train` x: cannot be read: {why}"):
        decoded(data, "`train` x")
    (tmp_path / "x").write_bytes(data)
    assert why_file_not_utf8(tmp_path / "x") == why_not_utf8(data.split(b"\n"))


def test_a_byte_order_mark_is_left_out() -> None:
    assert decoded(b"\xef\xbb\xbfcaf\xc3\xa9\n", "`train` x") == "café\n"


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", []),
        ("\n", [""]),
        ("a\r\n\nb", ["a", "", "b"]),
        ("a\nb\n", ["a", "b"]),
        # All other ends of lines of `str.splitlines`, as its documentation lists them.
        (other := "a\vb\fc\x1cd\x1de\x1ef\x85g\u2028h\u2029i\rj", [other]),
    ],
)
def test_a_line_ends_at_its_line_break_only(text: str, lines: list[str]) -> None:
    assert decoded_lines(text.encode("utf-8-sig"), "`train` x") == lines


def test_a_pipe_is_not_read_again() -> None:
    assert why_file_not_utf8(Path("/dev/null")).startswith("it is not in UTF-8; convert the file")
