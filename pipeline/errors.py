"""The exceptions that become a one-line message instead of a traceback."""


class InputError(Exception):
    """Something the user gave cannot be used.

    The message is one line: what was wrong, where (file, line or flag), and what to do. The front
    door prints it without a traceback.
    """


class JobError(Exception):
    """A job failed on its way, through nothing the user typed: a full disk, a lost worker.

    The message is one line; exit code 1.
    """
