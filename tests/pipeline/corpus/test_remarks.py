"""Which remarks are made on a file."""

from pipeline.corpus.remarks import INVALID_ENCODING, INVALID_UTF8, remarks_that_count
from pipeline.storage.encodings import COMPRESSED, UTF16


def test_a_file_of_another_kind_is_not_called_one_of_another_encoding() -> None:
    assert remarks_that_count([INVALID_UTF8, COMPRESSED, INVALID_UTF8]) == {COMPRESSED}
    assert remarks_that_count([UTF16, INVALID_ENCODING]) == {UTF16}
    assert remarks_that_count([INVALID_UTF8]) == {INVALID_UTF8}
