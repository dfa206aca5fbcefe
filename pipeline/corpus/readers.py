"""Corpus files to documents, as Beam transforms, and documents to sentences."""

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import apache_beam as beam

from pipeline.corpus.decompression import damaged, is_compressed, open_file
from pipeline.corpus.parquet import check_parquet, read_rows, row_groups
from pipeline.corpus.remarks import DAMAGED_FILE, MAX_EXAMPLES, suspicion
from pipeline.errors import DamagedFileError
from pipeline.text.sentences import split_sentences

InputFormat = Literal["prose", "lines", "jsonl", "parquet"]

EMPTY = "empty"
INVALID_UTF8, INVALID_JSON, NO_TEXT, NO_ID = "invalid_utf8", "invalid_json", "no_text", "no_id"
"""Why a document was dropped while reading."""

UNREADABLE = frozenset({INVALID_UTF8, INVALID_JSON, NO_TEXT, NO_ID})
"""Reasons that speak of damage: the corpus is not what it was said to be."""

DROPPED, REMARKS = "dropped", "remarks"  # tags of side outputs

RANGE_BYTES = 1 << 24
"""Most bytes of a file that a worker reads at a time; small enough to keep several busy."""

BATCH_BYTES = 1 << 20
"""Text handed to the tokenizer at once; enough that the cost of a call does not show."""


@dataclass(frozen=True, kw_only=True)
class CorpusFormat:
    """How documents stand in the corpus files.

    Attributes:
        input_format: `prose`: a file is a document. `lines`: one sentence a line, blank lines
            between documents. `jsonl`: a JSON object a line. `parquet`: a row a document.
        language: of the sentence splitter (ISO 639 code); `lines` are not split.
        text_column: where `jsonl` and `parquet` have the text.
        id_column: where they have what names a document; None: its text does.
    """

    input_format: InputFormat
    language: str
    text_column: str
    id_column: str | None = None

    @property
    def columns(self) -> list[str]:
        """The columns that are read."""
        return [self.text_column, *([self.id_column] if self.id_column else [])]


class ReadDocuments(beam.PTransform):
    """Corpus files → `documents`, the raw bytes of each document, and `REMARKS` on files.

    Files are cut into parts that are read in parallel: ranges of bytes of uncompressed lines, row
    groups of Parquet. A file is opened by its name and never looked up again, so one that is no
    longer there is an error, not a gap.
    """

    def __init__(
        self, files: Mapping[str, int], how: CorpusFormat, *, skip_damaged: bool = False
    ) -> None:
        """Read some files, given with their sizes in bytes.

        Args:
            files: size by path.
            how: how documents stand in them.
            skip_damaged: whether a damaged file is remarked on and left, or fails the job.
        """
        super().__init__()
        self._files = files
        self._how = how
        self._skip_damaged = skip_damaged

    def expand(self, pipeline: beam.Pipeline) -> Any:
        """Return two PCollections by name.

        `documents`: bytes, one element a document; rows of Parquet are JSON, too. `REMARKS`: (kind
        of remark, path of the file), the same one perhaps several times.
        """
        parts, read_part = _PARTS[self._how.input_format]
        columns = self._how.columns
        cut = (
            pipeline
            | "Files" >> beam.Create(list(self._files.items()))
            | "Parts" >> self._of_files(parts)
        )
        read = (
            cut.documents
            | "Spread" >> beam.Reshuffle()
            | "Read" >> self._of_files(functools.partial(_remarked, read_part, columns))
        )
        remarks = (cut[REMARKS], read[REMARKS]) | beam.Flatten()
        return {"documents": read.documents, REMARKS: remarks}

    def _of_files(self, read: Callable[..., Iterator[Any]]) -> beam.PTransform:
        step = beam.ParDo(_OfFiles(read, skip_damaged=self._skip_damaged))
        return step.with_outputs(REMARKS, main="documents")


class _OfFiles(beam.DoFn):
    """(Path, …) → what a function yields for it; damage is remarked on or raised."""

    def __init__(self, read: Callable[..., Iterator[Any]], *, skip_damaged: bool) -> None:
        self._read = read
        self._skip_damaged = skip_damaged

    def process(self, part: tuple[Any, ...]) -> Iterator[Any]:
        """Yield what can be read.

        Raises:
            DamagedFileError: not all of it can be, and damaged files are not to be skipped.
        """
        try:
            yield from self._read(*part)
        except DamagedFileError:
            if not self._skip_damaged:
                raise
            yield beam.pvalue.TaggedOutput(REMARKS, (DAMAGED_FILE, part[0]))


def whole_file(path: str, size: int) -> Iterator[tuple[str, int, int | None]]:
    """Yield the one part of a file that is not cut: path, first byte, its end where it is known."""
    yield path, 0, None if is_compressed(path) else size


def byte_ranges(path: str, size: int) -> Iterator[tuple[str, int, int | None]]:
    """Yield the parts of a file of lines: path, first byte, the byte after the last."""
    if is_compressed(path):
        yield from whole_file(path, size)
        return
    for start in range(0, size, RANGE_BYTES):
        yield path, start, min(start + RANGE_BYTES, size)


def read_whole_file(
    path: str, _start: int = 0, stop: int | None = None, **_: Any
) -> Iterator[bytes]:
    """Yield a whole file, decompressed by its ending.

    Raises:
        DamagedFileError: it is damaged, or shorter than `stop`.
    """
    with open_file(path) as file:
        data = file.read()
    _check_length(path, len(data), stop)
    yield data


def read_line_documents(path: str, start: int, stop: int | None, **_: Any) -> Iterator[bytes]:
    """Yield the documents of a range, which blank lines separate, without those.

    Every line belongs to the range that holds its first byte, and a document belongs with the blank
    line in front of it (the file's first document with byte 0). So a range needs to look neither
    back beyond its start nor at other ranges, and each document is read exactly once.

    Raises:
        DamagedFileError: the file is damaged, or ends before `stop`.
    """
    blank_line = 0 if start == 0 else None  # offset of the last one seen
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
            return
        elif blank_line is not None:
            document.append(line)
    if document:
        yield b"".join(document)


def read_lines(path: str, start: int, stop: int | None, **_: Any) -> Iterator[bytes]:
    """Yield the lines of a range that are not blank; a line belongs with its first byte.

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
            # From the byte before: where a line begins exactly at `start`, that is a line break.
            file.seek(start - 1)
            offset += len(file.readline()) - 1
        while line := file.readline():
            yield offset, line
            offset += len(line)
    _check_length(path, offset, stop)


def _check_length(path: str, size: int, expected: int | None) -> None:
    """Raise `DamagedFileError` if a file ends earlier than when the job began."""
    if expected is not None and size < expected:
        raise damaged(path, f"ends after {size:,} bytes, though it had {expected:,} at the start")


_PARTS: dict[InputFormat, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "prose": (whole_file, read_whole_file),
    "lines": (byte_ranges, read_line_documents),
    "jsonl": (byte_ranges, read_lines),
    "parquet": (row_groups, read_rows),
}
"""How a file is cut into parts, and how a part is read."""


def _remarked(
    read_part: Callable[..., Iterator[bytes]],
    columns: Sequence[str],
    path: str,
    start: int,
    stop: int | None,
) -> Iterator[Any]:
    """Yield the documents of a part, and a remark on the file if its first one calls for it."""
    documents = read_part(path, start, stop, columns=columns)
    for number, document in enumerate(documents):
        kind = suspicion(document) if start == number == 0 else None
        if kind:
            yield beam.pvalue.TaggedOutput(REMARKS, (kind, path))
        yield document


def collected(remarks: beam.PCollection) -> beam.PCollection:
    """Return remarks by kind: (kind, (number of files, some of their paths))."""
    return (
        remarks
        | "Remarks once" >> beam.Distinct()
        | "Remarks by kind" >> beam.CombinePerKey(
            beam.combiners.TupleCombineFn(
                beam.combiners.CountCombineFn(),
                beam.combiners.TopCombineFn(MAX_EXAMPLES, reverse=True),
            ).with_common_input()
        )
    )  # fmt: skip


def batch_documents() -> beam.PTransform:
    """Return a transform from documents (bytes) to lists of them, about `BATCH_BYTES` each."""
    return beam.BatchElements(
        min_batch_size=BATCH_BYTES, max_batch_size=BATCH_BYTES, element_size_fn=len
    )


def check_columns(files: Sequence[str], how: CorpusFormat, *, skip_damaged: bool = False) -> None:
    """Check that every Parquet file has the column of texts.

    Raises:
        InputError: one has not, or is no Parquet file and damaged files are not to be skipped.
    """
    if how.input_format == "parquet":
        check_parquet(files, how.text_column, how.id_column, skip_damaged=skip_damaged)


class DroppedDocumentError(Exception):
    """A document cannot be used.

    Attributes:
        reason: why, in one word.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def read_document(data: bytes, how: CorpusFormat) -> tuple[str, str]:
    """Return a document's text, and what names it: its id, or else its text.

    Raises:
        DroppedDocumentError: it has no text.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DroppedDocumentError(INVALID_UTF8) from None
    identity = None
    if how.input_format in ("jsonl", "parquet"):
        try:
            row = json.loads(text)
        except (ValueError, RecursionError):
            raise DroppedDocumentError(INVALID_JSON) from None
        text, identity = _columns(row, how)
    # A lone surrogate, which only JSON's escapes can give, is no character. Windows' line ends are
    # Unix's, so that a text is the same document, in the same split, with either.
    text = text.encode("utf-8", "replace").decode("utf-8").replace("\r\n", "\n")
    if not text.strip():
        raise DroppedDocumentError(EMPTY)
    return text, text if identity is None else identity


def _columns(row: Any, how: CorpusFormat) -> tuple[str, str | None]:
    """Return the text and the id of a row.

    Raises:
        DroppedDocumentError: there is none.
    """
    text = row.get(how.text_column) if isinstance(row, dict) else None
    if text is None and how.input_format == "parquet":
        text = ""  # a null
    if not isinstance(text, str):
        raise DroppedDocumentError(NO_TEXT)
    if how.id_column is None:
        return text, None
    identity = row.get(how.id_column)
    if identity is None:
        raise DroppedDocumentError(NO_ID)
    return text, json.dumps(identity)


def text_sentences(text: str, how: CorpusFormat) -> list[str]:
    """Return a text's sentences, in order; none is empty."""
    if how.input_format == "lines":
        return [line for line in map(str.strip, text.split("\n")) if line]
    return split_sentences(text, how.language)
