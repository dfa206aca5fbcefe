from random import Random

import pytest

from pipeline.text.sentences import _QUOTED, _parts, _quotations, split_sentences


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Mr. Smith went home. He slept.", ["Mr. Smith went home.", "He slept."]),
        ("It cost $3.50, e.g. a lot! Why?", ["It cost $3.50, e.g. a lot!", "Why?"]),
        ("J. K. Rowling wrote it. See Fig. 3.", ["J. K. Rowling wrote it.", "See Fig. 3."]),
        ("这是一句话。那是另一句吗？是的！", ["这是一句话。", "那是另一句吗？", "是的！"]),
        ('"It depends. You know best. Go," he said. I went.',
         ['"It depends.', "You know best.", 'Go," he said.', "I went."]),
        ('"Oh, no!" said Polly. "Why? Oh! it hurts." "Yes."',
         ['"Oh, no!" said Polly.', '"Why?', 'Oh! it hurts."', '"Yes."']),
        ("'I see. Don't go.' He went, 'twas said.",
         ["'I see.", "Don't go.'", "He went, 'twas said."]),
        ("\u201cI see. Don\u2019t go.\u201d «Oui. Non.»",
         ["\u201cI see.", "Don\u2019t go.\u201d", "«Oui.", "Non.»"]),
        ("他说：「你好。再见。」", ["他说：「你好。", "再见。」"]),
        ("An unclosed \" quote. Next.", ["An unclosed \" quote.", "Next."]),
        ("One line\ngoes on. Next.", ["One line\ngoes on.", "Next."]),
        ("A heading\n\nA sentence.", ["A heading", "A sentence."]),
        ("  \n \n ", []),
    ],
)  # fmt: skip
def test_sentences(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences


@pytest.mark.parametrize("language", ["en", "fr", "zh"])
@pytest.mark.parametrize("space", ["\xa0", "\x85", "\u2028", "\u3000 "], ids=ascii)
def test_a_space_outside_ascii_may_stand_before_a_period(space: str, language: str) -> None:
    """sentencex panics at such a text, which ended the job."""
    text = f'See plan B{space}. It is good. "Vitamin C{space}. It helps."'
    # Where the sentences end does not depend on the kind of space.
    expected = split_sentences(text.replace(space, " "), language)
    sentences = split_sentences(text, language)
    assert [sentence.split() for sentence in sentences] == [each.split() for each in expected]


def test_a_very_long_paragraph_keeps_its_words() -> None:
    sentence = "The fox said “no” to Mr. Owl, twice"
    text = ". ".join([sentence] * 10_000) + "."
    sentences = split_sentences(text)
    assert " ".join(sentences) == text
    assert 10_000 <= len(sentences) <= 10_004


@pytest.mark.parametrize("text", ["»" * 30_000, "`a " * 30_000, "a" * 300_000, "a. " * 60_000])
def test_no_long_part_or_one_of_many_marks_is_split_at_once(text: str) -> None:
    """sentencex takes quadratic time for each: 3 seconds for 80,000 marks, 7 minutes for 1 MB."""
    parts = [*_parts(text)]
    assert "".join(parts) == text
    assert max(map(len, parts)) <= 101_000
    assert max(sum(map(part.count, "»`")) for part in parts) <= 6000


def test_a_part_ends_after_a_word() -> None:
    text = " ".join(["‘word‘x"] * 4000)
    assert [part.split() for part in _parts(text)] == [["‘word‘x"] * 2500, ["‘word‘x"] * 1500]


def test_quotations_are_those_of_the_pattern() -> None:
    """Of random texts, every mark next to every other, and inside of words."""
    rng = Random(4)
    count = 0
    for _ in range(2000):
        text = "".join(rng.choices("ab .\"“”«»「」『』‘’'", k=rng.randrange(40)))
        expected = [(quoted.span(), quoted.groups()) for quoted in _QUOTED.finditer(text)]
        assert [(quoted.span(), quoted.groups()) for quoted in _quotations(text)] == expected
        count += len(expected)
    assert count > 2000
