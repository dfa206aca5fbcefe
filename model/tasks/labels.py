"""A file's labels as those of a run: other names for the same classes, and marks of no label."""

import re
from collections.abc import Callable, Mapping, Sequence

from model.tasks.kinds import Task
from pipeline.errors import InputError

UNKNOWN = "-1"
"""How GLUE's test files, and Hugging Face's copies of them, mark that a label is not known."""


def parse_label_map(pairs: Sequence[str], task: Task) -> dict[str, str]:
    """Return the run's label by the file's, of `--label-map`.

    Raises:
        InputError: a pair is not FILE=RUN, or the run has no such label.
    """
    names = {}
    for pair in pairs:
        label, equals, name = pair.partition("=")
        if not equals:
            raise InputError(f"--label-map {pair}: expected the file's label, =, and the run's")
        if name not in task.labels:
            raise InputError(
                f"--label-map {pair}: the run has no label {name!r}; it has "
                f"{', '.join(task.labels[:10])}"
            )
        names[label] = name
    return names


def matching_names(labels: set[str], task: Task) -> dict[str, str]:
    """Return the run's name by the file's label, for the labels that have one.

    Labels match as they are, as numbers, or whatever their case: the one way that matches most.
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
    """Return LABEL_3, which Hugging Face calls a class without a name, and 3.0 as 3."""
    match = re.fullmatch(r"(?i:label_)?([0-9]+)(?:\.0+)?", label)
    return str(int(match[1])) if match else label


def changed_names(names: Mapping[str, str]) -> dict[str, str]:
    """Return the names that differ from the labels, in the order of the labels."""
    return {label: name for label, name in sorted(names.items()) if label != name}
