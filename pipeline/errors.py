"""Exceptions that the front door prints as one line, without a traceback."""

import re


class InputError(Exception):
    """The user's input (a flag, a file, a request) cannot be used; exit code 2.

    The message is one line: what was wrong, where (file, line or flag), and what to do. Line breaks
    and other control characters, which may come from the input, are escaped.
    """

    def __init__(self, message: str) -> None:
        super().__init__(re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", _escaped, message))


class DamagedFileError(InputError):
    """A file is truncated or corrupt; everything before the damage has been read."""


class JobError(Exception):
    """A job failed for a reason that is not the user's input: a full disk, a lost worker.

    The message is one line; exit code 1.
    """


def _escaped(control: re.Match[str]) -> str:
    return repr(control[0])[1:-1]
