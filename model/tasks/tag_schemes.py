"""How tags of words mark entities: the schemes that are known, which one a file has, its entities.

- IOB2: B begins every entity, I continues it. IOB1: I, and B only right after an entity of the same
  type (CoNLL-2003).
- IOBES, BILOU, BMES, BMEOW: every entity is marked at both ends; one letter is for single words.
- IOE2: I, and E at the last word of every entity.
- plain: no letter; words with the same tag in a row are one entity.

Tags are `B-TYPE` or `B_TYPE`, or the letter alone, and `O` outside of entities.
"""

import itertools
import re
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

Scheme = Literal["IOB1", "IOB2", "IOE2", "IOBES", "BILOU", "BMES", "BMEOW", "plain"]

Entity = tuple[str, int, int]
"""An entity's type, first word and end."""

_LETTERS: dict[Scheme, str] = {
    "IOB2": "BI",
    "IOE2": "IE",
    "IOBES": "BIES",
    "BILOU": "BILU",
    "BMES": "BMES",
    "BMEOW": "BIMEW",
}
"""Letters of each scheme, O left out. The first scheme that has all letters of a file is the
file's; IOB1 has the letters of IOB2."""

_AS_IOBES = str.maketrans("LUMW", "ESIS")
_TAG = re.compile(r"([BIESLUMW])(?:[-_](.+))?")


def tag_scheme(sentences: Iterable[Sequence[str]], labels: Iterable[str] = ()) -> Scheme:
    """Return the scheme of the tags.

    Args:
        sentences: the right tags of every sentence.
        labels: more tags of the same scheme, such as those that a model knows.

    Raises:
        ValueError: the letters are those of no known scheme, or the tags break the scheme's rules.
    """
    sentences = [list(tags) for tags in sentences]
    tags = {tag for sentence in sentences for tag in sentence} | set(labels)
    entity_tags = sorted(tags - {"O"})
    matches = [_TAG.fullmatch(tag) for tag in entity_tags]
    typed = {match[1] for match in matches if match and match[2]}
    if not typed and not (all(matches) and any(match and match[1] == "B" for match in matches)):
        if _are_odd(entity_tags):
            raise ValueError(
                f"the tags {', '.join(entity_tags[:8])} have the letters of a scheme at their "
                "end, or in lower case; write them as B-PER, I-PER, O"
            )
        return "plain"
    letters = {match[1] for match in matches if match}
    fitting = [name for name, known in _LETTERS.items() if letters <= set(known)]
    if not fitting or (fitting[0] != "IOB2" and not all(matches)):
        raise ValueError(
            f"the tags {', '.join(entity_tags[:8])} follow no known scheme "
            f"({', '.join(get_args(Scheme)[:-1])}); correct them"
        )
    if fitting[0] == "IOB2":
        return _iob(sentences)
    if fitting[0] == "IOE2" and not _all_end_with_e(sentences):
        raise ValueError(
            "the tags have I and E, but an entity ends with I; in IOE2 every entity ends with E"
        )
    return fitting[0]


def _are_odd(tags: Sequence[str]) -> bool:
    """Return whether tags mark where entities begin, but not as B-TYPE: PER-B, b-per."""
    for pattern in (r"([bieslumw])[-_].+|o", r".+[-_]([BIESLUMW])"):
        matches = [re.fullmatch(pattern, tag) for tag in tags]
        if all(matches) and any(match and (match[1] or "").upper() == "B" for match in matches):
            return True
    return False


def entities(tags: Sequence[str], scheme: Scheme) -> set[Entity]:
    """Return the entities of a sentence.

    Tags that break the rules of IOB1, IOE2, IOBES, BILOU, BMES or BMEOW mark no entity, as in
    seqeval's strict mode. In IOB2 an entity also begins where its type changes, as in the script
    of CoNLL-2000 and in seqeval's default mode; a tag without a letter is a type of its own there.
    """
    letters, types = zip(*(_parts(tag, scheme) for tag in tags), strict=True) if tags else ("", ())
    if scheme in ("IOB2", "plain"):
        return _lenient("".join(letters), types)
    if scheme == "IOB1":
        return _iob1("".join(letters), types)
    return _marked(letters, types, "I" if scheme == "IOE2" else "B")


def _parts(tag: str, scheme: Scheme) -> tuple[str, str]:
    """Return a tag's letter, of IOBES, and its type."""
    if tag == "O":
        return "O", ""
    match = None if scheme == "plain" else _TAG.fullmatch(tag)
    return (match[1].translate(_AS_IOBES), match[2] or "") if match else ("I", tag)


def _iob(sentences: Sequence[Sequence[str]]) -> Scheme:
    """Return IOB1 where entities begin with I, and with B only after one of the same type."""
    begins_with_i = begins_with_b = False
    for tags in sentences:
        before = ("O", "")
        for tag in tags:
            part = _parts(tag, "IOB2")
            is_first = part[0] != "O" and (before[0] == "O" or before[1] != part[1])
            begins_with_i |= is_first and part[0] == "I"
            begins_with_b |= is_first and part[0] == "B"
            before = part
    return "IOB1" if begins_with_i and not begins_with_b else "IOB2"


def _all_end_with_e(sentences: Sequence[Sequence[str]]) -> bool:
    for tags in sentences:
        parts = [*(_parts(tag, "IOE2") for tag in tags), ("O", "")]
        for (letter, kind), after in itertools.pairwise(parts):
            if letter == "I" and (after[0] == "O" or after[1] != kind):
                return False
    return True


def _lenient(letters: str, types: Sequence[str]) -> set[Entity]:
    found, first = set(), 0
    for index, letter in enumerate(letters):
        is_first = letter == "B" or index == 0 or letters[index - 1] == "O"
        if is_first or types[index] != types[index - 1]:
            first = index
        if letter != "O" and _ends(letters, types, index):
            found.add((types[index], first, index + 1))
    return found


def _ends(letters: str, types: Sequence[str], index: int) -> bool:
    after = index + 1
    return after == len(letters) or letters[after] in "BO" or types[after] != types[index]


def _iob1(letters: str, types: Sequence[str]) -> set[Entity]:
    """Return the entities of IOB1 tags.

    B is right only after a word of the same type. As seqeval has it, an entity of a single B is
    none where a B of another type follows.
    """
    found, index = set(), 0
    while index < len(letters):
        first, kind = index, types[index]
        same = index > 0 and types[index - 1] == kind and letters[index - 1] != "O"
        index += 1
        if letters[first] == "O" or (letters[first] == "B" and not same):
            continue
        while index < len(letters) and letters[index] == "I" and types[index] == kind:
            index += 1
        is_cut = letters[index - 1 : index + 1] == "BB" and types[index] != kind
        if not is_cut:
            found.add((kind, first, index))
    return found


def _marked(letters: Sequence[str], types: Sequence[str], begin: str) -> set[Entity]:
    """Return what begins with a letter, goes on with I and ends with E, or is a single S."""
    found, first = set(), -1
    for index, letter in enumerate(letters):
        goes_on = first >= 0 and letter in "IE" and types[index] == types[first]
        if not goes_on:
            first = index if letter == begin or (letter == "E" and begin == "I") else -1
        if letter == "S" or (letter == "E" and first >= 0):
            found.add((types[index], index if letter == "S" else first, index + 1))
            first = -1
    return found
