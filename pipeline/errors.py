"""The exceptions that become a one-line message instead of a traceback."""

import re


class InputError(Exception):
    """Something the user gave cannot be used.

    The message is one line: what was wrong, where (file, line or flag), and what to do. The front
    door prints it without a traceback. Line breaks and other control characters, which may come
    from the input, are escaped.
    """

    def __init__(self, message: str) -> None:
        super().__init__(re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", _escaped, message))


class DamagedFileError(InputError):
    """A file lacks bytes or has wrong ones; everything before the damage has been read."""


class JobError(Exception):
    """A job failed on its way, through nothing the user typed: a full disk, a lost worker.

    The message is one line; exit code 1.
    """


def _escaped(control: re.Match[str]) -> str:
    return repr(control[0])[1:-1]
