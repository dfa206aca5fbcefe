"""CoNLL formats: which columns are words and tags, and what is skipped."""

from pathlib import Path

import pytest

from model.tasks.conll import read_conll
from pipeline.errors import InputError


def read(path: Path, text: str, *columns: int | None) -> list[str]:
    """Return `word/tag …` of every sentence."""
    path.write_text(text, encoding="utf-8")
    return [
        " ".join(f"{word}/{tag}" for word, tag in zip(each.words, each.tags, strict=True))
        for each in read_conll(path, *columns)
    ]


GERMEVAL = (
    "#\thttp://example.invalid/1\t[2009-10-17]\n1\tAnna\tB-PER\tO\n2\tan\tO\tO\n3\tUlm\tB-LOC\tO\n\n"
    "# http://example.invalid/2 [2009-10-17]\n1\t#\tO\tO\n2\tAnnas\tB-PERderiv\tB-PER\n\n"
)
CONLL_U = (
    "# sent_id = 1\n# text = Im Haus\n1-2\tIm\t_\t_\t_\t_\t_\t_\t_\t_\n"
    "1\tIn\tin\tADP\tAPPR\t_\t3\tcase\t_\t_\n2\tdem\tder\tDET\tART\t_\t3\tdet\t_\t_\n"
    "2.1\tso\tso\tADV\t_\t_\t_\t_\t_\t_\n3\tHaus\tHaus\tNOUN\tNN\t_\t0\troot\t_\tSpaceAfter=No\n\n"
)
UNER = "# sent_id = a\n# text = Ada left\n1\tAda\tB-PER\t-\tx\n2\tleft\tO\t-\tx\n\n"
CONLL_2003 = "-DOCSTART- -X- -X- O\n\nU.N. NNP I-NP I-ORG\n# # I-NP O\nleft VBD I-VP O\n\n"
CONLL_2012 = (
    "#begin document (bc/cctv/00/cctv_0000); part 000\n"
    "bc/cctv/00/cctv_0000 0 0 Hong NNP (TOP(S(NP* - - - Speaker#1 (GPE* (ARG0* * (4\n"
    "bc/cctv/00/cctv_0000 0 1 Kong NNP *) - - - Speaker#1 *) *) * 4)\n"
    "bc/cctv/00/cctv_0000 0 2 saw VBD (VP* see 01 1 Speaker#1 * (V*) * -\n"
    "bc/cctv/00/cctv_0000 0 3 Ada NNP *)) - - - Speaker#1 (PERSON) (ARG1*) * -\n\n"
    "bc/cctv/00/cctv_0000 0 0 Yes UH (TOP(S*)) - - - Speaker#1 * -\n\n"
    "#end document\n"
)


@pytest.mark.parametrize(
    ("text", "columns", "expected"),
    [
        (GERMEVAL, (), ["Anna/B-PER an/O Ulm/B-LOC", "#/O Annas/B-PERderiv"]),
        (GERMEVAL, (None, 4), ["Anna/O an/O Ulm/O", "#/O Annas/B-PER"]),
        (CONLL_U, (), ["In/ADP dem/DET Haus/NOUN"]),
        (CONLL_U, (3, 5), ["in/APPR der/ART Haus/NN"]),
        (UNER, (), ["Ada/B-PER left/O"]),
        (UNER.replace("B-PER", "O"), (), ["Ada/O left/O"]),
        (CONLL_2003, (), ["U.N./I-ORG #/O left/O"]),
        (CONLL_2003, (1, 2), ["U.N./NNP #/# left/VBD"]),
        (CONLL_2012, (), ["Hong/B-GPE Kong/I-GPE saw/O Ada/B-PERSON", "Yes/O"]),
        (CONLL_2012, (None, 5), ["Hong/NNP Kong/NNP saw/VBD Ada/NNP", "Yes/UH"]),
        ("# id7\nAda B-PER\nleft O\n\n# id8\n#so O\n# O\n", (),
         ["Ada/B-PER left/O", "#so/O #/O"]),
        ("# id=7\nAda B-PER\nleft O\n", (), ["Ada/B-PER left/O"]),
        ("# Ada left\nAda\tB-PER\nleft\tO\n", (), ["Ada/B-PER left/O"]),
        ("Ada\tB-PER\n\u00a0\tO\nNew\u00a0York B-LOC\n \t \nleft O\n", (),
         ["Ada/B-PER \u00a0/O New\u00a0York/B-LOC", "left/O"]),
        ("0 Ada NNP\n1 left VBD\n\n0 Odd JJ\n", (), ["Ada/NNP left/VBD", "Odd/JJ"]),
        ("#ulm\tB-LOC\nleft\tO\n", (), ["#ulm/B-LOC left/O"]),
        ("7 O\n8 O\n", (), ["7/O 8/O"]),
        ("", (), []),
        ("# nothing\n\n", (), []),
    ],
)  # fmt: skip
def test_words_and_tags(
    tmp_path: Path, text: str, columns: tuple[int, ...], expected: list[str]
) -> None:
    assert read(tmp_path / "a", text, *columns) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1\tAuf\n2\tUlm\n\n1\tAda\n", [["Auf", "Ulm"], ["Ada"]]),
        ("# text = Im Ort\n1-2\tIm\n1\tIn\n2\tdem\n3\tOrt\n", [["In", "dem", "Ort"]]),
        ("3-2\nwon\n\nAda\n", [["3-2", "won"], ["Ada"]]),
    ],
)
def test_words_without_tags(tmp_path: Path, text: str, words: list[list[str]]) -> None:
    path = tmp_path / "words.conll"
    path.write_text(text, encoding="utf-8")
    sentences = read_conll(path)
    assert [each.words for each in sentences] == words
    assert [each.tags for each in sentences] == [[]] * len(words)


def test_numbers_may_be_words(tmp_path: Path) -> None:
    assert read(tmp_path / "a.conll", "1 O\n2 O\n\n1 O\n") == ["1/O 2/O", "1/O"]
    assert read(tmp_path / "b.conll", "1 NUM\n\n1 X\n") == ["1/NUM", "1/X"]


def test_lines(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(GERMEVAL)
    assert [sentence.line for sentence in read_conll(tmp_path / "a")] == [2, 7]


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("Ada O\nleft\n", (), "line 2: 1 column where 2 are expected"),
        ("Ada O\n", (1, 3), "line 1: 2 columns where 3 are expected"),
        ("12 Ada O\n7 left O\n", (), "the first column has only numbers; .* `word_column`"),
        ("B-PER Ada\nO left\n", (), "the first column has only tags; .* `word_column`"),
        ("Ada O\n", (2, 2), "column 2 cannot have both the words and the tags"),
        ("Ada O\n", (2,), "column 2 cannot have both the words and the tags"),
        ("1 Ada a NNP _\n2 left b VBD _\n", (), "line 1: which of the 5 columns has the tags"),
        ("Ada B-PER 0.9\nleft O 0.8\n", (), "line 1: which of the 3 columns has the tags"),
        ("# a\n# b\n1\tAda\tO\n2\tleft\n", (), "line 4: 2 columns where 3 are expected"),
        ("1\tAda\tB-X\t_\n2\tleft\n", (), "line 2: 2 columns where 4 are expected"),
        ("Ada\tO\n\tO\n", (), "line 2: the word, in column 1, is empty"),
        ("Ada\tO\nleft\t\u00a0\n", (), "line 2: the tag, in column 2, is empty"),
    ],
)
def test_refused_files(tmp_path: Path, text: str, columns: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path / "a", text, *columns)


@pytest.mark.parametrize(
    "text",
    [
        "Word Tag\nAda B-PER\nleft O\n",
        "token\tpos\tner_tags\nAda\tNNP\tB-PER\nleft\tVBD\tO\n",
        "ID FORM NER\n\n1 Ada B-PER\n2 left O\n",
        "# a comment\nTokens Labels\n\nAda B-PER\nleft O\n",
        "Label Word POS NER\nx Ada NNP B-PER\nx left VBD O\n",
    ],
)
def test_a_line_that_names_the_columns_is_no_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text(text)
    (sentence,) = read_conll(tmp_path / "a.conll")
    assert (sentence.words, sentence.tags) == (["Ada", "left"], ["B-PER", "O"])


@pytest.mark.parametrize("text", ["Word NN\nTag NN\n", "Token B-X\nlabel O\n"])
def test_words_that_name_columns_are_words(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text(text)
    (sentence,) = read_conll(tmp_path / "a.conll")
    assert len(sentence.words) == 2
