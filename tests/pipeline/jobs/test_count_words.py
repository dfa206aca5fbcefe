"""Counts of words against Python's own."""

from collections import Counter
from pathlib import Path

import pytest

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
