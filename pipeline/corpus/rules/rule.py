"""What a cleaning rule takes and returns."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

Value = float | str | None


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a document is not used.

    Attributes:
        rule: name of the rule, under which the manifest counts the document.
        value: measurement of the rule in the document; None = the rule measures nothing.
        threshold: the limit that the value misses; None = the rule has none.
    """

    rule: str
    value: Value = None
    threshold: Value = None


@dataclass(frozen=True, slots=True)
class TextDocument:
    """A document between two rules.

    Attributes:
        text: the text, with LF line ends.
        language: ISO 639 code for the rules' thresholds and the sentence splitter.
        changes: number of changes of the text by kind, for example of replaced addresses.
    """

    text: str
    language: str
    changes: Counter[str] = field(default_factory=Counter)

    def changed(self, text: str, **changes: int) -> "TextDocument":
        """Return the document with another text, and the number of changes added by kind."""
        return replace(self, text=text, changes=self.changes + Counter(changes))


Rule = Callable[[TextDocument], TextDocument | Rejection]


def apply_rules(rules: Iterable[Rule], document: TextDocument) -> TextDocument | Rejection:
    """Apply rules in order; return the first rejection, or the document that all let pass."""
    for rule in rules:
        outcome = rule(document)
        if isinstance(outcome, Rejection):
            return outcome
        document = outcome
    return document
