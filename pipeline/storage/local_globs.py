"""Match globs with local files; what cannot be looked at is an error and not left out."""

import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path

# A bracket directly after [ or [! is a member of the set.
_SIGNS = re.compile(r"\*\*|\*|\?|\[!?\]?[^]/]*\]")
_MEANINGS = {"**": ".*", "*": "[^/]*", "?": "[^/]"}

ANY_FOLDERS = "**"
"""Pattern of any number of folders; links to folders are not followed there, as in bash, because
they may lead back."""


def local_matches(glob: str) -> dict[str, os.stat_result]:
    """Return the status of what matches an absolute glob, by path.

    In a glob, `*`, `?` and `[…]` match within a name, also in one that begins with a dot; `**`
    matches any text, and files only.

    Raises:
        OSError: a folder that may have such a file cannot be listed, or a file is a link to
            nothing or may not be looked up.
        ValueError, re.error: the glob has a NUL, or a range such as `[z-a]`.
    """
    parts = glob.split("/")
    fixed = [*itertools.takewhile(lambda part: not _SIGNS.search(part), parts)]
    folder = "/".join(fixed) or "/"
    if len(fixed) == len(parts):
        paths = iter([glob])
    else:
        paths = _paths(folder, tuple(parts[len(fixed) :])) if Path(folder).is_dir() else iter(())
    wanted = re.compile(_translated(glob), re.DOTALL)
    return {path: status for path in paths if wanted.fullmatch(path) and (status := _status(path))}


def _translated(glob: str) -> str:
    """Return the regular expression of a glob."""
    literal, translated = 0, ""
    for sign in _SIGNS.finditer(glob):
        meaning = _MEANINGS.get(sign[0]) or _set_of_characters(sign[0][1:-1])
        translated += re.escape(glob[literal : sign.start()]) + meaning
        literal = sign.end()
    return translated + re.escape(glob[literal:])


def _set_of_characters(inside: str) -> str:
    negation, characters = ("^", inside[1:]) if inside.startswith("!") else ("", inside)
    # Python reserves doubled & ~ | inside of a set, and warns of them.
    escaped = re.sub(r"([][\\^&~|])", r"\\\1", characters)
    return f"[{negation}{escaped}]"


def _paths(folder: str, parts: tuple[str, ...]) -> Iterator[str]:
    """Yield what is in a folder, and below it where the parts of a glob may match."""
    folders = [(folder, parts)]
    while folders:
        folder, (part, *others) = folders.pop()
        wanted = re.compile(_translated(part), re.DOTALL)
        with os.scandir(folder) as entries:
            for entry in entries:
                if ANY_FOLDERS in part:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append((entry.path, (part, *others)))
                    else:
                        yield entry.path
                elif wanted.fullmatch(entry.name):
                    if not others:
                        yield entry.path
                    elif entry.is_dir():
                        folders.append((entry.path, tuple(others)))


def _status(path: str) -> os.stat_result | None:
    """Return the status of a path; None if there is nothing (any more).

    Raises:
        OSError: it is a link to nothing, or may not be looked up.
    """
    try:
        return Path(path).stat()
    except FileNotFoundError:
        if Path(path).is_symlink():
            raise
        return None
