"""Reject documents that share a run of words with an evaluation file.

The rule of GPT-3 (Brown et al. 2020, arXiv 2005.14165, appendix C): runs of 13 words, in lower case
and without punctuation.
"""

import csv
import hashlib
import io
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.corpus.decompression import open_file
from pipeline.corpus.rules.rule import Rejection, TextDocument
from pipeline.corpus.scripts import UNSPACED
from pipeline.errors import DamagedFileError, InputError
from pipeline.storage.encodings import decoded, meaning
from pipeline.storage.files import match_files
from pipeline.storage.remote_files import open_to_read
from pipeline.storage.strict_json import from_json

RUN_WORDS = 13

MAX_BYTES = 256 << 20
"""Largest size of all evaluation files: each of their words takes 8 bytes on every worker."""

_WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+")
"""A character of a script without spaces is a word."""

_READ_WORDS = 1 << 16  # words of a document that are hashed at a time
# 2^64 divided by the golden ratio: odd, so that multiplying loses nothing (Knuth, volume 3, 6.4).
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class EvaluationFile:
    """A file that no document of the corpus may share a run of words with.

    Attributes:
        path: path of the file, on storage that every worker can read.
        sha256: SHA-256 of its contents, as hexadecimal digits.
    """

    path: str
    sha256: str


def evaluation_files(globs: Iterable[str]) -> tuple[EvaluationFile, ...]:
    """Return the files that globs match.

    Raises:
        InputError: a glob matches no file, a file cannot be read, or they are too large.
    """
    globs = [*globs]
    if not globs:
        return ()
    sizes = match_files(globs, "decontaminate")
    if (total := sum(sizes.values())) > MAX_BYTES:
        raise InputError(
            f"`decontaminate`: the files have {total:,} bytes; expected at most {MAX_BYTES:,}"
        )
    files = tuple(EvaluationFile(path, _sha256(path)) for path in sizes)
    if not len(_runs_of_files(files)):
        raise InputError(f"`decontaminate`: no text in the files has {RUN_WORDS} words")
    return files


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open_to_read(path) as file:
        for line in file:
            digest.update(line)
    return digest.hexdigest()


class Decontaminate:
    """A rule that rejects documents that share a run of words with evaluation files."""

    def __init__(self, files: Iterable[EvaluationFile]) -> None:
        """Read the files.

        Raises:
            InputError: a file has changed since the job began.
        """
        self._runs = _runs_of_files(files)

    def __call__(self, document: TextDocument) -> TextDocument | Rejection:
        """Return the document, or a rejection with the first run that is shared."""
        for words in _parts(document.text):
            keys = run_keys(words)
            # A sorted array has 8 bytes for each key, a Python set several times as many.
            where = np.searchsorted(self._runs, keys)
            shared = self._runs[np.minimum(where, len(self._runs) - 1)] == keys
            if shared.any():
                first = int(shared.argmax())
                return Rejection("contaminated", " ".join(words[first : first + RUN_WORDS]))
        return document


def _parts(text: str) -> Iterator[list[str]]:
    """Yield the words of a text in parts that overlap, so that each run is in one of them."""
    words: list[str] = []
    for found in _WORD.finditer(_comparable(text)):
        words.append(found[0])
        if len(words) == _READ_WORDS:
            yield words
            # The last 12 words again: a run may begin in this part and end in the next.
            words = words[1 - RUN_WORDS :]
    yield words


def _comparable(text: str) -> str:
    """Return a text in lower case, with accents composed: they may be characters of their own."""
    return unicodedata.normalize("NFC", text).lower()


def run_keys(words: list[str]) -> np.ndarray:
    """Return a 64-bit key of each run of words, uint64 [words - 12]; empty if there is none."""
    count = len(words) - RUN_WORDS + 1
    if count <= 0:
        return np.empty(0, np.uint64)
    # Each distinct word is hashed once; most words of a text are repetitions.
    of_word = {word: _word_key(word) for word in {*words}}
    mixed = np.fromiter(map(of_word.__getitem__, words), np.uint64, len(words))
    keys = np.zeros(count, np.uint64)
    for offset in range(RUN_WORDS):
        keys *= _MULTIPLIER
        # Multiplication carries upwards only; the shift brings high bits back into low ones.
        keys ^= keys >> np.uint64(32)
        keys += mixed[offset : offset + count]
    return keys


def _word_key(word: str) -> int:
    """Return a hash that is the same in every process, which Python's own is not."""
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")


def _texts(path: str, text: str) -> Iterator[str]:
    """Yield the texts of a file.

    They are the strings of the JSON value that the file is, or that stands on each line; the cells
    of a .csv file; or else what stands between tabs and line breaks.
    """
    if _is_json(text) and (value := _parsed(text)) is not None:
        yield from _strings(value)
        return
    if re.search(r"\.csv(\.\w+)?$", path.lower()):
        try:
            csv.field_size_limit(MAX_BYTES)  # Python's limit is 131,072 characters
            # Read at once: a file with wrong quotes is not CSV.
            rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
            yield from (cell for row in rows for cell in row)
            return
        except csv.Error:
            pass
    for line in text.split("\n"):
        value = _parsed(line) if _is_json(line) else None
        yield from line.split("\t") if value is None else _strings(value)


def _is_json(text: str) -> bool:
    """Return whether a text begins like a JSON object or array."""
    return text.lstrip()[:1] in ("{", "[")


def _parsed(text: str) -> Any:
    try:
        return from_json(text)
    except ValueError:
        return None


def _strings(value: Any) -> Iterator[str]:
    left = [value]
    while left:
        value = left.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            left += value.values()
        elif isinstance(value, list):
            left += value


def _contents(path: str) -> str:
    """Return the decompressed text of a file.

    Raises:
        InputError: the file is damaged, too large, or not in UTF-8.
    """
    try:
        with open_file(path) as file:
            data = file.read(MAX_BYTES + 1)
    except DamagedFileError as error:
        raise InputError(f"`decontaminate` {path}: {error.damage}") from error
    if len(data) > MAX_BYTES:
        raise InputError(f"`decontaminate` {path}: expected at most {MAX_BYTES:,} bytes of text")
    if reason := meaning(data):
        raise InputError(f"`decontaminate` {path}: {reason}")
    return decoded(data, f"`decontaminate` {path}")


def _runs_of_files(files: Iterable[EvaluationFile]) -> np.ndarray:
    """Return the keys of all runs of words inside a text of the files, uint64 [n], ascending.

    Raises:
        InputError: a file has changed, or cannot be read as text.
    """
    runs = [np.empty(0, np.uint64)]
    for each in files:
        # Workers read the file themselves, perhaps hours later.
        if _sha256(each.path) != each.sha256:
            raise InputError(f"`decontaminate` {each.path}: changed while the job ran")
        for text in _texts(each.path, _contents(each.path)):
            runs.append(run_keys(_WORD.findall(_comparable(text))))
    return np.unique(np.concatenate(runs))
