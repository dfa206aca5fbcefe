"""Remarks of a job on corpus files that are damaged or not plain UTF-8 text."""

from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.storage.encodings import MEANINGS

DAMAGED_FILE = "damaged_file"
INVALID_UTF8, INVALID_ENCODING = "invalid_utf8", "invalid_encoding"
INVALID_COLUMN = "invalid_column"
"""Kinds of remark on a file, besides those of `encodings.suspicion`. `DAMAGED_FILE` is also counted
among the drop reasons."""

_UNDECODABLE = frozenset({INVALID_UTF8, INVALID_ENCODING, INVALID_COLUMN})
"""Kinds of remark on files with a document that cannot be decoded."""

MAX_EXAMPLES = 3
"""Number of example files that a message names."""

_MEANINGS = MEANINGS | {
    DAMAGED_FILE: "damaged: only the part before the damage was used",
    INVALID_UTF8: "has text that is not UTF-8; if it is in another encoding, give that, for "
    "example `encoding` windows-1252",
    INVALID_ENCODING: "has text that is not in the given `encoding`; give the file's own",
    INVALID_COLUMN: "has text that is not UTF-8, as Parquet requires; write the file again",
}


@dataclass(frozen=True)
class Remark:
    """A remark on some files of the corpus.

    Attributes:
        kind: one of the kinds above.
        files: number of files that the remark applies to.
        examples: paths of at most `MAX_EXAMPLES` of them.
    """

    kind: str
    files: int
    examples: tuple[str, ...]

    def __str__(self) -> str:
        """Return the remark as one line."""
        more = self.files - len(self.examples)
        others = f" and {more:,} more" if more else ""
        return f"{', '.join(self.examples)}{others}: {_MEANINGS[self.kind]}"


def remarks_that_count(kinds: Iterable[str]) -> frozenset[str]:
    """Return the kinds of remark to make on a file that several ones apply to.

    A compressed or damaged file cannot be decoded either, but not because of its encoding.
    """
    return frozenset(kinds) - _UNDECODABLE or frozenset(kinds)


def remarks_from(collected: Iterable[tuple[str, tuple[int, list[str]]]]) -> list[Remark]:
    """Convert the remarks of a job's report, (kind, (number of files, example paths))."""
    return [Remark(kind, files, tuple(paths)) for kind, (files, paths) in sorted(collected)]


def hints(remarks: Iterable[Remark]) -> str:
    """Return the remarks as a suffix for an error message."""
    return "".join(f"; {remark}" for remark in remarks)
