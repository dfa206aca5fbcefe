import pytest

from pipeline.sentences import split_sentences


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Mr. Smith went home. He slept.", ["Mr. Smith went home.", "He slept."]),
        ("It cost $3.50, e.g. a lot! Why?", ["It cost $3.50, e.g. a lot!", "Why?"]),
        ("J. K. Rowling wrote it. See Fig. 3.", ["J. K. Rowling wrote it.", "See Fig. 3."]),
        ("这是一句话。那是另一句吗？是的！", ["这是一句话。", "那是另一句吗？", "是的！"]),
        ("One line\ngoes on. Next.", ["One line\ngoes on.", "Next."]),
        ("A heading\n\nA sentence.", ["A heading", "A sentence."]),
        ("  \n \n ", []),
    ],
)
def test_sentences(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences
