"""A file's labels as those of a run: other names for the same classes, and marks of no label."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence

from model.tasks.examples import Examples, Texts, Words
from model.tasks.kinds import Task
from pipeline.errors import InputError

UNKNOWN = "-1"
"""How GLUE's test files, and Hugging Face's copies of them, mark that a label is not known."""


def without_unknown(examples: Examples, task: Task) -> Examples:
    """Return the examples, with no label where the file marks it as unknown.

    Of classes that is -1, unless it is one of the task's; of numbers, -1 in every row.
    """
    if not isinstance(examples, Texts) or UNKNOWN in task.labels:
        return examples
    if not task.has_classes and set(examples.labels) != {UNKNOWN}:
        return examples
    labels = ["" if label == UNKNOWN else label for label in examples.labels]
    return dataclasses.replace(examples, labels=labels if any(labels) else [])


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


def with_labels_of(
    examples: Examples, task: Task, named: Mapping[str, str]
) -> tuple[Examples, dict[str, str]]:
    """Return the examples with the run's labels, and how labels with another name were read.

    Without a name for them, the file's labels are the run's if they are equal, if they are the
    numbers of a run with LABEL_0, LABEL_1, … (or the other way round), or if they differ only in
    capitals.

    Args:
        examples: of a file.
        task: the run's.
        named: the run's label by the file's, for some or all.

    Raises:
        InputError: a label is none of the run's.
    """
    if not task.has_classes:
        return examples, {}
    if isinstance(examples, Texts):
        names = _names({*examples.labels} - {""} - named.keys(), task) | dict(named)
        for label, row in zip(examples.labels, examples.rows, strict=False):
            if label and label not in names:
                raise InputError(
                    f"{examples.path}: line {row}: the label {label!r} is none of the run's "
                    f"({', '.join(task.labels[:10])}); map it with --label-map {label}=NAME"
                )
        labels = [names.get(label, "") for label in examples.labels]
        return dataclasses.replace(examples, labels=labels), _changed(names)
    if isinstance(examples, Words):
        tags = [[named.get(tag, tag) for tag in sentence] for sentence in examples.tags]
        return dataclasses.replace(examples, tags=tags), _changed(named)
    return examples, {}


def _names(labels: set[str], task: Task) -> dict[str, str]:
    """Return the run's name of every label, as far as it is plain: the one way that fits most."""
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


def _changed(names: Mapping[str, str]) -> dict[str, str]:
    return {label: name for label, name in sorted(names.items()) if label != name}
