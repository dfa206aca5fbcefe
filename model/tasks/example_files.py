"""Read files of labelled examples, for all kinds of task.

An error in a file is reported in one line with the file's name and the row.
"""

from pathlib import Path
from typing import Any

from model.tasks.tables import Columns
from model.tasks.task_kind import kind_named
from pipeline.errors import InputError, unreadable
from pipeline.storage.encodings import why_file_not_utf8


def read_examples(
    path: Path, kind: str, columns: Columns, field: str, *, takes_pairs: bool | None = None
) -> Any:
    """Read a file of labelled examples.

    Args:
        path: the file.
        kind: name of the kind of task.
        columns: names or numbers of the columns.
        field: name of the config field, in backquotes, for error messages.
        takes_pairs: whether an example has two texts, for kinds that allow one or two; None =
            detect.

    Returns:
        The kind's `Examples`.

    Raises:
        InputError: the file cannot be read, has no examples, or its columns are ambiguous.
        JobError: the machine fails to read the file.
    """
    definition = kind_named(kind)
    try:
        examples = definition.read(path, columns, takes_pairs=takes_pairs)
    except UnicodeDecodeError as error:
        raise InputError(f"{field} {path}: cannot be read: {why_file_not_utf8(path)}") from error
    except OSError as error:
        raise unreadable(f"{field} {path}", error) from error
    if not len(examples):
        raise InputError(f"{field} {path}: contains no examples")
    return examples
