from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.tokenizer import Vocabulary, build_tokenizer

PIECES = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "un",
    "##aff",
    "##able",
    "cafe",
    "!",
    "中",
    "Cafe",
]


def write(path: Path, pieces: list[str]) -> Path:
    path.write_text("\n".join(pieces) + "\n", encoding="utf-8")
    return path


def test_ids_are_line_numbers(tmp_path: Path) -> None:
    vocabulary = Vocabulary.read(write(tmp_path / "v.txt", PIECES))
    ids = (vocabulary.pad_id, vocabulary.unk_id, vocabulary.cls_id, vocabulary.sep_id)
    assert (*ids, vocabulary.mask_id, len(vocabulary)) == (0, 1, 2, 3, 4, 12)


def test_special_tokens_may_stand_anywhere(tmp_path: Path) -> None:
    vocabulary = Vocabulary.read(write(tmp_path / "v.txt", PIECES[::-1]))
    assert (vocabulary.pad_id, vocabulary.mask_id) == (11, 7)


def test_missing_mask_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "v.txt", [piece for piece in PIECES if piece != "[MASK]"])
    with pytest.raises(InputError, match=r"v\.txt: no \[MASK\] in this vocabulary"):
        Vocabulary.read(path)


def test_repeated_piece_is_named_with_both_lines(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"line 13 repeats line 6 \('un'\)"):
        Vocabulary.read(write(tmp_path / "v.txt", [*PIECES, "un"]))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such vocabulary; make one with clozeline vocab"):
        Vocabulary.read(tmp_path / "nothing.txt")


def test_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "v.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(InputError, match=r"cannot be read as a UTF-8 vocabulary"):
        Vocabulary.read(tmp_path / "v.txt")


@pytest.mark.parametrize(
    ("lower_case", "text", "ids"),
    [
        (True, "Unaffable café!", [5, 6, 7, 8, 9]),
        (True, "中中 x", [10, 10, 1]),
        (False, "Cafe café", [11, 1]),
        (True, "", []),
    ],
)
def test_pieces(lower_case: bool, text: str, ids: list[int]) -> None:
    tokenizer = build_tokenizer(PIECES, lower_case=lower_case)
    assert tokenizer.tokenize([text]).to_list() == [ids]
