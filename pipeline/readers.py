"""Corpus files to documents, as Beam transforms.

A document leaves here as a list of sentences, or as the reason it cannot be used.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import apache_beam as beam
from apache_beam.io.filebasedsource import FileBasedSource
from apache_beam.io.filesystems import FileSystems
from apache_beam.io.iobase import Read

from pipeline.sentences import split_sentences

InputFormat = Literal["prose", "lines"]

EMPTY, INVALID_UTF8 = "empty", "invalid_utf8"
"""Why a document was dropped while reading."""

BATCH_BYTES = 1 << 20
"""Text handed to the tokenizer at once; enough that the cost of a call does not show."""


class ReadDocuments(beam.PTransform):
    """Corpus files → the raw bytes of each document.

    `prose`: a file is a document. `lines`: one sentence a line, blank lines between documents; a
    large uncompressed file is read in parallel.
    """

    def __init__(self, files: Sequence[str], input_format: InputFormat) -> None:
        super().__init__()
        self._files = files
        self._input_format = input_format

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection:
        """Return a PCollection of bytes, one element a document."""
        if self._input_format == "prose":
            return (
                pipeline
                | "Files" >> beam.Create(list(self._files))
                | "Spread" >> beam.Reshuffle()
                | "ReadFile" >> beam.Map(read_file)
            )
        sources = [
            pipeline | f"Lines{index}" >> Read(BlankLineSource(file, validate=False))
            for index, file in enumerate(self._files)
        ]
        return sources | "AllLines" >> beam.Flatten()


def read_file(path: str) -> bytes:
    """Return a whole file, decompressed by its ending."""
    with FileSystems.open(path) as file:
        return file.read()


class BlankLineSource(FileBasedSource):
    """Splittable source of documents separated by blank lines.

    Every line belongs to the range that holds its first byte, and a document belongs with the blank
    line in front of it (the file's first document with byte 0). So a range needs to look neither
    back beyond its start nor at other ranges, and each document is read exactly once.
    """

    def read_records(self, file_name: str, range_tracker: Any) -> Iterator[bytes]:
        """Yield the documents of a range: the bytes of their lines, without the blank ones."""
        start = range_tracker.start_position()
        blank_line = 0 if start == 0 else None  # offset of the last one seen
        document: list[bytes] = []
        with self.open_file(file_name) as file:
            for offset, line in _lines_from(file, start):
                if not line.strip():
                    if document:
                        yield b"".join(document)
                        document = []
                    blank_line = offset
                elif document:
                    document.append(line)
                elif blank_line is not None:
                    if not range_tracker.try_claim(blank_line):
                        return
                    document.append(line)
                elif offset >= range_tracker.stop_position():
                    return
            if document:
                yield b"".join(document)


def _lines_from(file: Any, start: int) -> Iterator[tuple[int, bytes]]:
    """Yield the offset and bytes of every line that begins at `start` or later."""
    offset = start
    if start:
        # From the byte before: where a line begins exactly at `start`, that is a line break.
        file.seek(start - 1)
        offset += len(file.readline()) - 1
    while line := file.readline():
        yield offset, line
        offset += len(line)


def batch_documents() -> beam.PTransform:
    """Return a transform from documents (bytes) to lists of them, about `BATCH_BYTES` each."""
    return beam.BatchElements(
        min_batch_size=BATCH_BYTES, max_batch_size=BATCH_BYTES, element_size_fn=len
    )


def document_sentences(data: bytes, input_format: InputFormat, language: str) -> list[str] | str:
    """Return a document's sentences, or the reason it has none."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return INVALID_UTF8
    if input_format == "prose":
        sentences = split_sentences(text, language)
    else:
        sentences = [line for line in map(str.strip, text.split("\n")) if line]
    return sentences or EMPTY
