"""Documents from their raw bytes to the text that is used: decoded, then through the rules."""

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass

from pipeline.corpus.readers import CorpusFormat, DroppedDocumentError, read_document
from pipeline.corpus.rules.build import rules_of
from pipeline.corpus.rules.rule import Rejection, TextDocument, apply_rules
from pipeline.storage.strict_json import to_json

EXCERPT_CHARACTERS = 200
"""Length of the beginning of a rejected document that is written with its rejection."""


@dataclass(frozen=True, slots=True)
class CleanDocument:
    """A document that all rules let pass.

    Attributes:
        text: the text after the rules.
        identity: value of its id column as JSON, or else its text.
        language: ISO 639 code for the sentence splitter.
        changes: number of changes of the text by kind.
        label: as `label_of`; empty if rejections are not written.
    """

    text: str
    identity: str
    language: str
    changes: Counter[str]
    label: bytes


@dataclass(frozen=True, slots=True)
class RejectedDocument:
    """A document that cannot be read, or that a rule rejected.

    Attributes:
        rejection: why.
        label: as `label_of`; empty if rejections are not written.
    """

    rejection: Rejection
    label: bytes


class DocumentCleaner:
    """Raw bytes of a document → the document that is used, or its rejection.

    It has a worker's rules, which may hold a model, so it is made on the worker.
    """

    def __init__(self, how: CorpusFormat, *, labelled: bool = False) -> None:
        """Make the rules.

        Args:
            how: format of the corpus, with its cleaning rules.
            labelled: whether documents get a label, for the record of rejections.
        """
        self._how = how
        self._labelled = labelled
        self._rules = rules_of(how.cleaning)

    def __call__(self, data: bytes) -> CleanDocument | RejectedDocument:
        """Read a document and apply the rules."""
        try:
            text, identity = read_document(data, self._how)
        except DroppedDocumentError as dropped:
            return RejectedDocument(Rejection(dropped.reason), self._label(data, None))
        has_id = self._how.id_column is not None
        label = self._label(text.encode(), identity if has_id else None)
        outcome = apply_rules(self._rules, TextDocument(text, self._how.language))
        if isinstance(outcome, Rejection):
            return RejectedDocument(outcome, label)
        identity = identity if has_id else outcome.text
        return CleanDocument(outcome.text, identity, outcome.language, outcome.changes, label)

    def _label(self, data: bytes, identity: str | None) -> bytes:
        return label_of(data, identity) if self._labelled else b""


def rejection_line(rejection: Rejection, label: bytes) -> bytes:
    """Return a line of the record of rejections: id, rule, value, threshold, excerpt, as JSON."""
    document = json.loads(label)
    return to_json({"id": document["id"], **asdict(rejection), **document}).encode()


def label_of(data: bytes, identity: str | None) -> bytes:
    """Return how a record of rejections names a document: id and excerpt, as a JSON object.

    Args:
        data: the document's text as it was read, in UTF-8; its raw bytes if it cannot be read.
        identity: value of its id column as JSON; None = the SHA-256 of `data` is its id.
    """
    # Four bytes are the longest character; the limit cuts a long document before it is decoded.
    start = data[: 4 * EXCERPT_CHARACTERS].decode("utf-8", "replace")
    label = {
        "id": hashlib.sha256(data).hexdigest() if identity is None else json.loads(identity),
        "excerpt": start[:EXCERPT_CHARACTERS],
    }
    return to_json(label).encode()
