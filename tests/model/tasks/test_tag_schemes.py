"""Tag schemes: detection, entities, and tags that are refused."""

import pytest

from model.tasks.tag_schemes import Scheme, entities, tag_scheme


@pytest.mark.parametrize(
    ("tags", "scheme", "expected"),
    [
        ("B-a I-a O B-a", "IOB2", {("a", 0, 2), ("a", 3, 4)}),
        ("B-a B-a", "IOB2", {("a", 0, 1), ("a", 1, 2)}),
        ("B-a O I-a I-b", "IOB2", {("a", 0, 1), ("a", 2, 3), ("b", 3, 4)}),  # as CoNLL-2000
        ("B_a I_a O", "IOB2", {("a", 0, 2)}),
        ("B I I O B", "IOB2", {("", 0, 3), ("", 4, 5)}),
        ("B-a NIL NIL I-a", "IOB2", {("a", 0, 1), ("NIL", 1, 3), ("a", 3, 4)}),
        ("I-a I-a I-b", "IOB1", {("a", 0, 2), ("b", 2, 3)}),
        ("O I-a B-a", "IOB1", {("a", 1, 2), ("a", 2, 3)}),
        ("I-a E-a E-b", "IOE2", {("a", 0, 2), ("b", 2, 3)}),
        ("S-a B-a E-a E-b", "IOBES", {("a", 0, 1), ("a", 1, 3)}),
        ("U-a B-a L-a L-b", "BILOU", {("a", 0, 1), ("a", 1, 3)}),
        ("B M M E S B E", "BMES", {("", 0, 4), ("", 4, 5), ("", 5, 7)}),
        ("B-a M-a E-a W-b O", "BMEOW", {("a", 0, 3), ("b", 3, 4)}),
        ("NOUN NOUN VERB O", "plain", {("NOUN", 0, 2), ("VERB", 2, 3)}),
        ("PER PER LOC O", "plain", {("PER", 0, 2), ("LOC", 2, 3)}),
        ("N V I O", "plain", {("N", 0, 1), ("V", 1, 2), ("I", 2, 3)}),
        ("N-S V-S O", "plain", {("N-S", 0, 1), ("V-S", 1, 2)}),
        ("O O", "plain", set()),
        ("", "plain", set()),
    ],
)
def test_schemes_and_entities(tags: str, scheme: Scheme, expected: set) -> None:
    assert tag_scheme([tags.split()]) == scheme
    assert entities(tags.split(), scheme) == expected


def test_labels_of_the_model_count_too() -> None:
    assert tag_scheme([["B-a", "O"]], ["L-a", "U-a"]) == "BILOU"
    assert tag_scheme([["O"], ["B-a", "O"]], ["I-a"]) == "IOB2"


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ("B-a L-a S-a", "the tags B-a, L-a, S-a follow no known scheme .*BILOU"),
        ("B-a E-a MISC", "the tags B-a, E-a, MISC follow no known scheme"),
        ("I-a I-a O E-a", "an entity ends with I; in IOE2"),
        ("PER-B PER-I O", "the tags PER-B, PER-I have the letters .* write them as B-PER"),
        ("b-per i-per o", "the tags b-per, i-per, o have the letters"),
    ],
)
def test_unknown_schemes(tags: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tag_scheme([tags.split()])
