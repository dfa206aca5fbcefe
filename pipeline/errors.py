"""The one exception that becomes a one-line message and exit code 2."""


class InputError(Exception):
    """Something the user gave cannot be used.

    The message is one line: what was wrong, where (file, line or flag), and what to do. The front
    door prints it without a traceback.
    """
