"""Reject documents that share a run of words with an evaluation file.

The rule of GPT-3 (Brown et al. 2020, arXiv 2005.14165, appendix C): runs of 13 words, in lower case
and without punctuation.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.corpus.rules.rule import Rejection, TextDocument
from pipeline.errors import InputError
from pipeline.storage.files import match_files
from pipeline.storage.remote_files import open_to_read
from pipeline.storage.strict_json import from_json

RUN_WORDS = 13

MAX_BYTES = 256 << 20
"""Largest size of all evaluation files: each of their words takes 8 bytes on every worker."""

_WORD = re.compile(r"\w+")
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
    for found in _WORD.finditer(text.lower()):
        words.append(found[0])
        if len(words) == _READ_WORDS:
            yield words
            # The last 12 words again: a run may begin in this part and end in the next.
            words = words[1 - RUN_WORDS :]
    yield words


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


def _texts(line: str) -> Iterator[str]:
    """Yield the texts of a line: the strings of a JSON object, or what stands between tabs."""
    if not line.startswith("{"):
        yield from line.split("\t")
        return
    try:
        left = [from_json(line)]
    except ValueError:
        left = [line]
    while left:
        value = left.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            left += value.values()
        elif isinstance(value, list):
            left += value


def _runs_of_files(files: Iterable[EvaluationFile]) -> np.ndarray:
    """Return the keys of all runs of words inside a text of the files, uint64 [n], ascending.

    Raises:
        InputError: a file has changed.
    """
    runs = [np.empty(0, np.uint64)]
    for each in files:
        digest = hashlib.sha256()
        with open_to_read(each.path) as file:
            for line in file:
                digest.update(line)
                for text in _texts(line.decode("utf-8", "replace")):
                    runs.append(run_keys(_WORD.findall(text.lower())))
        # Workers read the file themselves, perhaps hours later.
        if digest.hexdigest() != each.sha256:
            raise InputError(f"`decontaminate` {each.path}: changed while the job ran")
    return np.unique(np.concatenate(runs))
