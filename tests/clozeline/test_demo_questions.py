"""Questions of the demo: held-out passages with a masked content word, and pairs of sentences."""

import re
from pathlib import Path
from random import Random

import pytest

from clozeline.commands.demo_questions import (
    consecutive_sentences,
    held_out_questions,
    masked_passages,
    passage_around,
)
from pipeline.errors import InputError
from tests.pipeline.records.made_datasets import make


def test_content_words_of_one_piece_are_masked_in_a_passage() -> None:
    documents = [
        ["the parser reads what the other one said", "It ends.", "nobody asked them why it was so"],
        ["once there were seven more of them", "the server, and then the parsers of it"],
        ["the parser closes", " ".join(["the parser"] * 13)],  # too short, and too long
    ]
    pieces = {"the", "what", "other", "once", "why", "parser", "reads", "server", "seven", "ends"}
    masked = masked_passages(documents, pieces, Random(1))
    # `server` is followed by a comma, and the stop words are pieces, too.
    assert [each.word for each in masked] in (["parser", "seven"], ["reads", "seven"])
    whole = [" ".join(sentences) for sentences in documents[:2]]
    assert [each.text.replace("[MASK]", each.word) for each in masked] == whole
    assert [len(re.findall(r"\[MASK\]", each.text)) for each in masked] == [1, 1]


@pytest.mark.parametrize(
    ("lengths", "index", "expected"),
    [
        ([10, 10, 10, 10], 2, (0, 3)),  # what comes before is taken first
        ([10, 20, 10, 4, 1], 2, (1, 5)),  # then as much as fits of what follows
        ([9, 30, 10, 26, 1], 2, (2, 3)),
        ([5, 5], 0, (0, 2)),
        ([36], 0, (0, 1)),
    ],
)
def test_a_passage_has_whole_sentences_up_to_35_words(
    lengths: list[int], index: int, expected: tuple[int, int]
) -> None:
    assert passage_around(lengths, index) == expected


def test_a_pair_of_consecutive_sentences_skips_none() -> None:
    first, short, second, third = (
        "The lamp was lit before it became dark", "Why?", "Nobody had seen the owl that evening",
        "It sat in the oak behind the old house",
    )  # fmt: skip
    assert consecutive_sentences([first, short, second, third]) == (second, third)
    assert consecutive_sentences([first, short, second]) is None
    assert consecutive_sentences([]) is None


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 40 documents of three sentences, all of them different."""
    folder = tmp_path_factory.mktemp("corpus")
    for number in range(40):
        sentences = [f"The baker follows the lamp number {number}-{part}." for part in range(3)]
        (folder / f"{number:02d}.txt").write_text(" ".join(sentences), encoding="utf-8")
    return folder


def test_questions_are_held_out(corpus: Path, vocab_path: Path, tmp_path: Path) -> None:
    manifest = make(corpus / "*.txt", vocab_path, tmp_path / "dataset")
    questions = held_out_questions(vocab_path, (str(corpus / "*.txt"),), manifest.settings)
    texts = [path.read_text(encoding="utf-8") for path in sorted(corpus.iterdir())]

    def document_of(text: str) -> int:
        (number,) = [number for number, each in enumerate(texts) if text in each]
        return number

    masked = {document_of(each.text.replace("[MASK]", each.word)) for each in questions.masked}
    pair = document_of(" ".join(questions.true_pair))
    first, other = map(document_of, questions.random_pair)
    assert first == pair
    assert other != pair
    assert len(questions.masked) == 10
    # A corpus without these documents has the same training split, and fewer held-out examples.
    held_out = {*masked, pair, other}
    (tmp_path / "rest").mkdir()
    for number in set(range(len(texts))) - held_out:
        (tmp_path / "rest" / f"{number}.txt").write_text(texts[number], encoding="utf-8")
    rest = make(tmp_path / "rest" / "*.txt", vocab_path, tmp_path / "without")
    assert rest.examples("train") == manifest.examples("train")
    eval_documents = manifest.statistics["eval"]["documents"]
    assert rest.statistics["eval"]["documents"] == eval_documents - len(held_out)


def test_too_few_held_out_documents_are_refused(
    corpus: Path, vocab_path: Path, tmp_path: Path
) -> None:
    manifest = make(corpus / "*.txt", vocab_path, tmp_path / "dataset")
    with pytest.raises(InputError, match=r"of 6 to 25 words, .* \(about one of 5 is\)"):
        held_out_questions(vocab_path, (str(corpus / "00.txt"),), manifest.settings)
