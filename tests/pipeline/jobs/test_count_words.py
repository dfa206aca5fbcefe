"""Counts of words against Python's own."""

from collections import Counter
from pathlib import Path

import pytest

from clozeline.main import main
from pipeline.corpus.readers import CorpusFormat
from pipeline.jobs import count_words
from pipeline.jobs.count_words import count_in

LINES = CorpusFormat(input_format="lines", language="en", text_column="text")


def count(folder: Path, text: str) -> count_words.Counted:
    """Count the words of a file of lines."""
    (folder / "corpus.txt").write_text(text, encoding="utf-8")
    return count_words.count_words(
        [f"{folder}/corpus.txt"], LINES, beside=folder / "vocab.txt", lower_case=True,
        skip_damaged_files=False, beam_flags=[],
    )  # fmt: skip


def test_words_are_normalized_before_they_are_counted() -> None:
    texts = ["The Café, the café!", "", "naïve 東京"]
    # Lower-cased, without accents; each punctuation mark and each CJK character is a word.
    expected = Counter(["the", "cafe", ",", "the", "cafe", "!", "naive", "東", "京"])
    assert count_in(texts, lower_case=True) == expected
    assert count_in(texts, lower_case=False)["Café"] == 1


def test_the_job_sums_the_counts_of_all_documents(tmp_path: Path) -> None:
    text = "".join(f"the fox {number % 7} .\n\n" for number in range(300))
    counted = count(tmp_path, text)
    assert counted.words == Counter(text.split())
    assert (counted.dropped, counted.remarks) == ({}, [])
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.txt"]


def test_the_most_frequent_words_are_kept_and_ties_are_broken_by_the_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(count_words, "MAX_WORDS", 3)
    assert count(tmp_path, "b a c b a d e\n\nb\n").words == {"b": 3, "a": 2, "e": 1}


def vocab(folder: Path, *more: str) -> int:
    """Learn a vocabulary from the files of a folder of prose."""
    output = str(folder.parent / "vocab.txt")
    return main(["vocab", "--input", f"{folder}/*.txt", "--output", output, "--size=60", *more])


def test_files_in_another_encoding_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name in ("a", "b"):
        (corpus / f"{name}.txt").write_bytes("Die Größe der Stadt.\n".encode("latin-1"))
    assert vocab(corpus) == 2
    remedy = "has text that is not UTF-8; if it is in another encoding, give that, for example "
    remark = f"{corpus}/a.txt, {corpus}/b.txt: {remedy}--encoding windows-1252"
    assert capsys.readouterr().err.splitlines()[-1] == (
        "clozeline: --input: no words to learn a vocabulary from; documents dropped: "
        f"2 invalid_utf8; {remark}"
    )
    (corpus / "c.txt").write_text("The size of the town.\n")
    assert vocab(corpus) == 0
    shown = capsys.readouterr()
    assert "documents dropped: 2 invalid_utf8" in shown.out
    assert f"warning: {remark}" in shown.err.splitlines()
    assert vocab(corpus, "--encoding", "windows-1252", "--overwrite") == 0
    assert "warning" not in capsys.readouterr().err
    assert "ö" not in (pieces := (tmp_path / "vocab.txt").read_text(encoding="utf-8"))
    assert "##o" in pieces  # of größe, without its accent


@pytest.mark.parametrize(
    ("data", "remark"),
    [
        (b"Ada lived\0 in Rome for a long time. She left it.\n", "has NUL bytes among plain text"),
        ("Ada lived in Rome.\n".encode("utf-16-le"), "has NUL bytes, so it is UTF-16 without"),
    ],
)
def test_text_with_nuls_is_reported(
    data: bytes, remark: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "a.txt").write_bytes(data)
    assert vocab(corpus) == 0
    assert f"warning: {corpus}/a.txt: {remark}" in capsys.readouterr().err
