"""The way of a document through the rules: order, counts, identity, label."""

import hashlib
import json

import pytest

from pipeline.corpus import cleaning
from pipeline.corpus.cleaning import CleanDocument, DocumentCleaner, RejectedDocument
from pipeline.corpus.readers import EMPTY, CorpusFormat
from pipeline.corpus.remarks import INVALID_UTF8
from pipeline.corpus.rules.rule import Rejection, TextDocument

PROSE = CorpusFormat(input_format="prose", language="en", text_column="text")
ROWS = CorpusFormat(input_format="jsonl", language="de", text_column="text", id_column="id")


def no_shouting(document: TextDocument) -> TextDocument | Rejection:
    share = sum(map(str.isupper, document.text)) / len(document.text)
    return Rejection("shouting", share, 0.5) if share > 0.5 else document


def without_digits(document: TextDocument) -> TextDocument | Rejection:
    digits = sum(map(str.isdigit, document.text))
    text = "".join("#" if letter.isdigit() else letter for letter in document.text)
    return document.changed(text, digits=digits) if digits else document


@pytest.fixture
def rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cleaning, "rules_of", lambda _: (no_shouting, without_digits))


@pytest.mark.usefixtures("rules")
def test_a_document_passes_all_rules_or_stops_at_the_first() -> None:
    clean = DocumentCleaner(PROSE)
    assert clean(b"Room 12.") == CleanDocument("Room ##.", "Room ##.", "en", {"digits": 2}, b"")
    assert clean(b"ROOM 12") == RejectedDocument(Rejection("shouting", 4 / 7, 0.5), b"")


@pytest.mark.usefixtures("rules")
def test_an_id_outlives_a_change_of_the_text() -> None:
    document = DocumentCleaner(ROWS)(b'{"id": 7, "text": "Room 12."}')
    assert isinstance(document, CleanDocument)
    assert (document.text, document.identity, document.language) == ("Room ##.", "7", "de")


@pytest.mark.usefixtures("rules")
def test_a_label_has_the_id_and_the_text_as_it_was_read() -> None:
    text = "ÄÖÜ 1" * 300
    found = DocumentCleaner(PROSE, labelled=True)(text.encode())
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert json.loads(found.label) == {"id": digest, "excerpt": text[:200]}
    row = json.dumps({"id": "a/1", "text": "Room 12."}).encode()
    kept = DocumentCleaner(ROWS, labelled=True)(row)
    assert json.loads(kept.label) == {"id": "a/1", "excerpt": "Room 12."}


def test_an_unreadable_document_is_labelled_by_its_bytes() -> None:
    clean = DocumentCleaner(PROSE, labelled=True)
    for data, rule in ((b"caf\xe9", INVALID_UTF8), (b" \n", EMPTY)):
        found = clean(data)
        assert isinstance(found, RejectedDocument)
        assert found.rejection == Rejection(rule)
        assert json.loads(found.label)["id"] == hashlib.sha256(data).hexdigest()
    assert json.loads(clean(b"caf\xe9").label)["excerpt"] == "caf\ufffd"


@pytest.mark.parametrize("letter", ["é", "字", "😀"])
def test_an_excerpt_ends_between_characters(letter: str) -> None:
    found = DocumentCleaner(PROSE, labelled=True)((letter * 500).encode())
    assert json.loads(found.label)["excerpt"] == letter * 200
