"""Read documents from Parquet files, whichever library wrote them."""

import contextlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow
import pyarrow.parquet
from pyarrow import types

from pipeline.corpus.decompression import damaged, is_compressed, open_file
from pipeline.errors import DamagedFileError, InputError

ROWS = 1024
"""Rows converted to Python objects at a time; it bounds memory."""

_UNREADABLE = (pyarrow.ArrowException, OSError)

_IS_TEXT = (
    types.is_string,
    types.is_large_string,
    types.is_string_view,  # Polars
    types.is_binary,  # some writers store text without a string annotation
    types.is_large_binary,
    types.is_binary_view,
)


def row_groups(path: str, _size: int) -> Iterator[tuple[str, int, int | None]]:
    """Yield one part per row group of a Parquet file: path, its index, the index after it.

    Raises:
        DamagedFileError: the file cannot be read.
    """
    with _open(path) as file, _naming(path):
        count = pyarrow.parquet.read_metadata(file).num_row_groups
    for group in range(count):
        yield path, group, group + 1


def read_rows(path: str, first: int, end: int, columns: Sequence[str]) -> Iterator[bytes]:
    """Yield the rows of row groups `first` to `end` (exclusive) as JSON objects, UTF-8 encoded.

    For a row whose text is not valid UTF-8, the raw bytes of the text are yielded instead: they do
    not decode, so the document is dropped as `invalid_utf8` later, where drops are counted.

    Raises:
        DamagedFileError: a row group cannot be read.
    """
    with _open(path) as file, _naming(path):
        parquet = pyarrow.parquet.ParquetFile(file, page_checksum_verification=True)
        table = parquet.read_row_groups(range(first, end), [*columns])
    plain = pyarrow.table({name: _plain(table[name]) for name in columns})
    for batch in plain.to_batches(max_chunksize=ROWS):
        for row in batch.to_pylist():
            yield _as_json(row)


def _plain(column: Any) -> Any:
    """Return a text column as bytes (dictionary-decoded), an integer column unchanged."""
    kind = _values(column.type)
    # `large`: the 32-bit offsets of `binary` end at 2 GiB, and a row group may have more text.
    return column.cast(pyarrow.large_binary() if _is_text(kind) else kind)


def _as_json(row: Mapping[str, bytes | int | None]) -> bytes:
    """Return a row as JSON; a text that is not UTF-8 as it is, which the reader then reports."""
    values: dict[str, str | int | None] = {}
    for name, value in row.items():
        if not isinstance(value, bytes):
            values[name] = value
            continue
        try:
            values[name] = value.decode()
        except UnicodeDecodeError:
            return value
    return json.dumps(values).encode()


def _open(path: str) -> Any:
    """Open a file as a seekable one, which Parquet needs, even if it is compressed as a whole."""
    file = open_file(path)
    if not is_compressed(path):
        return file
    with file:
        return io.BytesIO(file.read())


def _values(kind: Any) -> Any:
    """Return the type of a column's values; for a dictionary (categorical) column, its values'."""
    return kind.value_type if types.is_dictionary(kind) else kind


def _is_text(kind: Any) -> bool:
    return any(is_text(kind) for is_text in _IS_TEXT)


@contextlib.contextmanager
def _naming(path: str) -> Iterator[None]:
    """Convert a Parquet reader's error, which does not name the file, into a `DamagedFileError`."""
    try:
        yield
    except DamagedFileError:
        raise
    except _UNREADABLE as error:
        # Arrow's errors are `OSError`s without a number.
        if isinstance(error, OSError) and error.errno:
            raise
        reason = " ".join(str(error).split())
        raise damaged(path, f"not a Parquet file, or a damaged one ({reason})") from error


def check_parquet(
    paths: Sequence[str], text_column: str, id_column: str | None, *, skip_damaged: bool
) -> None:
    """Check that Parquet files have the text column, and the id column if one is set.

    Raises:
        InputError: a file lacks a column, the column has another type, or the file is not Parquet.
    """
    for path in paths:
        try:
            with _open(path) as file, _naming(path):
                schema = pyarrow.parquet.read_schema(file)
        except DamagedFileError:
            if skip_damaged:
                continue
            raise
        _check_schema(path, schema, text_column, id_column)


def _check_schema(path: str, schema: Any, text_column: str, id_column: str | None) -> None:
    for field, column in (("`text_column`", text_column), ("`id_column`", id_column)):
        if column is not None and column not in schema.names:
            raise InputError(f"{field} {column}: {path} has only {', '.join(schema.names)}")
        if schema.names.count(column) > 1:
            raise InputError(f"{field} {column}: {path} has several columns of this name")
    kind = schema.field(text_column).type
    if not _is_text(_values(kind)):
        raise InputError(f"`text_column` {text_column}: in {path} it holds {kind}, not text")
    if id_column:
        kind = schema.field(id_column).type
        if not (_is_text(_values(kind)) or types.is_integer(_values(kind))):
            raise InputError(
                f"`id_column` {id_column}: in {path} it holds {kind}, not text or integers"
            )
