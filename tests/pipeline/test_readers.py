from pathlib import Path

import pytest
from apache_beam.io.source_test_utils import (
    assert_sources_equal_reference_source,
    assert_split_at_fraction_exhaustive,
    read_from_source,
)

from pipeline.readers import EMPTY, INVALID_UTF8, BlankLineSource, document_sentences

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


def test_windows_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_bytes(b"a\r\n\r\nb\r\n")
    documents = read_from_source(BlankLineSource(str(path)))
    assert [document_sentences(d, "lines", "en") for d in documents] == [["a"], ["b"]]


def test_compressed_file(tmp_path: Path) -> None:
    import gzip

    path = tmp_path / "lines.txt.gz"
    path.write_bytes(gzip.compress(TEXT.encode()))
    assert read_from_source(BlankLineSource(str(path))) == DOCUMENTS


def test_lines_are_sentences_and_prose_is_split() -> None:
    data = b"Mr. Fox ran. He hid.\nThe end."
    assert document_sentences(data, "lines", "en") == ["Mr. Fox ran. He hid.", "The end."]
    assert document_sentences(data, "prose", "en") == ["Mr. Fox ran.", "He hid.", "The end."]


def test_byte_order_mark_is_no_text() -> None:
    assert document_sentences(b"\xef\xbb\xbfHello.", "lines", "en") == ["Hello."]


@pytest.mark.parametrize(
    ("data", "reason"), [(b"", EMPTY), (b" \n\t\n", EMPTY), (b"caf\xe9", INVALID_UTF8)]
)
def test_unusable_documents_have_a_reason(data: bytes, reason: str) -> None:
    assert document_sentences(data, "prose", "en") == reason
