"""Private data: what is replaced, and similar text that is not."""

import re
from typing import Any

import pytest

from pipeline.corpus.rules import redact
from pipeline.corpus.rules.redact import Redact
from pipeline.corpus.rules.rule import TextDocument
from pipeline.text.tokenizer import build_tokenizer

ALL = ("email", "phone", "ip", "iban")

PRIVATE: dict[str, list[str]] = {
    "email": [
        "anna.smith@example.com", "o'brien+news@mail.example.co.uk", "jürgen@müller.de",
        "a@b.io", "first_last-9@sub-domain.example.museum", "USER%X@EXAMPLE.ORG",
        "ju\u0308rgen@mu\u0308ller.de", "anna@163.com", "anna@xn--mller-kva.xn--p1ai",
        "संपर्क@डाटामेल.भारत", "почта@пример.рф",
    ],
    "phone": [
        "+44 20 7946 0958", "+1 (212) 555-0123", "+49 (0)30 1234567", "0049 171 2345678",
        "+33 1 23 45 67 89", "+81-3-1234-5678", "+4915112345678", "(212) 555-0123",
        "212-555-0123", "212.555.0123", "1-800-555-0199", "020 7946 0958", "030/1234567",
        "0171 2345678", "(030) 1234567", "01 23 45 67 89", "+86 138 0013 8000",
        "089-12345-67", "+49 89 1234567-0", "030/1234567-0", "089 / 12 34 56 78", "01.42.68.53.00",
        "+33\u00a01\u00a042\u00a068\u00a053\u00a000", "+33\u202f1 42 68 53 00", "8 (495) 123-45-67",
        "(212)\u00a0555\u20110123", "212-555-0123x12", "+55 (11) 91234-5678", "+972-50-123-4567",
    ],
    "ip": [
        "93.184.216.34", "8.8.8.200", "2001:4860:4860::8888", "2a00:1450:4001:81b::200e",
        "2606:2800:220:1:248:1893:25c8:1946",
    ],
    "iban": [  # examples of SWIFT's registry
        "DE89370400440532013000", "DE89 3704 0044 0532 0130 00", "GB29 NWBK 6016 1331 9268 19",
        "FR14 2004 1010 0505 0001 3M02 606", "NO93 8601 1117 947",
        "MT84MALT011000012345MTLCAST001S", "CH93 0076 2011 6238 5295 7",
        "PL61109010140000071219812874", "DE89\u00a03704\u00a00044\u00a00532\u00a00130\u00a000",
    ],
}  # fmt: skip

HARMLESS = [
    "2024-01-15", "15.01.2024", "01/02/2024", "01-02-2024", "01.02.2024 10:30:15", "10:30-12:45",
    "2024-01-15T10:30:00Z", "1914-1918", "1,234,567.89", "$12,500.00", "12.500.000 EUR",
    "3.141592653589793", "978-3-16-148410-0", "0-306-40615-2", "9783161484100", "ISSN 0317-8471",
    "version 41.32.21.7", "v1.2.3.4", "1.2.3.4", "Section 4.3.2.1", "Firmware 200.1.3.4",
    "192.168.1.77", "127.0.0.1", "10.200.3.4", "999.1.1.1", "41.0.2272.118", "1.2.3.40.5",
    "std::vector", "::1", "fe80::1", "12:34:56:78", "00:1B:44:11:3A:B7", "2001: A Space Odyssey",
    "icon@2x.png", "@anna", "foo@bar", "user@localhost", "a @ b.com", "me@", "@example.com",
    "DE89 3704 0044 0532 0130 01", "GB00 NWBK 6016 1331 9268 19", "AB12 CDEF 3456 7890",
    "10.1000/182", "ORCID 0000-0002-1825-0097", "4111 1111 1111 1111", "123-45-6789",
    "tracking 1Z999AA10123456784", "550e8400-e29b-41d4-a716-446655440000", "0x1F4A9", "007",
    "1 000 000 000", "2 147 483 647", "room 0301 12", "00 00 00 00 00", "x = 0123456789012345678",
    "12-34-56-78-90", "5-3-2", "1234567890", "N 51 30 26", "pp. 123-145", "+/- 12345678",
]  # fmt: skip


def redacted(text: str, *kinds: Any) -> TextDocument:
    return Redact(kinds or ALL)(TextDocument(text, "en"))


AROUND = [
    *(
        "{}",
        "Write to {}.",
        "({}), or",
        "x: {}\nNext",
        "<{}>",
        "“{}”",
        "Now {}: no answer",
        "{}- or",
    ),
    # No space separates an address from the words around it.
    *("联系{}请回复", "電話は{}まで", "โทร{}ครับ"),
]


@pytest.mark.parametrize(("kind", "text"), [(k, t) for k, texts in PRIVATE.items() for t in texts])
def test_private_data_is_replaced_as_a_whole(kind: str, text: str) -> None:
    marker = f"[{kind.upper()}]"
    for around in AROUND:
        found = redacted(around.format(text))
        assert found.text == around.format(marker)
        assert found.changes == {f"redacted_{kind}": 1}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("_anna@example.com_", "[EMAIL]_"),
        ("anna@example.com으로 보내세요", "[EMAIL]으로 보내세요"),
        ("用户@例子.公司", "[EMAIL]"),
        ("Tel.+49 30 1234567", "Tel.[PHONE]"),
        ("93.184.216.34-93.184.216.99", "[IP]-[IP]"),
        ("图icon@2x.png图", "图icon@2x.png图"),
    ],
)
def test_what_stands_directly_next_to_it_stays(text: str, expected: str) -> None:
    assert redacted(text).text == expected


@pytest.mark.parametrize("text", HARMLESS)
@pytest.mark.parametrize("around", ["{}", "It is {}.", "({})", "{}, {}"])
def test_text_that_only_resembles_private_data_stays(text: str, around: str) -> None:
    text = around.replace("{}", text)
    assert redacted(text).text == text


def test_only_the_kinds_that_were_chosen() -> None:
    text = "a@b.io, 93.184.216.34, 93.184.216.34"
    assert redacted(text, "ip").text == "a@b.io, [IP], [IP]"
    assert redacted(text, "ip").changes == {"redacted_ip": 2}
    document = TextDocument("a@b.io", "en")
    assert Redact(("iban",))(document) is document


def test_an_iban_ends_where_its_country_says() -> None:
    text = "IBAN DE89 3704 0044 0532 0130 00 BIC COBADEFF and DE89370400440532013000AB"
    assert redacted(text).text == "IBAN [IBAN] BIC COBADEFF and DE89370400440532013000AB"


def test_a_marker_is_the_same_pieces_in_any_context() -> None:
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[", "]", "em", "##ail", "x", "##x"]
    tokenizer = build_tokenizer(vocabulary, lower_case=True)
    marker = ["[", "em", "##ail", "]"]
    for before, after in (("", ""), ("x", "x"), ("xx ", " xx"), ("[", "]")):
        ids = tokenizer.tokenize([f"{before}[EMAIL]{after}"]).flat_values.numpy()
        pieces = " ".join(vocabulary[piece] for piece in ids)
        assert " ".join(marker) in pieces


def test_every_pattern_is_bounded() -> None:
    """No `*` or `+` without an upper bound: they make matching quadratic."""
    patterns = [value for value in vars(redact).values() if isinstance(value, re.Pattern)]
    assert len(patterns) == 7
    for pattern in patterns:
        parts = re.sub(r"\[[^\]]*\]|\\.", "x", pattern.pattern)
        assert not re.search(r"[x)][*+]|\{\d+,\}", parts), pattern.pattern
