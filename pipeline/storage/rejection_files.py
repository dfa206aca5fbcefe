"""A folder of rejected documents: JSON Lines, and `rejections.json`, which counts them."""

import dataclasses
import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.errors import InputError
from pipeline.progress import counted
from pipeline.storage.remote_files import (
    joined,
    make_folders,
    names_in,
    open_to_read,
    open_to_write,
    remove_files,
)
from pipeline.storage.strict_json import from_json, to_json

SUMMARY = "rejections.json"
FORMAT = "clozeline-rejections/1"

_PREFIX = "rejected-"


def rejection_file(number: int, count: int) -> str:
    """Return the name of one of `count` files of rejections."""
    return f"{_PREFIX}{number:05d}-of-{count:05d}.jsonl"


@dataclass(frozen=True)
class RejectionSummary:
    """The contents of `rejections.json`.

    Attributes:
        complete: False = the job was stopped while it copied the files here.
        rejected_documents: number of documents by rule.
        files: number of lines by file name.
    """

    complete: bool
    rejected_documents: dict[str, int]
    files: dict[str, int]

    def to_json(self) -> str:
        """Return the contents of the file."""
        return to_json({"format": FORMAT, **asdict(self)}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> "RejectionSummary":
        """Parse the contents of the file.

        Raises:
            ValueError: not a summary of rejections.
        """
        fields = from_json(text)
        if not isinstance(fields, dict) or fields.pop("format", None) != FORMAT:
            raise ValueError(f"not a {FORMAT} file")
        if {*fields} != {each.name for each in dataclasses.fields(cls)}:
            raise ValueError(f"has the fields {', '.join(fields)}")
        for name in ("rejected_documents", "files"):
            counts = fields[name]
            if not isinstance(counts, dict) or not all(type(n) is int for n in counts.values()):
                raise ValueError(f"{name} are no counts by name")
        return cls(**fields)


def check_no_rejections(folder: str, *, overwrite: bool) -> None:
    """Check that writing rejections to a folder replaces no file, except with `overwrite` ours.

    Raises:
        InputError: a file would be replaced.
    """
    present = {name for name in names_in(folder) if name == SUMMARY or name.startswith(_PREFIX)}
    if SUMMARY in present:
        if not overwrite:
            raise InputError(
                f"`rejected` {folder}: already holds rejected documents; choose another folder or "
                "add `overwrite`"
            )
        present -= {SUMMARY, *read_summary(folder).files}
    for name in sorted(present):
        raise InputError(
            f"`rejected` {folder}: contains {name}, which no job listed; move it, or choose "
            "another folder"
        )


def read_summary(folder: str) -> RejectionSummary:
    """Return the summary of a folder of rejections.

    Raises:
        InputError: it is missing or damaged.
    """
    path = joined(folder, SUMMARY)
    try:
        with open_to_read(path) as file:
            return RejectionSummary.from_json(file.read())
    except FileNotFoundError:
        raise InputError(f"{folder}: holds no rejected documents (no {SUMMARY})") from None
    except ValueError as error:
        raise InputError(f"{path}: damaged: {error}") from error


def publish_rejections(
    folder: str, files: Mapping[str, str], summary: RejectionSummary, *, overwrite: bool
) -> None:
    """Copy files of rejections into their folder.

    The summary is there first, so that every file in the folder is listed whenever the job stops,
    and says at the end that it is complete.

    Args:
        folder: the folder; created if missing.
        files: temporary path by final name.
        summary: the complete summary.
        overwrite: whether the rejections of an earlier job are replaced.

    Raises:
        InputError: a file would be replaced.
    """
    check_no_rejections(folder, overwrite=overwrite)
    make_folders(folder)
    present = {*names_in(folder)}
    old = {*read_summary(folder).files} & present if SUMMARY in present else set()
    listed = dict.fromkeys(sorted(old), 0) | summary.files
    _write(folder, RejectionSummary(False, {}, listed))
    remove_files(joined(folder, name) for name in sorted(old - {*files}))
    for name, temporary in files.items():
        # Not a rename: the job's folder may be on another filesystem.
        with open_to_read(temporary) as source, open_to_write(joined(folder, name)) as target:
            shutil.copyfileobj(source, target)
    _write(folder, summary)


def _write(folder: str, summary: RejectionSummary) -> None:
    with open_to_write(joined(folder, SUMMARY)) as file:
        file.write(summary.to_json().encode())


def read_rejections(folder: str) -> Iterator[dict[str, Any]]:
    """Yield each rejected document of a folder, as the object on its line.

    Raises:
        InputError: the folder is incomplete, or a file is missing or has another number of lines.
    """
    summary = read_summary(folder)
    if not summary.complete:
        raise InputError(f"{folder}: incomplete, since its job was stopped; run the job again")
    for name, lines in summary.files.items():
        count = 0
        try:
            with open_to_read(joined(folder, name)) as file:
                for line in file:
                    yield _rejection(line)
                    count += 1
        except (FileNotFoundError, ValueError, LookupError, TypeError, OverflowError) as error:
            raise InputError(f"{joined(folder, name)}: missing or damaged") from error
        if count != lines:
            raise InputError(
                f"{joined(folder, name)}: {counted(count, 'lines')}; {SUMMARY} says {lines:,}"
            )


def _rejection(line: bytes) -> dict[str, Any]:
    """Return a rejected document.

    Raises:
        ValueError, LookupError, TypeError, OverflowError: the line has other fields or types.
    """
    document: dict[str, Any] = from_json(line)
    value, threshold = document["value"], document["threshold"]
    if not isinstance(document["rule"], str) or not isinstance(document["excerpt"], str):
        raise TypeError("the rule and the excerpt are texts")
    if not (value is None or isinstance(value, str) or math.isfinite(value)):
        raise ValueError("the value is not a number")
    if not (threshold is None or math.isfinite(threshold)) or "id" not in document:
        raise ValueError("the threshold is not a number, or the id is missing")
    return document
