"""Decontamination: documents that share a run of words with an evaluation file."""

import bz2
import gzip
import hashlib
import json
import lzma
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import zstandard

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


def runs_of(path: Path) -> list[int]:
    return Decontaminate(evaluation_files([str(path)]))._runs.tolist()


@pytest.mark.parametrize("name", ["a.txt.gz", "a.jsonl.zst", "a.tsv.bz2", "a.txt.xz"])
def test_compressed_files(name: str, tmp_path: Path) -> None:
    text = " ".join(WORDS).encode()
    compress = {
        ".gz": gzip.compress,
        ".zst": zstandard.compress,
        ".bz2": bz2.compress,
        ".xz": lzma.compress,
    }[Path(name).suffix]
    path = tmp_path / name
    path.write_bytes(compress(text))
    assert runs_of(path) == sorted(run_keys(WORDS).tolist())
    path.write_bytes(compress(text)[:-9])
    with pytest.raises(InputError, match=rf"^`decontaminate` .*{name}: ends in the middle"):
        evaluation_files([str(path)])


@pytest.mark.parametrize(
    "text",
    [
        json.dumps([{"text": " ".join(WORDS)}]),
        json.dumps({"data": [{"context": " ".join(WORDS)}]}, indent=1),
        json.dumps([" ".join(WORDS)]) + "\n" + json.dumps([1]),
        "\ufeff" + json.dumps({"text": " ".join(WORDS)}),
        "  " + json.dumps({"text": " ".join(WORDS)}),
        " ".join(WORDS),
        json.dumps({"text": "\n".join(WORDS)}).replace("o", "\\u006f"),
    ],
)
def test_forms_of_json(text: str, tmp_path: Path) -> None:
    path = tmp_path / "eval.json"
    path.write_text(text, "utf-8")
    assert runs_of(path) == sorted(run_keys(WORDS).tolist())


def test_a_cell_of_csv_may_have_line_breaks(tmp_path: Path) -> None:
    path = tmp_path / "eval.csv"
    cell = "\n".join(WORDS)
    path.write_text(f'text,label\n"{cell}",1\n')
    assert runs_of(path) == sorted(run_keys(WORDS).tolist())
    for separator in "\u2028\x85\f":
        path.write_text(f"text,label\n{separator.join(WORDS)},1\n", encoding="utf-8")
        assert runs_of(path) == sorted(run_keys(WORDS).tolist())
    path.write_text(f'text,label\n"{" ".join(WORDS)},1\n')  # no end of the quotation: a line
    assert len(runs_of(path)) == len(WORDS) + 1 - 12


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (" ".join(WORDS).encode("utf-16"), "UTF-16 or UTF-32"),
        (gzip.compress(" ".join(WORDS).encode(), mtime=0), "compressed, but its name"),
        (" ".join(["café", *WORDS]).encode("latin-1"), "line 1: the byte 0xe9 is not UTF-8"),
        (b"PAR1\0\0", "NUL bytes"),
    ],
)
def test_files_that_are_no_text_are_refused(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "eval.txt").write_bytes(data)
    with pytest.raises(InputError, match=rf"^`decontaminate` .*eval\.txt: .*{message}"):
        evaluation_files([str(tmp_path / "eval.txt")])


def test_accents_may_be_characters_of_their_own(tmp_path: Path) -> None:
    words = [f"caf\u00e9{number}" for number in range(13)]
    (tmp_path / "eval.txt").write_text(" ".join(words), "utf-8")
    rule = Decontaminate(evaluation_files([str(tmp_path / "eval.txt")]))
    assert isinstance(outcome(rule, unicodedata.normalize("NFD", " ".join(words))), Rejection)


def test_a_character_without_spaces_is_a_word(tmp_path: Path) -> None:
    sentence = "小河里的水慢慢流过村子孩子们在桥边放风筝"
    (tmp_path / "eval.txt").write_text(f"{sentence}。", "utf-8")
    rule = Decontaminate(evaluation_files([str(tmp_path / "eval.txt")]))
    found = outcome(rule, f"他说，{sentence[2:8]}，{sentence[8:15]}！")
    assert found == Rejection("contaminated", " ".join(sentence[2:15]))
    assert isinstance(outcome(rule, f"他说，{sentence[2:14]}！"), TextDocument)


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
