import bz2
import encodings.aliases
import gzip
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import apache_beam as beam
import pytest
import zstandard
from apache_beam.testing.util import assert_that, equal_to

from pipeline.configs import CorpusConfig, InputFormat
from pipeline.corpus import readers
from pipeline.corpus.readers import (
    EMPTY,
    INVALID_JSON,
    NO_ID,
    NO_TEXT,
    REMARKS,
    CorpusFormat,
    DroppedDocumentError,
    ReadDocuments,
    byte_ranges,
    collected,
    read_document,
    read_line_documents,
    read_lines,
    text_sentences,
)
from pipeline.corpus.remarks import INVALID_ENCODING, INVALID_UTF8, remarks_from
from pipeline.errors import InputError
from pipeline.storage.encodings import COMPRESSED, CR_ONLY, NUL_BYTES, NUL_IN_TEXT, UTF16, suspicion
from pipeline.storage.files import match_files

TEXT = (
    "\n\nfirst a\nfirst b\n\n\n  \nsecond\n\nthird a\nthird b\nthird c\n\n \n\nlast, no line break"
)
DOCUMENTS = [
    b"first a\nfirst b\n",
    b"second\n",
    b"third a\nthird b\nthird c\n",
    b"last, no line break",
]


def check_documents(
    files: Mapping[str, int], input_format: InputFormat, expected: list[bytes]
) -> None:
    """Read all documents with Beam."""
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        read = pipeline | ReadDocuments(files, how(input_format))
        assert_that(read["documents"], equal_to(expected))


@pytest.fixture
def path(tmp_path: Path) -> str:
    (tmp_path / "lines.txt").write_text(TEXT)
    return str(tmp_path / "lines.txt")


def test_blank_lines_separate_documents(path: str) -> None:
    assert list(read_line_documents(path, 0, None)) == DOCUMENTS


@pytest.mark.parametrize("range_bytes", range(1, 60))
def test_each_document_is_read_once_however_the_file_is_cut(
    path: str, range_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "RANGE_BYTES", range_bytes)
    parts = list(byte_ranges(path, len(TEXT)))
    assert len(parts) == -(-len(TEXT) // range_bytes)
    assert [d for part in parts for d in read_line_documents(*part)] == DOCUMENTS
    lines = [line for part in parts for line in read_lines(*part)]
    assert lines == [line for line in TEXT.encode().splitlines(keepends=True) if line.strip()]


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".zst"])
def test_compressed_files_are_read_whole(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"lines.txt{ending}"
    compress = {
        ".gz": gzip.compress, ".bz2": bz2.compress, ".zst": zstandard.compress
    }[ending]  # fmt: skip
    path.write_bytes(compress(TEXT.encode()))
    ((part, start, stop),) = byte_ranges(str(path), 10**9)
    assert list(read_line_documents(part, start, stop)) == DOCUMENTS


def test_several_files_some_of_whose_names_look_like_globs(tmp_path: Path) -> None:
    names = ["a[1].txt", "b?.txt", "c.txt"]
    for name in names:
        (tmp_path / name).write_text(f"{name} one\n\n{name} two\n")
    files = match_files([str(tmp_path / "*.txt")])
    lines = [f"{name} {word}\n".encode() for name in names for word in ("one", "two")]
    check_documents(files, "lines", lines)
    check_documents(files, "jsonl", lines)
    check_documents(files, "prose", [(tmp_path / name).read_bytes() for name in names])


@pytest.mark.parametrize("input_format", ["prose", "lines", "jsonl", "parquet"])
def test_a_file_that_vanished_is_an_error(tmp_path: Path, input_format: InputFormat) -> None:
    with pytest.raises(Exception, match=r"gone\.txt"):
        check_documents({f"{tmp_path}/gone.txt": 7}, input_format, [])


def how(input_format: InputFormat) -> CorpusFormat:
    return CorpusFormat(input_format=input_format, language="en", text_column="body")


def test_windows_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_bytes(b"a\r\n\r\nb\r\n")
    documents = list(read_line_documents(str(path), 0, None))
    assert [text_sentences(d.decode(), how("lines"), "en") for d in documents] == [["a"], ["b"]]


@pytest.mark.parametrize("input_format", ["prose", "lines", "jsonl"])
def test_line_ends_do_not_change_the_identity_of_a_document(input_format: InputFormat) -> None:
    text = "One sentence.\nAnother one.\n\nA paragraph."
    documents = [
        json.dumps({"body": ends}).encode() if input_format == "jsonl" else ends.encode()
        for ends in (text, text.replace("\n", "\r\n"))
    ]
    unix, windows = (read_document(document, how(input_format)) for document in documents)
    assert windows == unix == (text, text)


REMARKABLE: list[tuple[str | None, bytes]] = [
    (UTF16, "Łódź.\n".encode("utf-16")),
    (UTF16, "Łódź.\n".encode("utf-32")),
    (NUL_BYTES, "Plain words.\n".encode("utf-16-le")),
    (NUL_BYTES, "Plain words.\n".encode("utf-16-be")),
    (NUL_IN_TEXT, b"Ada lived in\0 Rome. She left.\n"),
    (CR_ONLY, b"One.\rTwo.\r\rThree.\r"),
    (COMPRESSED, gzip.compress(b"One.", mtime=0)),
    (COMPRESSED, bz2.compress(b"One.")),
    (COMPRESSED, zstandard.compress(b"One.")),
    (INVALID_UTF8, "Plain.\n\nCafé.\n\nNaïve.\n".encode("latin-1")),
    (None, "\ufeffŁódź.\r\nTwo.\r\n".encode()),
    (None, b"One.\n\rTwo.\n"),
    (None, b""),
    (None, b"Plain.\n\nText.\n"),
]


@pytest.mark.parametrize("input_format", ["prose", "lines", "jsonl"])
def test_files_of_another_format_are_reported(input_format: InputFormat, tmp_path: Path) -> None:
    expected: dict[str, list[str]] = {}
    for index, (kind, data) in enumerate(REMARKABLE):
        path = tmp_path / f"{index:02d}.txt"
        path.write_bytes(data)
        if kind:
            expected.setdefault(kind, []).append(str(path))
    files = match_files([str(tmp_path / "*")])
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        read = pipeline | ReadDocuments(files, how(input_format))
        remarks = [(kind, (len(paths), paths)) for kind, paths in expected.items()]
        assert_that(collected(read[REMARKS]), equal_to(remarks))


def remarks_on(path: Path, how: CorpusFormat, *expected: str) -> None:
    """Check the remarks on one file."""
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        read = pipeline | ReadDocuments(match_files([str(path)]), how)
        remarks = [(kind, (1, [str(path)])) for kind in expected]
        assert_that(collected(read[REMARKS]), equal_to(remarks))


@pytest.mark.parametrize(
    ("data", "kinds"),
    [
        ("One.\n\nŁódź.\n\nTwo.\n".encode("utf-16-le"), [NUL_BYTES]),
        ("One.\n\nCafé.\n\nTwo.\n".encode("latin-1"), [INVALID_UTF8]),
        ("One.\n\nCafé.\n\nTwo.\n".encode(), []),
    ],
)
def test_a_file_read_in_parts_gets_one_remark(
    data: bytes, kinds: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of UTF-16 that does not begin the file cannot be decoded, and does not look odd."""
    monkeypatch.setattr(readers, "RANGE_BYTES", 5)
    (tmp_path / "c.txt").write_bytes(data)
    remarks_on(tmp_path / "c.txt", how("lines"), *kinds)


def test_a_file_in_another_encoding_than_the_given_one(tmp_path: Path) -> None:
    windows = replace(how("lines"), encoding="windows-1252")
    (tmp_path / "c.txt").write_bytes(b"Caf\xe9.\n\nA byte without a meaning: \x81.\n")
    remarks_on(tmp_path / "c.txt", windows, INVALID_ENCODING)
    (tmp_path / "c.txt").write_bytes(b"Caf\xe9.\n")
    remarks_on(tmp_path / "c.txt", windows)


def test_a_remark_names_some_of_the_files() -> None:
    (remark,) = remarks_from([(CR_ONLY, (1234, ["a", "b", "c"]))])
    assert str(remark).startswith("a, b, c and 1,231 more: has carriage returns alone")


def test_lines_are_sentences_and_prose_is_split() -> None:
    text = "Mr. Fox ran. He hid.\nThe end."
    assert text_sentences(text, how("lines"), "en") == ["Mr. Fox ran. He hid.", "The end."]
    assert text_sentences(text, how("prose"), "en") == ["Mr. Fox ran.", "He hid.", "The end."]
    assert text_sentences(text, how("jsonl"), "en") == ["Mr. Fox ran.", "He hid.", "The end."]


def test_a_byte_order_mark_is_not_text() -> None:
    assert read_document(b"\xef\xbb\xbfHello.", how("lines")) == ("Hello.", "Hello.")


@pytest.mark.parametrize(
    ("input_format", "data", "reason"),
    [
        ("prose", b"", EMPTY),
        ("prose", b" \n\t\n", EMPTY),
        ("prose", b"caf\xe9", INVALID_UTF8),
        ("jsonl", b"{'body': 1}", INVALID_JSON),
        ("jsonl", b"[" * 100_000, INVALID_JSON),
        ("jsonl", b'["body"]', NO_TEXT),
        ("jsonl", b'{"text": "Hello."}', NO_TEXT),
        ("jsonl", b'{"body": 5}', NO_TEXT),
        ("jsonl", b'{"body": " "}', EMPTY),
        ("jsonl", b'{"body": "caf\xe9"}', INVALID_UTF8),
    ],
)
def test_unusable_documents_have_a_reason(
    input_format: InputFormat, data: bytes, reason: str
) -> None:
    with pytest.raises(DroppedDocumentError) as dropped:
        read_document(data, how(input_format))
    assert dropped.value.reason == reason


def test_json_text() -> None:
    escaped = b'{"id": 3, "body": "H\\u00e9.\\nB."}'
    assert read_document(escaped, how("jsonl")) == ("Hé.\nB.", "Hé.\nB.")
    assert read_document(b'{"body": "a\\ud800b"}', how("jsonl"))[0] == "a?b"


def test_an_id_names_a_document() -> None:
    with_id = replace(how("jsonl"), id_column="id")
    assert read_document(b'{"id": 3, "body": "Hello."}', with_id) == ("Hello.", "3")
    assert read_document(b'{"id": "3", "body": "Hello."}', with_id) == ("Hello.", '"3"')
    with pytest.raises(DroppedDocumentError, match=NO_ID):
        read_document(b'{"body": "Hello."}', with_id)


@pytest.mark.parametrize("value", ["NaN", "1e999", "[NaN]", "null", "[" * 400 + "]" * 400])
def test_a_value_that_is_no_id(value: str) -> None:
    """Python writes NaN for a missing number; deep nesting ends in a RecursionError elsewhere."""
    with_id = replace(how("jsonl"), id_column="id")
    with pytest.raises(DroppedDocumentError, match=NO_ID):
        read_document(f'{{"id": {value}, "body": "Hello."}}'.encode(), with_id)
    oid = '{"$oid": "5f"}'
    assert read_document(f'{{"id": {oid}, "body": "A."}}'.encode(), with_id) == ("A.", oid)


def test_another_encoding() -> None:
    windows = replace(how("lines"), encoding="windows-1252")
    assert read_document("“Café” – 5 €".encode("windows-1252"), windows)[0] == "“Café” – 5 €"
    with pytest.raises(DroppedDocumentError, match=INVALID_ENCODING):
        read_document(b"\x81", windows)
    wide = replace(how("prose"), encoding="utf-16")
    assert read_document("Größe".encode("utf-16"), wide)[0] == "Größe"


@pytest.mark.parametrize("encoding", ["utf8", "UTF-8", "U8", "utf_8", "utf-8-sig"])
def test_utf_8_has_many_names(encoding: str) -> None:
    named = replace(how("lines"), encoding=encoding)
    assert read_document(b"\xef\xbb\xbfCaf\xc3\xa9", named)[0] == "Café"
    with pytest.raises(DroppedDocumentError, match=INVALID_UTF8):
        read_document(b"caf\xe9", named)
    CorpusConfig(input=("x",), input_format="parquet", encoding=encoding)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        ("Простые слова. Их два.\n".encode("utf-16-le"), NUL_BYTES),  # valid UTF-8, too
        ("απλά λόγια\n".encode("utf-16-le"), NUL_BYTES),
        ("漢字かな交じり文\n".encode("utf-16-be"), NUL_BYTES),
        (bytes(range(32)) * 4, NUL_BYTES),
        ("Łódź ist\0 schön.\n".encode(), NUL_IN_TEXT),
        (b"\0a" + b"ab" * ((1 << 15) - 2) + b"a" + "é".encode(), NUL_IN_TEXT),  # cut in the é
    ],
)
def test_nuls_in_plain_text_are_not_utf_16(data: bytes, kind: str) -> None:
    assert suspicion(data) == kind


def test_what_looks_wrong_depends_on_the_encoding() -> None:
    text = "One.\nTwo.\n"
    for codec in ("utf-16", "utf-16-le", "utf-32-be"):
        assert suspicion(text.encode(codec)) in (UTF16, NUL_BYTES)
        assert suspicion(text.encode(codec), codec) is None
        assert suspicion("One.\rTwo.\r".encode(codec), codec) == CR_ONLY
    assert suspicion(text.encode("utf-16-le"), "latin-1") == NUL_BYTES
    assert suspicion(b"\x1f\x8b\x08\0", "utf-16-le") == COMPRESSED


@pytest.mark.parametrize(
    ("encoding", "input_format", "message"),
    [
        ("windows-125", "prose", "`encoding` windows-125: unknown"),
        ("rot13", "prose", "`encoding` rot13: unknown"),
        ("hex", "prose", "`encoding` hex: unknown"),
        ("windows-1252", "parquet", "parquet has text in UTF-8"),
        ("utf-16", "lines", "lines is split at line breaks of one byte"),
        ("cp037", "jsonl", "jsonl is split at line breaks of one byte"),  # EBCDIC
        ("ISO-2022-KR", "lines", "lines is split at line breaks of one byte"),
        ("idna", "prose", "`encoding` idna: text files have no such encoding"),
        ("punycode", "prose", "`encoding` punycode: text files have no such encoding"),
        ("unicode_escape", "prose", "`encoding` unicode_escape: text files have no such encoding"),
        ("Raw-Unicode-Escape", "lines", "text files have no such encoding"),
        ("undefined", "prose", "`encoding` undefined: unknown"),
        ("mbcs", "prose", "`encoding` mbcs: unknown"),
        ("base64", "prose", "`encoding` base64: unknown"),
        ("", "prose", "`encoding` : unknown"),
        ("utf-8\0", "prose", "unknown"),
    ],
)
def test_an_encoding_that_does_not_fit(
    encoding: str, input_format: InputFormat, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        CorpusConfig(input=("x",), input_format=input_format, encoding=encoding)


def test_a_file_may_be_cut_at_line_breaks_in_every_encoding_that_is_taken() -> None:
    """Lines decoded one by one are those of the file decoded as a whole, with Python's codecs."""
    lines = [
        "Plain.",
        "Grüße aus Wien.",
        "£ 5 and 7",
        "жук и дом",
        "東京の日本",
        "한국 말",
        "שלום",
        "ไทย",
    ]
    taken = []
    for codec in sorted({*encodings.aliases.aliases.values()}):
        try:
            CorpusConfig(input=("x",), input_format="lines", encoding=codec)
        except InputError:
            continue
        taken.append(codec)
        known = [line for line in lines if encodes(codec, line)]
        data = "\n".join(known).encode(codec)
        parts = [part.decode(codec) for part in data.split(b"\n")]
        assert parts == data.decode(codec).split("\n"), codec
    assert {"latin_1", "cp1252", "koi8_r", "shift_jis", "gb18030", "iso2022_jp"} <= {*taken}


def encodes(codec: str, text: str) -> bool:
    """Whether a codec has the characters of a text."""
    try:
        text.encode(codec)
    except UnicodeError:
        return False
    return True
