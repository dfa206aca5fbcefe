"""Beam transforms that read corpus files into documents; functions that split them in sentences."""

import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam

from pipeline.configs import InputFormat
from pipeline.corpus.decompression import damaged, is_compressed, open_file
from pipeline.corpus.parquet import check_parquet, read_rows, row_groups
from pipeline.corpus.remarks import (
    DAMAGED_FILE,
    INVALID_COLUMN,
    INVALID_ENCODING,
    INVALID_UTF8,
    MAX_EXAMPLES,
    remarks_that_count,
)
from pipeline.corpus.rules.settings import NO_CLEANING, Cleaning
from pipeline.errors import DamagedFileError
from pipeline.storage.encodings import UTF8, is_utf8, suspicion
from pipeline.text.sentences import split_sentences

EMPTY, INVALID_JSON, NO_TEXT, NO_ID = "empty", "invalid_json", "no_text", "no_id"
"""Reasons for dropping a document while reading, besides `CorpusFormat.undecodable`."""

UNREADABLE = frozenset({INVALID_UTF8, INVALID_ENCODING, INVALID_JSON, NO_TEXT, NO_ID})
"""Drop reasons that indicate corrupt input rather than short documents."""

DROPPED, REMARKS = "dropped", "remarks"  # tags of side outputs

MAX_ID_LEVELS = 32
"""Most lists and objects that an id may be made of."""

RANGE_BYTES = 1 << 24
"""Size of the byte ranges that files are split into; small enough to keep several workers busy."""

BATCH_BYTES = 1 << 20
"""Text tokenized per call; enough that the fixed cost of a call is negligible."""


@dataclass(frozen=True, kw_only=True)
class CorpusFormat:
    """The format of the corpus files.

    Attributes:
        input_format: `prose`: one document per file. `lines`: one sentence per line, blank lines
            between documents. `jsonl`: one JSON object per line. `parquet`: one document per row.
        language: ISO 639 code for the sentence splitter; not used for `lines`.
        text_column: column of `jsonl` and `parquet` that holds the text.
        id_column: column that identifies a document; None = its text identifies it.
        encoding: name of the codec that decodes files.
        cleaning: the rules that documents must pass.
    """

    input_format: InputFormat
    language: str
    text_column: str
    encoding: str = UTF8
    id_column: str | None = None
    cleaning: Cleaning = NO_CLEANING

    @property
    def codec(self) -> str:
        """Name of the codec that decodes files; that of UTF-8 removes a byte-order mark."""
        return "utf-8-sig" if is_utf8(self.encoding) else self.encoding

    @property
    def undecodable(self) -> str:
        """Reason for dropping a document that the codec cannot decode."""
        return INVALID_UTF8 if is_utf8(self.encoding) else INVALID_ENCODING

    @property
    def columns(self) -> list[str]:
        """Names of the columns to read."""
        return [self.text_column, *([self.id_column] if self.id_column else [])]


class ReadDocuments(beam.PTransform):
    """Corpus files → `documents`, the raw bytes of each document, and `REMARKS` on files.

    Files are split into parts that are read in parallel: byte ranges of uncompressed line formats,
    row groups of Parquet. A file is opened by its path, not matched by a glob again, so a file
    that was removed meanwhile is an error, not a silent gap.
    """

    def __init__(
        self, files: Mapping[str, int], how: CorpusFormat, *, skip_damaged: bool = False
    ) -> None:
        """Read some files.

        Args:
            files: size in bytes by path.
            how: format of the files.
            skip_damaged: True = read a damaged file up to the damage and emit a remark; False =
                fail the job.
        """
        super().__init__()
        self._files = files
        self._how = how
        self._skip_damaged = skip_damaged

    def expand(self, pipeline: beam.Pipeline) -> Any:
        """Return two PCollections by name.

        `documents`: bytes, one element per document; Parquet rows are JSON objects. `REMARKS`:
        (kind of remark, path of the file); may contain duplicates.
        """
        parts, read_part = _PARTS[self._how.input_format]
        read = functools.partial(_remarked, read_part, self._how)
        cut = (
            pipeline
            | "Files" >> beam.Create(list(self._files.items()))
            | "Parts" >> self._of_files(parts)
        )
        documents = (
            cut.documents
            | "Spread" >> beam.Reshuffle()  # else one worker would read all parts of a file
            | "Read" >> self._of_files(read)
        )
        remarks = (cut[REMARKS], documents[REMARKS]) | beam.Flatten()
        return {"documents": documents.documents, REMARKS: remarks}

    def _of_files(self, read: Callable[..., Iterator[Any]]) -> beam.PTransform:
        step = beam.ParDo(_OfFiles(read, skip_damaged=self._skip_damaged))
        return step.with_outputs(REMARKS, main="documents")


class _OfFiles(beam.DoFn):
    """(Path, …) → the elements that `read` yields for it; damage becomes a remark or an error."""

    def __init__(self, read: Callable[..., Iterator[Any]], *, skip_damaged: bool) -> None:
        self._read = read
        self._skip_damaged = skip_damaged

    def process(self, part: tuple[Any, ...]) -> Iterator[Any]:
        """Yield the elements that can be read.

        Raises:
            DamagedFileError: the file is damaged, and damaged files are not skipped.
        """
        try:
            yield from self._read(*part)
        except DamagedFileError:
            if not self._skip_damaged:
                raise
            yield beam.pvalue.TaggedOutput(REMARKS, (DAMAGED_FILE, part[0]))


def whole_file(path: str, size: int) -> Iterator[tuple[str, int, int | None]]:
    """Yield a file as one part: path, first byte, size (None if the file is compressed)."""
    yield path, 0, None if is_compressed(path) else size


def byte_ranges(path: str, size: int) -> Iterator[tuple[str, int, int | None]]:
    """Yield the byte ranges of a file of lines: path, first byte, end (exclusive)."""
    if is_compressed(path):
        yield from whole_file(path, size)
        return
    for start in range(0, size, RANGE_BYTES):
        yield path, start, min(start + RANGE_BYTES, size)


def read_whole_file(
    path: str, _start: int = 0, stop: int | None = None, **_: Any
) -> Iterator[bytes]:
    """Yield the decompressed content of a file as one document.

    Raises:
        DamagedFileError: the file is damaged, or shorter than `stop`.
    """
    with open_file(path) as file:
        data = file.read()
    _check_length(path, len(data), stop)
    yield data


def read_line_documents(path: str, start: int, stop: int | None, **_: Any) -> Iterator[bytes]:
    """Yield the documents of a byte range; blank lines separate documents and are left out.

    A line belongs to the range that contains its first byte. A document belongs to the range of
    the blank line before it (the file's first document: to the range of byte 0). So no range needs
    to know about another, and each document is read exactly once.

    Raises:
        DamagedFileError: the file is damaged, or ends before `stop`.
    """
    blank_line = 0 if start == 0 else None  # offset of the latest blank line; None = none yet
    document: list[bytes] = []
    for offset, line in _lines_from(path, start, stop):
        if not line.strip():
            if document:
                yield b"".join(document)
                document = []
            blank_line = offset
        elif document:
            document.append(line)
        elif stop is not None and (offset if blank_line is None else blank_line) >= stop:
            return  # the document that begins here belongs to the next range
        elif blank_line is not None:
            document.append(line)
    if document:
        yield b"".join(document)


def read_lines(path: str, start: int, stop: int | None, **_: Any) -> Iterator[bytes]:
    """Yield the non-blank lines of a range; a line belongs to the range of its first byte.

    Raises:
        DamagedFileError: the file is damaged, or ends before `stop`.
    """
    for offset, line in _lines_from(path, start, stop):
        if stop is not None and offset >= stop:
            return
        if line.strip():
            yield line


def _lines_from(path: str, start: int, stop: int | None) -> Iterator[tuple[int, bytes]]:
    """Yield the offset and bytes of every line that begins at `start` or later."""
    offset = start
    with open_file(path) as file:
        if start:
            # Skip the rest of the line before. Begin one byte early: if a line begins exactly at
            # `start`, only its line break is skipped.
            file.seek(start - 1)
            offset += len(file.readline()) - 1
        while line := file.readline():
            yield offset, line
            offset += len(line)
    _check_length(path, offset, stop)


def _check_length(path: str, size: int, expected: int | None) -> None:
    """Raise `DamagedFileError` if a file is shorter than it was when the job began."""
    if expected is not None and size < expected:
        raise damaged(path, f"ends after {size:,} bytes, though it had {expected:,} at the start")


_PARTS: dict[InputFormat, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "prose": (whole_file, read_whole_file),
    "lines": (byte_ranges, read_line_documents),
    "jsonl": (byte_ranges, read_lines),
    "parquet": (row_groups, read_rows),
}
"""Functions that split a file into parts, and that read a part, by input format."""


def _remarked(
    read_part: Callable[..., Iterator[bytes]],
    how: CorpusFormat,
    path: str,
    start: int,
    stop: int | None,
) -> Iterator[Any]:
    """Yield the documents of a part, and a remark on the file before the first that looks wrong."""
    documents = read_part(path, start, stop, columns=how.columns)
    is_remarked = False
    for number, document in enumerate(documents):
        if not is_remarked:
            kind = suspicion(document, how.codec) if start == number == 0 else None
            if kind := kind or _remark_if_undecodable(document, how):
                yield beam.pvalue.TaggedOutput(REMARKS, (kind, path))
                is_remarked = True
        yield document


def _remark_if_undecodable(document: bytes, how: CorpusFormat) -> str | None:
    """Return the kind of remark on the file of a document; None if it can be decoded."""
    try:
        document.decode(how.codec)
    except UnicodeError:
        return INVALID_COLUMN if how.input_format == "parquet" else how.undecodable
    return None


def collected(remarks: beam.PCollection) -> beam.PCollection:
    """Group remarks by kind: (kind, (number of files, up to `MAX_EXAMPLES` paths))."""
    return (
        remarks
        | "Files first" >> beam.KvSwap()
        | "Remarks by file" >> beam.GroupByKey()
        | "Remarks that count" >> beam.FlatMapTuple(_on_file)
        | "Remarks by kind" >> beam.CombinePerKey(
            beam.combiners.TupleCombineFn(
                beam.combiners.CountCombineFn(),
                beam.combiners.TopCombineFn(MAX_EXAMPLES, reverse=True),
            ).with_common_input()
        )
    )  # fmt: skip


def _on_file(path: str, kinds: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the remarks to make on a file, of all that apply to it."""
    for kind in sorted(remarks_that_count(kinds)):
        yield kind, path


def batch_documents() -> beam.PTransform:
    """Return a transform that batches documents (bytes) into lists of about `BATCH_BYTES`."""
    # With different bounds, Beam would choose the size from measured times.
    return beam.BatchElements(
        min_batch_size=BATCH_BYTES, max_batch_size=BATCH_BYTES, element_size_fn=len
    )


def check_columns(files: Sequence[str], how: CorpusFormat, *, skip_damaged: bool = False) -> None:
    """Check that every Parquet file has the text column, and the id column if one is set.

    Raises:
        InputError: a file lacks a column, or is not Parquet and damaged files are not skipped.
    """
    if how.input_format == "parquet":
        check_parquet(files, how.text_column, how.id_column, skip_damaged=skip_damaged)


class DroppedDocumentError(Exception):
    """A document cannot be used.

    Attributes:
        reason: one of the drop reasons above.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def read_document(data: bytes, how: CorpusFormat) -> tuple[str, str]:
    """Return a document's text and its identity: the value of its id column, or else its text.

    Raises:
        DroppedDocumentError: the document cannot be decoded, or has no text or no id.
    """
    try:
        text = data.decode(how.codec)
    except UnicodeError:
        raise DroppedDocumentError(how.undecodable) from None
    identity = None
    if how.input_format in ("jsonl", "parquet"):
        try:
            row = json.loads(text)
        except (ValueError, RecursionError):
            raise DroppedDocumentError(INVALID_JSON) from None
        text, identity = _columns(row, how)
    # JSON escapes can produce lone surrogates, which UTF-8 cannot encode: replace them. Normalize
    # Windows line ends, so that a text has the same identity, hence the same split, with both.
    text = text.encode("utf-8", "replace").decode("utf-8").replace("\r\n", "\n")
    if not text.strip():
        raise DroppedDocumentError(EMPTY)
    return text, text if identity is None else identity


def _columns(row: Any, how: CorpusFormat) -> tuple[str, str | None]:
    """Return the text of a row, and its id as JSON (None without an id column).

    Raises:
        DroppedDocumentError: the row has no text or no id.
    """
    text = row.get(how.text_column) if isinstance(row, dict) else None
    if text is None and how.input_format == "parquet":
        text = ""  # a null: an empty document, not a wrong column
    if not isinstance(text, str):
        raise DroppedDocumentError(NO_TEXT)
    if how.id_column is None:
        return text, None
    identity = row.get(how.id_column)
    if identity is None:
        raise DroppedDocumentError(NO_ID)
    try:
        name = json.dumps(identity, allow_nan=False)
    except (ValueError, RecursionError):  # NaN stands for a missing id, and all have the same
        raise DroppedDocumentError(NO_ID) from None
    # MongoDB's ids are objects; what is nested deeper is not handled safely, and no id.
    if not isinstance(identity, str) and name.count("[") + name.count("{") > MAX_ID_LEVELS:
        raise DroppedDocumentError(NO_ID)
    return text, name


def text_sentences(text: str, how: CorpusFormat, language: str) -> list[str]:
    """Return a text's sentences in order, without empty ones; `language` is an ISO 639 code."""
    if how.input_format == "lines":
        return [line for line in map(str.strip, text.split("\n")) if line]
    return split_sentences(text, language)
