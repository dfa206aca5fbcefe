import bz2
import gzip
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard
from apache_beam.io.source_test_utils import (
    assert_sources_equal_reference_source,
    assert_split_at_fraction_exhaustive,
    read_from_source,
)

from pipeline.readers import (
    EMPTY,
    INVALID_JSON,
    INVALID_UTF8,
    NO_ID,
    NO_TEXT,
    BlankLineSource,
    CorpusFormat,
    DroppedDocumentError,
    InputFormat,
    read_document,
    text_sentences,
)

TEXT = (
    "\n\nfirst a\nfirst b\n\n\n  \nsecond\n\nthird a\nthird b\nthird c\n\n \n\nlast, no line break"
)
DOCUMENTS = [
    b"first a\nfirst b\n",
    b"second\n",
    b"third a\nthird b\nthird c\n",
    b"last, no line break",
]


@pytest.fixture
def source(tmp_path: Path) -> BlankLineSource:
    path = tmp_path / "lines.txt"
    path.write_text(TEXT)
    return BlankLineSource(str(path), min_bundle_size=0)


def test_documents_are_what_stands_between_blank_lines(source: BlankLineSource) -> None:
    assert read_from_source(source) == DOCUMENTS


@pytest.mark.parametrize("bundle_bytes", range(1, 30))
def test_each_document_is_read_once_however_the_file_is_cut(
    source: BlankLineSource, bundle_bytes: int
) -> None:
    bundles = list(source.split(bundle_bytes))
    assert len(bundles) > 1
    assert_sources_equal_reference_source(
        (source, None, None), [(b.source, b.start_position, b.stop_position) for b in bundles]
    )


def test_split_while_reading(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("a\nb\n\nc\n\n\nd\n")
    assert_split_at_fraction_exhaustive(BlankLineSource(str(path)))


def how(input_format: InputFormat) -> CorpusFormat:
    return CorpusFormat(input_format=input_format, language="en", text_column="body")


def test_windows_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_bytes(b"a\r\n\r\nb\r\n")
    documents = read_from_source(BlankLineSource(str(path)))
    assert [text_sentences(d.decode(), how("lines")) for d in documents] == [["a"], ["b"]]


@pytest.mark.parametrize("ending", ["gz", "bz2", "zst"])
def test_compressed_file(ending: str, tmp_path: Path) -> None:
    compress = {"gz": gzip.compress, "bz2": bz2.compress, "zst": zstandard.compress}[ending]
    path = tmp_path / f"lines.txt.{ending}"
    path.write_bytes(compress(TEXT.encode()))
    assert read_from_source(BlankLineSource(str(path))) == DOCUMENTS


def test_lines_are_sentences_and_prose_is_split() -> None:
    text = "Mr. Fox ran. He hid.\nThe end."
    assert text_sentences(text, how("lines")) == ["Mr. Fox ran. He hid.", "The end."]
    assert text_sentences(text, how("prose")) == ["Mr. Fox ran.", "He hid.", "The end."]
    assert text_sentences(text, how("jsonl")) == ["Mr. Fox ran.", "He hid.", "The end."]


def test_byte_order_mark_is_no_text() -> None:
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
