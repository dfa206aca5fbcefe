"""Replace addresses and numbers that lead to a person by markers.

The patterns prefer precision: what could as well be a date, a price, an ISBN or a version number
stays. All of them take linear time: a match begins only where a run of its characters begins, and
is bounded in length.
"""

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Collection

from pipeline.configs import Redacted
from pipeline.corpus.rules.rule import TextDocument
from pipeline.corpus.scripts import UNSPACED

_LETTER = rf"[^\W{UNSPACED}]"
"""A letter, digit or underscore that a word continues with. In scripts without spaces, an address
stands directly next to other words."""

_MARKS = "\u0300-\u036f" + "".join(
    f"{chr(block)}-{chr(block + 3)}{chr(block + 0x3A)}-{chr(block + 0x57)}"
    for block in range(0x900, 0xE00, 0x80)
)
"""Accents of decomposed letters, and vowels of Indic scripts, which `\\w` does not contain."""

# A file name such as icon@2x.png is no address.
_EMAIL = re.compile(
    rf"(?:(?<!{_LETTER})(?<![.%+'{_MARKS}-])(?:{_LETTER}|[%+'-])(?:{_LETTER}|[.%+'{_MARKS}-]){{0,63}}"
    rf"|(?<![{UNSPACED}])[{UNSPACED}]{{1,64}})"
    rf"@(?:(?:[^\W_]|[{_MARKS}{UNSPACED}])(?:[^\W_]|[{_MARKS}{UNSPACED}-]){{0,62}}\.){{1,8}}"
    r"(?!(?:png|jpe?g|gif|svg|webp|avif|css|js)(?![A-Za-z0-9]))"
    r"(?:xn--[A-Za-z0-9-]{1,58}[A-Za-z0-9]|[A-Za-z]{2,24}(?![A-Za-z0-9@])"
    rf"|(?:[^\W\d_A-Za-z{UNSPACED}]|[{_MARKS}]){{2,24}}(?![^\W{UNSPACED}]|@)|[{UNSPACED}]{{2,24}})"
)

_IP4 = re.compile(
    rf"(?<!{_LETTER})(?<![.])(?<![^\W\d]-)(?:[0-9]{{1,3}}\.){{3}}[0-9]{{1,3}}"
    rf"(?!{_LETTER}|\.[0-9]|-(?![0-9]{{1,3}}\.)\w)"
)
_IP6 = re.compile(
    rf"(?<!{_LETTER})(?<![:.])[23][0-9a-fA-F]{{3}}:(?:[0-9a-fA-F]{{0,4}}:){{1,6}}"
    rf"(?:[0-9a-fA-F]{{1,4}}|(?<=::))(?!{_LETTER}|:[0-9a-fA-F:])"
)
_VERSION = re.compile(r"(?:version|release|firmware|build|\bver|\bv)\.? ?$", re.IGNORECASE)
_SMALLEST_OCTET = 32
"""An address has at least one number of this size: sections and versions have smaller ones. Of
random addresses, one in 4,000 has none."""

_SPACE = " \u00a0\u2009\u202f"
_DASH = "\u2010\u2011-"
"""Space and hyphen inside of numbers, also those at which no line may break."""

_IBAN = re.compile(
    rf"(?<![A-Za-z0-9])[A-Z]{{2}}[0-9]{{2}}(?:[{_SPACE}]?[A-Z0-9]{{1,4}}){{3,10}}(?![A-Za-z0-9])"
)
_IBAN_LENGTHS = {
    15: "NO",
    16: "BE",
    18: "DK FI FK FO GL NL SD",
    19: "MK SI",
    20: "AT BA EE KZ LT LU MN XK",
    21: "CH HR LI LV",
    22: "BG BH CR DE GB GE IE ME RS VA",
    23: "AE GI IL IQ OM SO TL",
    24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "LY PT ST",
    26: "IS TR",
    27: "BI DJ FR GR IT MC MR SM",
    28: "AL AZ BY CY DO GT HN HU LB NI PL SV",
    29: "BR EG PS QA UA",
    30: "JO KW MU YE",
    31: "MT SC",
    32: "LC",
    33: "RU",
}
"""Country codes by the number of characters of an IBAN: SWIFT's IBAN registry, release 101."""
_LENGTH_OF_COUNTRY = {
    country: length for length, countries in _IBAN_LENGTHS.items() for country in countries.split()
}

_PHONE = re.compile(
    rf"(?<!{_LETTER})(?:"
    # International, as in E.164: + or 00, country code, 7 to 14 digits in groups.
    rf"(?:\+|(?<![.+/-])(?<![0-9] )00(?=[1-9]))[1-9][0-9]{{0,2}}[{_SPACE}./{_DASH}]?"
    rf"(?:\(0?[0-9]{{1,5}}\)[{_SPACE}./{_DASH}]?)?"
    rf"[0-9]{{1,12}}(?:[{_SPACE}./{_DASH}][0-9]{{2,8}}){{0,5}}(?:[{_DASH}][0-9])?"
    r"|(?<![.+/-])(?<![0-9] )(?:"
    # North America: area and exchange code begin with 2 to 9.
    rf"(?:1[{_SPACE}.{_DASH}])?(?:\([2-9][0-9]{{2}}\)[{_SPACE}]?|[2-9][0-9]{{2}}[{_SPACE}.{_DASH}])"
    rf"[2-9][0-9]{{2}}[{_SPACE}.{_DASH}][0-9]{{4}}(?:x[0-9]{{1,5}})?"
    # Russia: trunk prefix 8, area code in parentheses.
    rf"|8[{_SPACE}{_DASH}]?\([0-9]{{3,5}}\)[{_SPACE}]?[0-9]{{1,3}}(?:[{_SPACE}{_DASH}][0-9]{{2}}){{2}}"
    # France: five pairs of digits.
    r"|0[1-9](?:\.[0-9]{2}){4}"
    # With a trunk prefix: an area code in parentheses or before a separator, then groups, and at
    # the end the extension.
    rf"|(?:\(0[1-9][0-9]{{0,4}}\)[{_SPACE}]?"
    rf"|0[1-9][0-9]{{0,4}}(?:[{_SPACE}]?/[{_SPACE}]?|[{_SPACE}{_DASH}]))"
    rf"[0-9]{{2,8}}(?:[{_SPACE}{_DASH}][0-9]{{2,6}}){{0,4}}(?:[{_DASH}][0-9])?"
    rf"))(?!{_LETTER}|\+|[./,:{_DASH}][0-9])"
)
_FEWEST_DIGITS, _MOST_DIGITS = 9, 15
_DIGITS = rf"[0-9](?:[{_SPACE}./(){_DASH}]{{0,3}}[0-9]){{{_FEWEST_DIGITS - 1}}}"
"""So many digits as the shortest number has. At most three characters separate two of them: a slash
between spaces, or parentheses and a separator."""
_DATE = re.compile(
    rf"0[1-9][{_SPACE}/{_DASH}](?:0?[1-9]|1[0-2])[{_SPACE}/{_DASH}](?:19|20)?[0-9]{{2}}\b"
)


def _is_address(found: re.Match[str]) -> bool:
    """Return whether an IPv4 address is valid and public, and no version number."""
    try:
        address = ipaddress.IPv4Address(found[0])
    except ValueError:
        return False
    before = found.string[max(found.start() - 12, 0) : found.start()]
    is_large = max(address.packed) >= _SMALLEST_OCTET
    return is_large and address.is_global and not _VERSION.search(before)


def _is_address_6(found: re.Match[str]) -> bool:
    try:
        return ipaddress.IPv6Address(found[0]).is_global
    except ValueError:
        return False


def _iban_end(found: re.Match[str]) -> int:
    """Return where the IBAN at the beginning of a match ends; its start if there is none.

    ISO 13616: letters count as 10 to 35, the first four characters go to the end, and the number
    leaves 1 when it is divided by 97.
    """
    length = _LENGTH_OF_COUNTRY.get(found[0][:2], 0)
    compact, end = "", found.start()
    for character in found[0]:
        end += 1
        compact += character.strip()
        if len(compact) == length:
            break
    follows = found.string[end : end + 1]
    if len(compact) != length or (follows.isascii() and follows.isalnum()):
        return found.start()
    number = int("".join(str(int(character, 36)) for character in compact[4:] + compact[:4]))
    return end if number % 97 == 1 else found.start()


def _is_phone(found: re.Match[str]) -> bool:
    digits = sum(map(str.isdigit, found[0]))
    return _FEWEST_DIGITS <= digits <= _MOST_DIGITS and not _DATE.match(found[0])


Replace = Callable[[str], tuple[str, int]]
"""A text → the text with markers, and their number."""


def _replacing(
    pattern: re.Pattern[str], marker: str, end_of: Callable[[re.Match[str]], int], part: str
) -> Replace:
    """Return a function that replaces the part of each match up to `end_of`, if it is not empty.

    Every match contains a match of `part`: most texts do not, and are not searched. It begins with
    a few characters, which are searched for faster than what precedes and follows a match.
    """
    search_part = re.compile(part).search

    def replace(text: str) -> tuple[str, int]:
        count = 0
        if not search_part(text):
            return text, count

        def marked(found: re.Match[str]) -> str:
            nonlocal count
            end = end_of(found)
            if end == found.start():
                return found[0]
            count += 1
            return marker + found.string[end : found.end()]

        return pattern.sub(marked, text), count

    return replace


def _if(is_one: Callable[[re.Match[str]], bool]) -> Callable[[re.Match[str]], int]:
    return lambda found: found.end() if is_one(found) else found.start()


# Punctuation splits words before WordPiece does, so a marker is the same pieces in any context.
_REPLACED: dict[Redacted, tuple[Replace, ...]] = {
    "email": (_replacing(_EMAIL, "[EMAIL]", re.Match.end, "@"),),
    "iban": (_replacing(_IBAN, "[IBAN]", _iban_end, "[A-Z][A-Z][0-9][0-9]"),),
    "ip": (
        _replacing(_IP4, "[IP]", _if(_is_address), r"\.[0-9]{1,3}\.[0-9]"),
        _replacing(_IP6, "[IP]", _if(_is_address_6), ":[0-9a-fA-F]{0,4}:"),
    ),
    "phone": (_replacing(_PHONE, "[PHONE]", _if(_is_phone), _DIGITS),),
}
"""Functions by kind, in the order in which they are applied: an IBAN has digits that a telephone
number may have."""


class Redact:
    """A rule that replaces the kinds of private data that were chosen."""

    def __init__(self, kinds: Collection[Redacted]) -> None:
        self._kinds = [kind for kind in _REPLACED if kind in kinds]

    def __call__(self, document: TextDocument) -> TextDocument:
        """Return the document with markers."""
        text = document.text
        counts: Counter[str] = Counter()
        for kind in self._kinds:
            for replace in _REPLACED[kind]:
                text, count = replace(text)
                counts[f"redacted_{kind}"] += count
        return document.changed(text, **+counts) if +counts else document
