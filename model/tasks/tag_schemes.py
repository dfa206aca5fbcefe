"""Tag schemes: detect the scheme of a file, and extract the entities of tagged sentences.

- IOB2: B = first word of an entity, I = every other word. IOB1: I = every word, but B = the first
  word of an entity directly after one of the same type (CoNLL-2003).
- IOBES, BILOU, BMES, BMEOW: letters for the first, inner and last word, and for a single word.
- IOE2: E = last word of an entity, I = every other word.
- plain: no letters; consecutive words with the same tag are one entity.

Tags are `B-TYPE`, `B_TYPE` or the letter alone, and `O` outside entities.
"""

import itertools
import re
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

Scheme = Literal["IOB1", "IOB2", "IOE2", "IOBES", "BILOU", "BMES", "BMEOW", "plain"]

Entity = tuple[str, int, int]
"""Type, index of the first word, and index after the last word of an entity."""

_LETTERS: dict[Scheme, str] = {
    "IOB2": "BI",
    "IOE2": "IE",
    "IOBES": "BIES",
    "BILOU": "BILU",
    "BMES": "BMES",
    "BMEOW": "BIMEW",
}
"""Letters of each scheme, without O. The first scheme with all letters of a file is used; IOB1 has
the same letters as IOB2."""

# BILOU's L and U are IOBES's E and S; M and W of BMES and BMEOW are its I and S.
_AS_IOBES = str.maketrans("LUMW", "ESIS")
_TAG = re.compile(r"([BIESLUMW])(?:[-_](.+))?")


def tag_scheme(sentences: Iterable[Sequence[str]], labels: Iterable[str] = ()) -> Scheme:
    """Detect the tag scheme.

    Args:
        sentences: true tags of every sentence.
        labels: additional tags of the same scheme, such as the classes of a model.

    Raises:
        ValueError: no known scheme has these letters, or the tags violate the scheme's rules.
    """
    sentences = [list(tags) for tags in sentences]
    tags = {tag for sentence in sentences for tag in sentence} | set(labels)
    entity_tags = sorted(tags - {"O"})
    matches = [_TAG.fullmatch(tag) for tag in entity_tags]
    typed = {match[1] for match in matches if match and match[2]}
    # Parts of speech such as S or M look like letters of a scheme; a B is needed as evidence.
    if not typed and not (all(matches) and any(match and match[1] == "B" for match in matches)):
        if _are_odd(entity_tags):
            raise ValueError(
                f"the tags {', '.join(entity_tags[:8])} have the letters of a scheme at their "
                "end, or in lower case; write them as B-PER, I-PER, O"
            )
        return "plain"
    letters = {match[1] for match in matches if match}
    fitting = [name for name, known in _LETTERS.items() if letters <= set(known)]
    # In IOB2, a tag without a letter is a type of its own; the other schemes have strict rules.
    if not fitting or (fitting[0] != "IOB2" and not all(matches)):
        raise ValueError(
            f"the tags {', '.join(entity_tags[:8])} follow no known scheme "
            f"({', '.join(get_args(Scheme)[:-1])}); correct them"
        )
    # The letters do not tell IOB1 from IOB2; where B stands does.
    if fitting[0] == "IOB2":
        return _iob(sentences)
    if fitting[0] == "IOE2" and not _all_end_with_e(sentences):
        raise ValueError(
            "the tags have I and E, but an entity ends with I; in IOE2 every entity ends with E"
        )
    return fitting[0]


def _are_odd(tags: Sequence[str]) -> bool:
    """Return whether tags have the letters of a scheme in another form: PER-B, b-per."""
    for pattern in (r"([bieslumw])[-_].+|o", r".+[-_]([BIESLUMW])"):
        matches = [re.fullmatch(pattern, tag) for tag in tags]
        if all(matches) and any(match and (match[1] or "").upper() == "B" for match in matches):
            return True
    return False


def entities(tags: Sequence[str], scheme: Scheme) -> set[Entity]:
    """Return the entities of a sentence.

    In IOB1, IOE2, IOBES, BILOU, BMES and BMEOW, tags that violate the scheme's rules mark no
    entity, as in seqeval's strict mode. In IOB2, a change of type also starts an entity, as in
    CoNLL-2000's script and in seqeval's default mode; a tag without a letter is a separate type.
    """
    letters, types = zip(*(_parts(tag, scheme) for tag in tags), strict=True) if tags else ("", ())
    if scheme in ("IOB2", "plain"):
        return _lenient("".join(letters), types)
    if scheme == "IOB1":
        return _iob1("".join(letters), types)
    return _marked(letters, types, "I" if scheme == "IOE2" else "B")


def _parts(tag: str, scheme: Scheme) -> tuple[str, str]:
    """Return the letter of a tag, converted to IOBES, and its type."""
    if tag == "O":
        return "O", ""
    match = None if scheme == "plain" else _TAG.fullmatch(tag)
    return (match[1].translate(_AS_IOBES), match[2] or "") if match else ("I", tag)


def _iob(sentences: Sequence[Sequence[str]]) -> Scheme:
    """Return IOB1 if entities start with I, and with B only after one of the same type."""
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
        # An O after the last tag, so that an entity at the end of the sentence is checked as well.
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
    # An entity ends before O, before B, or where the type changes.
    after = index + 1
    return after == len(letters) or letters[after] in "BO" or types[after] != types[index]


def _iob1(letters: str, types: Sequence[str]) -> set[Entity]:
    """Return the entities of IOB1 tags.

    B is valid only after a word of the same type. As in seqeval, a single B is no entity if a B of
    another type follows.
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
    """Return entities of the form `begin` I … E, and single words with S."""
    found, first = set(), -1
    for index, letter in enumerate(letters):
        continues = first >= 0 and letter in "IE" and types[index] == types[first]
        if not continues:
            first = index if letter == begin or (letter == "E" and begin == "I") else -1
        if letter == "S" or (letter == "E" and first >= 0):
            found.add((types[index], index if letter == "S" else first, index + 1))
            first = -1
    return found
