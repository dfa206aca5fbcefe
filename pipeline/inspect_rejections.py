"""Count the rejected documents of a folder that `preprocess` wrote, and take a sample of them."""

from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.storage.rejection_files import SUMMARY, read_rejections
from pipeline.storage.remote import path_from


@dataclass
class RuleRejections:
    """The documents that one rule rejected.

    Attributes:
        documents: number of documents.
        values: measurements of the rule, one per document; empty if they are no numbers.
        thresholds: the limits that they missed; several if languages or limits differ.
        examples: the first of them in the order of the files, as objects with `id`, `rule`,
            `value`, `threshold` and `excerpt`.
    """

    documents: int = 0
    values: array = field(default_factory=lambda: array("d"))
    thresholds: set[Any] = field(default_factory=set)
    examples: list[dict[str, Any]] = field(default_factory=list)


def holds_rejections(folder: Path) -> bool:
    """Return whether a folder holds rejected documents."""
    return (folder / SUMMARY).exists()


def inspect_rejections(folder: Path, examples: int) -> dict[str, RuleRejections]:
    """Return the rejected documents of a folder by rule, the rule with the most documents first.

    Args:
        folder: the folder.
        examples: number of documents of each rule to return as a sample.

    Raises:
        InputError: the folder is incomplete or damaged.
    """
    rules: dict[str, RuleRejections] = {}
    for document in read_rejections(str(path_from(str(folder)))):
        rule = rules.setdefault(document["rule"], RuleRejections())
        rule.documents += 1
        if isinstance(document["value"], int | float):
            rule.values.append(document["value"])
        if document["threshold"] is not None:
            rule.thresholds.add(document["threshold"])
        if len(rule.examples) < examples:
            rule.examples.append(document)
    return dict(sorted(rules.items(), key=lambda item: (-item[1].documents, item[0])))
