"""Exceptions that the front door prints as one line, without a traceback."""

import difflib
import errno
import math
import re
from collections.abc import Iterable

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def escaped(text: str, keep: str = "") -> str:
    """Return a text with its line breaks and other control characters escaped.

    Names of files and texts of users have them: a line would become two, and a terminal would obey.

    Args:
        text: a message, a name, or a text to show.
        keep: control characters that stay.
    """
    return _CONTROL.sub(lambda found: found[0] if found[0] in keep else repr(found[0])[1:-1], text)


class InputError(Exception):
    """The user's input (a setting, a file, a request) cannot be used.

    The message is one line: what was wrong, where (file, line or field), and what to do. Fields of
    the configuration stand in backquotes, followed by their value: "`batch_size` 7: must be ...".
    Python callers read that; the front door prints flags instead. Line breaks and other control
    characters, which may come from the input, are escaped.
    """

    def __init__(self, message: str) -> None:
        super().__init__(escaped(message))


class DamagedFileError(InputError):
    """A file is truncated or corrupt; everything before the damage has been read.

    Attributes:
        damage: description of the damage, a part of the message.
    """

    def __init__(self, message: str, damage: str = "") -> None:
        super().__init__(message)
        self.damage = damage


class JobError(Exception):
    """A job failed for a reason that is not the user's input: a full disk, a lost worker.

    The message is one line, as that of `InputError`.
    """

    def __init__(self, message: str) -> None:
        super().__init__(escaped(message))


_BAD_PATH = {
    errno.EACCES, errno.EEXIST, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR,
    errno.ENOTEMPTY, errno.EPERM, errno.EROFS,
    # Filesystems without folders or new files, such as /proc; names that a filesystem refuses.
    errno.ENOENT, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EILSEQ,
    # Sockets, and devices without a driver.
    errno.ENXIO, errno.ENODEV,
}  # fmt: skip
"""Error numbers caused by the path itself, not by the disk: the user can fix them."""

_BAD_PATH_KINDS = (
    FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError
)  # fmt: skip
"""The same errors of libraries that give no number."""


def is_bad_path(error: Exception) -> bool:
    """Return whether an error comes from the path itself, so that the user can fix it.

    Otherwise the machine failed: a bad disk, a lost file server, too many open files.
    """
    number = error.errno if isinstance(error, OSError) else None
    return number in _BAD_PATH or isinstance(error, _BAD_PATH_KINDS)


def failure(what: str, error: Exception, then: str = "") -> InputError | JobError:
    """Return the exception for an operation on a file that failed.

    Args:
        what: the file, and what cannot be done with it; start of the message.
        error: an error of the operating system or of a library.
        then: end of the message.

    Returns:
        `InputError` for a bad path, `JobError` for a failure of the machine.
    """
    kind = InputError if is_bad_path(error) else JobError
    return kind(f"{what}: {reason(error)}{then}")


def unreadable(path: object, error: Exception, then: str = "") -> InputError | JobError:
    """Return the exception for a file that cannot be read, see `failure`.

    Args:
        path: the file, as the message shows it.
        error: an error of the operating system or of a library.
        then: end of the message.
    """
    return failure(f"{path}: cannot be read", error, then)


LARGEST = 2**53
"""Largest number that JSON's readers hold exactly; 64 bits are enough for its sums."""


def check_range(name: str, value: float, low: float, high: float = LARGEST) -> None:
    """Check that a number lies between two bounds, both included.

    Args:
        name: field of the configuration.
        value: the field's value; NaN is refused.
        low: smallest allowed value.
        high: largest allowed value; `math.inf` = infinity, too.

    Raises:
        InputError: the value is out of range.
    """
    if not low <= value <= high:
        is_known = high in (LARGEST, math.inf)
        rule = f"from {low} to {high}"
        if is_known:
            rule = f"at most {high:,}" if value > high else f"at least {low}"
        raise InputError(f"`{name}` {value}: must be {rule}")


def reason(error: Exception) -> str:
    """Return an error's message on one line.

    Left out are the number and the path of an error of the operating system (the message around it
    names the path as the user did), and the `{{node …}}`, the path of its temporary file and the
    `[Op:…]` that TensorFlow adds.
    """
    text = (isinstance(error, OSError) and error.strerror) or str(error)
    message = re.sub(r"^\{\{.*?\}\}\s*", "", " ".join(text.split()))
    if type(error).__module__.startswith("tensorflow."):
        message = re.sub(r"^/.*; | \[Op:\w+\]$", "", message)
    return message[:500] or type(error).__name__


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a hint for an error message: the known word most similar to an unknown one, if any."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""
