"""Decontamination: documents that share a run of words with an evaluation file."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.corpus.rules import decontaminate
from pipeline.corpus.rules.decontaminate import Decontaminate, evaluation_files, run_keys
from pipeline.corpus.rules.rule import Rejection, TextDocument
from pipeline.errors import InputError

WORDS = [f"word{number}" for number in range(30)]


@pytest.fixture
def rule(tmp_path: Path) -> Decontaminate:
    (tmp_path / "dev.tsv").write_text(" ".join(WORDS[:20]) + "\tlabel\n" + " ".join(WORDS[20:]))
    rows = [{"text": {"en": ["The owl sat in the oak; it was “old”, and the fox ran to the sea."]}}]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n{not JSON\n")
    return Decontaminate(evaluation_files([str(tmp_path / "*.tsv"), str(tmp_path / "*.jsonl")]))


def outcome(rule: Decontaminate, text: str) -> TextDocument | Rejection:
    return rule(TextDocument(text, "en"))


def test_thirteen_words_are_enough(rule: Decontaminate) -> None:
    for start in range(8):
        run = " ".join(WORDS[start : start + 13])
        found = outcome(rule, f"Before. {run.upper()}, after.")
        assert found == Rejection("contaminated", run)


@pytest.mark.parametrize(
    "text",
    [
        " ".join(WORDS[:12]),
        " ".join([*WORDS[:12], "other", *WORDS[12:24]]),
        " ".join(WORDS[14:27]),  # goes over two lines of the file
        " ".join(reversed(WORDS)),
        "word1",
        "",
    ],
)
def test_fewer_or_other_words_pass(rule: Decontaminate, text: str) -> None:
    assert isinstance(outcome(rule, text), TextDocument)


def test_case_and_punctuation_do_not_count(rule: Decontaminate) -> None:
    text = 'the owl sat - in the "oak" (it was old!) AND the fox: ran'
    assert isinstance(outcome(rule, text), Rejection)


def test_a_run_between_two_parts_of_a_long_text(
    rule: Decontaminate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decontaminate, "_READ_WORDS", 20)
    for before in range(45):
        text = " ".join(["other"] * before + WORDS[3:16] + ["other"] * 9)
        assert outcome(rule, text) == Rejection("contaminated", " ".join(WORDS[3:16]))


def test_work_grows_with_the_length(rule: Decontaminate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each word is looked at once, but for twelve at each border of two parts."""
    counts: list[int] = []

    def counted(words: list[str]) -> np.ndarray:
        counts.append(len(words))
        return run_keys(words)

    monkeypatch.setattr(decontaminate, "run_keys", counted)
    outcome(rule, "owl " * 300_000)
    assert sum(counts) <= 300_000 + 12 * len(counts)
    assert max(counts) <= 1 << 16


def test_keys_are_the_same_in_every_process() -> None:
    def key(words: list[str]) -> int:
        total = 0
        for word in words:
            digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
            total = total * 0x9E3779B97F4A7C15 % 2**64
            total = ((total ^ total >> 32) + int.from_bytes(digest, "little")) % 2**64
        return total

    assert run_keys(WORDS[:14]).tolist() == [key(WORDS[:13]), key(WORDS[1:14])]


def test_wrong_files_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"^`decontaminate` .*none\.tsv: no file matches"):
        evaluation_files([str(tmp_path / "none.tsv")])
    (tmp_path / "few.tsv").write_text("Too few words.\n")
    with pytest.raises(InputError, match="no text in the files has 13 words"):
        evaluation_files([str(tmp_path / "few.tsv")])
    (tmp_path / "a.tsv").write_text(" ".join(WORDS))
    files = evaluation_files([str(tmp_path / "a.tsv")])
    (tmp_path / "a.tsv").write_text(" ".join(WORDS[1:]))
    with pytest.raises(InputError, match=r"a\.tsv: changed while the job ran"):
        Decontaminate(files)
    monkeypatch.setattr(decontaminate, "MAX_BYTES", 10)
    with pytest.raises(InputError, match="expected at most 10"):
        evaluation_files([str(tmp_path / "a.tsv")])
