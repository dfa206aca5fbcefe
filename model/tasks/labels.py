"""Map the labels of a file to the labels of a run."""

import re
from collections.abc import Callable, Mapping, Sequence

from model.tasks.task_kind import Task
from pipeline.errors import InputError

UNKNOWN = "-1"
"""Label of unlabelled examples in GLUE's test files and their copies on Hugging Face."""


def parse_label_map(pairs: Sequence[str], task: Task) -> dict[str, str]:
    """Parse `label_map`: return the run's labels by the file's labels.

    Raises:
        InputError: a pair is not FILE=RUN, or the run has no such label.
    """
    names = {}
    for pair in pairs:
        label, equals, name = pair.partition("=")
        if not equals:
            raise InputError(f"`label_map` {pair}: expected the file's label, =, and the run's")
        if name not in task.labels:
            raise InputError(
                f"`label_map` {pair}: the run has no label {name!r}; it has "
                f"{', '.join(task.labels[:10])}"
            )
        names[label] = name
    return names


def matching_names(labels: set[str], task: Task) -> dict[str, str]:
    """Return the run's labels by the file's labels, for those that match.

    Labels are compared exactly, as numbers, and without case; the comparison with the most matches
    is used for all labels.
    """
    ways: tuple[Callable[[str], str], ...] = (str, _number, str.casefold)
    names: list[dict[str, str]] = []
    for way in ways:
        by_name = {way(label): label for label in task.labels}
        is_unique = len(by_name) == len(task.labels)
        known = {label for label in labels if is_unique and way(label) in by_name}
        names.append({label: by_name[way(label)] for label in known})
    return max(names, key=len)


def _number(label: str) -> str:
    """Return "3" for LABEL_3 (Hugging Face's name of an unnamed class) and for 3.0."""
    match = re.fullmatch(r"(?i:label_)?([0-9]+)(?:\.0+)?", label)
    return str(int(match[1])) if match else label


def changed_names(names: Mapping[str, str]) -> dict[str, str]:
    """Return the entries whose name differs from the label, sorted by label."""
    return {label: name for label, name in sorted(names.items()) if label != name}
