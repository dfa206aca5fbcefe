"""Generate a benchmark corpus of any size from the shared books, or from docstrings without them.

    python -m benchmarks.corpus --lines 64 corpus.txt    # 64 MB, one sentence per line
    python -m benchmarks.corpus --prose 64 folder        # 64 MB of prose, one document per file

Text that is repeated to reach the size is shuffled each time, so no two documents are equal.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from random import Random

import zstandard

from pipeline.corpus.docstrings import write_corpus
from pipeline.text.sentences import split_sentences

DEFAULT_DATA = Path(__file__).parents[2] / "shared" / "data"
DOCSTRINGS_BYTES = 4_000_000
DOCUMENT_PARAGRAPHS = 20
"""Paragraphs per document of lines: a few pages, so that a corpus has thousands of documents."""
FILE_BYTES = 50_000
"""Size of a document of prose: about a chapter."""


def data_folder() -> Path:
    """Return the shared data folder: `$CLOZELINE_DATA`, or `shared/data` next to the checkout."""
    return Path(os.environ.get("CLOZELINE_DATA", DEFAULT_DATA))


def read_paragraphs() -> list[str]:
    """Return the paragraphs of the books in `$CLOZELINE_DATA/books`, one line each, in order.

    If there are no books, return those of the installed packages' docstrings.
    """
    books = data_folder() / "books"
    if books.is_dir():
        return _paragraphs(books)
    with tempfile.TemporaryDirectory() as folder:
        write_corpus(Path(folder), DOCSTRINGS_BYTES)
        return _paragraphs(Path(folder))


def read_more_paragraphs() -> list[str]:
    """Return the paragraphs of `$CLOZELINE_DATA/more-books.jsonl.zst`, 169 books, if it exists."""
    path = data_folder() / "more-books.jsonl.zst"
    if not path.is_file():
        return []
    with zstandard.open(path, "rt", encoding="utf-8") as file:
        return _blocks(json.loads(line)["text"].replace("\r\n", "\n") for line in file)


def _paragraphs(folder: Path) -> list[str]:
    return _blocks(path.read_text(encoding="utf-8") for path in sorted(folder.iterdir()))


def _blocks(texts: Iterable[str]) -> list[str]:
    """Return the paragraphs of texts, each on one line."""
    blocks = (" ".join(block.split()) for text in texts for block in text.split("\n\n"))
    return [block for block in blocks if block]


def _endless(paragraphs: Sequence[str]) -> Iterator[str]:
    """Yield the paragraphs repeatedly, shuffled from the second time on."""
    for repeat in count():
        yield from Random(repeat).sample(paragraphs, len(paragraphs)) if repeat else paragraphs


def write_lines(path: Path, size_bytes: int, paragraphs: Sequence[str]) -> None:
    """Write a file with one sentence per line and blank lines between documents."""
    sentences = {paragraph: "\n".join(split_sentences(paragraph)) for paragraph in paragraphs}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for number, paragraph in enumerate(_endless(paragraphs), start=1):
            file.write(sentences[paragraph] + "\n")
            if number % DOCUMENT_PARAGRAPHS == 0:
                if file.tell() >= size_bytes:
                    return
                file.write("\n")


def write_prose(folder: Path, size_bytes: int, paragraphs: Sequence[str]) -> None:
    """Write files of prose with blank lines between paragraphs."""
    folder.mkdir(parents=True, exist_ok=True)
    source = _endless(paragraphs)
    for number in range(max(1, size_bytes // FILE_BYTES)):
        with (folder / f"{number:05d}.txt").open("w", encoding="utf-8") as file:
            while file.tell() < FILE_BYTES:
                file.write(next(source) + "\n\n")


def main() -> None:
    """Write a corpus."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--lines", type=float, metavar="MB", help="a file with one sentence per line")
    kind.add_argument(
        "--prose", type=float, metavar="MB", help="a folder with one document per file"
    )
    parser.add_argument("output", type=Path)
    args = parser.parse_args()
    write = write_lines if args.lines else write_prose
    write(args.output, int((args.lines or args.prose) * 1e6), read_paragraphs())


if __name__ == "__main__":
    main()
